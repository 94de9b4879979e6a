//! `/metrics`: every name of ours that Prometheus knows is in this folder, and in `docs/metrics.md`.
//!
//! Names are `beit_<room>_<what>_<unit>[_total]` in base units. The worker's counts start at 0 in each of its lives;
//! here they are added up, so that counters only rise as long as the supervisor lives.

mod book;
mod histograms;

mod daemon;
mod goodput;
mod gpu;
mod process;

mod loader;
mod pipeline;
mod trainer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::{Encoder, Registry, TextEncoder};

use self::book::{Book, Life};
use self::daemon::Daemon;
use self::goodput::{Class, Goodput};
use self::gpu::Gpus;
use self::loader::Loader;
use self::pipeline::Pipeline;
use self::process::Processes;
use self::trainer::{Checkpoints, Trainer};
use crate::board::{State, now};
use crate::wire::{Planned, Sample};

/// Why a worker had to be replaced.
pub const CAUSES: [&str; 6] = ["signal", "out_of_memory", "panic", "hang", "error", "exit"];

/// Stages of the loader that report their time.
pub const STAGES: [&str; 8] = ["read", "entropy", "idct", "jitter", "resize", "mask", "handoff", "idle"];

/// Why a record could not be used; the loader and the views have the last word, these are there from the start.
pub const REASONS: [&str; 9] = [
    "checksum",
    "corrupt",
    "io",
    "malformed",
    "not_an_image",
    "too_large",
    "too_small",
    "truncated",
    "unsupported",
];

/// All series of one supervisor.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ranks: Range<u32>,
    daemon: Daemon,
    processes: Processes,
    gpus: Gpus,
    trainer: Trainer,
    checkpoints: Checkpoints,
    loader: Loader,
    pipeline: Pipeline,
    life: Life,
    goodput: Mutex<Goodput>,
    stages: Mutex<Stages>,
}

/// For how long ranks have been doing what they do.
#[derive(Debug)]
struct Stages {
    /// When the worker last said so, or was started; `None`: there is none.
    heard: Option<Instant>,
    /// Rank, and seconds at that time.
    seconds: Vec<(u32, f64)>,
}

impl Metrics {
    /// Registers every series for these ranks, at 0.
    ///
    /// # Errors
    /// A name registered twice: a slip in this folder.
    pub fn new(ranks: Range<u32>) -> prometheus::Result<Metrics> {
        let book = Book { registry: Registry::new_custom(None, None)? };
        Ok(Metrics {
            daemon: Daemon::new(&book)?,
            processes: Processes::new(&book)?,
            gpus: Gpus::new(&book)?,
            trainer: Trainer::new(&book, ranks.clone())?,
            checkpoints: Checkpoints::new(&book)?,
            loader: Loader::new(&book, ranks.clone())?,
            pipeline: Pipeline::new(&book)?,
            registry: book.registry,
            life: Life::default(),
            goodput: Mutex::new(Goodput::new(Instant::now())),
            stages: Mutex::new(Stages {
                heard: None,
                seconds: ranks.clone().map(|rank| (rank, 0.0)).collect(),
            }),
            ranks,
        })
    }

    /// Which run this is.
    pub fn set_run(&self, run: &str, recipe: &str, device: &str) {
        self.daemon.set_run(run, recipe, device);
    }

    /// Looks after the memory of GPUs from now on, if there are any.
    pub fn watch_gpus(&self) {
        self.gpus.watch();
    }

    /// A new worker counts from 0.
    pub fn worker_started(&self, pid: u32) {
        self.goodput().worker_started(Instant::now());
        self.life.begin();
        self.trainer.begin_life(self.ranks.clone());
        self.loader.begin_life();
        self.processes.set_worker(Some(pid));
        self.daemon.worker_up.set(1.0);
        let mut stages = self.stages();
        stages.heard = Some(Instant::now());
        stages.seconds.iter_mut().for_each(|(_, seconds)| *seconds = 0.0);
    }

    /// There is no worker now, so nothing moves; `again`: another one will be started.
    pub fn worker_gone(&self, again: bool) {
        self.goodput().worker_gone(Instant::now(), again);
        self.trainer.end_life(self.ranks.clone());
        self.pipeline.end_life();
        self.processes.set_worker(None);
        self.daemon.worker_up.set(0.0);
        self.stages().heard = None;
    }

    /// A worker is replaced; `cause` is one of [`CAUSES`].
    pub fn restarted(&self, cause: &str) {
        self.daemon.restarted(cause);
    }

    /// The supervisor is in this state now.
    pub fn set_state(&self, state: State) {
        self.daemon.set_state(state);
        if matches!(state, State::Stopping | State::Finished | State::Stopped | State::Failed) {
            self.goodput().stop(Instant::now());
        }
    }

    /// One HTTP request was answered with this status.
    pub fn answered(&self, status: u16) {
        self.daemon.answered(status);
    }

    /// The worker's plan.
    pub fn planned(&self, plan: &Planned) {
        self.trainer.planned(plan);
        self.loader.planned(plan);
    }

    /// The worker's report.
    pub fn sample(&self, sample: &Sample, samples_per_second: f64, eta_seconds: Option<f64>) {
        let at = Instant::now();
        self.goodput().report(at, sample);
        self.trainer.sample(&self.life, sample, samples_per_second, eta_seconds);
        self.checkpoints.sample(&self.life, &sample.checkpoint);
        self.loader.sample(&self.life, sample);
        self.pipeline.sample(&self.life, &sample.pipeline);
        self.processes.look();
        let mut stages = self.stages();
        stages.heard = Some(at);
        stages.seconds = sample.ranks.iter().map(|rank| (rank.rank, rank.stage_seconds)).collect();
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// The encoder's, which would be a slip in this folder.
    pub fn text(&self, ready: bool, started_at: f64) -> prometheus::Result<Vec<u8>> {
        let at = Instant::now();
        self.daemon.ready.set(f64::from(u8::from(ready)));
        self.checkpoints.grow_old(now(), started_at);
        self.processes.look();
        {
            let mut goodput = self.goodput();
            goodput.look(at);
            self.daemon.show_time(&goodput);
        }
        {
            // A worker that is stopped or hangs altogether says nothing more: then its silence counts.
            let stages = self.stages();
            let silence = stages.heard.map(|heard| at.saturating_duration_since(heard).as_secs_f64());
            for (rank, seconds) in &stages.seconds {
                self.trainer.set_stage_seconds(*rank, silence.map_or(0.0, |silence| seconds + silence));
            }
        }
        let mut text = Vec::with_capacity(1 << 15);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// What the seconds of the supervisor's life went for, by class; they add up to it, but for the step under way.
    pub fn time_seconds(&self) -> BTreeMap<&'static str, f64> {
        let mut goodput = self.goodput();
        goodput.look(Instant::now());
        Class::ALL.iter().map(|class| (class.word(), goodput.seconds(*class))).collect()
    }

    fn goodput(&self) -> MutexGuard<'_, Goodput> {
        self.goodput.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stages(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
