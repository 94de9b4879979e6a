//! Publishing: a private temporary in the same directory, synced, renamed, and the directory synced.
//!
//! A temporary is called `.NAME.PID-N.tmp` and locked (flock) by its writer as long as that lives, whatever becomes
//! of the process; so the next writer into the directory can tell dead temporaries from living ones and removes them.

use crate::catalog::{CATALOG_FILE, PREVIOUS_CATALOG};
use crate::disk;
use crate::error::{ShardError, io_at, write_at};
use crate::manifest::MANIFEST_FILE;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file on its way to its final name; removed when dropped before that.
pub(crate) struct Staged {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Staged {
    /// Creates an empty, locked temporary beside `target`, after removing those of dead writers.
    pub fn create(target: &Path) -> Result<Self, ShardError> {
        let dir = parent(target);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        remove_stale(dir)?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let temporary = dir.join(format!(".{name}.{}-{number}.tmp", std::process::id()));
            let file = match disk::create(&temporary) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(write_at(target)(error)),
            };
            let staged = Self { file, temporary, target: target.to_owned(), published: false };
            // Where locks do not work at all we go on without, and nobody removes what they cannot lock.
            let _ = flock(&staged.file, FlockOperation::LockExclusive);
            // Between our create and our lock someone may have taken the file for a dead one's.
            if staged.file.metadata().map_err(write_at(target))?.nlink() > 0 {
                return Ok(staged);
            }
        }
    }

    /// Gives the file at `from` the name `target` as well, in place of whatever has that name.
    pub fn link(from: &Path, target: &Path) -> Result<(), ShardError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()));
        match disk::link(from, &temporary) {
            Ok(()) => {}
            // A file system without hard links: whoever looks between two renames finds the newer catalog only.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
            {
                return Ok(());
            }
            Err(error) => return Err(write_at(target)(error)),
        }
        let renamed = disk::rename(&temporary, target).map_err(write_at(target));
        // A rename between two names of one file does nothing, and a failed one leaves the temporary.
        let _ = fs::remove_file(&temporary);
        renamed?;
        sync_dir(parent(target))
    }

    /// The final name.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The present name, for libraries that open files themselves.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ShardError> {
        disk::write_all(&self.file, bytes).map_err(write_at(&self.target))
    }

    /// Syncs the file, renames it to its final name, and syncs the directory.
    pub fn publish(mut self) -> Result<(), ShardError> {
        disk::sync(&self.file).map_err(write_at(&self.target))?;
        disk::rename(&self.temporary, &self.target).map_err(write_at(&self.target))?;
        self.published = true;
        sync_dir(parent(&self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename in `dir` outlive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ShardError> {
    disk::sync_dir(dir).map_err(io_at("syncing", dir))
}

/// Removes temporaries whose writer is gone; those still locked are left alone.
pub(crate) fn remove_stale(dir: &Path) -> Result<(), ShardError> {
    for entry in fs::read_dir(dir).map_err(write_at(dir))? {
        let entry = entry.map_err(io_at("listing", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_temporary(&name) {
            continue;
        }
        let Ok(file) = OpenOptions::new().read(true).write(true).open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Whether `name` is `.NAME.PID-N.tmp`, where NAME is one of the files this room publishes.
fn is_temporary(name: &str) -> bool {
    let parts = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".tmp"))
        .and_then(|name| name.rsplit_once('.'));
    let Some((target, (pid, number))) =
        parts.and_then(|(target, writer)| Some((target, writer.split_once('-')?)))
    else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let ours =
        [MANIFEST_FILE, CATALOG_FILE, PREVIOUS_CATALOG].contains(&target) || target.ends_with(".shard");
    ours && digits(pid) && digits(number)
}

#[cfg(test)]
mod tests {
    use super::is_temporary;

    #[test]
    fn only_our_own_temporaries_are_taken_for_litter() {
        for name in [".shard-000007.shard.1-0.tmp", ".manifest.txt.99-12.tmp", ".catalog.lmdb.3-4.tmp"] {
            assert!(is_temporary(name), "{name}");
        }
        for name in [
            ".notes.tmp",
            ".notes.1-0.tmp",
            "shard-000007.shard",
            ".a.shard.1-.tmp",
            ".a.shard.x-1.tmp",
            ".tmp",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
