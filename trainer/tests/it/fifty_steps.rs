//! Fifty steps beside PyTorch's: the golden files are a plain PyTorch loop in f64, fed with the trainer's own initial weights and batches
//! (`tests/parity/train_like_pytorch.py --golden`), so nothing of libtorch's rounding is in them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::testing::write_shards;
use crate::{beit_train, ends};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/fifty-steps").join(name)
}

/// A folder that stays, for the script that makes the golden files.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fifty-steps");
    fs::create_dir_all(&folder).unwrap();
    let run = folder.join(name);
    let _ = fs::remove_dir_all(&run); // of an earlier test
    run
}

/// Trains and compares with the steps and the weights in `expect`.
#[track_caller]
fn check(name: &str, expect: &str, ranks: u32, settings: &[&str]) {
    let run = folder(name);
    let shards = run.with_file_name(format!("{name}.shards"));
    let _ = fs::remove_dir_all(&shards);
    write_shards(&shards, 24, 1, "one");
    let mut command = beit_train();
    command.args(["train", "--ranks", &ranks.to_string()]).arg("--shards").arg(&shards);
    command.arg("--run").arg(&run).arg("--recipe").arg(golden("recipe.toml"));
    for setting in settings {
        command.args(["--set", setting]);
    }
    ends(&mut command, 0);

    let expect: Value = serde_json::from_slice(&fs::read(golden(expect)).unwrap()).unwrap();
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&Value> = lines.iter().filter(|line| line["loss"].is_f64()).collect();
    let goals = expect["steps"].as_array().unwrap();
    assert_eq!((steps.len(), goals.len()), (50, 50));
    let mut other_guesses = 0;
    for (number, (step, goal)) in steps.iter().zip(goals).enumerate() {
        let near = |key: &str, at: usize, tolerance: f64| {
            let (found, goal) = (step[key].as_f64().unwrap(), goal[at].as_f64().unwrap());
            let off = (found - goal).abs() / goal.abs().max(f64::MIN_POSITIVE);
            assert!(off <= tolerance || found == goal, "step {number}: {key} {found}, PyTorch {goal}");
        };
        near("loss", 0, 2e-5);
        near("grad_norm", 2, 2e-4);
        near("lr", 3, 1e-15);
        near("weight_decay", 4, 1e-15);
        // A guess between two tokens that are as likely may go either way.
        let (found, goal) = (step["mlm_acc"].as_f64().unwrap(), goal[1].as_f64().unwrap());
        other_guesses += usize::from((found - goal).abs() > 1e-6);
    }
    assert!(other_guesses <= 2, "in {other_guesses} steps other tokens were guessed");
    let clipped = goals.iter().filter(|goal| goal[2].as_f64().unwrap() > 1.4).count();
    assert!(clipped > 5 && clipped < 45, "{clipped} of the steps clip, so both ways are taken");

    let weights =
        beit_torchfile::read_safetensors(run.join("checkpoints/step-00000050/model.safetensors")).unwrap();
    let parameters = expect["parameters"].as_object().unwrap();
    assert!(parameters.len() > 20);
    for (name, goal) in parameters {
        let bytes = weights.get(name).unwrap_or_else(|| panic!("no {name}")).to_contiguous();
        let values: Vec<f64> = bytes
            .chunks_exact(4)
            .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
            .collect();
        let [way, norm, sum] = [0, 1, 2].map(|at| goal[at].as_f64().unwrap());
        let found = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        assert!((found - norm).abs() <= 1e-3 * way + 1e-6, "{name} has norm {found}, PyTorch's {norm}");
        let found = values.iter().sum::<f64>();
        let spread = (values.len() as f64).sqrt() * way;
        assert!((found - sum).abs() <= 1e-3 * spread + 1e-6, "{name} has sum {found}, PyTorch's {sum}");
    }
}

#[test]
fn fifty_steps_are_pytorchs() {
    check("a", "whole.json", 1, &[]);
}

#[test]
fn fifty_steps_of_two_ranks_with_two_micro_batches_each_are_pytorchs() {
    check("parts", "parts.json", 2, &["batch_size=2", "update_freq=2"]);
}
