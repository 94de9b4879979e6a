//! Audit: whether a run has seen every sample of every epoch once, whatever happened to it meanwhile.
//!
//! A run's `log.jsonl` has a number for each step that stands for the samples it saw, their places, tokens and masks. An audit
//! goes through the run's order again, from its first step, with a loader that nothing disturbs, and compares.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use beit_loader::Loader;
use beit_shards::ShardSet;
use serde::Serialize;

use crate::checkpoint;
use crate::error::{TrainError, io};
use crate::generation::Generations;
use crate::plan::{Plan, open_set};
use crate::ranks::World;
use crate::run::trace;

/// Steps and samples that are listed by name; the counts go on.
const NAMED: usize = 10;

/// What is to be audited.
#[derive(Clone, Debug)]
pub struct AuditAsk {
    /// A run directory; it is audited up to its newest checkpoint.
    pub run: PathBuf,
    /// Its shards, if they are no longer where the run found them.
    pub shards: Option<PathBuf>,
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Steps from the run's first to its newest checkpoint.
    pub steps: u64,
    /// Steps that were computed more than once, because a start went on from an older checkpoint.
    pub computed_again: u64,
    /// Steps that the log does not have.
    pub missing: u64,
    /// Steps that saw other samples, tokens or masks than the order says; of those computed again, the last time counts.
    pub different: u64,
    /// Steps that saw others at first, in a life whose steps were thrown away: the data set had grown in between.
    pub changed: u64,
    /// The first steps that are missing or different, counted from 1.
    pub wrong_steps: Vec<u64>,
    /// Epochs that were seen from their beginning to their end.
    pub whole_epochs: u64,
    /// Samples shown in them.
    pub samples: u64,
    /// Samples of whole epochs that were not shown in theirs, though nothing is wrong with them.
    pub lost: u64,
    /// Samples that were shown a second time in their epoch, though they stand in for no corrupt one.
    pub repeated: u64,
    /// Times that another sample stood in for a corrupt one in whole epochs.
    pub replaced: u64,
    /// How many samples are corrupt.
    pub corrupt: u64,
    /// The first samples that were lost, by their ids in hex.
    pub lost_samples: Vec<String>,
}

impl Audit {
    /// Whether every step saw what it should, and every sample was shown once in each whole epoch.
    pub fn passed(&self) -> bool {
        self.missing == 0 && self.different == 0 && self.lost == 0 && self.repeated == 0
    }
}

/// Goes through a run's order again and compares it with the run's log. Decodes every view once more, so it takes the time that
/// the run's loader took.
///
/// # Errors
/// no checkpoint to say what the run was; its log or its shards can't be read; shards of another data set
pub fn audit(ask: &AuditAsk) -> Result<Audit, TrainError> {
    let no_checkpoint = || TrainError::Plan(format!("{} has no checkpoint to audit", ask.run.display()));
    let state = checkpoint::peek(&ask.run).ok_or_else(no_checkpoint)?;
    let mut plan: Plan = serde_json::from_value(state.plan.clone()).map_err(|error| TrainError::Damaged {
        checkpoint: ask.run.join("checkpoints"),
        reason: format!("its plan can't be understood: {error}"),
    })?;
    if let Some(shards) = &ask.shards {
        plan.shards.clone_from(shards);
    }
    plan.world = World::inside(plan.world.size); // all ranks here, wherever they were
    let seen = read_log(&ask.run.join("log.jsonl"))?;
    let set = open_set(&plan.shards, plan.recipe.io())?;
    let generations = Generations::resumed(&state.generations, &set)
        .ok_or_else(|| TrainError::Plan(format!("{} is not what this run saw", plan.shards.display())))?;
    let ids = (0..set.len()).map(|sample| id_of(&set, sample)).collect::<Result<Vec<u64>, _>>()?;

    let mut audit = Audit { steps: state.step, ..Audit::default() };
    let mut epochs = Epochs::default();
    let data = |error| TrainError::Data(Box::new(error));
    let corrupt = Arc::new(Mutex::new(BTreeSet::new()));
    let on_corrupt: Option<beit_loader::OnCorrupt> = Some(Arc::new({
        let (corrupt, ids) = (corrupt.clone(), ids.clone());
        move |record| {
            corrupt.lock().unwrap_or_else(|held| held.into_inner()).insert(ids[record.sample as usize]);
        }
    }));
    let options = beit_loader::Options {
        generations: generations.plain(),
        max_corrupt: set.len(), // the run has judged that
        on_corrupt,
        ..plan.loader_options(Arc::new(set), 0)
    };
    let mut loader = Loader::start(options).map_err(data)?;
    let mut ranks: Vec<_> = plan.world.ranks().map(|rank| loader.take_rank(rank)).collect();
    for step in 0..state.step {
        let mut sum = 0.0;
        for batches in &mut ranks {
            let first = u64::from(batches.rank()) * u64::from(plan.recipe.rank_batch());
            let batch = batches.next().map_err(data)?;
            sum += trace::part(&batch, first);
            for (place, id) in (first..).zip(batch.ids()) {
                epochs.see(generations.epoch(step * plan.global_batch + place), id.0);
            }
        }
        audit.compare(step + 1, seen.get(&(step + 1)), &trace::text(sum));
    }
    drop(ranks);
    loader.stop();
    let corrupt = corrupt.lock().unwrap_or_else(|held| held.into_inner());
    audit.corrupt = corrupt.len() as u64;
    epochs.judge(&generations, &ids, &corrupt, &mut audit);
    Ok(audit)
}

fn id_of(set: &ShardSet, sample: u64) -> Result<u64, TrainError> {
    let entry = set.locate(sample).and_then(|(shard, record)| shard.entry(record));
    entry.map(|entry| entry.id.0).map_err(|error| TrainError::Data(Box::new(error)))
}

impl Audit {
    fn compare(&mut self, step: u64, seen: Option<&Vec<String>>, expected: &str) {
        let wrong = match seen {
            None => {
                self.missing += 1;
                true
            }
            Some(seen) => {
                let different = seen.last().is_none_or(|seen| seen != expected);
                self.computed_again += u64::from(seen.len() > 1);
                self.different += u64::from(different);
                self.changed += u64::from(!different && seen.iter().any(|seen| seen != expected));
                different
            }
        };
        if wrong && self.wrong_steps.len() < NAMED {
            self.wrong_steps.push(step);
        }
    }
}

/// How often each sample was shown in each epoch.
#[derive(Debug, Default)]
struct Epochs(BTreeMap<u64, HashMap<u64, u64>>);

impl Epochs {
    fn see(&mut self, epoch: u64, id: u64) {
        *self.0.entry(epoch).or_default().entry(id).or_default() += 1;
    }

    /// Holds the epochs that were seen whole against the samples that they have.
    fn judge(self, generations: &Generations, ids: &[u64], corrupt: &BTreeSet<u64>, audit: &mut Audit) {
        for (epoch, shown) in &self.0 {
            let samples = generations.samples_in(*epoch);
            if shown.values().sum::<u64>() != samples {
                continue; // the last one, under way
            }
            let there = &ids[..(samples as usize).min(ids.len())];
            let absent: Vec<u64> = there.iter().filter(|id| !shown.contains_key(id)).copied().collect();
            let lost: Vec<u64> = absent.iter().filter(|id| !corrupt.contains(id)).copied().collect();
            let again: u64 = shown.values().map(|times| times - 1).sum();
            let stand_ins = (absent.len() - lost.len()) as u64;
            audit.whole_epochs += 1;
            audit.samples += samples;
            audit.replaced += stand_ins;
            audit.lost += lost.len() as u64;
            audit.repeated += again.saturating_sub(stand_ins);
            let room = NAMED - audit.lost_samples.len();
            audit.lost_samples.extend(lost.iter().take(room).map(|id| format!("{id:016x}")));
        }
    }
}

/// The numbers that the log has of each step, counted from 1; more than one where a step was computed again.
fn read_log(path: &Path) -> Result<BTreeMap<u64, Vec<String>>, TrainError> {
    let mut seen: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in BufReader::new(File::open(path).map_err(io("opening", path))?).split(b'\n') {
        let line = line.map_err(io("reading", path))?;
        // A killed trainer leaves half a line; events are no steps.
        let Ok(line) = serde_json::from_slice::<serde_json::Value>(&line) else { continue };
        if let (Some(step), Some(batch)) = (line["step"].as_u64(), line["batch"].as_str()) {
            seen.entry(step).or_default().push(batch.to_owned());
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests;
