//! Supply: the loader of this process's ranks, which gives way to a new one where the data set has grown.
//!
//! ```text
//!  manifest.txt changes ─▶ rank 0 notices ─▶ all ranks agree at a step ─▶ before the batch that reaches into the next epoch:
//!  ranks hand back their batches, the last one opens the set and starts the new loader, all take batches again
//! ```
//! Whatever the old loader had made ready beyond that step is thrown away: a batch follows from its step alone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use beit_loader::{Loader, LoaderStats, RankBatches};
use beit_shards::{MANIFEST_FILE, ShardSet};
use serde_json::json;

use crate::error::TrainError;
use crate::generation::Generations;
use crate::log::Log;
use crate::plan::{Plan, open_set};

/// How often the manifest is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Supply {
    state: Mutex<State>,
    exchanged: Condvar,
    watch: Mutex<Watch>,
}

struct State {
    /// `None` only when no loader could be started again.
    loader: Option<Loader>,
    set: Arc<ShardSet>,
    generations: Generations,
    /// Ranks that wait for the others to hand back their batches.
    waiting: u32,
    /// Exchanges so far.
    exchanges: u64,
}

/// Whether the set on disk has changed since somebody looked.
struct Watch {
    /// `None`: the ranks of this run are spread over processes, which would not notice at the same time.
    manifest: Option<PathBuf>,
    known: Option<Stamp>,
    looked: Instant,
    grown: bool,
}

/// Tells one published file from the next of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    inode: u64,
    bytes: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(path).ok()?;
        Some(Stamp { modified: data.modified().ok()?, inode: data.ino(), bytes: data.len() })
    }
}

impl Supply {
    /// Starts the first loader, at `step`.
    ///
    /// # Errors
    /// those of [`Loader::start`]
    pub fn start(
        plan: &Plan,
        set: ShardSet,
        generations: Generations,
        step: u64,
    ) -> Result<Supply, TrainError> {
        let manifest = plan.shards.join(MANIFEST_FILE);
        let alone = plan.world.local == plan.world.size;
        let grown = generations.lack(&set);
        if grown && !alone {
            tracing::warn!(
                "The data set has grown; a run of several processes stays with what it began with."
            );
        }
        let watch = Watch {
            known: Stamp::of(&manifest),
            manifest: alone.then_some(manifest),
            looked: Instant::now(),
            grown: grown && alone,
        };
        let set = Arc::new(set);
        let loader = Some(start_loader(plan, &set, &generations, step, None)?);
        let state = State { loader, set, generations, waiting: 0, exchanges: 0 };
        Ok(Supply { state: Mutex::new(state), exchanged: Condvar::new(), watch: Mutex::new(watch) })
    }

    /// The loader's counters; an exchange keeps them.
    pub fn stats(&self) -> Option<Arc<LoaderStats>> {
        self.state().loader.as_ref().map(Loader::stats)
    }

    /// The batches of one local rank.
    ///
    /// # Errors
    /// there is no loader: it could not be exchanged
    pub fn take(&self, rank: u32) -> Result<RankBatches, TrainError> {
        let no_loader =
            || TrainError::Broken("the loader could not be started again; see the log".to_owned());
        Ok(self.state().loader.as_mut().ok_or_else(no_loader)?.take_rank(rank))
    }

    /// Whether the set on disk has grown; looks at most once a second.
    pub fn grown(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(|held| held.into_inner());
        if let Some(manifest) = &watch.manifest
            && !watch.grown
            && watch.looked.elapsed() >= LOOK_EVERY
        {
            let now = Stamp::of(manifest);
            watch.grown = now.is_some() && now != watch.known;
            watch.known = now;
            watch.looked = Instant::now();
        }
        watch.grown
    }

    /// The step before which the loader is to be exchanged: the first, from `step` on, whose batch reaches an epoch's end.
    pub fn exchange_at(&self, plan: &Plan, step: u64) -> u64 {
        self.state().generations.epoch_end(step * plan.global_batch) / plan.global_batch
    }

    /// Exchanges the loader before `step`; each local rank calls this, and gets its new batches.
    ///
    /// A set that cannot be used is told and left alone: the run goes on with what it has.
    ///
    /// # Errors
    /// no loader could be started at all, or a rank did not come
    pub fn exchange(
        &self,
        plan: &Plan,
        rank: u32,
        batches: RankBatches,
        step: u64,
        log: &Log,
    ) -> Result<RankBatches, TrainError> {
        drop(batches);
        let mut state = self.state();
        state.waiting += 1;
        if state.waiting == plan.world.local {
            state.waiting = 0;
            state.exchanges += 1;
            let started = state.exchange(plan, step, log);
            self.watch.lock().unwrap_or_else(|held| held.into_inner()).grown = false;
            self.exchanged.notify_all();
            drop(state);
            started?;
        } else {
            let round = state.exchanges;
            let timeout = Duration::from_secs(plan.recipe.collective_timeout_s);
            let waited = self.exchanged.wait_timeout_while(state, timeout, |state| state.exchanges == round);
            let (state, waited) = waited.unwrap_or_else(|held| held.into_inner());
            drop(state);
            if waited.timed_out() {
                return Err(TrainError::Broken(
                    "another rank did not come to exchange the loader".to_owned(),
                ));
            }
        }
        self.take(rank)
    }

    /// The set, as the loader has it.
    pub fn set(&self) -> Arc<ShardSet> {
        self.state().set.clone()
    }

    /// What the order of the run is made of.
    pub fn generations(&self) -> Generations {
        self.state().generations.clone()
    }

    /// Ends the workers.
    pub fn stop(&self) {
        if let Some(loader) = &mut self.state().loader {
            loader.stop();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl State {
    fn exchange(&mut self, plan: &Plan, step: u64, log: &Log) -> Result<(), TrainError> {
        let stats = self.loader.take().map(|loader| loader.stats()); // and its workers have ended
        match self.look(plan, step) {
            Ok(Some((set, generations))) => {
                let (samples, shards) = (set.len(), set.shards().len());
                tracing::info!(
                    step,
                    samples,
                    shards,
                    "The data set has grown: new samples join the next epoch."
                );
                log.event("grown", json!({ "step": step, "samples": samples, "shards": shards }));
                (self.set, self.generations) = (Arc::new(set), generations);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(step, %error, "The data set has changed and cannot be used; going on with what there was.");
                log.event("not_grown", json!({ "step": step, "error": error.to_string() }));
            }
        }
        self.loader = Some(start_loader(plan, &self.set, &self.generations, step, stats)?);
        Ok(())
    }

    /// The set as it is now, if it has more samples.
    fn look(&self, plan: &Plan, step: u64) -> Result<Option<(ShardSet, Generations)>, TrainError> {
        let set = open_set(&plan.shards, plan.recipe.io())?;
        let mut generations = self.generations.clone();
        if !generations.lack(&set) {
            return Ok(None);
        }
        generations.grow(&set, step * plan.global_batch)?;
        Ok(Some((set, generations)))
    }
}

fn start_loader(
    plan: &Plan,
    set: &Arc<ShardSet>,
    generations: &Generations,
    step: u64,
    stats: Option<Arc<LoaderStats>>,
) -> Result<Loader, TrainError> {
    let options = plan.loader_options(set.clone(), step);
    let options = beit_loader::Options { generations: generations.plain(), stats, ..options };
    Loader::start(options).map_err(|error| TrainError::Data(Box::new(error)))
}
