//! Saver: checkpoints are written by a thread of their own while training goes on.
//!
//! ```text
//!  rank 0:  wait for the memory ─▶ copy the weights into it ─▶ hand it over ─▶ next step        (the time it is blocked)
//!  writer:  write ─▶ sync ─▶ publish ─▶ clear away the old ─▶ hand the memory back
//! ```
//! There is memory for one snapshot, so a checkpoint waits for the one before it. A checkpoint that fails is told, counted
//! and done without; only the last one of a run is waited for, and its failure is the run's.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde_json::json;

use super::Shared;
use crate::checkpoint::{Keep, Metrics, Snapshot, State, write};
use crate::error::TrainError;
use crate::meter::EpochSums;
use crate::stats::unix_ms;
use crate::step::Replica;

/// Rank 0's end: takes snapshots.
pub(super) struct Saver {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    /// `None` while the writer has it.
    snapshot: Option<Snapshot>,
    newest: Option<PathBuf>,
    /// The failure of the newest attempt, which the writer has told.
    failed: Option<TrainError>,
}

/// The other end, in a thread of its own.
pub(super) struct Writer {
    jobs: Receiver<Job>,
    done: Sender<Done>,
}

struct Job {
    state: State,
    snapshot: Snapshot,
    blocked_s: f64,
}

struct Done {
    snapshot: Snapshot,
    published: Result<PathBuf, TrainError>,
}

/// Where the run stands, next to the weights.
pub(super) struct Standing {
    /// Steps done.
    pub step: u64,
    /// Of the newest step.
    pub metrics: Metrics,
    /// Of the epoch under way.
    pub epoch_sums: EpochSums,
}

/// Both ends; `newest` is the checkpoint the run goes on from.
pub(super) fn saver(newest: Option<PathBuf>) -> (Saver, Writer) {
    let (jobs, todo) = channel();
    let (hand_back, done) = channel();
    let saver = Saver { jobs, done, snapshot: Some(Snapshot::default()), newest, failed: None };
    (saver, Writer { jobs: todo, done: hand_back })
}

impl Saver {
    /// Copies the weights and has them written; waits only for the checkpoint before this one.
    ///
    /// # Errors
    /// The writer died. Weights that can't be copied are told and counted, like a checkpoint that can't be written.
    pub fn save(
        &mut self,
        shared: &Shared<'_>,
        replica: &Replica,
        standing: Standing,
    ) -> Result<(), TrainError> {
        let begun = Instant::now();
        shared.stats.checkpoint.begun.fetch_add(1, Relaxed);
        self.settle()?;
        let mut snapshot = self.snapshot.take().unwrap_or_default();
        let state = state(shared, replica, &standing)?;
        let taken = snapshot.take(&replica.model.state_dict(), &replica.optimizer.state());
        let blocked = begun.elapsed();
        shared.stats.checkpoint.blocked_ns.fetch_add(blocked.as_nanos() as u64, Relaxed);
        if let Err(error) = taken {
            tell_failure(shared, standing.step, &error);
            (self.snapshot, self.failed) = (Some(snapshot), Some(error));
            return Ok(());
        }
        let job = Job { state, snapshot, blocked_s: blocked.as_secs_f64() };
        self.jobs.send(job).map_err(|_| dead())
    }

    /// Waits for the newest checkpoint, and gives its place.
    ///
    /// # Errors
    /// It could not be written.
    pub fn finish(mut self, shared: &Shared<'_>) -> Result<Option<PathBuf>, TrainError> {
        let begun = Instant::now();
        self.settle()?;
        shared.stats.checkpoint.blocked_ns.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.newest),
        }
    }

    /// Waits until nothing is being written.
    ///
    /// # Errors
    /// The writer died.
    pub fn settle(&mut self) -> Result<(), TrainError> {
        if self.snapshot.is_some() {
            return Ok(());
        }
        let Done { snapshot, published } = self.done.recv().map_err(|_| dead())?;
        self.snapshot = Some(snapshot);
        match published {
            Ok(path) => (self.newest, self.failed) = (Some(path), None),
            Err(error) => self.failed = Some(error),
        }
        Ok(())
    }
}

impl Writer {
    /// Writes what comes until the other end is gone.
    pub fn work(self, shared: &Shared<'_>) {
        for Job { state, snapshot, blocked_s } in self.jobs {
            let published = publish(shared, &state, &snapshot, blocked_s)
                .inspect_err(|error| tell_failure(shared, state.step, error));
            if self.done.send(Done { snapshot, published }).is_err() {
                return; // Rank 0 has ended; it cannot need the memory any more.
            }
        }
    }
}

fn dead() -> TrainError {
    TrainError::Broken("the thread that writes checkpoints died; see the log".to_owned())
}

fn state(shared: &Shared<'_>, replica: &Replica, standing: &Standing) -> Result<State, TrainError> {
    let plan = shared.plan;
    let generations = shared.supply.generations();
    let position = standing.step * plan.global_batch;
    Ok(State {
        step: standing.step,
        position,
        epoch: generations.epoch(position),
        seed: plan.recipe.seed,
        unix_ms: unix_ms(),
        data_digest: plan.data.digest.clone(),
        tokenizer_digest: plan.data.tokenizer_digest.clone(),
        generations: generations.list().to_vec(),
        scaler: replica.scaler(),
        metrics: standing.metrics,
        epoch_sums: Some(standing.epoch_sums.clone()),
        plan: serde_json::to_value(plan)
            .map_err(|error| TrainError::Broken(format!("writing the plan: {error}")))?,
    })
}

/// Publishes a checkpoint and clears away old ones.
fn publish(
    shared: &Shared<'_>,
    state: &State,
    snapshot: &Snapshot,
    blocked_s: f64,
) -> Result<PathBuf, TrainError> {
    let Some(shelf) = &shared.shelf else {
        return Err(TrainError::Broken("rank 0 has nowhere to put checkpoints".into()));
    };
    let begun = Instant::now();
    let published = write(shelf, state, &snapshot.model, &snapshot.optimizer)?;
    let (step, bytes, seconds) = (state.step, published.bytes, begun.elapsed().as_secs_f64());
    let stats = &shared.stats.checkpoint;
    stats.step.store(step, Relaxed);
    stats.bytes.store(bytes, Relaxed);
    stats.seconds.set(seconds);
    stats.published_unix_ms.store(unix_ms(), Relaxed);
    stats.published.fetch_add(1, Relaxed);
    shared.log.event(
        "checkpoint",
        json!({ "step": step, "bytes": bytes, "seconds": seconds, "blocked_s": blocked_s }),
    );
    tracing::info!(step, bytes, seconds, blocked_s, "Checkpoint published.");
    let recipe = &shared.plan.recipe;
    if let Err(error) = shelf.prune(Keep { last: recipe.keep_last, every: recipe.keep_every_steps }, step) {
        tracing::warn!(%error, "An old checkpoint could not be removed.");
    }
    Ok(published.path)
}

fn tell_failure(shared: &Shared<'_>, step: u64, error: &TrainError) {
    shared.stats.checkpoint.failures.fetch_add(1, Relaxed);
    shared.log.event("checkpoint_failed", json!({ "step": step, "error": error.to_string() }));
    tracing::error!(step, %error, "A checkpoint could not be written; training goes on, and the older ones stay.");
}

#[cfg(test)]
mod tests;
