//! Tokens made in the step, as the reference makes them, beside tokens from the shards.

use crate::house::{command, fail, last_json, root};
use std::fs;
use std::path::{Path, PathBuf};

/// Packs the ten demo photos.
fn pack(folder: &Path, tokenizer: &str, views: &str) -> PathBuf {
    let (photos, shards) = (root().join("demo-photos"), folder.join("a.shards"));
    let mut build = command("beit-shard", &["build", "--tokenizer", tokenizer, "--views", views]);
    let built = build.arg(photos).arg("--out").arg(&shards).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    shards
}

/// Trains eight steps of four on the ten demo photos and gives the losses.
fn losses(folder: &Path, name: &str, settings: &[&str]) -> Vec<f64> {
    let run_dir = folder.join(name);
    let mut train =
        command("beit-train", &["train", "--recipe", "pretrain-tiny-cpu", "--json", "--steps", "8"]);
    train.arg("--shards").arg(folder.join("a.shards")).arg("--run").arg(&run_dir);
    for setting in ["batch_size=4", "warmup_steps=2", "threads_per_rank=1"].iter().chain(settings) {
        train.args(["--set", setting]);
    }
    let output = train.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(last_json(&String::from_utf8(output.stdout).unwrap())["step"], 8);
    let log = fs::read_to_string(run_dir.join("log.jsonl")).unwrap();
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64())
        .collect()
}

#[test]
fn tokens_made_in_the_step_are_those_of_the_shards_and_go_on_where_these_end() {
    let folder = tempfile::tempdir().unwrap();
    pack(folder.path(), "embedded", "2");
    let stored = losses(folder.path(), "stored.run", &[]);
    let online = losses(folder.path(), "online.run", &["tokens=online", "discrete_vae_weight_path=embedded"]);
    // Two views of ten photos are five steps; from then on the shards show old views and the other run new ones.
    assert_eq!(stored[..5], online[..5]);
    assert_ne!(stored[5..], online[5..]);
}

#[test]
fn another_tokenizer_than_the_shards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let golden = root().join("tests/golden/dalle-tiny/encoder.pkl");
    let shards = pack(folder.path(), golden.to_str().unwrap(), "1");
    let run_dir = folder.path().join("a.run");
    let train = [
        "train",
        "--recipe",
        "pretrain-tiny-cpu",
        "--shards",
        shards.to_str().unwrap(),
        "--steps",
        "2",
        "--set",
        "warmup_steps=1",
        "--set",
        "batch_size=4",
        "--set",
        "tokens=online",
        "--set",
        "discrete_vae_weight_path=embedded",
        "--run",
        run_dir.to_str().unwrap(),
    ];
    fail("beit-train", &train, &["but the shards are for", "discrete_vae_weight_path"]);
}
