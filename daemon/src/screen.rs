//! What a person sees: a live line on a terminal, plain lines elsewhere. Both go to stderr; stdout is for scripts.
//! Once a log file is there, all lines go there too; in the background, there alone.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::format::{DefaultFields, Format};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::board::Facts;
use crate::feed::Feed;
use crate::logfile::LogFile;

/// Without a terminal, progress is a log line this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The place where lines and the live line meet without tearing each other.
#[derive(Clone, Debug)]
pub struct Screen {
    bar: ProgressBar,
    /// What is printed is heard here too.
    pub feed: Arc<Feed>,
    kept: Arc<OnceLock<Kept>>,
    filter: Arc<OnceLock<reload::Handle<EnvFilter, Registry>>>,
}

/// The log file, and whether stderr is left alone because it is the same file.
#[derive(Debug)]
struct Kept {
    log: LogFile,
    alone: bool,
}

/// Writes the progress of one supervisor.
#[derive(Debug)]
pub struct Progress {
    screen: Screen,
    logged: Option<Instant>,
}

impl Screen {
    /// A screen whose live line is not there yet.
    pub fn new() -> Screen {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Screen { bar, feed: Arc::default(), kept: Arc::default(), filter: Arc::default() }
    }

    /// Sends the log to this screen; `RUST_LOG` chooses what is logged, by default `info` and above.
    pub fn log_here(&self) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let (filter, handle) = reload::Layer::new(filter);
        let log = tracing_subscriber::registry()
            .with(filter)
            .with(self.layer(To::Person, io::stderr().is_terminal()))
            .with(self.layer(To::File, false));
        // Set already only in tests, where the first one serves as well.
        if log.try_init().is_ok() {
            let _ = self.filter.set(handle);
        }
    }

    fn layer<S>(&self, to: To, colours: bool) -> fmt::Layer<S, DefaultFields, Format, Sink> {
        let sink = Sink { screen: self.clone(), to };
        fmt::Layer::default().with_target(false).with_ansi(colours).with_writer(sink)
    }

    /// Logs what this filter lets through from now on.
    ///
    /// # Errors
    /// It is no filter.
    pub fn refilter(&self, filter: &str) -> Result<()> {
        let parsed =
            EnvFilter::try_new(filter).with_context(|| format!("reading the log filter {filter}"))?;
        if let Some(handle) = self.filter.get() {
            handle.reload(parsed).context("changing the log filter")?;
        }
        Ok(())
    }

    /// Keeps all lines in this file too; `alone`: only there.
    pub fn keep(&self, log: LogFile, alone: bool) {
        let _ = self.kept.set(Kept { log, alone }); // The first counts; there is one.
    }

    /// Begins the log file anew where it was moved away.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn reopen(&self) -> Result<()> {
        self.kept.get().map_or(Ok(()), |kept| kept.log.reopen())
    }

    /// Prints text above the live line, and keeps it.
    pub fn print(&self, text: &str) {
        self.show(text);
        self.record(text);
    }

    /// Keeps text that a person has seen elsewhere.
    pub fn record(&self, text: &str) {
        self.feed.log(text.trim_end());
        if let Some(kept) = self.kept.get() {
            kept.log.write(text);
        }
    }

    /// Whether stderr and stdout are the log file.
    pub fn in_background(&self) -> bool {
        self.kept.get().is_some_and(|kept| kept.alone)
    }

    fn show(&self, text: &str) {
        if !self.in_background() {
            self.bar.suspend(|| {
                let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
            });
        }
    }
}

/// Where lines of the log go.
#[derive(Clone, Copy, Debug)]
enum To {
    Person,
    File,
}

#[derive(Clone, Debug)]
struct Sink {
    screen: Screen,
    to: To,
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { sink: self.clone(), bytes: Vec::new() }
    }
}

/// One line of the log on its way.
#[derive(Debug)]
struct Line {
    sink: Sink,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        match self.sink.to {
            To::Person => self.sink.screen.show(&text),
            To::File => self.sink.screen.record(&text),
        }
    }
}

impl Progress {
    /// Progress that has not begun.
    pub fn new(screen: Screen) -> Progress {
        Progress { screen, logged: None }
    }

    /// Shows where the run is.
    pub fn show(&mut self, facts: &Facts) {
        let Some(plan) = &facts.plan else { return };
        let bar = &self.screen.bar;
        if io::stderr().is_terminal() && !self.screen.in_background() {
            if bar.is_hidden() {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{wide_bar:.cyan/dim} {pos}/{len} {msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            }
            bar.set_length(plan.steps);
            bar.set_position(facts.last.step);
            bar.set_message(message(facts));
        } else if facts.samples_per_second > 0.0 && self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::info!("Step {}/{}: {}.", facts.last.step, plan.steps, message(facts));
        }
    }

    /// Takes the live line away.
    pub fn end(&self) {
        self.screen.bar.finish_and_clear();
    }
}

/// Loss, accuracy, speed and time left, in one short line.
pub fn message(facts: &Facts) -> String {
    if facts.last.last_step_at.is_none() {
        return facts.state.word().to_owned();
    }
    let last = &facts.last;
    let mut line = format!(
        "loss {:.3}  acc {:.1} %  {:.0} samples/s",
        last.loss,
        100.0 * last.mlm_acc,
        facts.samples_per_second
    );
    if let Some(eta) = facts.eta_seconds {
        line.push_str(&format!("  {} left", duration(eta)));
    }
    line
}

/// Seconds as people say them: `8 s`, `3 min 20 s`, `2 h 5 min`, `10 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (large, small, unit, part) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (seconds / 60, seconds % 60, "min", "s"),
        3600..86400 => (seconds / 3600, seconds % 3600 / 60, "h", "min"),
        _ => (seconds / 86400, seconds % 86400 / 3600, "d", "h"),
    };
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {part}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (seconds, expect) in [
            (-1.0, "0 s"),
            (8.9, "8 s"),
            (200.0, "3 min 20 s"),
            (7500.0, "2 h 5 min"),
            (7200.0, "2 h"),
            (878_400.0, "10 d 4 h"),
        ] {
            assert_eq!(duration(seconds), expect);
        }
    }

    #[test]
    fn progress_says_loss_accuracy_speed_and_time_left() {
        let mut facts = crate::board::tests::board().facts();
        assert_eq!(message(&facts), "starting");
        facts.last.last_step_at = Some(1.0);
        (facts.last.loss, facts.last.mlm_acc) = (5.4321, 0.0123);
        (facts.samples_per_second, facts.eta_seconds) = (345.6, Some(61.0));
        assert_eq!(message(&facts), "loss 5.432  acc 1.2 %  346 samples/s  1 min 1 s left");
    }
}
