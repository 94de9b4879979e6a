//! What a run knows about itself: plain atomics that any thread may read while it trains.
//!
//! The daemon turns them into metrics; nothing here knows how.

use std::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use beit_loader::{Histogram, LoaderStats};

/// A number that one thread writes and others read.
#[derive(Debug)]
pub struct Gauge(AtomicU64);

impl Gauge {
    fn new(value: f64) -> Gauge {
        Gauge(AtomicU64::new(value.to_bits()))
    }

    /// The newest value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

/// What a rank is busy with, for those who wonder why nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Building the model, meeting the other ranks, reading a checkpoint.
    Start = 0,
    /// Waiting for a batch.
    Data = 1,
    /// Forward and backward, which averages gradients as it goes.
    Step = 2,
    /// Agreeing with the other ranks on loss, norm and requests.
    Agree = 3,
    /// The optimizer's update.
    Update = 4,
    /// Writing a checkpoint.
    Checkpoint = 5,
    /// Standing still because somebody asked.
    Paused = 6,
    /// Finished, well or not.
    Done = 7,
}

impl Stage {
    /// All stages, in their order.
    pub const ALL: [Stage; 8] = [
        Stage::Start,
        Stage::Data,
        Stage::Step,
        Stage::Agree,
        Stage::Update,
        Stage::Checkpoint,
        Stage::Paused,
        Stage::Done,
    ];

    /// One word, as metrics and pages show it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Start => "start",
            Stage::Data => "data",
            Stage::Step => "step",
            Stage::Agree => "agree",
            Stage::Update => "update",
            Stage::Checkpoint => "checkpoint",
            Stage::Paused => "paused",
            Stage::Done => "done",
        }
    }
}

/// One rank of this process.
#[derive(Debug)]
pub struct RankStats {
    /// Its number among all ranks.
    pub rank: u32,
    /// Batches taken from the loader; with the next one on its way to a GPU, one more than is being learned from.
    pub batches: AtomicU64,
    /// Waiting for a batch, each time.
    pub data_wait: Histogram,
    /// Each step, from asking for its batch to the end of its update; checkpoints and pauses come after it.
    pub step: Histogram,
    /// What each step waited for other ranks: for their counts of hidden patches, for the last averages after its own
    /// backward, and for them to agree.
    pub all_reduce: Histogram,
    stage: AtomicU8,
    stage_since_ns: AtomicU64,
    /// Time in each stage before the present one.
    stage_ns: [AtomicU64; Stage::ALL.len()],
}

impl RankStats {
    fn new(rank: u32) -> RankStats {
        RankStats {
            rank,
            batches: AtomicU64::new(0),
            data_wait: Histogram::new(),
            step: Histogram::new(),
            all_reduce: Histogram::new(),
            stage: AtomicU8::new(Stage::Start as u8),
            stage_since_ns: AtomicU64::new(0),
            stage_ns: Default::default(),
        }
    }

    fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.stage.load(Acquire)).min(Stage::ALL.len() - 1)]
    }
}

/// The checkpoints of this run.
#[derive(Debug)]
pub struct CheckpointStats {
    /// Attempts begun since the start.
    pub begun: AtomicU64,
    /// Published since the start.
    pub published: AtomicU64,
    /// Attempts that failed since the start; training went on.
    pub failures: AtomicU64,
    /// Damaged ones that were passed over on resume.
    pub skipped: AtomicU64,
    /// Step of the newest.
    pub step: AtomicU64,
    /// When the newest was published, in ms since 1970; 0: none yet.
    pub published_unix_ms: AtomicU64,
    /// Size of the newest.
    pub bytes: AtomicU64,
    /// How long the newest took to write, in seconds; training went on meanwhile.
    pub seconds: Gauge,
    /// How long training stood still for checkpoints since the start, in ns: copying weights, and waiting for the one before.
    pub blocked_ns: AtomicU64,
}

impl CheckpointStats {
    /// Seconds since the newest was published, if there is one.
    pub fn age_s(&self) -> Option<f64> {
        let published = self.published_unix_ms.load(Relaxed);
        (published > 0).then(|| unix_ms().saturating_sub(published) as f64 / 1e3)
    }
}

/// Who prints the lines of a run's console.
struct Console(Box<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

/// The whole run, as this process sees it.
#[derive(Debug)]
pub struct TrainStats {
    origin: Instant,
    /// Optimizer steps done, over all starts of the run.
    pub step: AtomicU64,
    /// Optimizer steps planned.
    pub steps: AtomicU64,
    /// Steps done since this start.
    pub steps_here: AtomicU64,
    /// Epoch of the newest batch.
    pub epoch: AtomicU64,
    /// Samples seen by all ranks, over all starts of the run.
    pub samples: AtomicU64,
    /// Masked-token loss in nats, mean over ranks, newest step.
    pub loss: Gauge,
    /// Share of masked tokens guessed right, mean over ranks, newest step.
    pub mlm_acc: Gauge,
    /// Learning rate of the newest step.
    pub lr: Gauge,
    /// Weight decay of the newest step.
    pub weight_decay: Gauge,
    /// Global gradient norm before clipping, newest step.
    pub grad_norm: Gauge,
    /// What the loss is multiplied by with `amp = "fp16"`; 1 otherwise.
    pub loss_scale: Gauge,
    /// Steps left out since the start because their loss or a gradient was not finite; in fp16 some are normal.
    pub skipped_steps: AtomicU64,
    /// Returns to the weights of a checkpoint since the start.
    pub rollbacks: AtomicU64,
    /// Samples per second over all ranks, smoothed over about 20 steps.
    pub samples_per_s: Gauge,
    /// Floating-point operations of a step, over all ranks.
    pub flops_per_step: Gauge,
    /// Model FLOPs utilisation at `samples_per_s`, of all ranks' devices, 0 to 1; NaN: their peak is not known.
    pub mfu: Gauge,
    /// How long the first batch of this start was waited for, summed over the ranks of this process, in ns: the loader had nothing yet.
    pub first_wait_ns: AtomicU64,
    /// Time that the steps of this start took on the first rank of this process, waiting included, checkpoints not; in ns.
    pub train_ns: AtomicU64,
    /// The ranks of this process.
    pub ranks: Vec<RankStats>,
    /// The checkpoints.
    pub checkpoint: CheckpointStats,
    /// The most memory this process has had resident at one time, in bytes; 0: not known yet.
    pub peak_memory_bytes: AtomicU64,
    console: OnceLock<Console>,
    loader: OnceLock<Arc<LoaderStats>>,
}

impl TrainStats {
    /// For a run whose local ranks are `ranks`.
    pub fn new(ranks: std::ops::Range<u32>) -> TrainStats {
        let zero = || AtomicU64::new(0);
        TrainStats {
            origin: Instant::now(),
            step: zero(),
            steps: zero(),
            steps_here: zero(),
            epoch: zero(),
            samples: zero(),
            loss: Gauge::new(f64::NAN),
            mlm_acc: Gauge::new(f64::NAN),
            lr: Gauge::new(0.0),
            weight_decay: Gauge::new(0.0),
            grad_norm: Gauge::new(f64::NAN),
            loss_scale: Gauge::new(1.0),
            skipped_steps: zero(),
            rollbacks: zero(),
            samples_per_s: Gauge::new(0.0),
            flops_per_step: Gauge::new(0.0),
            mfu: Gauge::new(f64::NAN),
            first_wait_ns: zero(),
            train_ns: zero(),
            ranks: ranks.map(RankStats::new).collect(),
            checkpoint: CheckpointStats {
                begun: zero(),
                published: zero(),
                failures: zero(),
                skipped: zero(),
                step: zero(),
                published_unix_ms: zero(),
                bytes: zero(),
                seconds: Gauge::new(0.0),
                blocked_ns: zero(),
            },
            peak_memory_bytes: zero(),
            console: OnceLock::new(),
            loader: OnceLock::new(),
        }
    }

    /// The share of their time that the ranks of this process have stood waiting for batches, after the first one; `None` before
    /// anything was trained.
    pub fn data_wait_ratio(&self) -> Option<f64> {
        let first = self.first_wait_ns.load(Relaxed);
        let waited: u64 = self.ranks.iter().map(|rank| rank.data_wait.sum().as_nanos() as u64).sum();
        let ranks = self.ranks.len() as u64;
        let all = (ranks * self.train_ns.load(Relaxed)).saturating_sub(first);
        (all > 0).then(|| waited.saturating_sub(first) as f64 / all as f64)
    }

    /// The loader's own numbers, once it runs.
    pub fn loader(&self) -> Option<&Arc<LoaderStats>> {
        self.loader.get()
    }

    pub(crate) fn set_loader(&self, stats: Arc<LoaderStats>) {
        let _ = self.loader.set(stats); // A second run with the same stats keeps the first loader's; none does that.
    }

    /// Has the lines that the reference shows on its console given to `print`, by the thread of rank 0; the first call counts.
    pub fn print_with(&self, print: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.console.set(Console(Box::new(print)));
    }

    pub(crate) fn print(&self, line: &str) {
        if let Some(Console(print)) = self.console.get() {
            print(line);
        }
    }

    /// What local rank `local` is doing, and for how many seconds.
    pub fn stage(&self, local: usize) -> (Stage, f64) {
        let rank = &self.ranks[local];
        let stage = rank.stage();
        (stage, self.now_ns().saturating_sub(rank.stage_since_ns.load(Relaxed)) as f64 / 1e9)
    }

    /// How many seconds local rank `local` has been in each stage, the present one included, in the order of [`Stage::ALL`].
    /// Together they are the time since the start.
    pub fn stage_seconds(&self, local: usize) -> [f64; Stage::ALL.len()] {
        let (now, present) = self.stage(local);
        let before = &self.ranks[local].stage_ns;
        std::array::from_fn(|at| {
            let present = if at == now as usize { present } else { 0.0 };
            before[at].load(Relaxed) as f64 / 1e9 + present
        })
    }

    pub(crate) fn enter(&self, local: usize, stage: Stage) {
        let (rank, now) = (&self.ranks[local], self.now_ns());
        // Only the rank itself writes these. A reader in between may miss the time of the stage that ends here, once.
        let spent = now.saturating_sub(rank.stage_since_ns.swap(now, Relaxed));
        rank.stage_ns[rank.stage() as usize].fetch_add(spent, Relaxed);
        rank.stage.store(stage as u8, Release);
    }

    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_all_stages_are_the_time_since_the_start() {
        let stats = TrainStats::new(0..2);
        for stage in [Stage::Data, Stage::Step, Stage::Data, Stage::Checkpoint] {
            stats.enter(1, stage);
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        let before = stats.origin.elapsed().as_secs_f64();
        let seconds = stats.stage_seconds(1);
        let after = stats.origin.elapsed().as_secs_f64();
        let sum: f64 = seconds.iter().sum();
        assert!(sum >= before - 1e-6 && sum <= after + 1e-6, "{sum} is not between {before} and {after}");
        assert!(seconds[Stage::Data as usize] >= 0.006, "{seconds:?}");
        assert!(seconds[Stage::Step as usize] >= 0.003, "{seconds:?}");
        assert!(seconds[Stage::Checkpoint as usize] >= 0.003, "{seconds:?}");
        assert_eq!(seconds[Stage::Paused as usize], 0.0);
        assert!(
            stats.stage_seconds(0)[Stage::Start as usize] >= 0.012,
            "nothing has begun on the other rank"
        );
    }
}
