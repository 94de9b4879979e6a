//! The entries of damaged shards, found in the source again.

use super::{Run, Truth};
use crate::source::{Entry, Source};
use anyhow::Result;
use beit_shards::{Catalog, Io, Shard};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;

/// By their position: the listing of a set that was built is that of its source. Returns the entries of the source.
pub fn by_position(source: &Source, runs: &mut [Run]) -> Result<u64> {
    let first = runs.iter().map(|run| run.first).min().unwrap_or_default();
    let end = runs.iter().map(|run| run.end).max().unwrap_or_default();
    let mut listed = 0;
    source.walk(&(first..end), &mut |entry| {
        listed += 1;
        if let Some(run) = runs.iter_mut().find(|run| (run.first..run.end).contains(&entry.index)) {
            run.entries.push(entry);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(listed)
}

/// By the catalog, which knows the shard of each sample: a watched set lists what came first before what came later.
///
/// Within a shard the source's order holds. An entry that was kept out stands before the sample that follows it, unless a
/// footer says in which shard; should that be wrong, the shard comes out otherwise than it was published, and is left alone.
pub fn by_catalog(
    dir: &Path,
    source: &Source,
    set: &Truth,
    runs: &mut [Run],
    catalog: &Catalog,
) -> Result<u64> {
    let by_name: HashMap<&String, u32> = set.classes.iter().zip(0..).collect();
    let labels: Vec<Option<u32>> = source.classes().iter().map(|class| by_name.get(class).copied()).collect();
    let run_of: HashMap<usize, usize> = runs
        .iter()
        .enumerate()
        .flat_map(|(run, r)| r.shards.iter().map(move |&shard| (shard, run)))
        .collect();
    let elsewhere = kept_out_of_sound_shards(dir, set, &run_of);
    let mut found: Vec<Vec<(usize, Entry)>> = runs.iter().map(|_| Vec::new()).collect();
    let mut kept_out: Vec<Entry> = Vec::new();
    let mut listed = 0;
    source.walk(&(0..u64::MAX), &mut |mut entry| {
        listed += 1;
        let label = labels.get(entry.label as usize).copied().flatten();
        let Some(label) = label else { return Ok(ControlFlow::Continue(())) }; // a class that has come since
        entry.label = label;
        if let Some(sample) = catalog.find_path(&entry.path)? {
            let shard = sample.shard as usize;
            if let Some(&run) = run_of.get(&shard) {
                if !runs[run].quarantine_known {
                    found[run].extend(kept_out.drain(..).map(|entry| (shard, entry)));
                }
                found[run].push((shard, entry));
            }
        } else if catalog.quarantine_reason(&entry.path)?.is_some() && !elsewhere.contains(&entry.path) {
            let told = runs.iter().position(|run| run.quarantined.contains_key(&entry.path));
            match told {
                Some(run) => found[run].push((runs[run].shards[0], entry)), // a run with a readable footer is one shard
                None => kept_out.push(entry),
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(run) = runs.iter().rposition(|run| !run.quarantine_known) {
        let last = runs[run].shards.last().copied().unwrap_or_default();
        found[run].extend(kept_out.into_iter().map(|entry| (last, entry)));
    }
    for (run, mut found) in runs.iter_mut().zip(found) {
        found.sort_by_key(|(shard, _)| *shard); // stable: within a shard the source's order stays
        run.entries = found.into_iter().map(|(_, entry)| entry).collect();
        for (entry, index) in run.entries.iter_mut().zip(run.first..) {
            entry.index = index;
        }
    }
    Ok(listed)
}

/// Paths that the footers of shards outside all runs say were kept out.
fn kept_out_of_sound_shards(dir: &Path, set: &Truth, run_of: &HashMap<usize, usize>) -> HashSet<String> {
    let sound = set.shards.iter().enumerate().filter(|(number, _)| !run_of.contains_key(number));
    let shards = sound.filter_map(|(_, info)| Shard::open(&dir.join(&info.file), Io::Pread).ok());
    shards
        .flat_map(|shard| shard.footer().quarantine.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())
        .collect()
}
