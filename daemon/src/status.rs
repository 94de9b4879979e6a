//! `status` and `runs`: how a run is, and which there are.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::board::{Facts, State, now};
use crate::client::{alive, fetch, find};
use crate::exit::NO_DAEMON;
use crate::rundir::{Notice, RunDir};
use crate::screen::duration;

/// Prints how the run is; the exit status says whether a daemon lives there.
///
/// # Errors
/// There is no run, or it is not clear which is meant.
pub fn status(run: Option<&Path>, as_json: bool) -> Result<ExitCode> {
    let run = find(run, "status")?;
    let facts = alive(&run).and_then(|notice| fetch(&notice).ok());
    let status = if run.is_locked() { ExitCode::SUCCESS } else { ExitCode::from(NO_DAEMON) };
    let text = match (facts, as_json) {
        (Some(facts), true) => living_json(&facts)?.to_string(),
        (Some(facts), false) => living(&facts),
        (None, true) => resting_json(&run).to_string(),
        (None, false) => resting(&run),
    };
    writeln!(std::io::stdout(), "{text}").context("writing to stdout")?;
    Ok(status)
}

/// The whole board, and beside it what [`resting_json`] has too.
fn living_json(facts: &Facts) -> Result<Value> {
    let mut value = serde_json::to_value(facts)?;
    value["alive"] = json!(true);
    value["address"] = json!(facts.url);
    value["step"] = json!(facts.last.step);
    value["steps"] = json!(facts.plan.as_ref().map(|plan| plan.steps));
    value["checkpoint_step"] = json!(facts.last.checkpoint.step);
    Ok(value)
}

fn living(facts: &Facts) -> String {
    let last = &facts.last;
    let steps = facts.plan.as_ref().map_or(0, |plan| plan.steps);
    let mut lines = vec![
        format!("{} in {}: {}", facts.recipe, facts.run, facts.state.word()),
        format!("  step        {} of {steps}, epoch {}", last.step, last.epoch),
    ];
    if last.last_step_at.is_some() {
        lines.push(format!("  loss        {:.4}, masked accuracy {:.2} %", last.loss, 100.0 * last.mlm_acc));
        let left = facts.eta_seconds.map_or_else(String::new, |eta| format!(", {} left", duration(eta)));
        lines.push(format!("  speed       {:.0} samples/s{left}", facts.samples_per_second));
    }
    lines.push(match (last.checkpoint.step, last.checkpoint.at) {
        (Some(step), Some(at)) => format!("  checkpoint  step {step}, {} ago", duration(now() - at)),
        _ => "  checkpoint  none yet".to_owned(),
    });
    let restarts: u64 = facts.restarts.values().sum();
    if restarts > 0 {
        lines.push(format!("  restarts    {restarts}"));
    }
    if let Some(error) = &facts.error {
        lines.push(format!("  last error  {error}"));
    }
    lines.push(format!("  page        {}/  (metrics at {0}/metrics)", facts.url));
    lines.join("\n")
}

fn resting(run: &RunDir) -> String {
    let path = run.path().display();
    let (was, error) = last_words(run);
    let mut text = format!("no daemon runs in {path}: {was}");
    if let Some(error) = error {
        text.push_str(&format!("\n  last error  {error}"));
    }
    text.push_str(&match run.newest_checkpoint() {
        Some(step) => format!("\n  checkpoint  step {step}; the same `beit-daemon start` goes on from it"),
        None => "\n  checkpoint  none".to_owned(),
    });
    text
}

fn resting_json(run: &RunDir) -> Value {
    let (was, error) = last_words(run);
    let notice = run.notice();
    json!({
        "alive": run.is_locked(),
        "state": was,
        "run": run.path(),
        "recipe": notice.as_ref().map(|notice| &notice.recipe),
        "step": notice.as_ref().map(|notice| notice.step),
        "unsaved_steps": notice.as_ref().and_then(|notice| notice.unsaved_steps),
        "checkpoint_step": run.newest_checkpoint(),
        "address": null,
        "pid": null,
        "error": error,
    })
}

/// State and error in the last notice; a notice of something under way whose writer is gone means a kill.
pub fn last_words(run: &RunDir) -> (&'static str, Option<String>) {
    match run.notice() {
        Some(Notice { state: state @ (State::Finished | State::Stopped | State::Failed), error, .. }) => {
            (state.word(), error)
        }
        _ => ("killed", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_reads_as_text_and_survives_its_json() {
        let board = crate::board::tests::board();
        let facts: Facts = serde_json::from_str(&serde_json::to_string(&board.facts()).unwrap()).unwrap();
        let text = living(&facts);
        assert!(text.contains("pretrain-tiny-cpu in runs/x: starting"), "{text}");
        assert!(text.contains("http://127.0.0.1:9777/metrics"), "{text}");
    }

    #[test]
    fn a_run_that_was_killed_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let mut notice = Notice {
            pid: std::process::id(),
            pid_started: 0,
            address: "127.0.0.1:1".parse().unwrap(),
            recipe: "r".into(),
            state: State::Running,
            error: None,
            step: 3,
            unsaved_steps: None,
        };
        run.put_notice(&notice).unwrap();
        assert!(resting(&run).contains("killed"));
        notice.state = State::Failed;
        notice.error = Some("no room".into());
        run.put_notice(&notice).unwrap();
        assert_eq!(resting_json(&run)["error"], "no room");
        assert_eq!(resting_json(&run)["step"], 3);
    }
}
