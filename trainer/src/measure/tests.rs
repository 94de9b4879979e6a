use super::*;
use crate::batches;
use crate::device::Device;
use crate::plan::Ask;
use crate::ranks::World;
use crate::testing::{RECIPE, write_shards};

fn plan(folder: &Path, settings: &[&str]) -> Plan {
    let mut recipe = Recipe::default();
    for setting in RECIPE.iter().chain(settings) {
        recipe.apply(setting).unwrap();
    }
    Plan::new(Ask {
        recipe_name: "tiny".into(),
        recipe,
        shards: folder.join("a.shards"),
        run: folder.join("a.run"),
        world: World::inside(1),
        device: Device::Cpu,
        resume_anyway: false,
    })
    .unwrap()
}

#[test]
fn a_step_is_measured_on_noise_and_on_a_written_batch_whole_or_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(&folder.path().join("a.shards"), 24, 1, "one");
    let whole = plan(folder.path(), &["batch_size=8", "drop_path=0"]);
    let parts = plan(folder.path(), &["batch_size=4", "update_freq=2", "drop_path=0"]);
    let noise = measure_step(&whole, None, 1, (3, 0.0)).unwrap();
    assert_eq!((noise.seconds.len(), noise.cpu_seconds.len(), noise.samples), (3, 3, 8));
    assert!(noise.hidden > 8 && noise.hidden <= 8 * 6, "{noise:?}");
    let longer = measure_step(&whole, None, 0, (1, 0.2)).unwrap();
    assert!(longer.seconds.iter().sum::<f64>() > 0.1 && longer.seconds.len() > 1, "{longer:?}");
    assert_eq!(noise.flops, whole.model.step_flops(8, noise.hidden));
    assert!(noise.flops_per_s() > 0.0 && noise.matmul_flops_per_s > 0.0, "{noise:?}");
    assert!(noise.peak_rss_bytes > 10_000_000, "{noise:?}");

    let out = folder.path().join("batches");
    assert_eq!(batches::write(&whole, 2..4, &out).unwrap().files, 2);
    let file = out.join("step-00000002.rank-0000.safetensors");
    let one = measure_step(&whole, Some(&file), 0, (1, 0.0)).unwrap();
    let two = measure_step(&parts, Some(&file), 0, (1, 0.0)).unwrap();
    assert_eq!(one.hidden, two.hidden);
    // The same images and weights; with parts of unequal masks a mean of means, which is near the mean.
    assert!((one.loss / two.loss - 1.0).abs() < 0.02, "{} and {}", one.loss, two.loss);

    let error = measure_step(&plan(folder.path(), &["batch_size=3"]), Some(&file), 0, (1, 0.0)).unwrap_err();
    assert!(error.to_string().contains("pixels should be f32 [3, 3, 32, 32]"), "{error}");
    let mut fewer = whole.clone();
    fewer.model.vocab = 2;
    let error = measure_step(&fewer, Some(&file), 0, (1, 0.0)).unwrap_err();
    assert!(error.to_string().contains("for these masks and 2 tokens"), "{error}");
    let error = measure_step(&whole, Some(&out.join("plan.json")), 0, (1, 0.0)).unwrap_err();
    assert!(error.to_string().contains("reading the batch"), "{error}");
}

#[test]
fn the_middle_of_an_even_number_lies_between_two() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    assert!(median(&[]).is_nan());
}

#[test]
fn a_run_is_measured_with_its_loader_and_leaves_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(&folder.path().join("a.shards"), 24, 1, "one");
    let mut plan = plan(folder.path(), &["batch_size=4", "queue_batches=3"]);
    plan.world = World::inside(2);
    plan.global_batch = 8;
    let report = measure_run(&plan, 1, 4, 0.1).unwrap();
    assert!(report.steps >= 4 && report.seconds >= 0.1, "{report:?}");
    assert_eq!(report.samples, report.steps * 8, "both ranks' samples");
    assert!(report.drained.abs() <= 2 * 3 * 4, "{report:?}");
    assert!(report.samples_per_s() > 0.0 && report.cores_busy() > 0.0, "{report:?}");
    assert!((0.0..=1.0).contains(&report.data_wait_ratio), "{report:?}");
    assert!(report.loader_cpu_seconds > 0.0 && report.loader_share() < 1.0, "{report:?}");
    let checkpoints = std::fs::read_dir(plan.run.join("checkpoints")).unwrap();
    assert_eq!(checkpoints.filter(|item| item.as_ref().unwrap().path().is_dir()).count(), 0);

    let mut gone = plan.clone();
    gone.shards = folder.path().join("nowhere");
    assert!(measure_run(&gone, 1, 1, 0.0).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn what_the_ring_lost_does_not_count_as_kept_up() {
    let report = RunReport { samples: 100, drained: 20, seconds: 2.0, ..RunReport::default() };
    assert_eq!(report.samples_per_s(), 40.0);
    assert_eq!(RunReport { drained: -20, ..report }.samples_per_s(), 50.0);
}
