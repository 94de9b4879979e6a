//! `logs`: what a run has said, and says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::client::find;
use crate::logfile::tail;
use crate::rundir::RunDir;

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Options of `beit-daemon logs`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  beit-daemon logs -n 20
  beit-daemon logs --run runs/long --follow                 ends when the daemon does
  beit-daemon logs --json | jq 'select(.level == \"ERROR\")'")]
pub struct LogsArgs {
    /// Run directory [default: the only live run under runs/]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: usize,
    /// Go on with what comes, until the daemon ends
    #[arg(short, long)]
    follow: bool,
    /// One JSON object per line: at, level, text; lines that are no log records have neither at nor level
    #[arg(long)]
    json: bool,
}

/// Prints the end of a run's log.
///
/// # Errors
/// There is no run, or it has no log.
pub fn logs(args: &LogsArgs) -> Result<ExitCode> {
    let run = find(args.run.as_deref(), "logs")?;
    let path = run.log_path();
    let (lines, file) =
        tail(&path, args.lines).with_context(|| format!("reading the log {}", path.display()))?;
    let mut out = io::stdout().lock();
    let mut print = |line: &str| {
        let line = if args.json { record(line) } else { line.to_owned() };
        writeln!(out, "{line}").and_then(|()| out.flush())
    };
    let mut printed = lines.iter().try_for_each(|line| print(line));
    if args.follow && printed.is_ok() {
        printed = follow(&run, file, print);
    }
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("printing the log"),
        _ => Ok(ExitCode::SUCCESS), // `| head` has seen enough
    }
}

/// Prints what is added to `file`, and to those that take its place, until no daemon writes there any more.
fn follow(run: &RunDir, file: File, mut print: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    let path = run.log_path();
    let mut number = file.metadata()?.ino();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        // Asked before reading, so that the last words are read too.
        let alive = run.is_locked();
        let moved = std::fs::metadata(&path).map(|now| now.ino() != number).unwrap_or(false);
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') && (alive && !moved) {
                break; // The rest is on its way.
            }
            print(String::from_utf8_lossy(&line).trim_end())?;
            line.clear();
        }
        if moved {
            let file = File::open(&path)?;
            number = file.metadata()?.ino();
            reader = BufReader::new(file);
        } else if !alive {
            return Ok(());
        } else {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// A line as JSON; the parts of a log record apart.
fn record(line: &str) -> String {
    let parts = line.split_once(' ').and_then(|(at, rest)| {
        let rest = rest.trim_start();
        let (level, text) = rest.split_once(' ')?;
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        (at.ends_with('Z') && at.contains('T') && levels.contains(&level)).then_some((at, level, text))
    });
    match parts {
        Some((at, level, text)) => json!({"at": at, "level": level, "text": text}).to_string(),
        None => json!({"at": null, "level": null, "text": line}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart_and_other_lines_left_whole() {
        let line = record("2026-01-02T03:04:05.678901Z  INFO Training, starting at step 0. step=1");
        assert_eq!(
            line,
            r#"{"at":"2026-01-02T03:04:05.678901Z","level":"INFO","text":"Training, starting at step 0. step=1"}"#
        );
        assert_eq!(record("  depth  12"), r#"{"at":null,"level":null,"text":"  depth  12"}"#);
    }
}
