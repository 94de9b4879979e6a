//! Records that could not be read: each is named once, counted by reason, and held against the budget.

use beit_shards::{SampleId, ShardSet};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many records are kept by name; the counts go on.
const NAMED: usize = 100;

/// One record that could not be read or decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptRecord {
    /// Index of the sample in the set.
    pub sample: u64,
    /// The shard it lies in.
    pub shard: PathBuf,
    /// Number of the record within the shard.
    pub record: u64,
    /// The sample's id, if the shard's index still tells.
    pub id: Option<SampleId>,
    /// The source image's path within its source, if the shard still tells.
    pub path: Option<String>,
    /// One word of a small closed set, for counters.
    pub reason: &'static str,
    /// What is wrong, for people.
    pub message: String,
}

impl fmt::Display for CorruptRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of {}", self.record, self.shard.display())?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl CorruptRecord {
    /// Finds out what is still known about a sample that could not be read.
    pub(crate) fn of(set: &ShardSet, sample: u64, reason: &'static str, message: String) -> CorruptRecord {
        let Ok((shard, record)) = set.locate(sample) else {
            let shard = set.dir().to_owned();
            return CorruptRecord { sample, shard, record: sample, id: None, path: None, reason, message };
        };
        let mut path = None;
        // A damaged list of names only costs us the name.
        let _ = shard.for_each_name(|index, _, _, name| {
            if index == record {
                path = Some(name.to_owned());
            }
            Ok(())
        });
        let id = shard.entry(record).ok().map(|entry| entry.id);
        CorruptRecord { sample, shard: shard.path().to_owned(), record, id, path, reason, message }
    }
}

/// The corrupt records of one run. The lock is taken only when a record is corrupt.
#[derive(Debug, Default)]
pub struct CorruptStats {
    replaced: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    samples: BTreeSet<u64>,
    reasons: BTreeMap<&'static str, u64>,
    named: Vec<CorruptRecord>,
}

impl CorruptStats {
    /// How often another sample was shown in place of a corrupt one; a record counts once per epoch.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Different corrupt records met so far; what the budget is held against.
    pub fn records(&self) -> u64 {
        self.seen().samples.len() as u64
    }

    /// Different corrupt records by reason, sorted by reason.
    pub fn by_reason(&self) -> Vec<(&'static str, u64)> {
        self.seen().reasons.iter().map(|(&reason, &count)| (reason, count)).collect()
    }

    /// The first hundred corrupt records, in the order in which they were met.
    pub fn named(&self) -> Vec<CorruptRecord> {
        self.seen().named.clone()
    }

    /// Counts one replacement; whether the record was not known before, and how many are known now.
    pub(crate) fn add(&self, set: &ShardSet, sample: u64, reason: &'static str, message: String) -> Added {
        self.replaced.fetch_add(1, Ordering::Relaxed);
        if self.seen().samples.contains(&sample) {
            return Added::Known;
        }
        // Finding the name may read much of a shard: not under the lock.
        let record = CorruptRecord::of(set, sample, reason, message);
        let mut seen = self.seen();
        if !seen.samples.insert(sample) {
            return Added::Known;
        }
        *seen.reasons.entry(reason).or_default() += 1;
        if seen.named.len() < NAMED {
            seen.named.push(record.clone());
        }
        Added::New { record: Box::new(record), found: seen.samples.len() as u64 }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`CorruptStats::add`] made of a record.
pub(crate) enum Added {
    Known,
    New { record: Box<CorruptRecord>, found: u64 },
}
