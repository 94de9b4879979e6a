//! One trainer per run directory, by a lock that the kernel lets go of however the trainer ends.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{TrainError, io};

/// Held for as long as it lives.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks the run directory `run`, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::Locked`] when another trainer has it.
    pub fn take(run: &Path) -> Result<RunLock, TrainError> {
        std::fs::create_dir_all(run).map_err(io("creating", run))?;
        let path = run.join("trainer.lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("opening", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner); // Only to be helpful.
                let owner = if owner.trim().is_empty() { "unknown".into() } else { owner.trim().to_owned() };
                return Err(TrainError::Locked { path: run.into(), owner });
            }
            Err(error) => return Err(io("locking", &path)(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io("writing", &path))?;
        Ok(RunLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_trainers_never_share_a_run_directory() {
        let run = tempfile::tempdir().unwrap();
        let first = RunLock::take(run.path()).unwrap();
        let message = RunLock::take(run.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        RunLock::take(run.path()).unwrap();
    }
}
