//! It learns: a tokenizer that does not collapse, then a BEiT that guesses hidden tokens from the picture.
//!
//! Three minutes on two cores, on real images (`../shared/data/cifar10.tar.zst`, which may not be committed); without them the
//! test says so and ends. Margins: `docs/learning.md`, calibrated over several seeds.

use crate::house::{last_json, root, succeed};
use std::path::Path;
use std::process::Command;

const TRAIN_IMAGES: usize = 12_000;

/// Unpacks the CIFAR-10 sample, if it is there.
fn cifar(into: &Path) -> bool {
    let archive = root().join("../shared/data/cifar10.tar.zst");
    if !archive.is_file() {
        eprintln!("skipped: {} is not here", archive.display());
        return false;
    }
    let tar = zstd::decode_all(std::fs::File::open(&archive).unwrap()).unwrap();
    std::fs::write(into.join("cifar10.tar"), tar).unwrap();
    let status =
        Command::new("tar").arg("xf").arg(into.join("cifar10.tar")).arg("-C").arg(into).status().unwrap();
    assert!(status.success());
    true
}

/// Links the first images of every class into a smaller tree, so that the test keeps to its three minutes.
fn thin_out(from: &Path, to: &Path, images: usize) {
    let classes: Vec<_> = std::fs::read_dir(from).unwrap().map(|c| c.unwrap().path()).collect();
    for class in &classes {
        let folder = to.join(class.file_name().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(class).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        for file in files.iter().take(images / classes.len()) {
            std::os::unix::fs::symlink(file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn the_chain_learns_on_cifar_in_three_minutes() {
    let dir = tempfile::tempdir().unwrap();
    if !cifar(dir.path()) {
        return;
    }
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    thin_out(&dir.path().join("cifar10/train"), &dir.path().join("train"), TRAIN_IMAGES);
    thin_out(&dir.path().join("cifar10/test"), &dir.path().join("test"), 1000);

    let tokenizer = at("tokenizer.safetensors");
    let trained = last_json(&succeed(
        "beit-shard",
        &[
            "tokenizer",
            "train",
            &at("train"),
            "--px",
            "32",
            "--groups",
            "3",
            "--vocab",
            "512",
            "--hidden",
            "32",
            "--steps",
            "320",
            "--batch",
            "32",
            "--seed",
            "1",
            "--out",
            &tokenizer,
            "--json",
        ],
    ));
    let measured = |key: &str| trained[key].as_f64().unwrap_or_else(|| panic!("no {key} in {trained}"));
    assert!(measured("perplexity") >= 50.0, "the codes collapsed: {trained}");
    assert!(measured("used_codes") >= 150.0, "few codes are used: {trained}");
    assert!(measured("top_share") <= 0.20, "one code holds everything: {trained}");
    assert!(measured("psnr_db") >= 16.5, "the reconstruction is poor: {trained}");

    for (images, shards) in [("train", "train.shards"), ("test", "test.shards")] {
        let views: &[&str] = &[
            "--views",
            "1",
            "--second-input-size",
            "32",
            "--second-interpolation",
            "bicubic",
            "--crop-scale",
            "0.4,1",
            "--color-jitter",
            "0",
            "--json",
        ];
        let arguments = ["build", &at(images), "--out", &at(shards), "--tokenizer", &tokenizer];
        let summary = last_json(&succeed("beit-shard", &[&arguments[..], views].concat()));
        assert_eq!(summary["quarantined"], 0);
    }

    let run = at("cifar.run");
    let mut arguments = vec!["run", "--shards"];
    let shards = at("train.shards");
    arguments.extend([
        shards.as_str(),
        "--recipe",
        "pretrain-cifar-cpu",
        "--ranks",
        "2",
        "--run",
        &run,
        "--steps",
        "168",
    ]);
    arguments.extend(["--set", "warmup_steps=9"]);
    succeed("beit-train", &arguments);

    let held_out = at("test.shards");
    let report = last_json(&succeed(
        "beit-train",
        &["evaluate", "--run", &run, "--shards", &held_out, "--shuffle-pixels", "--json"],
    ));
    let value = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
    assert!(value("loss") <= value("marginal_entropy") - 0.3, "it knows no more than frequencies: {report}");
    assert!(
        value("accuracy") >= 1.5 * value("majority_share"),
        "it guesses the most frequent code: {report}"
    );
    assert!(value("other_image_loss") >= value("loss") + 0.2, "it does not look at the picture: {report}");
}
