//! Micro-batches, mixed precision, activations computed again, and steps that are left out.

use super::*;
use crate::amp::ScalerState;

/// Trains `steps` steps on a set of 16 samples and gives the losses and the last weights.
fn trained(folder: &Path, name: &str, ranks: u32, settings: &[&str]) -> (Vec<f64>, Vec<f32>) {
    let shards = folder.join("a.shards");
    if !shards.exists() {
        write_shards(&shards, 16, 1, "one");
    }
    let run = folder.join(name);
    let outcome = start(&plan(&shards, &run, ranks, settings)).unwrap();
    assert!(outcome.finished);
    let saved = checkpoint::read(&outcome.checkpoint.unwrap()).unwrap();
    let weights = saved.model.iter().filter(|(_, tensor)| tensor.kind() == tch::Kind::Float);
    let weights = weights.flat_map(|(_, tensor)| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap());
    (losses(&run), weights.collect())
}

fn furthest<T: Into<f64> + Copy>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| ((*a).into() - (*b).into()).abs()).fold(0.0, f64::max)
}

#[test]
fn micro_batches_add_up_to_what_as_many_ranks_average() {
    let folder = tempfile::tempdir().unwrap();
    let (two_ranks, theirs) = trained(folder.path(), "ranks", 2, &[]);
    let (micro, ours) = trained(folder.path(), "micro", 1, &["update_freq=2"]);
    let (both, all) = trained(folder.path(), "both", 2, &["batch_size=2", "update_freq=2"]);
    assert!(furthest(&two_ranks, &micro) < 1e-5, "{two_ranks:?} {micro:?}");
    assert!(furthest(&theirs, &ours) < 1e-4, "{}", furthest(&theirs, &ours));
    // Two samples hide other numbers of patches than four, so means over them weigh differently.
    assert!(furthest(&two_ranks[..1], &both[..1]) < 0.1 && furthest(&theirs, &all) > 0.0);
}

#[test]
fn activations_computed_again_change_no_bit_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    for ranks in [1, 2] {
        let kept = trained(folder.path(), &format!("kept-{ranks}"), ranks, &[]);
        let again =
            trained(folder.path(), &format!("again-{ranks}"), ranks, &["checkpoint_activations=true"]);
        assert!(kept == again, "{ranks} ranks: {:?} {:?}", kept.0, again.0);
    }
    let kept = trained(folder.path(), "kept-bf16", 1, &["amp=bf16"]);
    let again = trained(folder.path(), "again-bf16", 1, &["amp=bf16", "checkpoint_activations=true"]);
    // Without a graph, libtorch may take another attention kernel.
    assert!(furthest(&kept.0, &again.0) < 1e-3, "{:?} {:?}", kept.0, again.0);
}

#[test]
fn smaller_kinds_learn_the_same_to_their_own_precision() {
    let folder = tempfile::tempdir().unwrap();
    let (exact, _) = trained(folder.path(), "off", 1, &[]);
    for amp in ["bf16", "fp16"] {
        let (losses, weights) = trained(folder.path(), amp, 1, &[&format!("amp={amp}")]);
        let distance = furthest(&exact, &losses);
        assert!(distance > 0.0 && distance < 0.02, "{amp}: {distance}");
        assert!(weights.iter().all(|weight| weight.is_finite()));
    }
}

#[test]
fn an_overflow_in_fp16_halves_the_scale_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["amp=fp16", "save_every_steps=2"];
    trained(folder.path(), "part", 1, &[&settings[..], &["steps=2"]].concat());
    let run_dir = folder.path().join("part");
    // The same checkpoint with a scale that no gradient survives.
    let path = run_dir.join("checkpoints/step-00000002");
    let mut saved = checkpoint::read(&path).unwrap();
    assert_eq!(saved.state.scaler, Some(ScalerState { scale: 65536.0, growth_tracker: 2 }));
    saved.state.scaler = Some(ScalerState { scale: 65536.0 * 2f64.powi(100), growth_tracker: 7 });
    fs::remove_dir_all(&path).unwrap();
    checkpoint::write(&Shelf::open(&run_dir).unwrap(), &saved.state, &saved.model, &saved.optimizer).unwrap();

    let stats = TrainStats::new(0..1);
    let settings = [&settings[..], &["steps=200", "max_skipped_steps=0"]].concat();
    let outcome =
        run(&plan(&folder.path().join("a.shards"), &run_dir, 1, &settings), &Control::new(), &stats);
    assert_eq!((outcome.unwrap().step, stats.rollbacks.load(Relaxed)), (200, 0));
    let skipped = stats.skipped_steps.load(Relaxed);
    assert!((60..=120).contains(&skipped), "{skipped}");
    let end = checkpoint::read(&run_dir.join("checkpoints/step-00000200")).unwrap().state.scaler.unwrap();
    assert_eq!(end.scale, 65536.0 * 2f64.powi(100 - skipped as i32));
    assert_eq!(stats.loss_scale.get(), end.scale);
}

#[test]
fn weights_that_blew_up_are_rolled_back_as_often_as_allowed() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path(), "part", 1, &["steps=4", "save_every_steps=4"]);
    let run_dir = folder.path().join("part");
    let settings = [
        "steps=60",
        "lr=1e30",
        "warmup_steps=1",
        "clip_grad=none",
        "save_every_steps=1000",
        "max_skipped_steps=2",
        "max_rollbacks=2",
    ];
    let stats = TrainStats::new(0..2);
    let settings = [&settings[..], &["batch_size=2"]].concat();
    let error = run(&plan(&folder.path().join("a.shards"), &run_dir, 2, &settings), &Control::new(), &stats)
        .unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { times: 3, .. }), "{error}");
    assert_eq!((stats.rollbacks.load(Relaxed), stats.skipped_steps.load(Relaxed)), (2, 9));
    let log = fs::read_to_string(run_dir.join("log.jsonl")).unwrap();
    let events: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["event"] == "skipped")
        .collect();
    assert!(events.iter().all(|event| event["samples"].as_array().unwrap().len() == 2), "{events:?}");
    assert_eq!(fs::read_dir(run_dir.join("checkpoints")).unwrap().count(), 1);
}
