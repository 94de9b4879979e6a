//! Pictures: what the model makes of a few fixed samples, refreshed as it trains, so that people see it learn.
//!
//! ```text
//!  rank 0, between two steps:  guess the hidden tokens ─▶ hand them over, if the painter is free ─▶ next step
//!  painter (its own thread):   decode tokens to pixels (dVAE, on the CPU) ─▶ PNGs ─▶ index.json ─▶ old PNGs go
//! ```
//! Training comes first: guesses draw nothing and change nothing, a painter that is busy is not waited for, and whatever
//! goes wrong here is told once and costs pictures only. `docs/pictures.md` describes the folder.

mod folder;
mod painter;
mod sample;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use self::folder::Folder;
use self::painter::{Job, Painter};
use self::sample::Sample;
use super::Shared;
use crate::device::cores;
use crate::error::TrainError;
use crate::step::Replica;

/// Pictures may take one part of so many of the time.
const SHARE: u32 = 100;

/// How long the end of a run waits for the last pictures.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rank 0's end: guesses, and hands over.
pub(super) struct Pictures {
    samples: Arc<[Sample]>,
    every: Duration,
    /// Samples that go through the model at once: no more than in training, so that they fit.
    batch: usize,
    jobs: SyncSender<Job>,
    progress: Arc<Progress>,
    /// Hangs up when the painter has ended.
    ended: Receiver<()>,
    /// When there were guesses last, and how long they took.
    last: Option<(Instant, Duration)>,
    failed: bool,
}

/// What the painter lets rank 0 know.
#[derive(Debug, Default)]
struct Progress {
    busy: AtomicBool,
    /// Processor time of the newest predictions, in ns.
    spent_ns: AtomicU64,
}

impl Pictures {
    /// Chooses the samples, reads them, and starts the painter; `None` where there are to be no pictures, or can be none.
    pub fn open(shared: &Shared<'_>) -> Option<Pictures> {
        let plan = shared.plan;
        let recipe = &plan.recipe;
        if recipe.pictures == 0 {
            return None;
        }
        let generations = shared.supply.generations();
        let samples: Arc<[Sample]> = match sample::choose(plan, shared.supply.set(), &generations) {
            Ok(samples) => samples.into(),
            Err(error) => {
                tracing::warn!(%error, "No pictures: their samples can't be read.");
                return None;
            }
        };
        let (jobs, todo) = sync_channel(2); // one under way, and the last
        let (hold, ended) = channel();
        let progress = Arc::new(Progress::default());
        let painter = Painter::new(plan, samples.clone(), Folder::of(&plan.run), progress.clone());
        let thread = std::thread::Builder::new().name("pictures".to_owned()).spawn(move || {
            painter.work(todo);
            drop::<std::sync::mpsc::Sender<()>>(hold);
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "No pictures: their thread can't be started.");
            return None;
        }
        Some(Pictures {
            samples,
            every: Duration::from_secs(recipe.pictures_every_s),
            batch: recipe.batch_size as usize,
            jobs,
            progress,
            ended,
            last: None,
            failed: false,
        })
    }

    /// Whether it is time, or somebody would like to look, and the painter is free.
    pub fn due(&self, wanted: bool) -> bool {
        let Some((at, took)) = self.last else { return true };
        let painted = Duration::from_nanos(self.progress.spent_ns.load(Relaxed)) / cores();
        let time = at.elapsed() >= self.every.max((took + painted) * SHARE);
        (time || wanted) && !self.progress.busy.load(Relaxed)
    }

    /// Guesses with the weights as they are after `step` steps, and hands the guesses over.
    pub fn take(&mut self, replica: &Replica, step: u64) {
        if self.failed {
            return;
        }
        let begun = Instant::now();
        match self.guesses(replica) {
            Ok(guesses) => {
                self.progress.busy.store(true, Relaxed);
                let _ = self.jobs.try_send(Job { step, guesses }); // there is room, unless the painter gave up
            }
            Err(error) => {
                tracing::warn!(step, %error, "No more pictures: the model can't be asked.");
                self.failed = true;
            }
        }
        let took = begun.elapsed();
        tracing::debug!(step, seconds = took.as_secs_f64(), "Asked the model for pictures.");
        self.last = Some((begun, took));
    }

    /// The likeliest tokens of each sample's hidden patches.
    fn guesses(&self, replica: &Replica) -> Result<Vec<Vec<u16>>, TrainError> {
        let mut guesses = Vec::with_capacity(self.samples.len());
        for samples in self.samples.chunks(self.batch) {
            let pixels: Vec<u8> = samples.iter().flat_map(|sample| &sample.pixels).copied().collect();
            let mask: Vec<u8> = samples.iter().flat_map(|sample| &sample.mask).copied().collect();
            let mut rest = &replica.guess(&pixels, &mask, samples.len())?[..];
            for sample in samples {
                let own = rest.split_off(..sample.hidden()).unwrap_or_default();
                guesses.push(own.to_vec());
            }
        }
        Ok(guesses)
    }

    /// Waits for the last pictures, but not for long: they are written whole or not at all.
    pub fn finish(self) {
        drop(self.jobs);
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("The last pictures are not ready; ending without them.");
        }
    }
}

#[cfg(test)]
mod tests;
