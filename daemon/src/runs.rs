//! `runs`: which runs there are, and how each is.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::{alive, fetch};
use crate::discover::all_runs;
use crate::rundir::RunDir;
use crate::status::last_words;

/// Prints the runs in `folder`, by default `runs/` here.
///
/// # Errors
/// Those of printing; a folder without runs is no error.
pub fn runs(folder: Option<PathBuf>, as_json: bool) -> Result<ExitCode> {
    let folder = folder.unwrap_or_else(|| PathBuf::from("runs"));
    let rows: Vec<Value> = all_runs(&folder).iter().map(row).collect();
    let text = if as_json {
        json!({ "runs": rows }).to_string()
    } else if rows.is_empty() {
        format!("no runs in {}/; `beit-daemon start` makes one", folder.display())
    } else {
        table(&rows)
    };
    writeln!(std::io::stdout(), "{text}").context("writing to stdout")?;
    Ok(ExitCode::SUCCESS)
}

fn row(run: &RunDir) -> Value {
    let notice = alive(run);
    let facts = notice.as_ref().and_then(|notice| fetch(notice).ok());
    let (was, error) = last_words(run);
    let written = run.notice();
    let state = match (&facts, &notice) {
        (Some(facts), _) => facts.state.word(),
        (None, Some(notice)) => notice.state.word(),
        (None, None) => was,
    };
    json!({
        "run": run.path(),
        "recipe": written.as_ref().map(|notice| &notice.recipe),
        "state": state,
        "alive": run.is_locked(),
        "step": facts.as_ref().map(|facts| facts.last.step).or(written.as_ref().map(|notice| notice.step)),
        "steps": facts.as_ref().and_then(|facts| facts.plan.as_ref()).map(|plan| plan.steps),
        "checkpoint_step": run.newest_checkpoint(),
        "address": notice.as_ref().map(|notice| format!("http://{}", notice.address)),
        "pid": notice.as_ref().map(|notice| notice.pid),
        "error": error,
    })
}

fn table(rows: &[Value]) -> String {
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let heads = ["RUN", "STATE", "STEP", "CHECKPOINT", "PID", "ADDRESS"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let step = match &row["steps"] {
            Value::Null => word(&row["step"]),
            steps => format!("{}/{steps}", word(&row["step"])),
        };
        let [run, state, checkpoint, pid, address] =
            ["run", "state", "checkpoint_step", "pid", "address"].map(|key| word(&row[key]));
        lines.push(vec![run, state, step, checkpoint, pid, address]);
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::State;
    use crate::rundir::Notice;

    #[test]
    fn living_and_dead_runs_are_told_apart() {
        let here = tempfile::tempdir().unwrap();
        let notice = |state| Notice {
            pid: 42,
            pid_started: 1,
            address: "127.0.0.1:1".parse().unwrap(),
            recipe: "r".into(),
            state,
            error: None,
            step: 7,
            unsaved_steps: None,
        };
        let [done, dead, live] = ["done", "dead", "live"].map(|name| RunDir::new(here.path().join(name)));
        let lock = live.lock().unwrap();
        for run in [&done, &dead] {
            drop(run.lock().unwrap());
        }
        done.put_notice(&notice(State::Finished)).unwrap();
        dead.put_notice(&notice(State::Running)).unwrap();
        live.put_notice(&notice(State::Running)).unwrap();
        let rows: Vec<Value> = all_runs(here.path()).iter().map(row).collect();
        let told: Vec<(&str, bool)> = rows
            .iter()
            .map(|row| (row["state"].as_str().unwrap(), row["alive"].as_bool().unwrap()))
            .collect();
        assert_eq!(told, [("killed", false), ("finished", false), ("running", true)], "{rows:?}");
        assert_eq!((&rows[2]["pid"], &rows[0]["pid"]), (&json!(42), &Value::Null));
        let text = table(&rows);
        assert!(text.lines().count() == 4 && text.contains("http://127.0.0.1:1"), "{text}");
        drop(lock);
    }
}
