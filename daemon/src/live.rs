//! Settings that may change while a run goes on, because they do not change what is trained: how much is logged, how
//! long things may take, how often a worker is replaced.
//!
//! They come from the command line, from the file that `--config` names, and have defaults, in this order. SIGHUP has the
//! file read again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::watchdog::Limits;

/// Options of `start` that are keys of the settings file too.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter as `info,beit_loader=debug` [default: RUST_LOG, else info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How long a stop may take before the worker is killed at its last checkpoint [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// How long a worker may take from step to step, or be silent, before it is replaced; 0: for ever [default: 900]
    #[arg(long, value_name = "SECONDS")]
    pub hang_timeout: Option<u64>,
    /// How long a worker may take to its first step before it is replaced; 0: for ever [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub start_timeout: Option<u64>,
    /// Workers that may be replaced within an hour without a new checkpoint in between [default: 5]
    #[arg(long, value_name = "N")]
    pub restarts: Option<usize>,
}

/// The settings as they hold now.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// What is logged.
    pub log: String,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// How long a worker may go without a sign of life.
    pub limits: Limits,
    /// How many workers may be replaced without progress.
    pub restarts: usize,
}

/// Where the settings come from.
#[derive(Clone, Debug)]
pub struct LiveSource {
    /// The command line.
    pub given: LiveArgs,
    /// The settings file.
    pub file: Option<PathBuf>,
}

impl LiveSource {
    /// The settings as they are written now.
    ///
    /// # Errors
    /// The file cannot be read, or is no TOML, or has a key or value that is not allowed; it is named, and the place in it.
    pub fn read(&self) -> Result<Live> {
        let written = match &self.file {
            Some(path) => parse(path)?,
            None => LiveArgs::default(),
        };
        let given = &self.given;
        let environment = || std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
        let log = given.log.clone().or(written.log).or_else(environment).unwrap_or_else(|| "info".into());
        let parsed = EnvFilter::try_new(&log).map(|_| ());
        parsed.with_context(|| {
            format!("reading log = \"{log}\", which should be as info or info,beit_loader=debug")
        })?;
        let seconds = |given: Option<u64>, written: Option<u64>, default| {
            Duration::from_secs(given.or(written).unwrap_or(default))
        };
        let limit = |given, written, default| match seconds(given, written, default) {
            Duration::ZERO => Duration::from_secs(u64::MAX / 4),
            limit => limit,
        };
        let live = Live {
            log,
            stop_timeout: seconds(given.stop_timeout, written.stop_timeout, 600),
            limits: Limits {
                start: limit(given.start_timeout, written.start_timeout, 3600),
                step: limit(given.hang_timeout, written.hang_timeout, 900),
            },
            restarts: given.restarts.or(written.restarts).unwrap_or(5),
        };
        ensure!(live.stop_timeout > Duration::ZERO, "stop_timeout = 0 leaves no time to save");
        Ok(live)
    }
}

fn parse(path: &Path) -> Result<LiveArgs> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the settings file {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("reading the settings file {}", path.display()))
}

impl Live {
    /// What is different in `new`, as a person says it; empty: nothing is.
    pub fn changes(&self, new: &Live) -> String {
        let span = |time: Duration| match time.as_secs() {
            0..1_000_000_000 => format!("{} s", time.as_secs()),
            _ => "for ever".to_owned(),
        };
        let pairs = [
            ("log", self.log.clone(), new.log.clone()),
            ("stop_timeout", span(self.stop_timeout), span(new.stop_timeout)),
            ("hang_timeout", span(self.limits.step), span(new.limits.step)),
            ("start_timeout", span(self.limits.start), span(new.limits.start)),
            ("restarts", self.restarts.to_string(), new.restarts.to_string()),
        ];
        let changed = pairs.iter().filter(|(_, old, new)| old != new);
        changed.map(|(key, old, new)| format!("{key} {old} → {new}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: LiveArgs, file: &str) -> Result<Live> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        std::fs::write(&path, file).unwrap();
        LiveSource { given, file: Some(path) }.read()
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
        let given = LiveArgs { restarts: Some(2), ..LiveArgs::default() };
        let live =
            read(given, "restarts = 9\nhang_timeout = 30\nlog = \"warn\"\nstart_timeout = 0\n").unwrap();
        assert_eq!((live.restarts, live.limits.step), (2, Duration::from_secs(30)));
        assert_eq!((live.log.as_str(), live.stop_timeout), ("warn", Duration::from_secs(600)));
        assert!(live.limits.start > Duration::from_secs(1 << 40), "0 is for ever");
    }

    #[test]
    fn a_broken_file_is_named_with_the_place() {
        for (file, words) in [
            ("hang_timeot = 3\n", &["unknown field", "hang_timeot", "hang_timeout"][..]),
            ("restarts = \"many\"\n", &["line 1", "restarts"]),
            ("restarts = \n", &["line 1"]),
            ("lr = 1e-3\n", &["lr"]),
            ("log = \"info,=,=\"\n", &["log"]),
            ("stop_timeout = 0\n", &["stop_timeout"]),
        ] {
            let message = format!("{:#}", read(LiveArgs::default(), file).unwrap_err());
            for word in words {
                assert!(message.contains(word), "{word:?} is not in: {message}");
            }
        }
        let nowhere = LiveSource { given: LiveArgs::default(), file: Some("no/such.toml".into()) };
        assert!(format!("{:#}", nowhere.read().unwrap_err()).contains("no/such.toml"));
    }

    #[test]
    fn what_changed_is_said() {
        let old = read(LiveArgs::default(), "log = \"info\"").unwrap();
        let new = read(LiveArgs::default(), "log = \"debug\"\nhang_timeout = 60").unwrap();
        assert_eq!(old.changes(&new), "log info → debug, hang_timeout 900 s → 60 s");
        assert_eq!(old.changes(&old), "");
    }
}
