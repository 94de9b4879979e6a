use std::fs;
use std::path::Path;

use super::super::tests::{ask, events, file, plan, start};
use super::*;
use crate::control::Control;
use crate::plan::Plan;
use crate::run::run;
use crate::stats::TrainStats;
use crate::testing::write_shards;

/// Steps of the checkpoints that lie there.
fn kept(run: &Path) -> Vec<u64> {
    let names = fs::read_dir(run.join("checkpoints")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn training_goes_on_while_checkpoints_are_written_and_its_waits_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run_folder) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    let plan = plan(&shards, &run_folder, 1, &["steps=60", "save_every_steps=5", "embed_dim=64"]);
    let stats = TrainStats::new(0..1);
    run(&plan, &Control::new(), &stats).unwrap();
    let log = fs::read_to_string(run_folder.join("log.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Were it written by the training thread, that would stand still for at least as long as the writing takes.
    let median = |key: &str| {
        let mut all: Vec<f64> =
            events(&run_folder, "checkpoint").iter().map(|event| event[key].as_f64().unwrap()).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    assert!(median("blocked_s") < median("seconds"), "{log}");
    assert_eq!(stats.checkpoint.published.load(Relaxed), 12);
    let told: f64 =
        events(&run_folder, "checkpoint").iter().map(|event| event["blocked_s"].as_f64().unwrap()).sum();
    let counted = stats.checkpoint.blocked_ns.load(Relaxed) as f64 / 1e9;
    // The wait for the last one comes on top.
    assert!(told > 0.0 && told <= counted + 1e-9, "{told} s told, {counted} s counted");
    assert!(stats.peak_memory_bytes.load(Relaxed) > 10 << 20);
    assert!(lines.iter().filter(|line| line["loss"].is_f64()).all(|line| line["peak_memory_bytes"].is_u64()));
}

#[test]
fn checkpoints_for_good_stay_and_are_made_at_their_own_steps() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    let settings = ["steps=14", "save_every_steps=2", "keep_last=1", "keep_every_steps=5"];
    start(&plan(&shards, &run, 1, &settings)).unwrap();
    assert_eq!(kept(&run), [5, 10, 14]);
}

/// A plain file where the folder of checkpoints should be fails every write in the background.
#[test]
fn a_write_that_fails_is_told_and_counted_and_only_the_last_one_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run_folder) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    let checkpoints = run_folder.join("checkpoints");
    let (away, steps) = (folder.path().join("away"), 100_000);
    let plan = plan(&shards, &run_folder, 1, &[&format!("steps={steps}"), "save_every_steps=5"]);
    let (control, stats) = (Control::new(), TrainStats::new(0..1));
    let until = |what: &dyn Fn() -> bool| {
        while !what() {
            assert!(stats.step.load(Relaxed) < steps / 2, "it never happens");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&plan, &control, &stats));
        until(&|| stats.checkpoint.published.load(Relaxed) >= 2);
        fs::rename(&checkpoints, &away).unwrap();
        fs::write(&checkpoints, "no folder").unwrap();
        let failed = stats.checkpoint.failures.load(Relaxed);
        until(&|| stats.checkpoint.failures.load(Relaxed) >= failed + 2);
        fs::remove_file(&checkpoints).unwrap();
        fs::rename(&away, &checkpoints).unwrap();
        let published = stats.checkpoint.published.load(Relaxed);
        until(&|| stats.checkpoint.published.load(Relaxed) > published);
        control.stop();
        running.join().unwrap()
    });
    let step = outcome.unwrap().step;
    assert_eq!(kept(&run_folder).last(), Some(&step));
    let told = events(&run_folder, "checkpoint_failed");
    assert_eq!(told.len() as u64, stats.checkpoint.failures.load(Relaxed));
    assert!(told.iter().any(|told| told["error"].as_str().unwrap().contains("Not a directory")), "{told:?}");

    // And the last one's failure is the run's.
    let (control, stats) = (Control::new(), TrainStats::new(0..1));
    let error = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&plan, &control, &stats));
        while stats.steps_here.load(Relaxed) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        fs::rename(&checkpoints, &away).unwrap();
        fs::write(&checkpoints, "no folder").unwrap();
        control.stop();
        running.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, TrainError::Io { .. }), "{error}");
}

#[test]
fn another_tokenizers_run_is_gone_on_with_only_if_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_shards(&at("a.shards"), 8, 1, "one");
    write_shards(&at("b.shards"), 12, 2, "another");
    start(&plan(&at("a.shards"), &at("a.run"), 1, &["steps=3"])).unwrap();
    let anyway = |settings: &[&str]| {
        let mut ask = ask(&at("b.shards"), &at("a.run"), 1, settings);
        ask.resume_anyway = true;
        Plan::new(ask).unwrap()
    };
    let error = start(&anyway(&["steps=6", "embed_dim=64"])).unwrap_err();
    assert!(matches!(error, TrainError::OtherModel { .. }), "{error}");
    assert!(error.to_string().contains("embed_dim was 32, now 64; change that back"), "{error}");

    let error =
        start(&plan(&at("b.shards"), &at("a.run"), 1, &["steps=6", "seed=7"])).unwrap_err().to_string();
    for words in ["data set was ", "tokenizer was ", "seed was 0, now 7", "--resume-anyway"] {
        assert!(error.contains(words), "{error}");
    }
    let outcome = start(&anyway(&["steps=6", "seed=7"])).unwrap();
    assert_eq!((outcome.step, outcome.resumed_from), (6, Some(3)));
    let told = &events(&at("a.run"), "resumed_anyway")[0];
    assert_eq!(
        (told["step"].as_u64(), told["differences"].as_array().unwrap().len()),
        (Some(3), 3),
        "{told}"
    );
    // From now on it is that run, and nobody needs to say so.
    let settings = ["steps=7", "seed=7"];
    assert_eq!(start(&plan(&at("b.shards"), &at("a.run"), 1, &settings)).unwrap().resumed_from, Some(6));
    let state: serde_json::Value = serde_json::from_slice(&file(&at("a.run"), 7, "state.json")).unwrap();
    assert_eq!(state["tokenizer_digest"], blake3::hash(b"another").to_hex().as_str());
}
