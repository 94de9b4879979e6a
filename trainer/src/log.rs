//! `log.jsonl` of a run: one line per step, and one for each event.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::error::{TrainError, io};
use crate::stats::unix_ms;

/// Lines that wait for room on the disk take no more memory than this; later ones are lost.
const WAITING_BYTES: usize = 8 << 20;

/// Lines are appended, also after a restart: the newest line of a step counts.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Option<Mutex<Lines>>,
}

#[derive(Debug)]
struct Lines {
    file: File,
    /// What could not be written yet.
    waiting: Vec<u8>,
    /// Whether the file could not be written last time: the first failure of many is told, not each.
    failing: bool,
}

impl Log {
    /// Opens the log of the run in `run`.
    ///
    /// # Errors
    /// It can't be opened.
    pub(crate) fn open(run: &Path) -> Result<Log, TrainError> {
        let path = run.join("log.jsonl");
        let file =
            File::options().create(true).append(true).read(true).open(&path).map_err(io("opening", &path))?;
        // A killed trainer may have left half a line.
        let waiting = if ends_with_newline(&path) { Vec::new() } else { b"\n".to_vec() };
        Ok(Log { lines: Some(Mutex::new(Lines { file, waiting, failing: false })) })
    }

    /// A log that keeps nothing, for processes that do not lead.
    pub(crate) fn none() -> Log {
        Log { lines: None }
    }

    /// Appends one object. On a full disk lines wait in memory until there is room again.
    pub(crate) fn line(&self, line: Value) {
        if let Some(lines) = &self.lines {
            lines.lock().unwrap_or_else(|held| held.into_inner()).append(&format!("{line}\n"));
        }
    }

    /// Appends an event with its time.
    pub(crate) fn event(&self, name: &str, mut fields: Value) {
        fields["event"] = json!(name);
        fields["unix_ms"] = json!(unix_ms());
        self.line(fields);
    }
}

impl Lines {
    fn append(&mut self, line: &str) {
        if self.waiting.len() + line.len() <= WAITING_BYTES {
            self.waiting.extend_from_slice(line.as_bytes());
        }
        let written = self.write();
        match (&written, self.failing) {
            (Err(error), false) => {
                tracing::warn!(%error, "log.jsonl cannot be written; its lines wait in memory.");
            }
            (Ok(()), true) => tracing::info!("log.jsonl can be written again."),
            _ => {}
        }
        self.failing = written.is_err();
    }

    /// Writes what waits, and keeps what a full disk does not take.
    fn write(&mut self) -> std::io::Result<()> {
        while !self.waiting.is_empty() {
            match self.file.write(&self.waiting) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

    #[test]
    fn lines_that_a_full_disk_refuses_are_written_when_there_is_room_again() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("log.jsonl");
        let log = Log::open(run.path()).unwrap();
        log.line(json!({"step": 1}));
        // The kernel's own full disk.
        let real = {
            let mut lines = log.lines.as_ref().unwrap().lock().unwrap();
            std::mem::replace(&mut lines.file, File::options().write(true).open("/dev/full").unwrap())
        };
        log.line(json!({"step": 2}));
        log.line(json!({"step": 3}));
        log.lines.as_ref().unwrap().lock().unwrap().file = real;
        log.line(json!({"step": 4}));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
    }
}
