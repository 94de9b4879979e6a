//! Resume: what earlier runs have packed, and whether the listing still says the same.

use crate::source::Entry;
use anyhow::{Result, ensure};
use beit_shards::Covered;
use std::ops::Range;

/// What earlier runs have packed.
pub struct Resume {
    pub(super) covered: Vec<Covered>,
    /// Whether an earlier run has published the manifest.
    pub(super) complete: bool,
    /// What of the listing is this build's.
    pub(super) entries: Range<u64>,
}

impl Resume {
    /// The first entry that no finished shard covers.
    pub fn first_entry(&self) -> u64 {
        self.covered.last().map_or(self.entries.start, |last| last.first_entry + last.entries)
    }

    /// The first entry of this build.
    pub fn start(&self) -> u64 {
        self.entries.start
    }

    /// The last entry and one.
    pub fn end(&self) -> u64 {
        self.entries.end
    }

    /// Compares the listing with what finished shards were made from.
    pub fn check(&self) -> ListingCheck<'_> {
        ListingCheck { resume: self, shard: 0, stretch: blake3::Hasher::new() }
    }
}

/// The listing, checked against finished shards as it is scanned.
pub struct ListingCheck<'a> {
    resume: &'a Resume,
    shard: usize,
    stretch: blake3::Hasher,
}

impl ListingCheck<'_> {
    /// The next entry of the listing.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        if !self.resume.entries.contains(&entry.index) {
            return Ok(());
        }
        let Some(covered) = self.resume.covered.get(self.shard) else {
            ensure!(
                !self.resume.complete,
                "the source has grown since this set was finished ({} is new); build into a fresh --out",
                entry.path
            );
            return Ok(());
        };
        list(&mut self.stretch, entry);
        if entry.index + 1 == covered.first_entry + covered.entries {
            let digest = *std::mem::take(&mut self.stretch).finalize().as_bytes();
            ensure!(
                digest == covered.digest.0,
                "files were added, removed or renamed in the source since shard {} was packed (before {}); build into a \
                 fresh --out",
                self.shard,
                entry.path
            );
            self.shard += 1;
        }
        Ok(())
    }

    /// The listing's end.
    pub fn end(&self) -> Result<()> {
        ensure!(
            self.shard == self.resume.covered.len(),
            "the source has fewer images than the shards made from it; build into a fresh --out"
        );
        Ok(())
    }
}

/// One entry of a listing stretch, as digested.
pub fn list(stretch: &mut blake3::Hasher, entry: &Entry) {
    stretch.update(entry.path.as_bytes());
    stretch.update(&[0]);
    stretch.update(&entry.label.to_le_bytes());
}
