use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use beit_shards::{ReadBuf, SampleId};
use beit_views::{Limits, decode};

use super::sample::{Sample, choose};
use crate::control::Control;
use crate::generation::Generations;
use crate::plan::{Plan, open_set};
use crate::run::run as train;
use crate::run::tests::{file, plan, start};
use crate::stats::{Stage, TrainStats};
use crate::testing::{write_shard, write_shards};

fn index(run: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(run.join("pictures/index.json")).unwrap()).unwrap()
}

/// The pixels that an entry's `field` names.
fn picture(run: &Path, entry: &serde_json::Value, field: &str) -> beit_views::RgbImage {
    let bytes = fs::read(run.join("pictures").join(entry[field].as_str().unwrap())).unwrap();
    assert!(bytes.starts_with(b"\x89PNG"));
    decode(&bytes, &Limits::default()).unwrap()
}

fn ids(run: &Path) -> Vec<String> {
    let samples = index(run)["samples"].as_array().unwrap().clone();
    samples.iter().map(|sample| sample["id"].as_str().unwrap().to_owned()).collect()
}

/// Those of a run that starts on the set as it is.
fn chosen(plan: &Plan) -> Vec<Sample> {
    let set = Arc::new(open_set(&plan.shards, plan.recipe.io()).unwrap());
    let generations = Generations::first(&set);
    choose(plan, set, &generations).unwrap()
}

fn id_set(samples: &[Sample]) -> BTreeSet<SampleId> {
    samples.iter().map(|sample| sample.id).collect()
}

#[test]
fn a_run_shows_what_the_model_is_shown_and_says_why_it_shows_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 11, 1, "one");
    let plan = plan(&shards, &run, 2, &["pictures=3", "batch_size=2"]);
    start(&plan).unwrap();
    let index = index(&run);
    assert_eq!(index["step"], 8, "the last step has pictures: {index}");
    assert!(index["at"].as_f64().unwrap() > 1.7e9 && index["tokenizer"].is_null(), "{index}");
    let why = index["why_no_reconstruction"].as_str().unwrap();
    assert!(why.contains("set discrete_vae_weight_path to the file or folder of one"), "{why}");
    let samples = chosen(&plan);
    let entries = index["samples"].as_array().unwrap();
    assert_eq!((entries.len(), id_set(&samples).len()), (3, 3));
    let mut files = 1;
    for (sample, entry) in samples.iter().zip(entries) {
        assert_eq!(entry["id"], format!("{:016x}", sample.id.0));
        assert_eq!(
            (entry["masked"].as_u64(), entry["patches"].as_u64()),
            (Some(sample.hidden() as u64), Some(16))
        );
        assert!(sample.hidden() > 0 && entry["correct"].as_u64() <= entry["masked"].as_u64(), "{entry}");
        assert!(entry["true"].is_null() && entry["predicted"].is_null());
        let (view, masked) = (picture(&run, entry, "view"), picture(&run, entry, "masked_view"));
        assert_eq!((view.width, view.height), (32, 32));
        assert!(view.pixels == sample.pixels);
        // Grey where a patch of 8 px is hidden, the view elsewhere.
        for (place, (shown, seen)) in masked.pixels.chunks(3).zip(view.pixels.chunks(3)).enumerate() {
            let cell = place / 32 / 8 * 4 + place % 32 / 8;
            match sample.mask[cell] {
                0 => assert_eq!(shown, seen),
                _ => assert!(shown == [128; 3] || shown == [104; 3], "{shown:?}"),
            }
        }
        files += 2;
    }
    assert_eq!(
        fs::read_dir(run.join("pictures")).unwrap().count(),
        files,
        "those of step 1 that changed are gone"
    );
}

/// With drop path, which draws, in f32 and under autocast, whose casts must not be kept from a forward without gradients.
#[test]
fn pictures_change_no_bit_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 11, 1, "one");
    for amp in ["amp=off", "amp=bf16"] {
        for recompute in ["checkpoint_activations=false", "checkpoint_activations=true"] {
            let runs = ["pictures=0", "pictures=5"].map(|pictures| {
                let run = folder.path().join(format!("{amp}-{recompute}-{pictures}.run"));
                let settings = [pictures, "pictures_every_s=0", amp, recompute];
                start(&plan(&shards, &run, 2, &settings)).unwrap();
                run
            });
            assert_eq!(runs.each_ref().map(|run| run.join("pictures/index.json").exists()), [false, true]);
            for name in ["model.safetensors", "optimizer.safetensors"] {
                assert!(file(&runs[0], 8, name) == file(&runs[1], 8, name), "{name}, {amp}, {recompute}");
            }
        }
    }
}

#[test]
fn a_resumed_run_shows_the_same_samples_with_any_number_of_ranks_and_when_the_set_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 11, 1, "one");
    let of = |ranks, batch, steps: u64| {
        let mut plan = plan(&shards, &run, ranks, &["pictures=4", batch, "order=shuffle"]);
        plan.steps = steps;
        plan
    };
    let first = of(1, "batch_size=4", 2);
    start(&first).unwrap();
    let before = (ids(&run), chosen(&first));
    write_shard(&shards, 1, 11..30, 1, "one");
    let second = of(2, "batch_size=2", 4);
    assert_eq!(start(&second).unwrap().resumed_from, Some(2));
    assert_eq!(index(&run)["step"], 4);
    assert_eq!(ids(&run), before.0);
    let view = picture(&run, &index(&run)["samples"][3], "view");
    assert!(view.pixels == before.1[3].pixels);
}

#[test]
fn a_pause_has_pictures_and_so_has_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 11, 1, "one");
    let plan = plan(&shards, &run, 2, &["pictures=2", "pictures_every_s=86400", "steps=1000000"]);
    let (control, stats) = (Control::new(), TrainStats::new(0..2));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| train(&plan, &control, &stats));
        let wait_for = |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(!running.is_finished(), "it ended too early");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        wait_for(&|| run.join("pictures/index.json").exists());
        assert_eq!(index(&run)["step"], 1);
        let step = || stats.step.load(std::sync::atomic::Ordering::Relaxed);
        let before = step();
        wait_for(&|| step() > before + 2); // the painter is free again
        control.pause(true);
        wait_for(&|| stats.stage(0).0 == Stage::Paused);
        let paused = step();
        wait_for(&|| index(&run)["step"] == paused);
        control.pause(false);
        wait_for(&|| step() > paused + 2);
        control.stop();
        let stopped = running.join().unwrap().unwrap();
        assert_eq!(index(&run)["step"], stopped.step);
    });
}

#[test]
fn more_samples_than_there_are_shows_all_of_them_and_online_tokens_change_none() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 5, 1, "one");
    let of = |settings: &[&str]| chosen(&plan(&shards, &folder.path().join("a.run"), 1, settings));
    let all = of(&["pictures=64"]);
    assert_eq!((all.len(), id_set(&all).len()), (5, 5));
    assert_eq!(of(&["pictures=3"]), all[..3]);
    assert_eq!(of(&["pictures=3", "tokens=online", "order=blocks"]), all[..3]);
}

#[test]
fn an_unreadable_sample_is_passed_over_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 11, 1, "one");
    let plan = plan(&shards, &run, 1, &["pictures=4"]);
    let before = chosen(&plan);
    let path = fs::read_dir(&shards).unwrap().map(|entry| entry.unwrap().path());
    let path = path.into_iter().find(|path| path.extension().is_some_and(|end| end == "shard")).unwrap();
    let sound = fs::read(&path).unwrap();
    let unreadable = || -> Option<BTreeSet<u64>> {
        let set = open_set(&shards, plan.recipe.io()).ok()?;
        let bad = |index: &u64| set.read(*index, 0, &mut ReadBuf::new()).is_err();
        Some((0..set.len()).filter(bad).collect())
    };
    let index_of = |id: SampleId| {
        let set = open_set(&shards, plan.recipe.io()).unwrap();
        (0..set.len()).find(|index| set.read(*index, 0, &mut ReadBuf::new()).unwrap().id == id).unwrap()
    };
    let second = index_of(before[1].id);
    // One flipped bit somewhere in the second sample's record, and in no other's.
    let damaged = (0..sound.len()).step_by(sound.len() / 100).any(|at| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        unreadable() == Some(BTreeSet::from([second]))
    });
    assert!(damaged, "no bit of the shard belongs to that sample alone");
    let after = chosen(&plan);
    assert_eq!(id_set(&after).len(), 4);
    assert!(!id_set(&after).contains(&before[1].id));
    for sample in [0, 2, 3] {
        assert!(after.contains(&before[sample]), "sample {sample} is gone");
    }
    start(&plan).unwrap();
    assert_eq!(ids(&run), after.iter().map(|sample| sample.id.to_string()).collect::<Vec<_>>());
}

#[test]
fn guesses_replace_hidden_tokens_and_are_counted() {
    let sample = Sample {
        id: SampleId(1),
        pixels: vec![],
        mask: vec![0, 1, 1, 0, 1],
        tokens: vec![10, 11, 12, 13, 14],
    };
    assert_eq!(sample.hidden(), 3);
    assert_eq!(sample.with(&[11, 7, 14]), (vec![10, 11, 7, 13, 14], 2));
}
