//! `daemon.log` of a run directory: everything the supervisor and its worker say, bounded by rotation.
//!
//! ```text
//! daemon.log  →  daemon.log.1  →  daemon.log.2  →  daemon.log.3  →  gone        each at most LIMIT bytes
//! ```
//! Whoever moves the file away (logrotate) sends SIGHUP, and a new one is begun. A full disk costs lines, not the run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// A file no longer than this is written to.
const LIMIT: u64 = 16 << 20;

/// Full files that are kept.
const KEPT: u32 = 3;

/// A log file that is open for writing.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    limit: u64,
    /// Whether stdout and stderr of this process go into it too, so that they must follow it.
    with_stdio: bool,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// Lines that could not be written, and why the last of them.
    lost: Option<(u64, io::Error)>,
}

impl LogFile {
    /// Opens the log at `path`; `with_stdio`: stdout and stderr go there as well, also after a rotation.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, with_stdio: bool) -> Result<LogFile> {
        LogFile::bounded(path, with_stdio, LIMIT)
    }

    fn bounded(path: &Path, with_stdio: bool, limit: u64) -> Result<LogFile> {
        let open = append(path).with_context(|| format!("opening {}", path.display()))?;
        let log = LogFile { path: path.to_owned(), limit, with_stdio, open: Mutex::new(open) };
        log.follow(&log.lock())?;
        Ok(log)
    }

    /// Writes lines; what cannot be written is counted, and told when it can be again.
    pub fn write(&self, text: &str) {
        let text = text.trim_end();
        let mut open = self.lock();
        if open.bytes > 0 && open.bytes + text.len() as u64 >= self.limit {
            // If the files cannot be moved, the log grows: better than silence.
            let _ = self.rotate(&mut open);
        }
        let mut whole = String::with_capacity(text.len() + 1);
        if let Some((lines, why)) = &open.lost {
            whole.push_str(&format!("({lines} lines were lost here: {why})\n"));
        }
        whole.push_str(text);
        whole.push('\n');
        match open.file.write_all(whole.as_bytes()) {
            Ok(()) => {
                open.bytes += whole.len() as u64;
                open.lost = None;
            }
            Err(error) => {
                let before = open.lost.as_ref().map_or(0, |(lines, _)| *lines);
                open.lost = Some((before + text.lines().count() as u64, error));
            }
        }
    }

    /// Begins a new file where the old one was moved away; goes on with it where it was not.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays open.
    pub fn reopen(&self) -> Result<()> {
        let mut open = self.lock();
        *open = append(&self.path).with_context(|| format!("opening {} again", self.path.display()))?;
        self.follow(&open)
    }

    fn rotate(&self, open: &mut Open) -> Result<()> {
        for number in (1..KEPT).rev() {
            let _ = fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        *open = append(&self.path)?;
        self.follow(open)
    }

    fn follow(&self, open: &Open) -> Result<()> {
        if self.with_stdio {
            rustix::stdio::dup2_stdout(&open.file).context("sending stdout to the log")?;
            rustix::stdio::dup2_stderr(&open.file).context("sending stderr to the log")?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes, lost: None })
}

/// `daemon.log.1` and so on.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The last `lines` lines of the log at `path`, older files included; and the newest file, open at its end.
///
/// # Errors
/// There is no log, or it cannot be read.
pub fn tail(path: &Path, lines: usize) -> io::Result<(Vec<String>, File)> {
    let mut newest = File::open(path)?;
    let mut found = last_lines(&mut newest, lines)?;
    for number in 1..=KEPT {
        if found.len() >= lines {
            break;
        }
        // One that is not there, or is moved at this moment, only makes the answer shorter.
        let Ok(mut file) = File::open(numbered(path, number)) else { break };
        let mut older = last_lines(&mut file, lines - found.len())?;
        older.append(&mut found);
        found = older;
    }
    Ok((found, newest))
}

/// The last lines of a file, read from its end; the file is left there.
fn last_lines(file: &mut File, lines: usize) -> io::Result<Vec<String>> {
    const CHUNK: u64 = 64 << 10;
    let end = file.seek(SeekFrom::End(0))?;
    let (mut begin, mut bytes) = (end, Vec::new());
    // One newline more than lines: the one before the first of them.
    while begin > 0 && bytes.iter().filter(|byte| **byte == b'\n').count() <= lines {
        let length = begin.min(CHUNK);
        begin -= length;
        file.seek(SeekFrom::Start(begin))?;
        let mut chunk = vec![0; length as usize];
        file.read_exact(&mut chunk)?;
        chunk.append(&mut bytes);
        bytes = chunk;
    }
    file.seek(SeekFrom::Start(end))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
    if begin > 0 && !found.is_empty() {
        found.remove(0); // Perhaps cut.
    }
    Ok(found.split_off(found.len().saturating_sub(lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_its_tail_reaches_into_older_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.log");
        let log = LogFile::bounded(&path, false, 1000).unwrap();
        for number in 0..1000 {
            log.write(&format!("line {number}\n"));
        }
        let mut files: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["daemon.log", "daemon.log.1", "daemon.log.2", "daemon.log.3"]);
        let sizes = files.iter().map(|name| fs::metadata(folder.path().join(name)).unwrap().len());
        assert!(sizes.clone().all(|size| size <= 1000), "{:?}", sizes.collect::<Vec<_>>());
        let (lines, _) = tail(&path, 150).unwrap();
        let expected: Vec<String> = (850..1000).map(|number| format!("line {number}")).collect();
        assert_eq!(lines, expected);
        assert!(tail(&path, 100_000).unwrap().0.len() > 300);
        assert_eq!(tail(&path, 0).unwrap().0, [""; 0]);
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (path, away) = (folder.path().join("daemon.log"), folder.path().join("yesterday"));
        let log = LogFile::open(&path, false).unwrap();
        log.write("one");
        fs::rename(&path, &away).unwrap();
        log.write("two");
        log.reopen().unwrap();
        log.write("three");
        assert_eq!(fs::read_to_string(away).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn lines_that_a_full_disk_swallowed_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.log");
        let log = LogFile::open(&path, false).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut log.lock().file, full);
        log.write("lost");
        log.write("lost\ntoo");
        log.lock().file = file;
        log.write("kept");
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with("(3 lines were lost here: ") && text.ends_with("\nkept\n"), "{text}");
    }

    #[test]
    fn a_tail_longer_than_a_chunk_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.log");
        let text: String = (0..5000).map(|number| format!("{number:->60}\n")).collect();
        fs::write(&path, &text).unwrap();
        let (lines, _) = tail(&path, 4000).unwrap();
        assert_eq!((lines.len(), &lines[0][..]), (4000, &format!("{:->60}", 1000)[..]));
    }
}
