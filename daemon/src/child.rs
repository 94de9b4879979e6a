//! The supervisor's end of a worker: starts it, hears it, asks it, and says how it died.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::cause::Cause;
use crate::oom::{OomWatch, Verdict};
use crate::settings::Job;
use crate::supervisor::Event;
use crate::wire::{self, FromWorker, ToWorker};

/// Lines of the worker's output that are kept to explain its death.
const LAST_WORDS: usize = 20;

/// Longest line of output passed on whole; anything longer is cut.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    process: Child,
    stdin: ChildStdin,
    readers: Vec<JoinHandle<()>>,
    oom: OomWatch,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

/// How a worker ended that said neither that it finished nor that it failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Death {
    /// The kind of death.
    pub cause: Cause,
    /// What happened, for people.
    pub message: String,
}

impl Worker {
    /// Starts a worker on `job` that logs what `filter` lets through; what it reports and prints arrives as events.
    ///
    /// Call this from a thread that lives as long as the supervisor: the kernel kills the worker when the thread that
    /// started it ends.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(job: &Job, filter: &str, events: &Sender<Event>) -> Result<Worker> {
        let binary = own_binary()?;
        let mut process = Command::new(&binary)
            .args(["worker", "--supervisor", &std::process::id().to_string()])
            .env(EnvFilter::DEFAULT_ENV, filter)
            // The service manager hears from the supervisor alone.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in the terminal is for the supervisor, which asks the worker to save.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the worker {}", binary.display()))?;
        let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            anyhow::bail!("the worker was started without its pipes");
        };
        let oom = OomWatch::begin(process.id());
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let readers = vec![
            thread::Builder::new().name("worker-reports".into()).spawn({
                let events = events.clone();
                move || hear_reports(BufReader::new(stdout), &events)
            })?,
            thread::Builder::new().name("worker-output".into()).spawn({
                let (events, last_words) = (events.clone(), last_words.clone());
                move || hear_output(BufReader::new(stderr), &last_words, &events)
            })?,
        ];
        let begin = ToWorker::Begin { version: wire::VERSION, job: Box::new(job.clone()) };
        // A worker that is dead already is noticed by its silence, like any other.
        let _ = wire::send(&mut stdin, &begin);
        Ok(Worker { process, stdin, readers, oom, last_words })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Asks it something; a worker that is gone hears nothing and is noticed by its silence.
    pub fn ask(&mut self, message: &ToWorker) {
        let _ = wire::send(&mut self.stdin, message);
    }

    /// Ends it at once, at its last published checkpoint.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
    }

    /// Waits for the end of a worker that has closed its pipe, and reads how it died; one that lingers is killed.
    ///
    /// # Errors
    /// The system's, for a process that is not ours.
    pub fn wait(mut self, patience: Duration) -> io::Result<Death> {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                self.process.kill()?;
                break self.process.wait()?;
            }
            thread::sleep(Duration::from_millis(20));
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let words: Vec<String> =
            self.last_words.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        Ok(post_mortem(status, &words, self.oom.verdict()))
    }
}

/// This very binary, also when another one has taken its place on disk.
fn own_binary() -> Result<PathBuf> {
    let binary = std::env::current_exe().context("finding this binary")?;
    Ok(if binary.exists() { binary } else { "/proc/self/exe".into() })
}

/// Reads a death from an exit status, the last lines of output, and the kernel's counts.
fn post_mortem(status: ExitStatus, last_words: &[String], oom: Verdict) -> Death {
    let said = |what: &dyn Fn(&str) -> bool| last_words.iter().rposition(|line| what(line));
    let panic = said(&|line| line.contains("panicked at"));
    let no_room = said(&no_room);
    let aborted = status.signal().is_none_or(|signal| signal == 6);
    let (cause, mut message) = match (status.signal(), status.code()) {
        (Some(9), _) => killed(oom),
        _ if aborted && let Some(at) = no_room => {
            (Cause::OutOfMemory, format!("the worker found no memory: {}", last_words[at..].join(" ")))
        }
        _ if aborted && let Some(at) = panic => {
            (Cause::Panic, format!("the worker panicked: {}", last_words[at..].join(" ")))
        }
        (Some(signal), _) => (Cause::Signal, format!("the worker was killed by signal {signal}")),
        (None, code) => {
            (Cause::Exit, format!("the worker exited with status {} and no report", code.unwrap_or_default()))
        }
    };
    if !(aborted && (no_room.is_some() || panic.is_some()))
        && let Some(line) = last_words.last()
    {
        message.push_str(&format!("; its last line was: {line}"));
    }
    Death { cause, message }
}

/// A SIGKILL does not say who sent it.
fn killed(oom: Verdict) -> (Cause, String) {
    let (cause, who) = match oom {
        Verdict::Group => (
            Cause::OutOfMemory,
            "by the kernel for want of memory: the OOM killer has struck in its control group",
        ),
        Verdict::Machine => (
            Cause::OutOfMemory,
            "most likely by the kernel for want of memory: the OOM killer has struck on this machine at that time",
        ),
        Verdict::Nobody => (Cause::Signal, "by somebody: the kernel's OOM killer has not struck"),
        Verdict::CannotTell => (
            Cause::Signal,
            "by somebody, or by the kernel for want of memory: it does not say here, for there is no memory.events and \
             no /proc/vmstat",
        ),
    };
    (cause, format!("the worker was killed by SIGKILL, {who}"))
}

/// Whether a line of output is the last one of a program that could not allocate: Rust's, C++'s, libtorch's.
fn no_room(line: &str) -> bool {
    line.contains("memory allocation of") && line.contains("failed")
        || ["std::bad_alloc", "can't allocate memory", "Cannot allocate memory"]
            .iter()
            .any(|words| line.contains(words))
}

fn hear_reports(mut pipe: impl BufRead, events: &Sender<Event>) {
    loop {
        let event = match wire::receive::<FromWorker>(&mut pipe) {
            Ok(Some(report)) => Event::Report(report),
            Ok(None) => break,
            Err(error) => {
                let message =
                    format!("the worker's report cannot be read ({error}); was the binary replaced?");
                let _ = events.send(Event::Report(FromWorker::Failed {
                    permanent: false,
                    started: true,
                    cause: Cause::Error,
                    message,
                }));
                break;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
    let _ = events.send(Event::Silent);
}

fn hear_output(mut pipe: impl BufRead, last_words: &Mutex<VecDeque<String>>, events: &Sender<Event>) {
    loop {
        let mut line = Vec::new();
        match pipe.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            _ => return,
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        let mut kept = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == LAST_WORDS {
            kept.pop_front();
        }
        kept.push_back(line.clone());
        drop(kept);
        if events.send(Event::Output(line)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw_status: i32, last_words: &[&str], oom: Verdict, cause: Cause, words: &str) {
        let last_words: Vec<String> = last_words.iter().map(|line| (*line).to_owned()).collect();
        let death = post_mortem(ExitStatus::from_raw(raw_status), &last_words, oom);
        assert_eq!(death.cause, cause, "{}", death.message);
        assert!(death.message.contains(words), "{}", death.message);
    }

    #[test]
    fn a_death_is_told_by_its_cause() {
        use Verdict::Nobody;
        check(9, &["step 12"], Nobody, Cause::Signal, "SIGKILL, by somebody");
        check(9, &["step 12"], Nobody, Cause::Signal, "its last line was: step 12");
        check(11, &[], Nobody, Cause::Signal, "signal 11");
        let panic = ["thread 'rank 0' panicked at src/x.rs:3:", "index out of bounds"];
        check(101 << 8, &panic, Nobody, Cause::Panic, "out of bounds");
        check(6, &["thread 'rank 0' panicked at src/x.rs:3:"], Nobody, Cause::Panic, "x.rs:3");
        check(3 << 8, &["libtorch: cannot open"], Nobody, Cause::Exit, "status 3");
        check(3 << 8, &["libtorch: cannot open"], Nobody, Cause::Exit, "cannot open");
        check(9, &["a thread panicked at once and was caught"], Nobody, Cause::Signal, "SIGKILL");
    }

    #[test]
    fn want_of_memory_is_told_from_other_deaths_as_far_as_it_can_be() {
        check(9, &[], Verdict::Group, Cause::OutOfMemory, "in its control group");
        check(9, &[], Verdict::Machine, Cause::OutOfMemory, "most likely");
        check(9, &[], Verdict::CannotTell, Cause::Signal, "it does not say here");
        let rust = ["memory allocation of 1048576 bytes failed"];
        check(6, &rust, Verdict::Nobody, Cause::OutOfMemory, "1048576 bytes");
        let cxx =
            ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"];
        check(6, &cxx, Verdict::Nobody, Cause::OutOfMemory, "std::bad_alloc");
        check(11, &rust, Verdict::Nobody, Cause::Signal, "signal 11");
    }

    #[test]
    fn output_is_passed_on_line_by_line_and_its_end_is_kept() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let text: String = (0..100).map(|line| format!("line {line}\n\n")).collect();
        let kept = Mutex::default();
        hear_output(BufReader::new(text.as_bytes()), &kept, &sender);
        drop(sender);
        assert_eq!(receiver.iter().count(), 100);
        let kept = kept.into_inner().unwrap();
        assert_eq!((kept.len(), kept.back().map(String::as_str)), (LAST_WORDS, Some("line 99")));
    }
}
