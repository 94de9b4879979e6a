//! The run directory as the daemon sees it: a lock, a token, an address, and what became of the run.
//!
//! ```text
//! daemon.lock    flock held by the supervisor as long as it lives; the only proof that it does
//! daemon.json    pid, address and state, for `status` and `stop`; believed only while the lock is held
//! daemon.token   bearer token of this supervisor, mode 0600
//! daemon.log     what it and its worker said     daemon.pid   its pid, for init systems; gone once it has ended
//! history.jsonl  the course of the run           pictures/    what the model makes of a few samples
//! checkpoints/   the trainer's
//! ```
//! A kill -9 leaves stale files but no lock, so the next start just works.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::board::State;

/// What a supervisor writes down about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Process id of the supervisor.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot, so that a pid used again is not mistaken for it.
    pub pid_started: u64,
    /// Where it listens.
    pub address: SocketAddr,
    /// The recipe's name.
    pub recipe: String,
    /// What it was doing when this was written.
    pub state: State,
    /// The last words of a run that failed.
    pub error: Option<String>,
    /// Steps done when this was written.
    #[serde(default)]
    pub step: u64,
    /// Of a run that ended without saving: steps known to be done since the newest checkpoint.
    #[serde(default)]
    pub unsaved_steps: Option<u64>,
}

/// How long the lock of another daemon is waited for before that one counts as alive.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// A run directory.
#[derive(Clone, Debug, PartialEq)]
pub struct RunDir {
    path: PathBuf,
}

/// The lock on a run directory; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl RunDir {
    /// Names a run directory without touching it.
    pub fn new(path: impl Into<PathBuf>) -> RunDir {
        RunDir { path: path.into() }
    }

    /// Its path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the daemon and its worker say.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("daemon.log")
    }

    /// Where the course of the run is kept.
    pub fn history(&self) -> PathBuf {
        self.path.join("history.jsonl")
    }

    /// Where the pictures of the fixed samples are.
    pub fn pictures(&self) -> PathBuf {
        self.path.join("pictures")
    }

    /// Where the trainer saves.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Creates the directory if need be and locks it for this process.
    ///
    /// # Errors
    /// The directory cannot be made or written; another daemon holds the lock (its pid and address are named).
    pub fn lock(&self) -> Result<Lock> {
        fs::create_dir_all(&self.path)
            .with_context(|| format!("making the run directory {}", self.path.display()))?;
        let path = self.path.join("daemon.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let begun = Instant::now();
        while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A daemon killed a moment ago may still be dying.
            if error == rustix::io::Errno::WOULDBLOCK && begun.elapsed() < LAST_BREATH {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
            let run = self.path.display();
            match self.notice() {
                Some(notice) => bail!(
                    "a daemon already trains in {run} (pid {}, http://{}); stop it with `beit-daemon stop --run {run}` \
                     or give another directory with --run",
                    notice.pid,
                    notice.address
                ),
                None => bail!(
                    "another process holds {}; stop it with `beit-daemon stop --run {run}` or give another directory \
                     with --run",
                    path.display()
                ),
            }
        }
        Ok(Lock { _file: file })
    }

    /// Whether a supervisor lives: somebody holds the lock.
    pub fn is_locked(&self) -> bool {
        File::open(self.path.join("daemon.lock"))
            .map(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
            .unwrap_or(false)
    }

    /// Whether a daemon ever started here.
    pub fn has_daemon(&self) -> bool {
        self.path.join("daemon.json").is_file()
    }

    /// What the last supervisor wrote about itself, if anything can be read of it.
    pub fn notice(&self) -> Option<Notice> {
        serde_json::from_slice(&fs::read(self.path.join("daemon.json")).ok()?).ok()
    }

    /// Replaces the notice, so that readers see the old one or the new one.
    ///
    /// # Errors
    /// Those of writing in the run directory.
    pub fn put_notice(&self, notice: &Notice) -> Result<()> {
        let text = serde_json::to_vec_pretty(notice)?;
        self.replace("daemon.json", &text, 0o644).context("writing daemon.json")?;
        self.replace("daemon.pid", format!("{}\n", notice.pid).as_bytes(), 0o644)
            .context("writing daemon.pid")
    }

    /// Takes the pid file away: the process is about to end.
    pub fn remove_pid(&self) {
        // A stale one misleads nobody who looks at the lock.
        let _ = fs::remove_file(self.path.join("daemon.pid"));
    }

    /// Draws a new bearer token and leaves it where only the owner can read it.
    ///
    /// # Errors
    /// Those of the system's random source and of writing in the run directory.
    pub fn new_token(&self) -> Result<String> {
        let mut bytes = [0u8; 24];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut bytes))
            .context("drawing the bearer token")?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.replace("daemon.token", token.as_bytes(), 0o600).context("writing daemon.token")?;
        Ok(token)
    }

    /// The bearer token of the supervisor that holds the lock.
    ///
    /// # Errors
    /// The file cannot be read: it belongs to somebody else.
    pub fn token(&self) -> Result<String> {
        let path = self.path.join("daemon.token");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Step of the newest checkpoint directory. Its checksums are the trainer's business.
    pub fn newest_checkpoint(&self) -> Option<u64> {
        fs::read_dir(self.checkpoints())
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .max()
    }

    fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.tmp"));
        // A stale one may have another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(temporary, self.path.join(name))
    }
}

/// Start time of a process in clock ticks since boot (field 22 of its stat); `None` if it does not run.
pub fn process_started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces and parentheses too; the state follows it.
    let rest = &stat[stat.rfind(')')? + 2..];
    (!rest.starts_with(['Z', 'X'])).then_some(())?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn notice() -> Notice {
        Notice {
            pid: 42,
            pid_started: 7,
            address: "127.0.0.1:9777".parse().unwrap(),
            recipe: "r".into(),
            state: State::Running,
            error: None,
            step: 0,
            unsaved_steps: None,
        }
    }

    #[test]
    fn the_second_daemon_in_a_run_directory_is_told_about_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("deep/run"));
        assert!(!run.is_locked());
        let lock = run.lock().unwrap();
        run.put_notice(&notice()).unwrap();
        assert!(run.is_locked());
        let message = format!("{:#}", run.lock().unwrap_err());
        assert!(message.contains("pid 42") && message.contains("beit-daemon stop --run"), "{message}");
        drop(lock);
        assert!(!run.is_locked());
        run.lock().unwrap();
    }

    #[test]
    fn the_token_is_readable_by_its_owner_alone_and_new_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        fs::write(folder.path().join("daemon.token.tmp"), "left by a kill -9").unwrap();
        let first = run.new_token().unwrap();
        let second = run.new_token().unwrap();
        assert_ne!(first, second);
        assert_eq!(run.token().unwrap(), second);
        let mode = fs::metadata(folder.path().join("daemon.token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_notice_is_no_notice() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        run.put_notice(&notice()).unwrap();
        assert_eq!(run.notice(), Some(notice()));
        fs::write(folder.path().join("daemon.json"), "{\"pid\": 4").unwrap();
        assert_eq!(run.notice(), None);
    }

    #[test]
    fn the_newest_checkpoint_is_found_among_other_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step-00000040", "step-00000120", "step-00000300.tmp", "notes"] {
            fs::create_dir_all(folder.path().join("checkpoints").join(name)).unwrap();
        }
        assert_eq!(RunDir::new(folder.path()).newest_checkpoint(), Some(120));
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_the_same_number() {
        let own = process_started(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(process_started(u32::MAX), None);
    }
}
