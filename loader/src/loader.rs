//! The loader: checks the options, allocates the slots, starts the workers, and ends them.

use crate::ahead::Ahead;
use crate::batch::RankBatches;
use crate::error::LoaderError;
use crate::options::Options;
use crate::order::Order;
use crate::ring::{Over, Shape};
use crate::slot::{Consumer, SampleSize, Slots};
use crate::stats::{LoaderStats, RankStats};
use crate::worker::Worker;
use beit_views::ViewSpec;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// A pool of workers that fills the batches of all local ranks. Dropping it stops and joins them.
pub struct Loader {
    shared: Arc<Shared>,
    consumers: Vec<Option<Consumer>>,
    workers: Vec<JoinHandle<()>>,
}

/// What the workers and the ranks have in common.
pub(crate) struct Shared {
    pub options: Options,
    pub spec: ViewSpec,
    pub order: Order,
    pub ahead: Ahead,
    pub slots: Slots,
    pub stats: Arc<LoaderStats>,
    /// Why the run failed, if it did; the first reason stands.
    failure: OnceLock<LoaderError>,
}

impl Loader {
    /// Checks everything, allocates all memory that will be needed, and starts the workers.
    ///
    /// # Errors
    /// contradictions among the options, too little memory, threads that cannot be started
    pub fn start(options: Options) -> Result<Loader, LoaderError> {
        let spec = options.check()?;
        let ranks = options.ranks.len();
        let shape = Shape {
            ranks,
            slots: options.slots as u64,
            batch: options.batch_size.into(),
            first_step: options.first_step,
        };
        let side = options.view_px as usize;
        let token_side = if options.fresh_views { spec.token_px as usize } else { 0 };
        let size = SampleSize {
            pixels: side * side * 3,
            token_pixels: token_side * token_side * 3,
            patches: options.grid.len(),
        };
        let Some((slots, consumers)) = Slots::new(shape, size) else {
            let slot_bytes = size.slot_bytes(shape.batch);
            return Err(LoaderError::Memory { ranks, slots: options.slots, slot_bytes });
        };
        let views = options.shards.spec().views;
        let order = Order::grown(options.seed, &options.generations(), views, options.shuffle);
        let ahead = Ahead::new(&options, &order);
        let new_stats = || Arc::new(LoaderStats::new(ranks, options.workers));
        let (stats, failure) = (options.stats.clone().unwrap_or_else(new_stats), OnceLock::new());
        // What an earlier loader had made ready and nobody took is gone.
        stats.ranks.iter().for_each(RankStats::forget_ready);
        let shared = Arc::new(Shared { options, spec, order, ahead, slots, stats, failure });
        shared.fetch_first();
        let consumers = consumers.into_iter().map(Some).collect();
        let mut loader = Loader { shared, consumers, workers: Vec::new() };
        let workers = loader.shared.options.workers;
        for worker in 0..workers {
            let shared = loader.shared.clone();
            let thread = std::thread::Builder::new().name(format!("beit-load-{worker}"));
            // On an error the loader is dropped, which ends the workers that did start.
            let handle = thread.spawn(move || work(worker, &shared)).map_err(|error| LoaderError::Spawn {
                worker,
                workers,
                why: error.to_string(),
            })?;
            loader.workers.push(handle);
        }
        Ok(loader)
    }

    /// The batches of one local rank, to be consumed by whichever thread it is given to.
    ///
    /// # Panics
    /// when `rank` (counted over all nodes) is not a local one, or has been taken before
    pub fn take_rank(&mut self, rank: u32) -> RankBatches {
        let local = rank.checked_sub(self.shared.options.ranks.start).map(|local| local as usize);
        let Some(consumer) = local.and_then(|local| self.consumers.get_mut(local)) else {
            panic!("rank {rank} is not one of this loader's ranks {:?}", self.shared.options.ranks);
        };
        match consumer.take() {
            Some(consumer) => RankBatches::new(self.shared.clone(), consumer),
            None => panic!("the batches of rank {rank} have been taken already"),
        }
    }

    /// The counters; they stay readable after the loader is gone.
    pub fn stats(&self) -> Arc<LoaderStats> {
        self.shared.stats.clone()
    }

    /// Ends the run and waits for the workers to finish the sample in hand. Ranks that wait get
    /// [`LoaderError::Stopped`]. Doing it again does nothing.
    pub fn stop(&mut self) {
        self.shared.slots.stop();
        for worker in self.workers.drain(..) {
            // A worker's panic was caught and told to the ranks already.
            let _ = worker.join();
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Shared {
    /// Position in the run of one sample of a local rank's batch.
    pub fn position(&self, rank: usize, step: u64, sample: u64) -> u64 {
        let rank = u64::from(self.options.ranks.start) + rank as u64;
        step * self.options.global_batch() + rank * u64::from(self.options.batch_size) + sample
    }

    /// Position of the sample that the same rank comes to `read_ahead` samples (over all local ranks) later.
    pub fn ahead(&self, rank: usize, step: u64, sample: u64) -> u64 {
        let batch = u64::from(self.options.batch_size);
        let later = sample + self.per_rank_ahead();
        self.position(rank, step + later / batch, later % batch)
    }

    /// Asks for the samples before the first that anybody's reading ahead asks for.
    fn fetch_first(&self) {
        let batch = u64::from(self.options.batch_size);
        for sample in 0..self.per_rank_ahead() {
            for rank in 0..self.options.ranks.len() {
                let position = self.position(rank, self.options.first_step + sample / batch, sample % batch);
                let placed = self.order.at(position);
                self.options.shards.will_need(placed.sample, placed.view);
            }
        }
    }

    fn per_rank_ahead(&self) -> u64 {
        u64::from(self.options.read_ahead).div_ceil(self.options.ranks.len() as u64)
    }

    /// The error for a rank that will get no further batch.
    pub fn error(&self, over: Over) -> LoaderError {
        match over {
            Over::Stopped => LoaderError::Stopped,
            Over::Failed => self.failure.get().cloned().unwrap_or(LoaderError::Stopped),
        }
    }

    fn fail(&self, error: LoaderError) {
        // Set before the ring says so, so that whoever learns of it finds the reason.
        let _ = self.failure.set(error);
        self.slots.fail();
    }
}

/// A worker's thread: whatever ends it early, nobody is left waiting.
fn work(worker: usize, shared: &Shared) {
    match catch_unwind(AssertUnwindSafe(|| Worker::new(worker, shared).run())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => shared.fail(error),
        Err(panic) => shared.fail(LoaderError::Panicked { worker, message: message(&*panic) }),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests;
