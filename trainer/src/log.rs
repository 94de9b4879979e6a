//! `log.jsonl` of a run: one line per step, and one for each event.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::error::{TrainError, io};
use crate::stats::unix_ms;

/// Lines are appended, also after a restart: the newest line of a step counts.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<Mutex<File>>,
    /// Whether the newest line was lost: the first of many is told, not each.
    losing: AtomicBool,
}

impl Log {
    /// Opens the log of the run in `run`.
    ///
    /// # Errors
    /// It can't be opened.
    pub(crate) fn open(run: &Path) -> Result<Log, TrainError> {
        let path = run.join("log.jsonl");
        let mut file =
            File::options().create(true).append(true).read(true).open(&path).map_err(io("opening", &path))?;
        // A killed trainer may have left half a line.
        if !ends_with_newline(&path) {
            file.write_all(b"\n").map_err(io("writing", &path))?;
        }
        Ok(Log { file: Some(Mutex::new(file)), losing: AtomicBool::new(false) })
    }

    /// A log that keeps nothing, for processes that do not lead.
    pub(crate) fn none() -> Log {
        Log { file: None, losing: AtomicBool::new(false) }
    }

    /// Appends one object; a full disk costs the line, not the run.
    pub(crate) fn line(&self, line: Value) {
        let Some(file) = &self.file else { return };
        let text = format!("{line}\n");
        let written = file.lock().map_or_else(
            |held| held.into_inner().write_all(text.as_bytes()),
            |mut file| file.write_all(text.as_bytes()),
        );
        let losing = self.losing.swap(written.is_err(), Relaxed);
        if let Err(error) = written
            && !losing
        {
            tracing::warn!(%error, "Lines of log.jsonl are being lost.");
        }
    }

    /// Appends an event with its time.
    pub(crate) fn event(&self, name: &str, mut fields: Value) {
        fields["event"] = json!(name);
        fields["unix_ms"] = json!(unix_ms());
        self.line(fields);
    }
}

fn ends_with_newline(path: &Path) -> bool {
    use std::io::{Read, Seek, SeekFrom};
    let mut last = [b'\n'];
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::End(-1)).is_ok()
    {
        let _ = file.read_exact(&mut last); // An unreadable log shows when it is written.
    }
    last[0] == b'\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_of_a_killed_trainer_stays_alone() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("log.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"st").unwrap();
        Log::open(run.path()).unwrap().line(json!({"step": 2}));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"st\n{\"step\":2}\n");
    }
}
