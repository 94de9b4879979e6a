//! Lock: one build at a time in a folder.

use anyhow::{Context, Result, bail};
use std::path::Path;

/// Locks a directory against a second build, without leaving a file in it.
pub fn lock(out: &Path) -> Result<std::fs::File> {
    use rustix::fs::{FlockOperation, flock};
    let dir = std::fs::File::open(out).with_context(|| format!("opening {}", out.display()))?;
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(dir),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another beit-shard build is at work in {}; wait for it, or stop it first", out.display())
        }
        // Some network file systems cannot lock directories; a build there is as safe as its user is careful.
        Err(error) => {
            tracing::warn!(folder = %out.display(), %error, "The output folder cannot be locked: run one build at a time.");
            Ok(dir)
        }
    }
}
