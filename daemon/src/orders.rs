//! `stop`, `pause`, `resume`, `checkpoint`: asks a run for something and waits until it has happened.
//!
//! An order is carried out when the supervisor's board shows that it is, not when the request was accepted.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::board::{Facts, State};
use crate::client::{alive, ask, fetch, find, signal};
use crate::exit::{FAILED, Fault, NO_DAEMON, NOT_SAVED, TIMED_OUT};
use crate::rundir::{Notice, RunDir, process_started};

/// How often the board is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a process may take to end once it has let go of its run.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Options of the commands that ask a run for something.
#[derive(Args, Clone, Debug)]
pub struct OrderArgs {
    /// Run directory [default: the only live run under runs/]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// How long to wait until it has happened
    #[arg(long, value_name = "SECONDS", default_value_t = 660)]
    pub timeout: u64,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// An order that was carried out: a sentence, and the facts behind it.
struct Done {
    text: String,
    facts: Value,
}

/// Asks the run to save and end, and waits until its supervisor is gone.
///
/// # Errors
/// There is no run, or it is not ours to stop, or it is still there after the timeout, or its last steps are not saved.
pub fn stop(args: &OrderArgs) -> Result<ExitCode> {
    carry_out(args, "stop", |run| end(run, Duration::from_secs(args.timeout)))
}

/// Has training stand still after the step under way, and waits until it does.
///
/// # Errors
/// Nobody trains there, or the step under way does not end in time.
pub fn pause(args: &OrderArgs) -> Result<ExitCode> {
    carry_out(args, "pause", |run| {
        let facts = Patience::new(run, args)?
            .until("pause", |facts| Ok((facts.state == State::Paused).then(|| facts.clone())))?;
        let step = facts.last.step;
        let text = format!("paused after step {step}; `beit-daemon resume --run {}` goes on", facts.run);
        Ok(Done { text, facts: json!({"state": "paused", "step": step}) })
    })
}

/// Has paused training go on.
///
/// # Errors
/// Nobody trains there.
pub fn resume(args: &OrderArgs) -> Result<ExitCode> {
    carry_out(args, "resume", |run| {
        let facts = Patience::new(run, args)?
            .until("resume", |facts| Ok((facts.state != State::Paused).then(|| facts.clone())))?;
        let (state, step) = (facts.state.word(), facts.last.step);
        Ok(Done { text: format!("{state}, at step {step}"), facts: json!({"state": state, "step": step}) })
    })
}

/// Has a checkpoint saved, and waits until it is published.
///
/// # Errors
/// It could not be saved, or the worker died before, or it is not there in time: never success without a checkpoint
/// that is at least as new as the request.
pub fn checkpoint(args: &OrderArgs) -> Result<ExitCode> {
    carry_out(args, "checkpoint", |run| {
        let patience = Patience::new(run, args)?;
        let before = patience.board()?;
        if before.worker_pid.is_none() {
            return Err(Fault::error(
                FAILED,
                format!("the run in {} is {}: no worker is there to save", before.run, before.state.word()),
            ));
        }
        let facts = patience.until("checkpoint", |facts| judge(&before, facts))?;
        let saved = &facts.last.checkpoint;
        let step = saved.step.unwrap_or_default();
        let text = format!(
            "{}/checkpoints/step-{step:08}: published, {} bytes in {:.2} s",
            facts.run, saved.bytes, saved.seconds
        );
        Ok(Done {
            text,
            facts: json!({"checkpoint_step": step, "bytes": saved.bytes, "seconds": saved.seconds}),
        })
    })
}

/// Whether a checkpoint was published after `before` was seen and holds its step; an error if that won't happen.
fn judge(before: &Facts, now: &Facts) -> Result<Option<Facts>> {
    let (old, new) = (&before.last.checkpoint, &now.last.checkpoint);
    if new.at > old.at && new.step >= Some(before.last.step) {
        return Ok(Some(now.clone()));
    }
    let newest = match new.step {
        Some(step) => format!("the newest checkpoint is that of step {step}"),
        None => "there is no checkpoint yet".to_owned(),
    };
    if now.worker_pid != before.worker_pid {
        let why = now.error.as_deref().unwrap_or("see daemon.log");
        return Err(Fault::error(FAILED, format!("the worker ended before it had saved ({why}); {newest}")));
    }
    if new.failed > old.failed {
        let message = format!("the checkpoint could not be written, daemon.log says why; {newest}");
        return Err(Fault::error(FAILED, message));
    }
    Ok(None)
}

/// Finds the run, acts, and tells the outcome; with `--json` a failure is an object on stdout too.
fn carry_out(args: &OrderArgs, verb: &str, act: impl FnOnce(&RunDir) -> Result<Done>) -> Result<ExitCode> {
    let found = find(args.run.as_deref(), verb);
    let path = found.as_ref().ok().map(|run| run.path().to_owned());
    match found.and_then(|run| act(&run)) {
        Ok(done) => {
            let text = if args.json { outcome(verb, path, done.facts, None) } else { done.text };
            writeln!(std::io::stdout(), "{text}").context("writing to stdout")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if args.json {
                let text = outcome(verb, path, json!({}), Some(format!("{error:#}")));
                writeln!(std::io::stdout(), "{text}").context("writing to stdout")?;
            }
            Err(error)
        }
    }
}

fn outcome(verb: &str, run: Option<PathBuf>, mut facts: Value, error: Option<String>) -> String {
    facts["order"] = json!(verb);
    facts["ok"] = json!(error.is_none());
    facts["run"] = json!(run);
    facts["error"] = json!(error);
    facts.to_string()
}

/// Waits for a living run to do something.
struct Patience<'a> {
    run: &'a RunDir,
    notice: Notice,
    timeout: Duration,
}

impl<'a> Patience<'a> {
    fn new(run: &'a RunDir, args: &OrderArgs) -> Result<Patience<'a>> {
        let path = run.path().display();
        if !run.is_locked() {
            return Err(Fault::error(
                NO_DAEMON,
                format!("no daemon runs in {path}; `beit-daemon start` starts one"),
            ));
        }
        let notice = alive(run).with_context(|| just_started(run))?;
        Ok(Patience { run, notice, timeout: Duration::from_secs(args.timeout) })
    }

    fn board(&self) -> Result<Facts> {
        let path = self.run.path().display();
        fetch(&self.notice).with_context(|| format!("asking the daemon in {path} how it is"))
    }

    /// Asks for `verb`, then looks at the board until `there` says what came of it.
    fn until<T>(self, verb: &str, mut there: impl FnMut(&Facts) -> Result<Option<T>>) -> Result<T> {
        let path = self.run.path().display();
        let facts = self.board()?;
        if matches!(facts.state, State::Stopping | State::Finished | State::Stopped | State::Failed) {
            return Err(Fault::error(FAILED, format!("the run in {path} is {} already", facts.state.word())));
        }
        ask(self.run, &self.notice, verb)
            .with_context(|| format!("asking the daemon in {path} to {verb}"))?;
        let begun = Instant::now();
        loop {
            // The request is handled within moments; a board from before it may show the past.
            std::thread::sleep(LOOK_EVERY);
            if !self.run.is_locked() {
                let (was, error) = crate::status::last_words(self.run);
                let error = error.map_or_else(String::new, |error| format!(": {error}"));
                return Err(Fault::error(
                    FAILED,
                    format!("the run in {path} ended meanwhile ({was}){error}"),
                ));
            }
            // A supervisor that is about to be gone may not answer; the lock will tell.
            if let Ok(facts) = self.board()
                && let Some(outcome) = there(&facts)?
            {
                return Ok(outcome);
            }
            if begun.elapsed() >= self.timeout {
                let seconds = self.timeout.as_secs();
                return Err(Fault::error(
                    TIMED_OUT,
                    format!(
                        "the daemon in {path} took the request, but it had not happened after {seconds} s; \
                             `beit-daemon status --run {path}` says what the run is at"
                    ),
                ));
            }
        }
    }
}

fn just_started(run: &RunDir) -> String {
    let path = run.path().display();
    format!("a daemon has just started in {path} and has not said where it listens; try again in a moment")
}

fn end(run: &RunDir, timeout: Duration) -> Result<Done> {
    let path = run.path().display();
    if !run.is_locked() {
        let facts = json!({"was": "not running", "checkpoint_step": run.newest_checkpoint()});
        return Ok(Done { text: format!("no daemon runs in {path}; nothing to stop"), facts });
    }
    let notice = run.notice().with_context(|| just_started(run))?;
    if let Err(error) = ask(run, &notice, "stop") {
        tracing::debug!("The API did not take the request ({error:#}); sending SIGTERM.");
        signal(&notice)
            .with_context(|| format!("stopping the daemon in {path} after its API refused: {error:#}"))?;
    }
    let begun = Instant::now();
    while run.is_locked() {
        if begun.elapsed() >= timeout {
            return Err(Fault::error(
                TIMED_OUT,
                format!(
                    "the daemon in {path} (pid {}) is still saving after {} s; `kill {0}` makes it stop at its last \
                     checkpoint",
                    notice.pid,
                    timeout.as_secs()
                ),
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    // The lock goes a moment before the process does.
    let unlocked = Instant::now();
    while process_started(notice.pid) == Some(notice.pid_started) && unlocked.elapsed() < GONE_WITHIN {
        std::thread::sleep(Duration::from_millis(10));
    }
    ended(run)
}

/// What the last supervisor wrote before it went.
fn ended(run: &RunDir) -> Result<Done> {
    let path = run.path().display();
    let newest = run.newest_checkpoint();
    let holds = match newest {
        Some(step) => format!("{path} holds the checkpoint of step {step}"),
        None => format!("{path} holds no checkpoint"),
    };
    let notice = run.notice();
    let was = crate::status::last_words(run).0;
    match notice {
        Some(Notice { state: State::Failed, error, .. }) => {
            let why = error.unwrap_or_else(|| "see its log".into());
            Err(Fault::error(FAILED, format!("the run in {path} had failed: {why}")))
        }
        Some(Notice { unsaved_steps: Some(lost), .. }) => Err(Fault::error(
            NOT_SAVED,
            format!("stopped without saving, at least {lost} steps will be done again; {holds}"),
        )),
        _ if was == "killed" => {
            Err(Fault::error(NOT_SAVED, format!("the daemon was killed while it was stopping; {holds}")))
        }
        _ => Ok(Done {
            text: format!("{was}; {holds}"),
            facts: json!({"was": was, "checkpoint_step": newest}),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{CheckpointSample, Sample};

    fn facts(step: u64, checkpoint: (Option<u64>, Option<f64>, u64)) -> Facts {
        let mut facts = crate::board::tests::board().facts();
        let (saved_step, at, failed) = checkpoint;
        let checkpoint = CheckpointSample { step: saved_step, at, failed, ..Default::default() };
        facts.worker_pid = Some(7);
        facts.last = Sample { step, checkpoint, ..Sample::default() };
        facts
    }

    #[test]
    fn a_checkpoint_counts_only_if_it_is_newer_than_the_request() {
        let before = facts(10, (Some(8), Some(100.0), 1));
        let check = |now: &Facts| judge(&before, now).map(|facts| facts.is_some());
        assert!(!check(&before).unwrap(), "nothing has happened yet");
        assert!(!check(&facts(11, (Some(9), Some(101.0), 1))).unwrap(), "one that was under way before");
        assert!(check(&facts(11, (Some(10), Some(101.0), 1))).unwrap());
        assert!(check(&facts(10, (Some(10), Some(101.0), 1))).unwrap(), "a paused run saves its step again");
        let error = check(&facts(12, (Some(8), Some(100.0), 2))).unwrap_err();
        assert!(error.to_string().contains("could not be written"), "{error}");
        assert!(error.to_string().contains("step 8"), "{error}");
        let mut restarted = facts(9, (Some(8), Some(100.0), 0));
        (restarted.worker_pid, restarted.error) = (Some(8), Some("killed by SIGKILL".into()));
        let error = check(&restarted).unwrap_err();
        assert!(error.to_string().contains("killed by SIGKILL"), "{error}");
        assert_eq!(Fault::status_of(&error), FAILED);
    }
}
