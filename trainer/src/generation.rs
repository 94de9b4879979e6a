//! Generations of a data set that grows while it is trained on.
//!
//! `beit-shard watch` adds shards to a set and publishes its manifest anew. A run takes the samples up where an epoch ends: from
//! that position on, epochs have more samples. The list of these positions is all that the order needs, so it is saved in
//! every checkpoint; what came before is the same shards, which each entry proves by their lineage.

use beit_shards::ShardSet;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// From a position on, the set has these samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// First position of the run with these samples; the end of an epoch, or 0.
    pub position: u64,
    /// The epoch that starts there.
    pub epoch: u64,
    /// Samples of an epoch.
    pub samples: u64,
    /// Shards that hold them: the first ones of the set.
    pub shards: u64,
    /// What the set's manifest says of those shards, in hex: `beit_shards::Manifest::lineage`.
    pub lineage: String,
}

impl Generation {
    /// All of an opened set, from a position on.
    pub fn of(set: &ShardSet, position: u64, epoch: u64) -> Generation {
        let shards = set.shards().len();
        let lineage = set.manifest().lineage(shards).map(|lineage| lineage.to_string()).unwrap_or_default();
        Generation { position, epoch, samples: set.len(), shards: shards as u64, lineage }
    }

    /// Whether a set begins with the shards of this generation.
    pub fn begins(&self, set: &ShardSet) -> bool {
        let lineage = usize::try_from(self.shards).ok().and_then(|shards| set.manifest().lineage(shards));
        lineage.is_some_and(|lineage| lineage.to_string() == self.lineage)
    }

    /// For the loader.
    fn plain(&self) -> beit_loader::Generation {
        beit_loader::Generation { position: self.position, epoch: self.epoch, samples: self.samples }
    }
}

/// The generations of a run, oldest first; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations(Vec<Generation>);

impl Generations {
    /// A run that starts on a whole set.
    pub fn first(set: &ShardSet) -> Generations {
        Generations(vec![Generation::of(set, 0, 0)])
    }

    /// Those a checkpoint remembers, if there are any and a set continues all of them.
    pub fn resumed(saved: &[Generation], set: &ShardSet) -> Option<Generations> {
        let continued = !saved.is_empty() && saved.iter().all(|generation| generation.begins(set));
        continued.then(|| Generations(saved.to_vec()))
    }

    /// Oldest first.
    pub fn list(&self) -> &[Generation] {
        &self.0
    }

    /// Whether a set has samples that the newest generation lacks.
    pub fn lack(&self, set: &ShardSet) -> bool {
        self.newest().samples < set.len()
    }

    fn newest(&self) -> &Generation {
        match self.0.last() {
            Some(newest) => newest,
            None => unreachable!("a run has a generation from its start on"),
        }
    }

    /// Adds what a set has become, from the first end of an epoch at or behind `position` on.
    ///
    /// # Errors
    /// the set does not begin with the shards of the run
    pub fn grow(&mut self, set: &ShardSet, position: u64) -> Result<(), TrainError> {
        if !self.newest().begins(set) {
            return Err(TrainError::Plan(format!(
                "{} was built anew: it does not begin with the shards that this run trains on",
                set.dir().display()
            )));
        }
        let end = self.epoch_end(position);
        let epoch = self.epoch(end);
        self.0.push(Generation::of(set, end, epoch));
        Ok(())
    }

    /// The epoch that a position lies in.
    pub fn epoch(&self, position: u64) -> u64 {
        let of = self.at(position);
        of.epoch + (position - of.position) / of.samples
    }

    /// The first position at or behind `position` where an epoch ends and the next begins.
    pub fn epoch_end(&self, position: u64) -> u64 {
        let of = self.at(position);
        of.position + (position - of.position).div_ceil(of.samples) * of.samples
    }

    /// Samples of an epoch.
    pub fn samples_in(&self, epoch: u64) -> u64 {
        let found = self.0.iter().rev().find(|generation| generation.epoch <= epoch);
        found.unwrap_or_else(|| self.newest()).samples
    }

    fn at(&self, position: u64) -> &Generation {
        let found = self.0.iter().rev().find(|generation| generation.position <= position);
        found.unwrap_or_else(|| self.newest())
    }

    /// For the loader.
    pub(crate) fn plain(&self) -> Vec<beit_loader::Generation> {
        self.0.iter().map(Generation::plain).collect()
    }
}
