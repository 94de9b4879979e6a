//! The real thing for a while: all local ranks, fed by the real loader, without checkpoints and pictures.
//!
//! ```text
//! model, first batches │ warm-up: the ring runs dry, or stays full │ ◀─── measured ───▶ │ stop
//!                      └ step 1                                    begin              end
//! ```

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::cpu_s;
use crate::control::Control;
use crate::error::TrainError;
use crate::plan::Plan;
use crate::run::rehearse;
use crate::stats::TrainStats;

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long a ring that was full may take to run dry before it is measured all the same.
const DRAIN: Duration = Duration::from_secs(10);

/// What [`measure_run`] found. Everything is over the measured time and all local ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunReport {
    /// Steps.
    pub steps: u64,
    /// Samples of these steps.
    pub samples: u64,
    /// How many of them the loader had made ready before: the ring lost so many. Less than none: it gained some.
    pub drained: i64,
    /// How long they took, by the clock.
    pub seconds: f64,
    /// Processor time of the whole process.
    pub cpu_seconds: f64,
    /// Processor time of the loader's threads, a part of it.
    pub loader_cpu_seconds: f64,
    /// The share of their time that ranks waited for batches.
    pub data_wait_ratio: f64,
}

impl RunReport {
    /// Samples per second that loader and step keep up together: what the ring lost is not counted.
    pub fn samples_per_s(&self) -> f64 {
        (self.samples as f64 - self.drained.max(0) as f64) / self.seconds.max(1e-9)
    }

    /// How many cores were busy.
    pub fn cores_busy(&self) -> f64 {
        self.cpu_seconds / self.seconds.max(1e-9)
    }

    /// The loader's share of the processor time.
    pub fn loader_share(&self) -> f64 {
        self.loader_cpu_seconds / self.cpu_seconds.max(1e-9)
    }
}

/// What is counted at one moment.
struct Mark {
    at: Instant,
    steps: u64,
    cpu_s: f64,
    loader_cpu_ns: u64,
    waited_ns: u64,
    /// Batches that lie ready, over all ranks.
    ready: u64,
}

impl Mark {
    fn now(stats: &TrainStats) -> Mark {
        let loader = stats.loader();
        let sum = |of: fn(&beit_loader::RankStats) -> u64| {
            loader.map_or(0, |loader| loader.ranks.iter().map(of).sum::<u64>())
        };
        Mark {
            at: Instant::now(),
            steps: stats.steps_here.load(Relaxed),
            cpu_s: cpu_s(),
            loader_cpu_ns: loader.map_or(0, |loader| loader.cpu_ns.load(Relaxed)),
            waited_ns: sum(|rank| rank.wait_ns.load(Relaxed)),
            ready: sum(|rank| rank.depth()),
        }
    }
}

/// Trains as planned and measures at least `steps` steps and `seconds` seconds, after `warmup` steps and until a ring that the
/// loader filled beforehand shows whether it stays full. [`Plan::run`] should be a folder for nothing else; it gets a log.
///
/// # Errors
/// those of [`crate::run::run`]
pub fn measure_run(plan: &Plan, warmup: u32, steps: u32, seconds: f64) -> Result<RunReport, TrainError> {
    let mut plan = plan.clone();
    plan.steps = 1 << 40; // it ends when enough was seen
    plan.recipe.pictures = 0;
    plan.recipe.log_dir = None;
    let (control, stats) = (Control::new(), TrainStats::new(plan.world.ranks()));
    let warm = u64::from(warmup.max(1));
    let drained = warm + u64::from(plan.recipe.queue_batches);
    let enough = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let (outcome, marks) = thread::scope(|scope| {
        let run = scope.spawn(|| rehearse(&plan, &control, &stats));
        let (mut first_step, mut begin, mut end) = (None, None, None);
        let mut seen = 0;
        while !run.is_finished() && end.is_none() {
            thread::sleep(LOOK_EVERY);
            let mark = Mark::now(&stats);
            if mark.steps == seen {
                continue;
            }
            seen = mark.steps;
            let first = *first_step.get_or_insert(mark.at);
            match &begin {
                None => {
                    let dry = mark.ready <= plan.world.local.into();
                    let looked = dry || mark.steps >= drained || first.elapsed() >= DRAIN;
                    begin = (mark.steps >= warm && looked).then_some(mark);
                }
                Some(Mark { at, steps: before, .. }) => {
                    let done = mark.steps - before >= u64::from(steps.max(1)) && at.elapsed() >= enough;
                    end = done.then_some(mark);
                }
            }
        }
        control.stop();
        (run.join(), begin.zip(end))
    });
    let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let step = outcome?.step;
    let (begin, end) =
        marks.ok_or_else(|| TrainError::Broken(format!("the run ended by itself at step {step}")))?;
    let rank_batch = u64::from(plan.recipe.rank_batch());
    let ranks = f64::from(plan.world.local);
    let took = (end.at - begin.at).as_secs_f64();
    Ok(RunReport {
        steps: end.steps - begin.steps,
        samples: (end.steps - begin.steps) * rank_batch * u64::from(plan.world.local),
        drained: (begin.ready as i64 - end.ready as i64) * rank_batch as i64,
        seconds: took,
        cpu_seconds: end.cpu_s - begin.cpu_s,
        loader_cpu_seconds: (end.loader_cpu_ns - begin.loader_cpu_ns) as f64 / 1e9,
        data_wait_ratio: ((end.waited_ns - begin.waited_ns) as f64 / 1e9 / ranks / took.max(1e-9)).min(1.0),
    })
}
