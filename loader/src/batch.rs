//! What a rank sees: its batches, one after the other.

use crate::error::LoaderError;
use crate::loader::Shared;
use crate::slot::{Consumer, Full};
use beit_shards::SampleId;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use xxhash_rust::xxh3::Xxh3Default;

/// The batches of one rank, in the order of their steps. Dropping it hangs up; the loader stops when all ranks have.
pub struct RankBatches {
    shared: Arc<Shared>,
    consumer: Consumer,
}

impl RankBatches {
    pub(crate) fn new(shared: Arc<Shared>, consumer: Consumer) -> RankBatches {
        RankBatches { shared, consumer }
    }

    /// The next batch; blocks, without using the processor, until it is complete.
    ///
    /// # Errors
    /// whatever ended the run; batches completed before are still handed out, unless the loader was stopped
    #[expect(
        clippy::should_implement_trait,
        reason = "a batch borrows from here, which an iterator's items cannot"
    )]
    pub fn next(&mut self) -> Result<Batch<'_>, LoaderError> {
        let shared = &*self.shared;
        if !shared.slots.is_ready(&self.consumer) {
            let started = Instant::now();
            let waited = shared.slots.wait_for(&self.consumer);
            let stats = &shared.stats.ranks[self.consumer.rank()];
            stats.wait_ns.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
            waited.map_err(|over| shared.error(over))?;
        }
        let full = shared.slots.take(&mut self.consumer).map_err(|over| shared.error(over))?;
        Ok(Batch { shared, full })
    }

    /// Whether the next batch is complete, so that [`next`](RankBatches::next) will not block.
    pub fn is_ready(&self) -> bool {
        self.shared.slots.is_ready(&self.consumer)
    }

    /// The rank, counted over all nodes.
    pub fn rank(&self) -> u32 {
        self.shared.options.ranks.start + self.consumer.rank() as u32
    }
}

impl Drop for RankBatches {
    fn drop(&mut self) {
        self.shared.slots.close(&self.consumer);
    }
}

impl fmt::Debug for RankBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RankBatches").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

/// One batch, in the loader's own memory; dropping it gives that memory back to the workers.
pub struct Batch<'a> {
    shared: &'a Shared,
    full: Full<'a>,
}

impl Batch<'_> {
    /// The step it is for, counted from 0 over the whole run.
    pub fn step(&self) -> u64 {
        self.full.step()
    }

    /// The epoch of its first sample.
    pub fn epoch(&self) -> u64 {
        self.shared.order.place(self.shared.position(self.full.rank(), self.full.step(), 0)).0
    }

    /// Red, green and blue of each pixel of each view: `[B, S, S, 3]`.
    pub fn pixels(&self) -> &[u8] {
        self.full.pixels()
    }

    /// The views that tokens are to be made from, `[B, T, T, 3]`; empty unless [`fresh_views`](crate::Options::fresh_views).
    pub fn token_pixels(&self) -> &[u8] {
        self.full.token_pixels()
    }

    /// The token of each patch: `[B, N]`, row-major over the grid, each below the tokenizer's vocabulary.
    pub fn tokens(&self) -> &[u16] {
        self.full.tokens()
    }

    /// Whether each patch is hidden: `[B, N]`, 1 = hidden, 0 = seen.
    pub fn mask(&self) -> &[u8] {
        self.full.mask()
    }

    /// Whose views these are: `[B]`.
    pub fn ids(&self) -> &[SampleId] {
        self.full.ids()
    }

    /// A number that stands for everything in the batch, in its order; equal for equal batches on any machine.
    ///
    /// XXH3-128 over step, ids, tokens, mask and pixels, numbers in little-endian order.
    pub fn digest(&self) -> u128 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.step().to_le_bytes());
        self.ids().iter().for_each(|id| hash.update(&id.0.to_le_bytes()));
        self.tokens().iter().for_each(|token| hash.update(&token.to_le_bytes()));
        hash.update(self.mask());
        hash.update(self.pixels());
        hash.digest128()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.shared.stats.ranks[self.full.rank()].consumed.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (step, samples) = (self.step(), self.ids().len());
        f.debug_struct("Batch").field("step", &step).field("samples", &samples).finish_non_exhaustive()
    }
}
