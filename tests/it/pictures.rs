//! Pictures of a run, with the tokenizer that the shards' tokens come from, with another, and with none.

use crate::house::{command, root};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Packs the ten demo photos.
fn pack(folder: &Path, tokenizer: &Path) -> PathBuf {
    let shards = folder.join("a.shards");
    let mut build = command("beit-shard", &["build", "--views", "1", "--tokenizer"]);
    build.arg(tokenizer).arg(root().join("demo-photos")).arg("--out").arg(&shards);
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    shards
}

/// Trains two steps and gives the index.
fn index(folder: &Path, run: &str, settings: &[&str]) -> Value {
    let mut train = command("beit-train", &["run", "--recipe", "pretrain-tiny-cpu", "--steps", "2"]);
    train.current_dir(folder).env("HOME", folder).env_remove("XDG_DATA_HOME");
    train.args(["--shards", "a.shards", "--run", run]);
    for setting in
        ["batch_size=2", "warmup_steps=1", "threads_per_rank=1", "pictures=3"].iter().chain(settings)
    {
        train.args(["--set", setting]);
    }
    let output = train.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&fs::read(folder.join(run).join("pictures/index.json")).unwrap()).unwrap()
}

fn picture(folder: &Path, name: &Value) -> image::RgbImage {
    image::open(folder.join("a.run/pictures").join(name.as_str().unwrap())).unwrap().into_rgb8()
}

/// Mean difference of two pictures of one size.
fn far(a: &image::RgbImage, b: &image::RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let differences = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
    differences.sum::<f64>() / a.as_raw().len() as f64
}

#[test]
fn true_tokens_look_like_the_view_and_guessed_ones_stand_in_for_hidden_ones() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pack(folder, Path::new("embedded"));
    let index = index(folder, "a.run", &[]);
    assert_eq!((&index["step"], &index["tokenizer"]), (&2.into(), &"demo".into()), "{index}");
    assert!(index["why_no_reconstruction"].is_null(), "{index}");
    let samples = index["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 3);
    let small = |view: &image::RgbImage| image::imageops::thumbnail(view, 112, 112);
    let views: Vec<_> = samples.iter().map(|sample| picture(folder, &sample["view"])).collect();
    for (number, sample) in samples.iter().enumerate() {
        assert_eq!(sample["patches"], 196);
        let masked = picture(folder, &sample["masked_view"]);
        assert_eq!((views[number].dimensions(), masked.dimensions()), ((224, 224), (224, 224)));
        let (truth, predicted) = (picture(folder, &sample["true"]), picture(folder, &sample["predicted"]));
        assert_eq!((truth.dimensions(), predicted.dimensions()), ((112, 112), (112, 112)));
        let nearest = (0..3).min_by(|a, b| {
            let of = |number: &usize| far(&small(&views[*number]), &truth);
            of(a).total_cmp(&of(b))
        });
        assert_eq!(nearest, Some(number), "the reconstruction looks like another sample's view");
        // A new model guesses badly, and a token reaches a little beyond its cell.
        let (mut hidden, mut seen) = (Vec::new(), Vec::new());
        for (x, y, after) in predicted.enumerate_pixels() {
            let before = truth.get_pixel(x, y);
            let change: u32 = before.0.iter().zip(after.0).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
            let grey = masked.get_pixel(x / 8 * 16 + 8, y / 8 * 16 + 8).0 == [128; 3];
            if grey { hidden.push(f64::from(change)) } else { seen.push(f64::from(change)) }
        }
        assert!(hidden.len() >= 64 * sample["masked"].as_u64().unwrap() as usize, "{sample}");
        let mean = |changes: &[f64]| changes.iter().sum::<f64>() / changes.len() as f64;
        let (hidden, seen) = (mean(&hidden), mean(&seen));
        println!("{}: changed by {hidden:.1} where hidden, by {seen:.1} elsewhere", sample["id"]);
        assert!(hidden > 3.0 * seen && hidden > 3.0, "{hidden} where hidden, {seen} elsewhere: {sample}");
    }
}

#[test]
fn without_the_right_tokenizer_it_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let golden = root().join("tests/golden/dalle-tiny");
    pack(folder, &golden);
    let why = |run: &str, settings: &[&str]| {
        let index = index(folder, run, settings);
        let sample = &index["samples"][0];
        assert!(sample["true"].is_null() && sample["predicted"].is_null() && sample["view"].is_string());
        assert!(index["tokenizer"].is_null());
        index["why_no_reconstruction"].as_str().unwrap().to_owned()
    };
    let none = why("none.run", &[]);
    assert!(none.contains("no tokenizer found; looked at $BEIT_TOKENIZER (not set)"), "{none}");
    assert!(none.contains("set discrete_vae_weight_path to the file or folder of "), "{none}");
    let other = why("other.run", &["discrete_vae_weight_path=embedded"]);
    assert!(other.contains("the tokenizer found is demo (bb920a9c57a0)"), "{other}");
    fs::create_dir(folder.join("half")).unwrap();
    fs::copy(golden.join("encoder.pkl"), folder.join("half/encoder.pkl")).unwrap();
    let half = why("half.run", &["discrete_vae_weight_path=half"]);
    assert!(half.contains("has no decoder; put decoder.pkl beside encoder.pkl"), "{half}");
    let gone = why("gone.run", &["discrete_vae_weight_path=gone.pkl"]);
    assert!(gone.contains("gone.pkl"), "{gone}");
    let right = format!("discrete_vae_weight_path={}", golden.display());
    let found = index(folder, "right.run", &[&right]);
    assert!(found["samples"][0]["predicted"].is_string(), "{found}");
}
