//! Set: the shards of one directory as one sequence of samples.

use crate::digest::Digest;
use crate::error::ShardError;
use crate::manifest::Manifest;
use crate::sample::{ReadBuf, SampleRef};
use crate::shard::Shard;
use crate::source::Io;
use crate::spec::SetSpec;
use std::path::{Path, PathBuf};

/// All shards of a published set, open for reading from any number of threads.
#[derive(Debug)]
pub struct ShardSet {
    dir: PathBuf,
    manifest: Manifest,
    digest: Digest,
    shards: Vec<Shard>,
    /// Global index of each shard's first sample, and at the end the number of samples.
    starts: Vec<u64>,
}

impl ShardSet {
    /// Opens the set in `dir`: checks the manifest, and of each shard its length, its footer and that it is the one
    /// the set was published with.
    ///
    /// # Errors
    /// [`ShardError::Unfinished`] for a directory without a manifest, [`ShardError::Digest`] for a shard that is not
    /// the published one, [`ShardError::MixedSpecs`], and those of [`Manifest::read`] and [`Shard::open`]
    pub fn open(dir: &Path, io: Io) -> Result<Self, ShardError> {
        let manifest = Manifest::read(dir)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        let mut starts = vec![0];
        let mut samples = 0;
        for info in &manifest.shards {
            let shard = manifest.open_shard(dir, info, io)?;
            samples += shard.len();
            starts.push(samples);
            shards.push(shard);
        }
        Ok(Self { dir: dir.to_owned(), digest: manifest.digest(), manifest, shards, starts })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Samples of all shards.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.manifest.samples()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class names; a label is a position in this list.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.manifest.classes
    }

    /// What all samples have in common.
    #[must_use]
    pub fn spec(&self) -> &SetSpec {
        &self.manifest.spec
    }

    /// BLAKE3 that stands for the whole set: spec, classes and every byte of every shard.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What the manifest says.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The shards, in the order of their samples.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard of sample `index`, and the record within it; O(log shards).
    ///
    /// # Errors
    /// [`ShardError::OutOfRange`]
    pub fn locate(&self, index: u64) -> Result<(&Shard, u64), ShardError> {
        let after = self.starts.partition_point(|&start| start <= index);
        // starts[0] is 0, so `after` is at least 1; empty shards share a start and the last of them wins.
        match self.shards.get(after - 1) {
            Some(shard) => Ok((shard, index - self.starts[after - 1])),
            None => {
                let (path, count) = (self.dir.clone(), self.len());
                Err(ShardError::OutOfRange { path, what: "samples", asked: index, count })
            }
        }
    }

    /// Index over all shards of record `record` of shard number `shard` in the manifest, as a
    /// [`CatalogEntry`](crate::CatalogEntry) names them; `None` when there is no such record.
    #[must_use]
    pub fn index_of(&self, shard: u32, record: u64) -> Option<u64> {
        let start = self.starts.get(shard as usize)?;
        (record < self.shards.get(shard as usize)?.len()).then_some(start + record)
    }

    /// Reads sample `index` (over all shards) with its view `view`; everything returned was verified by this call.
    ///
    /// # Errors
    /// those of [`Shard::read`]
    pub fn read<'a>(
        &'a self,
        index: u64,
        view: u32,
        buf: &'a mut ReadBuf,
    ) -> Result<SampleRef<'a>, ShardError> {
        let (shard, record) = self.locate(index)?;
        shard.read(record, view, buf)
    }

    /// Asks the kernel to fetch sample `index` with its view `view` soon; a hint that never fails.
    pub fn will_need(&self, index: u64, view: u32) {
        if let Ok((shard, record)) = self.locate(index) {
            shard.will_need(record, view);
        }
    }
}
