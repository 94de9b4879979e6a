//! The worker process: trains what its supervisor says, reports how it goes, and never outlives it.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beit_loader::{Histogram, LoaderStats};
use beit_trainer::control::Control;
use beit_trainer::error::TrainError;
use beit_trainer::plan::Plan;
use beit_trainer::stats::{Stage, TrainStats};
use rustix::process::Signal;

use crate::board::now;
use crate::cause::Cause;
use crate::screen::Screen;
use crate::settings::Job;
use crate::wire::{
    self, CheckpointSample, Flow, FromWorker, LoaderSample, Lost, Planned, RankSample, Sample, Times,
    ToWorker, VERSION,
};

/// How often the worker reports.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// How long to wait for a worker before us, killed with its supervisor a moment ago, to let go of the run.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// Runs a worker on its two pipes; `supervisor` is the process that started it.
///
/// # Errors
/// The pipes or the first message are not as they should be, which only a start by hand can cause.
pub fn main(supervisor: u32, screen: Screen) -> Result<ExitCode> {
    die_with(supervisor)?;
    offer_to_oom_killer();
    ignore_signals()?;
    let mut reports = take_stdout()?;
    let mut orders = BufReader::new(io::stdin());
    let job = match wire::receive(&mut orders).context("reading what to train")? {
        Some(ToWorker::Begin { version, job }) => {
            ensure!(version == VERSION, "supervisor speaks version {version}, this worker {VERSION}");
            *job
        }
        other => bail!("expected what to train, found {other:?}; workers are started by `beit-daemon start`"),
    };
    let control = Arc::new(Control::new());
    thread::Builder::new().name("orders".into()).spawn({
        let control = control.clone();
        move || obey(orders, &control, &screen)
    })?;

    let (last_word, status) = match train(&job, &control, &mut reports) {
        Ok(finished) => (finished, ExitCode::SUCCESS),
        Err(failure) => (failure, ExitCode::FAILURE),
    };
    wire::send(&mut reports, &last_word).context("reporting the end")?;
    Ok(status)
}

/// Plans and trains; either way returns the last thing to report.
fn train(job: &Job, control: &Control, reports: &mut (impl Write + Send)) -> Result<FromWorker, FromWorker> {
    let no_plan = |error: anyhow::Error| FromWorker::Failed {
        permanent: error.downcast_ref().is_none_or(would_recur),
        started: false,
        cause: Cause::Error,
        message: format!("{error:#}"),
    };
    let plan = job.ask().and_then(|ask| Ok(Plan::new(ask)?)).map_err(no_plan)?;
    tell(reports, &FromWorker::Planned(Box::new(planned(&plan))));

    let stats = TrainStats::new(plan.world.ranks());
    let over = AtomicBool::new(false);
    let mut watch = Watch::default();
    let (outcome, started) = thread::scope(|scope| {
        let reporter = scope.spawn(|| report(&stats, &plan, control, &over, &mut watch, &mut *reports));
        let outcome = run(&plan, control, &stats);
        over.store(true, Release);
        (outcome, reporter.join().unwrap_or(true))
    });
    if outcome.is_ok() && !started {
        tell(reports, &started_report(&stats));
    }
    if outcome.is_ok() || started {
        tell(reports, &FromWorker::Sample(Box::new(sample(&stats, &plan, &mut watch))));
    }
    match outcome {
        Ok(end) => {
            Ok(FromWorker::Finished { complete: end.finished, step: end.step, checkpoint: end.checkpoint })
        }
        Err(error) => {
            let no_room = matches!(error, TrainError::OutOfMemory { .. });
            let first = stats.steps_here.load(Relaxed) == 0;
            let permanent = would_recur(&error) || no_room && first;
            let message = format!("{:#}", anyhow::Error::new(error));
            // A rank's panic is caught by the trainer, which reports it as the rank's failure.
            let cause = match no_room {
                true => Cause::OutOfMemory,
                false if message.contains("panicked: ") => Cause::Panic,
                false => Cause::Error,
            };
            Err(FromWorker::Failed { permanent, started, cause, message })
        }
    }
}

/// Trains; waits for the run directory while a dying worker still holds it.
fn run(plan: &Plan, control: &Control, stats: &TrainStats) -> Result<beit_trainer::run::Outcome, TrainError> {
    let begun = Instant::now();
    loop {
        match beit_trainer::run::run(plan, control, stats) {
            Err(TrainError::Locked { .. }) if begun.elapsed() < LOCK_PATIENCE => {
                thread::sleep(Duration::from_millis(100));
            }
            outcome => return outcome,
        }
    }
}

/// Whether the same run would fail in the same way again.
fn would_recur(error: &TrainError) -> bool {
    matches!(
        error,
        TrainError::Plan(_)
            | TrainError::Device(_)
            | TrainError::OtherRun { .. }
            | TrainError::OtherModel { .. }
            | TrainError::NotFinite { .. }
            | TrainError::Locked { .. }
    )
}

/// Reports until the run is over; returns whether it had started by then.
fn report(
    stats: &TrainStats,
    plan: &Plan,
    control: &Control,
    over: &AtomicBool,
    watch: &mut Watch,
    reports: &mut impl Write,
) -> bool {
    let mut started = false;
    while !over.load(Acquire) {
        if !started && stats.steps.load(Relaxed) > 0 {
            started = true;
            tell(reports, &started_report(stats));
        }
        if started {
            tell(reports, &FromWorker::Sample(Box::new(sample(stats, plan, watch))));
        }
        if let Some(message) = control.overdue(stats) {
            tell(reports, &FromWorker::Failed { permanent: false, started, cause: Cause::Error, message });
            std::process::exit(1); // a thread that hangs can't be joined
        }
        thread::sleep(REPORT_EVERY);
    }
    started
}

fn started_report(stats: &TrainStats) -> FromWorker {
    let here = stats.steps_here.load(Relaxed);
    let first = match here {
        0 => stats.checkpoint.step.load(Relaxed),
        _ => stats.step.load(Relaxed).saturating_sub(here),
    };
    FromWorker::Started { resumed_step: (first > 0).then_some(first) }
}

fn planned(plan: &Plan) -> Planned {
    Planned {
        text: plan.to_string(),
        steps: plan.steps,
        world_size: plan.world.size,
        global_batch: plan.global_batch,
        samples: plan.data.samples,
        max_corrupt_samples: plan.recipe.max_corrupt_samples,
    }
}

/// Sees when something was last finished, to within one report.
#[derive(Debug, Default)]
struct Watch {
    /// What, how often, and when.
    seen: BTreeMap<&'static str, (u64, f64)>,
}

impl Watch {
    fn look(&mut self, what: &'static str, count: u64) -> Option<f64> {
        let known = self.seen.get(what).map_or(0, |(count, _)| *count);
        if count > known {
            self.seen.insert(what, (count, now()));
        }
        self.seen.get(what).map(|(_, at)| *at)
    }
}

/// Translates the trainer's and the loader's counts into a message.
fn sample(stats: &TrainStats, plan: &Plan, watch: &mut Watch) -> Sample {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let steps_done = stats.steps_here.load(Relaxed);
    let loader = stats.loader();
    let saved = &stats.checkpoint;
    let saved_ms = saved.published_unix_ms.load(Relaxed);
    Sample {
        step: stats.step.load(Relaxed),
        epoch: stats.epoch.load(Relaxed),
        loss: stats.loss.get(),
        mlm_acc: stats.mlm_acc.get(),
        lr: stats.lr.get(),
        grad_norm: stats.grad_norm.get(),
        steps_done,
        samples: steps_done * plan.global_batch,
        tokens: steps_done * plan.global_batch * plan.grid().len() as u64,
        skipped_steps: stats.skipped_steps.load(Relaxed),
        rollbacks: stats.rollbacks.load(Relaxed),
        loss_scale: stats.loss_scale.get(),
        flops: steps_done as f64 * plan.flops_per_step(),
        mfu: Some(stats.mfu.get()).filter(|mfu| mfu.is_finite()),
        last_step_at: watch.look("steps", steps_done),
        ranks: stats
            .ranks
            .iter()
            .enumerate()
            .map(|(local, rank)| {
                let (stage, stage_seconds) = stats.stage(local);
                RankSample {
                    rank: rank.rank,
                    data_wait_seconds: rank.data_wait.sum().as_secs_f64(),
                    queue_depth: loader.map_or(0, |loader| loader.ranks[local].depth()),
                    queue_slots: plan.recipe.queue_batches.into(),
                    stage: stage.name().to_owned(),
                    stage_seconds,
                    lost: lost(&stats.stage_seconds(local)),
                    step_duration: times(&rank.step),
                    data_wait: times(&rank.data_wait),
                    all_reduce: times(&rank.all_reduce),
                }
            })
            .collect(),
        loader: loader.map(|loader| loaded(loader)).unwrap_or_default(),
        checkpoint: CheckpointSample {
            saved: saved.published.load(Relaxed),
            failed: saved.failures.load(Relaxed),
            step: (saved_ms > 0).then(|| saved.step.load(Relaxed)),
            at: (saved_ms > 0).then(|| saved_ms as f64 / 1e3),
            bytes: saved.bytes.load(Relaxed),
            seconds: saved.seconds.get(),
            blocked_seconds: seconds(saved.blocked_ns.load(Relaxed)),
        },
        pipeline: pipeline(stats, watch),
    }
}

fn lost(stage_seconds: &[f64; Stage::ALL.len()]) -> Lost {
    let of = |stage: Stage| stage_seconds[stage as usize];
    Lost { data: of(Stage::Data), checkpoint: of(Stage::Checkpoint), paused: of(Stage::Paused) }
}

fn times(histogram: &Histogram) -> Times {
    Times { counts: histogram.counts().to_vec(), seconds: histogram.sum().as_secs_f64() }
}

/// What has gone through each stage, in its own items.
fn pipeline(stats: &TrainStats, watch: &mut Watch) -> BTreeMap<String, Flow> {
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    let mut flows = BTreeMap::new();
    let mut put = |stage: &'static str, items_in: u64, in_progress: Option<u64>, items_out: u64| {
        let in_progress = in_progress.unwrap_or(items_in.saturating_sub(items_out));
        let last_at = watch.look(stage, items_out);
        flows.insert(stage.to_owned(), Flow { items_in, in_progress, items_out, last_at });
    };
    if let Some(loader) = stats.loader() {
        let batches = |of: fn(&beit_loader::RankStats) -> &AtomicU64| {
            loader.ranks.iter().map(|rank| count(of(rank))).sum::<u64>()
        };
        // Workers count what they have done every few samples, so what they are at comes from elsewhere.
        put("read", count(&loader.asked), Some(loader.reading()), count(&loader.records));
        put("view", count(&loader.records), Some(loader.viewing()), count(&loader.images));
        put("batch", batches(|rank| &rank.begun), None, batches(|rank| &rank.published));
    }
    let begun = stats.ranks.iter().map(|rank| count(&rank.batches)).sum();
    put("step", begun, None, stats.ranks.iter().map(|rank| rank.step.count()).sum());
    let saved = &stats.checkpoint;
    let (begun, published) = (count(&saved.begun), count(&saved.published));
    put("checkpoint", begun, Some(begun.saturating_sub(published + count(&saved.failures))), published);
    flows
}

fn loaded(stats: &LoaderStats) -> LoaderSample {
    let stages = [
        ("read", &stats.read_ns),
        ("entropy", &stats.entropy_ns),
        ("idct", &stats.idct_ns),
        ("jitter", &stats.jitter_ns),
        ("resize", &stats.resize_ns),
        ("mask", &stats.mask_ns),
        ("handoff", &stats.handoff_ns),
        ("idle", &stats.idle_ns),
    ];
    LoaderSample {
        samples: stats.images.load(Relaxed),
        records: stats.records.load(Relaxed),
        bytes: stats.bytes.load(Relaxed),
        cpu_seconds: stats.cpu_ns.load(Relaxed) as f64 / 1e9,
        stage_seconds: stages
            .iter()
            .map(|(stage, ns)| ((*stage).to_owned(), ns.load(Relaxed) as f64 / 1e9))
            .collect(),
        replaced: stats.corrupt.replaced(),
        corrupt: stats
            .corrupt
            .by_reason()
            .into_iter()
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        decode: times(&stats.decode),
    }
}

/// Does what the supervisor asks; when the supervisor is gone, so is the worker.
fn obey(mut orders: impl io::BufRead, control: &Control, screen: &Screen) {
    loop {
        match wire::receive(&mut orders) {
            Ok(Some(ToWorker::Stop)) => control.stop(),
            Ok(Some(ToWorker::Checkpoint)) => control.checkpoint_now(),
            Ok(Some(ToWorker::Pause { paused })) => control.pause(paused),
            Ok(Some(ToWorker::Log { filter })) => {
                if let Err(error) = screen.refilter(&filter) {
                    tracing::warn!("The log goes on as it was: {error:#}.");
                }
            }
            Ok(Some(ToWorker::Begin { .. })) => {}
            Ok(None) | Err(_) => end_at_once(),
        }
    }
}

/// Sends a report; a supervisor that does not listen any more is gone.
fn tell(reports: &mut impl Write, report: &FromWorker) {
    if wire::send(reports, report).is_err() {
        end_at_once();
    }
}

/// Ends without unwinding: ranks are inside libtorch, and what is published is safe.
fn end_at_once() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

/// Has the kernel kill this process when its supervisor dies, however that happens.
fn die_with(supervisor: u32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("tying the worker to its supervisor")?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    ensure!(parent == i32::try_from(supervisor).ok(), "the supervisor {supervisor} is gone already");
    Ok(())
}

/// Where memory is short, the kernel should end the worker, which is replaced, and not its supervisor.
fn offer_to_oom_killer() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse::<i32>().ok());
    // Anybody may raise it; where it cannot be, the kernel goes by size, which usually finds the worker too.
    let _ = now.map(|now| std::fs::write(PATH, (now + 500).min(1000).to_string()));
}

/// Leaves signals to the supervisor, which asks for a checkpoint: a terminal or an init system may signal all of us.
fn ignore_signals() -> Result<()> {
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, ignored.clone()).context("leaving signals to the supervisor")?;
    }
    Ok(())
}

/// Keeps stdout for reports alone: whatever a library prints goes to stderr from now on.
fn take_stdout() -> Result<std::fs::File> {
    let reports = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3).context("taking the report pipe")?;
    rustix::stdio::dup2_stdout(io::stderr()).context("sending prints to stderr")?;
    Ok(reports.into())
}
