use std::fs;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::device::Device;
use crate::evaluate::{EvaluateAsk, evaluate};
use crate::plan::Ask;
use crate::ranks::{Meeting, World};
use crate::recipe::Recipe;
use crate::testing::{RECIPE, write_shard, write_shards};

mod precision;

pub(super) fn ask(shards: &Path, run: &Path, ranks: u32, settings: &[&str]) -> Ask {
    let mut recipe = Recipe::default();
    for setting in RECIPE.iter().chain(settings) {
        recipe.apply(setting).unwrap();
    }
    Ask {
        recipe_name: "tiny".into(),
        recipe,
        shards: shards.into(),
        run: run.into(),
        world: World::inside(ranks),
        device: Device::Cpu,
        resume_anyway: false,
    }
}

pub(super) fn plan(shards: &Path, run: &Path, ranks: u32, settings: &[&str]) -> Plan {
    Plan::new(ask(shards, run, ranks, settings)).unwrap()
}

pub(super) fn start(plan: &Plan) -> Result<Outcome, TrainError> {
    run(plan, &Control::new(), &TrainStats::new(plan.world.ranks()))
}

pub(super) fn file(run: &Path, step: u64, name: &str) -> Vec<u8> {
    fs::read(run.join(format!("checkpoints/step-{step:08}/{name}"))).unwrap()
}

/// Losses by step; a step that was done twice counts as it was last done.
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let mut losses = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let (Some(step), Some(loss)) = (line["step"].as_u64(), line["loss"].as_f64()) {
            losses.resize(step as usize, f64::NAN);
            losses[step as usize - 1] = loss;
        }
    }
    losses
}

pub(super) fn copy_checkpoint(from: &Path, to: &Path, step: u64) {
    let name = format!("checkpoints/step-{step:08}");
    fs::create_dir_all(to.join(&name)).unwrap();
    for entry in fs::read_dir(from.join(&name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(&name).join(entry.file_name())).unwrap();
    }
}

/// 11 samples, so that epochs end within batches; checkpoints at every step, then a new start from some of them.
fn resumes_bit_equal(ranks: u32) {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 11, 1, "one");
    let whole = folder.path().join("whole.run");
    let settings = ["save_every_steps=1", "keep_last=100"];
    let outcome = start(&plan(&shards, &whole, ranks, &settings)).unwrap();
    assert_eq!((outcome.step, outcome.finished, outcome.resumed_from), (8, true, None));
    for step in [1, 3, 7] {
        let part = folder.path().join(format!("part-{step}.run"));
        copy_checkpoint(&whole, &part, step);
        let outcome = start(&plan(&shards, &part, ranks, &settings)).unwrap();
        assert_eq!(outcome.resumed_from, Some(step));
        for name in ["model.safetensors", "optimizer.safetensors"] {
            assert!(file(&whole, 8, name) == file(&part, 8, name), "{name} differs after resuming at {step}");
        }
    }
    assert!(file(&whole, 7, "model.safetensors") != file(&whole, 8, "model.safetensors"));
}

#[test]
fn one_rank_resumes_bit_equal_at_any_step() {
    resumes_bit_equal(1);
}

#[test]
fn two_ranks_resume_bit_equal_at_any_step() {
    resumes_bit_equal(2);
}

#[test]
fn a_stop_checkpoints_and_the_next_start_goes_on_as_if_nothing_had_been() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 11, 1, "one");
    let (whole, part) = (folder.path().join("whole.run"), folder.path().join("part.run"));
    let settings = ["steps=40", "save_every_steps=1000"];
    start(&plan(&shards, &whole, 2, &settings)).unwrap();

    let part_plan = plan(&shards, &part, 2, &settings);
    let (control, stats) = (Control::new(), TrainStats::new(0..2));
    control.pause(true);
    let stopped = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&part_plan, &control, &stats));
        while stats.stage(0).0 != Stage::Paused {
            assert!(!running.is_finished(), "{:?}", running.join());
            std::thread::sleep(Duration::from_millis(5));
        }
        let step = stats.step.load(Relaxed);
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(stats.step.load(Relaxed), step, "it trains while paused");
        // Both while it stands still: forty tiny steps are over before a checkpoint is on disk.
        control.checkpoint_now();
        control.stop();
        control.pause(false);
        let stopped = running.join().unwrap().unwrap();
        assert_eq!((stopped.finished, stopped.step), (false, step), "it ends where it stands");
        stopped
    });
    assert!(stats.checkpoint.published.load(Relaxed) > 0);
    let outcome = start(&part_plan).unwrap();
    assert_eq!((outcome.resumed_from, outcome.finished), (Some(stopped.step), true));
    assert!(file(&whole, 40, "model.safetensors") == file(&part, 40, "model.safetensors"));
    assert_eq!(losses(&whole), losses(&part));
}

#[test]
fn a_finished_run_starts_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    start(&plan(&shards, &run, 1, &["steps=2"])).unwrap();
    let again = start(&plan(&shards, &run, 1, &["steps=2"])).unwrap();
    assert_eq!((again.step, again.finished, again.resumed_from), (2, true, Some(2)));
    let longer = start(&plan(&shards, &run, 1, &["steps=4"])).unwrap();
    assert_eq!((longer.step, longer.resumed_from), (4, Some(2)));
}

/// Which samples each step saw, by the log; a step that was done twice counts as it was last done.
fn batches(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let mut batches = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let (Some(step), Some(batch)) = (line["step"].as_u64(), line["batch"].as_str()) {
            batches.resize(step as usize, String::new());
            batches[step as usize - 1] = batch.to_owned();
        }
    }
    batches
}

/// Ranks, samples of each; together always 8.
const SPLITS: [(u32, &str); 3] = [(1, "batch_size=8"), (2, "batch_size=4"), (4, "batch_size=2")];

/// Blocks so large that many masks fall short.
const UNEVEN: (&str, &str) = ("num_mask_patches=9", "min_mask_patches_per_block=5");

#[test]
fn any_number_of_ranks_trains_alike_with_a_global_mean() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 22, 1, "one");
    let train = |(ranks, batch): (u32, &str), mean: &str| {
        let run = folder.path().join(format!("{ranks}-{mean}.run"));
        start(&plan(&shards, &run, ranks, &["steps=20", UNEVEN.0, UNEVEN.1, batch, mean])).unwrap();
        (losses(&run), batches(&run))
    };
    let far = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).map(|(a, b)| ((a - b) / a).abs()).fold(0.0, |far: f64, one| far.max(one))
    };
    let (one, seen) = train(SPLITS[0], "loss_mean=global");
    assert_eq!((one.len(), seen.len()), (20, 20));
    assert!(seen.iter().collect::<std::collections::HashSet<_>>().len() == 20, "steps see different samples");
    for split in &SPLITS[1..] {
        let (losses, batches) = train(*split, "loss_mean=global");
        assert_eq!(batches, seen, "{} ranks see other samples", split.0);
        let away = far(&one, &losses);
        println!("global, {} ranks: {away:.1e} from one rank", split.0);
        assert!(away < 2e-5, "{} ranks are {away:.1e} from one: {one:?} {losses:?}", split.0);
    }
    // The reference averages the ranks' means, and ranks hide unequal numbers: near, and never nearer.
    for split in &SPLITS[1..] {
        let (losses, batches) = train(*split, "loss_mean=rank");
        assert_eq!(batches, seen);
        let away = far(&one, &losses);
        println!("rank, {} ranks: {away:.1e} from one rank", split.0);
        assert!((1e-4..0.1).contains(&away), "{} ranks are {away:.1e} from one: {one:?} {losses:?}", split.0);
    }
    let (alone, _) = train(SPLITS[0], "loss_mean=rank");
    assert_eq!(alone, one, "for a single rank both means are one");
}

#[test]
fn another_number_of_ranks_goes_on_in_the_same_order() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 22, 1, "one");
    let settings = |batch| ["steps=9", "save_every_steps=3", "loss_mean=global", batch];
    let whole = folder.path().join("whole.run");
    start(&plan(&shards, &whole, 2, &settings("batch_size=4"))).unwrap();
    let run = folder.path().join("moved.run");
    copy_checkpoint(&whole, &run, 3);
    for (steps, (ranks, batch)) in [("steps=6", SPLITS[0]), ("steps=9", SPLITS[2])] {
        // The schedules count all steps, so only the last part may say where to end.
        let mut plan = plan(&shards, &run, ranks, &settings(batch));
        plan.steps = steps[6..].parse().unwrap();
        let from = start(&plan).unwrap().resumed_from;
        assert_eq!(from, Some(plan.steps - 3));
    }
    assert_eq!(batches(&run)[3..], batches(&whole)[3..]);
    let message = start(&plan(&shards, &run, 2, &settings("batch_size=8"))).unwrap_err().to_string();
    assert!(message.contains("batch_size x update_freq x ranks was 8, now 16"), "{message}");
}

/// Two runs in this process that meet as two processes do. The second has counters for no rank, so its rank panics.
#[test]
fn a_rank_that_panics_is_named_by_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 16, 1, "one");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = |rank: u32| {
        let mut ask = ask(&shards, &folder.path().join("a.run"), 1, &["steps=8"]);
        let (host, serve) = ("127.0.0.1".to_owned(), rank == 0);
        let meeting = Meeting::At { host, port, serve, agent: false, prefix: None };
        ask.world = World { size: 2, first: rank, local: 1, first_device: 0, meeting };
        Plan::new(ask).unwrap()
    };
    let (first, second) = (process(0), process(1));
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| run(&second, &Control::new(), &TrainStats::new(1..1)));
        (run(&first, &Control::new(), &TrainStats::new(0..1)), second.join().unwrap())
    });
    let second = second.unwrap_err().to_string();
    assert!(second.starts_with("rank 1: panicked: index out of bounds"), "{second}");
    let first = first.unwrap_err().to_string();
    assert!(first.starts_with(&format!("rank 1 (process {} on ", std::process::id())), "{first}");
    assert!(first.contains(") failed: panicked: index out of bounds"), "{first}");
    assert!(first.contains("; rank 0 noticed: "), "{first}");
}

#[test]
fn it_overfits_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 4, 1, "one");
    // Both views of all samples are in every batch; only the masks differ between steps.
    let settings = [
        "steps=250",
        "batch_size=8",
        "warmup_steps=20",
        "lr=3e-3",
        "drop_path=0",
        "weight_decay=0",
        "embed_dim=64",
        "depth=1",
        "layer_scale_init_value=1",
        "abs_pos_emb=true",
        "num_mask_patches=4",
        "min_mask_patches_per_block=1",
    ];
    start(&plan(&shards, &run, 1, &settings)).unwrap();
    let losses = losses(&run);
    let end = losses[220..].iter().sum::<f64>() / 30.0;
    assert!(losses[0] > 2.5, "it starts at {}, ln 16 is 2.77", losses[0]);
    assert!(end < 0.8, "it ends at {end}");
}

#[test]
fn evaluation_sees_whether_the_image_helps() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_shards(&at("a.shards"), 64, 1, "one");
    write_shards(&at("held-out.shards"), 21, 2, "one");
    write_shards(&at("other.shards"), 4, 2, "another");
    let settings = [
        "steps=150",
        "batch_size=16",
        "warmup_steps=10",
        "lr=5e-3",
        "drop_path=0",
        "layer_scale_init_value=1",
    ];
    start(&plan(&at("a.shards"), &at("a.run"), 1, &settings)).unwrap();
    let mut ask = EvaluateAsk {
        checkpoint: at("a.run"),
        shards: at("held-out.shards"),
        samples: None,
        batch_size: 8,
        shuffle_pixels: true,
    };
    let report = evaluate(&ask).unwrap();
    assert_eq!((report.step, report.samples), (150, 21));
    assert!(report.masked_tokens > 21 * 4 && report.masked_tokens <= 21 * 6, "{report:?}");
    assert!(report.gain > 0.5, "{report:?}");
    assert!((report.gain - (report.marginal_entropy - report.loss)).abs() < 1e-12, "{report:?}");
    assert!(report.accuracy > report.majority_share, "{report:?}");
    assert!(report.other_image_loss.unwrap() > report.loss + 0.5, "{report:?}");
    // The batch size says how it is computed, not what.
    ask.batch_size = 21;
    let whole = evaluate(&ask).unwrap();
    assert!((whole.loss - report.loss).abs() < 1e-4, "{} and {}", whole.loss, report.loss);
    assert_eq!(whole.masked_tokens, report.masked_tokens);
    ask.shards = at("other.shards");
    let message = evaluate(&ask).unwrap_err().to_string();
    assert!(message.contains("tokens of another, but the checkpoint learned those of one"), "{message}");
}

#[test]
fn another_tokenizers_shards_do_not_continue_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, other, run) =
        (folder.path().join("a.shards"), folder.path().join("b.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    write_shards(&other, 8, 1, "another");
    start(&plan(&shards, &run, 1, &["steps=1", "warmup_steps=1"])).unwrap();
    let message = start(&plan(&other, &run, 1, &["steps=2"])).unwrap_err().to_string();
    assert!(message.contains("tokenizer was") && message.contains("another run directory"), "{message}");
    let message = start(&plan(&shards, &run, 1, &["steps=2", "embed_dim=64"])).unwrap_err().to_string();
    assert!(message.contains("embed_dim was 32, now 64"), "{message}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run_dir) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    let settings = ["steps=4", "save_every_steps=2"];
    start(&plan(&shards, &run_dir, 1, &settings)).unwrap();
    let sound = file(&run_dir, 4, "model.safetensors");
    let path = run_dir.join("checkpoints/step-00000004/model.safetensors");
    let mut bytes = sound.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let plan = plan(&shards, &run_dir, 1, &settings);
    let stats = TrainStats::new(0..1);
    let outcome = run(&plan, &Control::new(), &stats).unwrap();
    assert_eq!((outcome.resumed_from, stats.checkpoint.skipped.load(Relaxed)), (Some(2), 1));
    assert!(file(&run_dir, 4, "model.safetensors") == sound);
}

#[test]
fn a_loss_that_is_no_number_stops_all_ranks_and_saves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 8, 1, "one");
    // A rate this high overflows f32 within a few steps.
    let settings = ["steps=50", "lr=1e30", "warmup_steps=1", "clip_grad=none", "save_every_steps=1000"];
    let begun = Instant::now();
    let error = start(&plan(&shards, &run, 2, &settings)).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    assert!(error.to_string().contains("11th time in a row"), "{error}");
    assert!(error.to_string().contains("lower lr"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 0);
}

#[test]
fn a_corrupt_set_fails_by_name_and_stops_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 40, 1, "one");
    let plan = plan(&shards, &run, 2, &["max_corrupt_samples=2"]);
    let shard = fs::read_dir(&shards)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "shard"))
        .unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    for at in (200..bytes.len() / 2).step_by(200) {
        bytes[at] ^= 0x55;
    }
    fs::write(&shard, bytes).unwrap();
    let message = start(&plan).unwrap_err().to_string();
    assert!(message.contains("corrupt records"), "{message}");
}

#[test]
fn a_set_without_room_for_a_step_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 3, 1, "one");
    let message = Plan::new(ask(&shards, folder.path(), 1, &["steps=none"])).unwrap_err().to_string();
    assert!(message.contains("3 samples, but batch_size 4 x 1 ranks"), "{message}");
}

/// What the log says of events of one kind.
pub(super) fn events(run: &Path, kind: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["event"] == kind).collect()
}

fn state(run: &Path, step: u64) -> checkpoint::State {
    serde_json::from_slice(&file(run, step, "state.json")).unwrap()
}

/// 11 samples in batches of 4 or 8; a second shard of 6 comes while the run stands at step 1. The new samples join at position
/// 11, in the middle of a batch, and the run ends as one does that was stopped before and found the grown set.
fn takes_up_a_grown_set(ranks: u32) {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["save_every_steps=1", "keep_last=100", "steps=12"];
    let shards = folder.path().join("a.shards");
    write_shards(&shards, 11, 1, "one");
    let (live, stopped) = (folder.path().join("live.run"), folder.path().join("stopped.run"));

    let plan_live = plan(&shards, &live, ranks, &settings);
    let (control, stats) = (Control::new(), TrainStats::new(0..ranks));
    control.pause(true); // ranks stand still after step 1 until the set has grown
    std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&plan_live, &control, &stats));
        while stats.step.load(Relaxed) < 1 {
            assert!(!run.is_finished(), "the run ended before it stood still");
            std::thread::sleep(Duration::from_millis(5));
        }
        copy_checkpoint_when_there(&live, &stopped);
        write_shard(&shards, 1, 11..17, 1, "one");
        std::thread::sleep(super::supply::LOOK_EVERY * 2);
        control.pause(false);
        assert!(run.join().unwrap().unwrap().finished);
    });
    let grown = &events(&live, "grown")[0];
    assert_eq!((grown["samples"].as_u64(), grown["shards"].as_u64()), (Some(17), Some(2)));
    let generations = state(&live, 12).generations;
    let positions: Vec<_> = generations.iter().map(|g| (g.position, g.epoch, g.samples)).collect();
    let batch = plan_live.global_batch;
    // The run notices at its first look after step 1; with 8 to a batch, that batch is already the one that ends the epoch.
    let boundary = positions[1].0;
    assert!(boundary.is_multiple_of(11) && (batch..=33).contains(&boundary), "{positions:?}");
    assert_eq!(positions, [(0, 0, 11), (boundary, boundary / 11, 17)]);
    assert_eq!(stats.epoch.load(Relaxed), (11 * batch - boundary) / 17 + boundary / 11);

    // The same command, stopped at step 1 and started on the grown set: planned as it began, and grown at the same place.
    let again = plan(&shards, &stopped, ranks, &settings);
    assert_eq!((again.data.samples, again.steps), (11, 12));
    assert!(start(&again).unwrap().finished);
    if state(&stopped, 12).generations == generations {
        for name in ["model.safetensors", "optimizer.safetensors"] {
            assert!(file(&live, 12, name) == file(&stopped, 12, name), "{name} differs");
        }
    } else {
        panic!("grown at another place: {:?}, {generations:?}", state(&stopped, 12).generations);
    }
}

fn copy_checkpoint_when_there(from: &Path, to: &Path) {
    while !from.join("checkpoints/step-00000001").is_dir() {
        std::thread::sleep(Duration::from_millis(5));
    }
    copy_checkpoint(from, to, 1);
}

#[test]
fn one_rank_takes_up_a_set_that_grows() {
    takes_up_a_grown_set(1);
}

#[test]
fn two_ranks_take_up_a_set_that_grows() {
    takes_up_a_grown_set(2);
}

#[test]
fn a_grown_set_that_cannot_be_used_is_told_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, run_folder) = (folder.path().join("a.shards"), folder.path().join("a.run"));
    write_shards(&shards, 11, 1, "one");
    let plan = plan(&shards, &run_folder, 2, &["steps=6"]);
    let (control, stats) = (Control::new(), TrainStats::new(0..2));
    control.pause(true);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&plan, &control, &stats));
        while stats.step.load(Relaxed) < 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        write_shard(&shards, 1, 11..17, 1, "one");
        let shard = shards.join("shard-000001.shard");
        let bytes = fs::read(&shard).unwrap();
        fs::remove_file(&shard).unwrap();
        fs::write(&shard, &bytes[..bytes.len() - 7]).unwrap();
        std::thread::sleep(super::supply::LOOK_EVERY * 2);
        control.pause(false);
        assert!(run.join().unwrap().unwrap().finished);
    });
    let told = &events(&run_folder, "not_grown")[0];
    assert!(told["error"].as_str().unwrap().contains("shard-000001.shard"), "{told}");
}
