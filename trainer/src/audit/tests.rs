use std::fs;

use super::*;
use crate::control::Control;
use crate::device::Device;
use crate::plan::Ask;
use crate::recipe::Recipe;
use crate::run::run;
use crate::stats::TrainStats;
use crate::testing::{RECIPE, write_shard, write_shards};

fn train(shards: &Path, folder: &Path, steps: u32) {
    let mut recipe = Recipe::default();
    let steps = format!("steps={steps}");
    let settings = ["save_every_steps=5", "keep_last=100", "max_corrupt_samples=11"];
    for setting in RECIPE.iter().chain(&settings).chain(&[steps.as_str()]) {
        recipe.apply(setting).unwrap();
    }
    let plan = Plan::new(Ask {
        recipe_name: "tiny".into(),
        recipe,
        shards: shards.into(),
        run: folder.into(),
        world: World::inside(2),
        device: Device::Cpu,
        resume_anyway: false,
    });
    let plan = plan.unwrap();
    assert!(run(&plan, &Control::new(), &TrainStats::new(0..2)).unwrap().finished);
}

fn of(run: &Path) -> Audit {
    audit(&AuditAsk { run: run.into(), shards: None }).unwrap()
}

#[test]
fn a_run_that_grew_met_a_damaged_sample_and_lost_steps_has_seen_every_sample_once() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 11, 1, "one");
    train(&shards, &run, 8); // 64 positions: five epochs of 11 and nine samples of the sixth
    write_shard(&shards, 1, 11..17, 1, "one");
    let shard = shards.join("shard-000001.shard");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[2000] ^= 0x55;
    fs::write(&shard, bytes).unwrap();
    fs::remove_dir_all(run.join("checkpoints/step-00000008")).unwrap(); // steps 6 to 8 are computed again
    train(&shards, &run, 16);

    let found = of(&run);
    assert!(found.passed(), "{found:?}");
    assert_eq!((found.steps, found.computed_again, found.corrupt), (16, 3, 1), "{found:?}");
    // 128 positions: the set grows at 44 or 55, and each whole epoch behind it has one stand-in.
    assert!(found.replaced >= 3 && found.replaced <= found.whole_epochs - 4, "{found:?}");
    assert!(found.samples > 100, "{found:?}");
}

#[test]
fn a_step_that_is_missing_and_one_that_saw_something_else_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 16, 1, "one");
    train(&shards, &run, 6);
    let log = run.join("log.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64();
    let is = |line: &str, step: u64| number(line) == Some(step) && line.contains("\"batch\"");
    let batch = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["batch"].as_str().unwrap().to_owned()
    };
    let other = batch(text.lines().find(|line| is(line, 2)).unwrap());
    let changed = text
        .lines()
        .filter(|line| !is(line, 3))
        .map(|line| if is(line, 5) { line.replace(&batch(line), &other) } else { line.to_owned() });
    fs::write(&log, changed.collect::<Vec<_>>().join("\n")).unwrap();
    let found = of(&run);
    assert!(!found.passed());
    assert_eq!((found.missing, found.different, found.wrong_steps), (1, 1, vec![3, 5]));
}

#[test]
fn a_sample_shown_twice_in_place_of_another_is_told_from_a_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 3, 1, "one");
    let set = open_set(&shards, beit_shards::Io::Auto).unwrap();
    let generations = Generations::first(&set);
    let judge = |corrupt: &[u64]| {
        let mut epochs = Epochs::default();
        [7, 7, 9].into_iter().for_each(|id| epochs.see(0, id));
        epochs.see(1, 7); // an epoch under way is not judged
        let mut audit = Audit::default();
        epochs.judge(&generations, &[7, 8, 9], &corrupt.iter().copied().collect(), &mut audit);
        audit
    };
    let found = judge(&[]);
    assert_eq!((found.whole_epochs, found.lost, found.repeated, found.replaced), (1, 1, 1, 0));
    assert_eq!(found.lost_samples, ["0000000000000008"]);
    let found = judge(&[8]);
    assert_eq!((found.lost, found.repeated, found.replaced), (0, 0, 1));
}
