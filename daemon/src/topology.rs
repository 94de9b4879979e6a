//! The whole daemon on one page: who runs, and how they are wired.
//!
//! ```text
//!  SIGTERM, SIGINT, SIGHUP ─▶ thread "signals" ┐
//!  browser, Prometheus ◀─▶ 2 threads "http" ──┤ Event            ┌───────────── worker process ─────────────┐
//!                               ▲             ▼                  │ stdin   ─▶ thread "orders" ─▶ Control     │
//!                             Board ◀── supervisor (main thread) ┤ stdout  ◀─ reporter, 5/s  ◀─ TrainStats   │
//!                                          │        ▲            │ stderr  ◀─ log              (atomics)     │
//!                                          ▼        └─ restarts  │                                           │
//!                                   progress line      it        │ loader pool ─▶ ring ─▶ rank 0..N ─▶ saves │
//!                                                                └───────────────────────────────────────────┘
//! ```
//! Everything that can go wrong in training is in the worker's process; the supervisor computes nothing. The worker
//! dies with its supervisor (PDEATHSIG, and an end of file on its stdin), the supervisor's lock and port die with it,
//! so that no kill leaves anything behind. The wiring inside the worker is `beit_trainer::run`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result};
use beit_trainer::device::Device;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::board::{Board, Facts, State, now};
use crate::exit::NOT_SAVED;
use crate::history::History;
use crate::http;
use crate::logfile::LogFile;
use crate::metrics::Metrics;
use crate::rundir::{Notice, process_started};
use crate::screen::Screen;
use crate::settings::{Settings, StartArgs};
use crate::supervisor::{Ending, Event, Supervisor};
use crate::wire::Sample;

/// Trains what `args` ask for, in this process and a worker of its own, until the run ends.
///
/// # Errors
/// Anything that keeps the run from starting; a run that fails later is told on the screen and in the exit status.
pub fn start(args: &StartArgs) -> Result<ExitCode> {
    let screen = Screen::new();
    screen.log_here();
    let settings = Settings::resolve(args, Path::new("."))?;
    screen.refilter(&settings.live.log)?;
    let _lock = settings.run.lock()?;
    screen.keep(LogFile::open(&settings.run.log_path(), args.in_background)?, args.in_background);
    let listener = http::bind(settings.listen)?;
    let address = listener.local_addr().context("asking for the port")?;
    let token = settings.run.new_token()?;

    let pid = std::process::id();
    let notice = Notice {
        pid,
        pid_started: process_started(pid).unwrap_or_default(),
        address,
        recipe: settings.job.recipe_name.clone(),
        state: State::Starting,
        error: None,
        step: 0,
        unsaved_steps: None,
    };
    settings.run.put_notice(&notice)?;
    let board = Board::new(facts(&settings, &notice), Metrics::new(0..settings.job.ranks)?)
        .hearing(screen.feed.clone())
        .remembering(History::open(settings.run.history()))
        .stalls_after(settings.stall_after);
    if settings.job.device == Device::Cuda {
        board.metrics.watch_gpus();
    }
    let board = Arc::new(board);

    let (sender, events) = channel();
    listen_for_signals(sender.clone())?;
    let watchers = http::serve(listener, board.clone(), &settings.run, token, sender.clone())?;
    writeln!(std::io::stdout(), "listening on http://{address}").context("writing to stdout")?;
    if !address.ip().is_loopback() {
        tracing::warn!("Listening on {address}: whoever reaches it can read this run's numbers and paths.");
    }

    // The worker is started by this very thread, which lives as long as the process: see `child::Worker::start`.
    let run = settings.run.clone();
    let shards = settings.job.shards.clone();
    let ending = Supervisor::new(settings, board.clone(), screen.clone(), notice, (sender, events)).run();
    run.remove_pid();
    let ending = ending?;
    watchers.farewell();
    let status = tell(&ending, &board.facts(), run.newest_checkpoint(), &shards, &screen);
    Ok(if ending == Ending::Stopped { ExitCode::from(args.stopped_status) } else { status })
}

/// Signals become events. The first SIGTERM or SIGINT asks for a stop, the second is meant. SIGHUP asks to read the
/// settings again, except where it says that the terminal is gone that this was started on: then it is a stop.
fn listen_for_signals(events: Sender<Event>) -> Result<()> {
    let mut terminal = has_terminal() && !ignores_hangups();
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listening for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGINT => Event::Stop { who: "Ctrl-C" },
                SIGTERM => Event::Stop { who: "SIGTERM" },
                _ if terminal && !has_terminal() => {
                    terminal = false; // The kernel and the shell may both tell.
                    Event::Stop { who: "the end of its terminal" }
                }
                _ => Event::Reload,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Whether this process has a terminal that may go away.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether whoever started this wants it to outlive the terminal, as nohup does.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (SIGHUP - 1)) != 0
}

fn facts(settings: &Settings, notice: &Notice) -> Facts {
    Facts {
        state: notice.state,
        run: settings.run.path().display().to_string(),
        recipe: notice.recipe.clone(),
        shards: settings.job.shards.display().to_string(),
        device: settings.job.device.name().to_owned(),
        url: format!("http://{}", notice.address),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: notice.pid,
        worker_pid: None,
        started_at: now(),
        plan: None,
        last: Sample::default(),
        reported_at: None,
        samples_per_second: 0.0,
        eta_seconds: None,
        restarts: BTreeMap::new(),
        error: None,
        events: VecDeque::new(),
    }
}

/// Says what was done and what to type next.
fn tell(ending: &Ending, facts: &Facts, checkpoint: Option<u64>, shards: &Path, screen: &Screen) -> ExitCode {
    let steps = facts.plan.as_ref().map_or(0, |plan| plan.steps);
    let last = &facts.last;
    let run = &facts.run;
    let saved = match checkpoint {
        Some(step) => format!("checkpoint {run}/checkpoints/step-{step:08}"),
        None => "no checkpoint".to_owned(),
    };
    let again = format!("the same command goes on from there (it ran in {run})");
    let (text, status) = match ending {
        Ending::Finished => {
            let result = if last.last_step_at.is_some() {
                format!(", loss {:.4}, masked accuracy {:.2} %", last.loss, 100.0 * last.mlm_acc)
            } else {
                String::new()
            };
            let next = format!(
                "to train longer, give the same command with --steps {}; the data is in {}",
                steps.saturating_mul(2),
                shards.display()
            );
            (format!("finished: {steps} steps done{result}\n{saved}\n{next}"), ExitCode::SUCCESS)
        }
        Ending::Stopped => {
            (format!("stopped at step {} of {steps}\n{saved}\n{again}", last.step), ExitCode::SUCCESS)
        }
        Ending::Cut => {
            let lost = last.step.saturating_sub(checkpoint.unwrap_or(0));
            (
                format!("stopped without saving: {lost} steps will be done again\n{saved}\n{again}"),
                ExitCode::from(NOT_SAVED),
            )
        }
        Ending::Failed(message) => (format!("error: {message}"), ExitCode::FAILURE),
    };
    // A person on a terminal reads one place; a script may read stdout alone.
    if matches!(ending, Ending::Failed(_)) || std::io::stdout().is_terminal() {
        screen.print(&text);
    } else {
        screen.record(&text);
        if !screen.in_background() {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
    status
}
