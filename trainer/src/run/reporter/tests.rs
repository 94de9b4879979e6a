use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::tests::{copy_checkpoint, plan, start};
use crate::control::Control;
use crate::run::run;
use crate::stats::TrainStats;
use crate::tensorboard::tests::{Scalar, read};
use crate::testing::write_shards;

fn text(run: &Path) -> String {
    fs::read_to_string(run.join("log.txt")).unwrap()
}

/// What a reader of the whole folder keeps: a session's start forgets its step and all later ones.
fn scalars(folder: &Path) -> Vec<Scalar> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all: Vec<Scalar> = Vec::new();
    for scalar in files.iter().flat_map(|path| read(path)) {
        match scalar.1.as_str() {
            "START" => all.retain(|(step, ..)| *step < scalar.0),
            _ => all.push(scalar),
        }
    }
    all
}

/// 11 samples in batches of 4: an epoch has 2 steps, and 7 steps end within the fourth.
#[test]
fn a_run_that_is_resumed_in_an_epoch_tells_what_it_would_have_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_shards(&at("a.shards"), 11, 1, "one");
    let settings = |tb: &Path| {
        vec![
            "steps=7".to_owned(),
            "save_every_steps=1".to_owned(),
            "keep_last=100".to_owned(),
            format!("log_dir={}", tb.display()),
        ]
    };
    let go = |run: &Path, tb: &Path| {
        let settings = settings(tb);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        start(&plan(&at("a.shards"), run, 1, &settings)).unwrap()
    };
    go(&at("whole.run"), &at("whole.tb"));
    let whole = text(&at("whole.run"));
    assert_eq!(whole.lines().count(), 4, "{whole}");
    for (epoch, line) in whole.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["epoch"].as_u64(), Some(epoch as u64));
        assert!(line["n_parameters"].as_u64() > Some(10_000), "{line}");
    }
    // The means are those of log.jsonl.
    let steps: Vec<serde_json::Value> = fs::read_to_string(at("whole.run/log.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["loss"].is_f64())
        .collect();
    let third: serde_json::Value = serde_json::from_str(whole.lines().nth(2).unwrap()).unwrap();
    for (key, name) in [("train_loss", "loss"), ("train_lr", "lr"), ("train_grad_norm", "grad_norm")] {
        let mean = (steps[4][name].as_f64().unwrap() + steps[5][name].as_f64().unwrap()) / 2.0;
        assert!((third[key].as_f64().unwrap() - mean).abs() < 1e-12, "{key}");
    }
    let told = scalars(&at("whole.tb"));
    assert_eq!(told.len(), 7 * 7);
    for (step, tag, value) in &told {
        let line = &steps[*step as usize];
        let name = tag.split_once('/').unwrap().1;
        let expected = match name {
            "min_lr" => &line["lr"],
            name => &line[name],
        };
        assert_eq!(*value, expected.as_f64().unwrap_or(1.0) as f32, "{tag} of step {step}");
    }

    for step in [1, 2, 5] {
        let (run, tb) = (at(&format!("part-{step}.run")), at(&format!("part-{step}.tb")));
        copy_checkpoint(&at("whole.run"), &run, step);
        fs::create_dir(&tb).unwrap();
        // The run went further than its checkpoint, and died within a line.
        fs::write(run.join("log.txt"), &whole[..whole.len() - 9]).unwrap();
        let first = fs::read_dir(at("whole.tb")).unwrap().next().unwrap().unwrap();
        fs::copy(first.path(), tb.join("events.out.tfevents.0000000001.before")).unwrap();
        go(&run, &tb);
        assert_eq!(text(&run), whole, "resumed at {step}");
        assert_eq!(scalars(&tb), told, "resumed at {step}");
    }
}

#[test]
fn the_console_has_the_references_lines_at_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run_folder) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 28, 1, "one");
    let lines = |settings: &[&str]| {
        let plan = plan(&shards, &run_folder, 1, settings);
        let stats = TrainStats::new(0..1);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        stats.print_with(move |line| sink.lock().unwrap().push(line.to_owned()));
        run(&plan, &Control::new(), &stats).unwrap();
        lines.lock().unwrap().clone()
    };
    let told = lines(&["steps=9", "print_freq=3"]); // 7 steps to an epoch
    let starts: Vec<&str> = told.iter().map(|line| line.split("  eta").next().unwrap()).collect();
    let places = ["[0/7]", "[3/7]", "[6/7]"].map(|place| format!("Epoch: [0]  {place}"));
    assert_eq!(starts[..3], places);
    assert!(told[3].starts_with("Epoch: [0] Total time: 0:00:"), "{}", told[3]);
    assert_eq!(starts[4..6], ["Epoch: [1]  [0/7]", "Epoch: [1]  [1/7]"]);
    assert!(told[6].contains("Averaged stats: lr: 0.00"), "{}", told[6]);
    assert_eq!(told.len(), 7);
    assert!(told[0].contains("  max mem: "), "{}", told[0]);
    // Short epochs would flood the console.
    let told = lines(&["steps=32", "print_freq=10"]);
    let starts: Vec<&str> = told.iter().map(|line| line.split("  eta").next().unwrap()).collect();
    assert_eq!(starts[..3], ["Epoch: [1]  [2/7]", "Epoch: [2]  [5/7]", "Epoch: [4]  [1/7]"]);
    assert_eq!(told.len(), 5, "{told:#?}");
}
