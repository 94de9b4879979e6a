use std::path::PathBuf;

use beit_loader::StagesUs;
use beit_trainer::measure::no_data;
use beit_trainer::plan::Ask;
use beit_trainer::ranks::World;
use beit_trainer::recipe::Recipe;

use super::*;

/// Samples per second: the loader's (and of one of its cores), the step's, those of both together; the share of waiting, and the
/// loader's share of the processor time.
struct Measured {
    loader: (f64, f64),
    step: f64,
    together: f64,
    waits: f64,
    loading: f64,
    /// Cores that were busy together, of 2.
    busy: f64,
}

const STEP_BOUND: Measured =
    Measured { loader: (500.0, 250.0), step: 10.0, together: 9.8, waits: 0.001, loading: 0.04, busy: 1.9 };
const LOADER_BOUND: Measured =
    Measured { loader: (30.0, 30.0), step: 400.0, together: 29.0, waits: 0.92, loading: 0.9, busy: 1.1 };

fn plan(settings: &[&str]) -> Plan {
    let (recipe_name, mut recipe) = Recipe::find("pretrain-base-22k").unwrap();
    for setting in ["amp=off", "num_workers=1", "threads_per_rank=2"].iter().chain(settings) {
        recipe.apply(setting).unwrap();
    }
    let data = no_data(&recipe, 8192);
    let (shards, run, world) = (PathBuf::new(), PathBuf::new(), World::inside(1));
    let ask = Ask { recipe_name, recipe, shards, run, world, device: Device::Cpu, resume_anyway: false };
    Plan::decide(ask, data).unwrap()
}

fn judge(
    measured: &Measured,
    settings: &[&str],
    change: impl FnOnce(&mut Plan, &mut LoaderReport, &mut StepReport),
) -> Verdict {
    let mut plan = plan(settings);
    let mut loader = LoaderReport {
        images_per_s: measured.loader.0,
        images_per_s_per_core: measured.loader.1,
        core_share: 1.0,
        stages_us: StagesUs { read: 10.0, entropy: 400.0, idct: 100.0, resize: 200.0, ..StagesUs::default() },
        ..LoaderReport::default()
    };
    let mut step = StepReport {
        seconds: vec![8.0 / measured.step],
        cpu_seconds: vec![2.0 * 8.0 / measured.step],
        samples: 8,
        flops: 1e12,
        matmul_flops_per_s: 1e12 * measured.step / 8.0 / 0.7,
        ..StepReport::default()
    };
    change(&mut plan, &mut loader, &mut step);
    let together = RunReport {
        steps: 100,
        samples: (measured.together * 100.0) as u64,
        seconds: 100.0,
        cpu_seconds: 100.0 * measured.busy,
        loader_cpu_seconds: 100.0 * measured.busy * measured.loading,
        data_wait_ratio: measured.waits,
        ..RunReport::default()
    };
    let (loader, step, together) = (&loader, &step, &together);
    Facts { plan: &plan, payload: "original", io: "mmap", cores: 2, loader, step, together }.judge()
}

#[track_caller]
fn check(verdict: &Verdict, limit: Limit, gain: f64, words: &[&str], not: &[&str]) {
    assert_eq!(verdict.limit, limit, "{verdict}");
    assert!((verdict.gain / gain - 1.0).abs() < 0.02, "{} is not {gain}: {verdict}", verdict.gain);
    let text = verdict.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing from\n{text}");
    }
    for word in not {
        assert!(!text.contains(word), "{word:?} should not be in\n{text}");
    }
}

#[test]
fn a_run_that_waits_for_a_slow_loader_is_told_to_load_more_cheaply_or_with_more_threads() {
    let verdict = judge(&LOADER_BOUND, &[], |_, _, _| {});
    check(
        &verdict,
        Limit::Loader,
        400.0 / 29.0,
        &["waits for data 92.0 %", "--set num_workers=2", "--pixels short256", "decoding is 70 %"],
        &["batch_size", "input_size", "order=blocks"],
    );
    let json = verdict.as_json();
    assert_eq!(json["verdict"]["limit"], "loader");
    assert_eq!(json["verdict"]["advice"][0]["change"], "--set num_workers=2");
    let all_load = judge(&LOADER_BOUND, &["num_workers=2"], |_, loader, _| {
        loader.stages_us = StagesUs { read: 500.0, resize: 500.0, ..StagesUs::default() };
    });
    check(
        &all_load,
        Limit::Loader,
        400.0 / 29.0,
        &["order=blocks", "io=pread", "input_size"],
        &["num_workers", "short256"],
    );
    let busy = judge(&LOADER_BOUND, &["num_workers=2"], |_, loader, _| loader.core_share = 0.4);
    check(&busy, Limit::Loader, 400.0 / 29.0, &["stop other programs", "40 %"], &[]);
}

#[test]
fn a_run_whose_batches_lie_ready_is_told_what_makes_steps_cheaper() {
    let arithmetic = judge(&STEP_BOUND, &[], |_, _, _| {});
    check(
        &arithmetic,
        Limit::Step,
        500.0 / 9.8,
        &["makes 500.0;", "70 % of a large matrix"],
        &["num_workers", "--pixels"],
    );
    let again = judge(
        &STEP_BOUND,
        &["checkpoint_activations=true", "threads_per_rank=1", "update_freq=4"],
        |_, _, step| {
            step.matmul_flops_per_s *= 10.0;
        },
    );
    let words = [
        "checkpoint_activations=false",
        "threads_per_rank=2",
        "smaller update_freq (now 4)",
        "7 % of a large",
    ];
    check(&again, Limit::Step, 500.0 / 9.8, &words, &["a GPU, or a smaller model"]);
    let on_gpu = judge(&STEP_BOUND, &[], |plan, _, _| plan.device = Device::Cuda);
    check(
        &on_gpu,
        Limit::Step,
        500.0 / 9.8,
        &["--set amp=bf16", "enough for 50.0 such GPUs", "--gpus N"],
        &["threads_per_rank"],
    );
}

#[test]
fn loader_and_step_on_the_same_cores_are_told_apart_from_either() {
    // Each is fast enough alone; together they share two cores.
    let shared =
        Measured { loader: (60.0, 30.0), step: 40.0, together: 22.0, waits: 0.3, loading: 0.4, busy: 1.9 };
    let verdict = judge(&shared, &["num_workers=2"], |_, _, _| {});
    // 2 cores / (1/30 s of loading + 2/40 s of stepping) = 24 images/s
    check(
        &verdict,
        Limit::Cores,
        24.0 / 22.0,
        &["want the same cores", "40 % of that with loading", "--pixels short256"],
        &["num_workers"],
    );
    let slowed = Measured { waits: 0.01, ..shared };
    check(&judge(&slowed, &[], |_, _, _| {}), Limit::Cores, 24.0 / 22.0, &[], &[]);
    // With a core to spare, it is not for want of cores.
    let spare = Measured { busy: 1.3, ..slowed };
    check(&judge(&spare, &[], |_, _, _| {}), Limit::Step, 60.0 / 22.0, &["also takes over its batch"], &[]);
    let starved = Measured { busy: 1.3, ..shared };
    check(&judge(&starved, &[], |_, _, _| {}), Limit::Loader, 40.0 / 22.0, &["num_workers=2"], &[]);
    // On a GPU the same waiting is the loader's.
    let on_gpu = judge(&shared, &[], |plan, _, _| plan.device = Device::Cuda);
    check(&on_gpu, Limit::Loader, 40.0 / 22.0, &[], &[]);
    // Slower together, but not because of loading: something else has the cores.
    let other = Measured { together: 5.0, ..STEP_BOUND };
    check(&judge(&other, &[], |_, _, _| {}), Limit::Step, 100.0, &[], &[]);
    let busy = judge(&STEP_BOUND, &[], |_, _, step| step.cpu_seconds = vec![0.1 * step.median_s()]);
    check(&busy, Limit::Step, 500.0 / 9.8, &["had a core for 10 % of its time"], &[]);
    assert!(busy.as_json()["verdict"]["doubt"].is_string());
    let slow_alone = Measured { together: 30.0, ..STEP_BOUND };
    check(&judge(&slow_alone, &[], |_, _, _| {}), Limit::Step, 500.0 / 30.0, &["contradict each other"], &[]);
}
