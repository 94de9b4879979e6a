//! What a loader is asked to do, checked before anything starts.

use crate::corrupt::CorruptRecord;
use crate::error::LoaderError;
use crate::order::{Generation, Shuffle};
use crate::stats::LoaderStats;
use beit_shards::ShardSet;
use beit_views::{Interpolation, MaskSpec, PatchGrid, ViewSpec};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Called once for each corrupt record, from the worker that met it.
pub type OnCorrupt = Arc<dyn Fn(&CorruptRecord) + Send + Sync>;

/// Everything a loader needs to know. Start from [`Options::new`] and change what differs.
#[derive(Clone)]
pub struct Options {
    /// The samples.
    pub shards: Arc<ShardSet>,
    /// S: side of a view in px.
    pub view_px: u32,
    /// How views are resized to `view_px`.
    pub interpolation: Interpolation,
    /// Patches of a view; must be the token grid of the shards.
    pub grid: PatchGrid,
    /// The masks to draw.
    pub mask: MaskSpec,
    /// Seed of the order and of the masks; the views have the shards' own.
    pub seed: u64,
    /// Ranks of the whole run, on all nodes.
    pub world_size: u32,
    /// The ranks this loader serves.
    pub ranks: Range<u32>,
    /// B: samples of one batch of one rank.
    pub batch_size: u32,
    /// Threads, for all local ranks together.
    pub workers: usize,
    /// Batches of each rank that may be ready or in the making; 2 or more overlap loading with training.
    pub slots: usize,
    /// The step (batch of each rank) to begin with; any step gives what an uninterrupted run would have given.
    pub first_step: u64,
    /// Different corrupt records that are replaced before the run is given up.
    pub max_corrupt: u64,
    /// How the set has grown since the run began, oldest first; empty: it is as it was.
    pub generations: Vec<Generation>,
    /// Counters that go on from an earlier loader of the same ranks; `None`: new ones.
    pub stats: Option<Arc<LoaderStats>>,
    /// How epochs are shuffled; part of what a run is, like the seed.
    pub shuffle: Shuffle,
    /// Samples, over all local ranks, that the kernel is asked to fetch ahead of their turn; 0: none. In an order of
    /// blocks that this loader serves alone, whole windows are fetched one window ahead, in the order in which they
    /// are stored, and this is for the first window only.
    pub read_ahead: u32,
    /// Every epoch shows a new view of each sample instead of the stored ones, and batches have its token view's pixels,
    /// since no tokens are stored for it. The whole image is decoded for it: slow, and for comparison with the reference.
    pub fresh_views: bool,
    /// Told of each corrupt record, once.
    pub on_corrupt: Option<OnCorrupt>,
}

impl Options {
    /// One rank of one, views of 224 px in the shards' own grid, the reference's masks, 64 samples a batch, three
    /// slots, a worker for each core, from the first step on; at most 100 corrupt records.
    pub fn new(shards: Arc<ShardSet>) -> Options {
        let (rows, cols) = shards.spec().grid;
        Options {
            shards,
            view_px: 224,
            interpolation: Interpolation::Bicubic,
            grid: PatchGrid { rows: rows.into(), cols: cols.into() },
            mask: MaskSpec::default(),
            seed: 0,
            world_size: 1,
            ranks: 0..1,
            batch_size: 64,
            workers: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            slots: 3,
            first_step: 0,
            max_corrupt: 100,
            generations: Vec::new(),
            stats: None,
            shuffle: Shuffle::Full,
            read_ahead: 64,
            fresh_views: false,
            on_corrupt: None,
        }
    }

    /// G: samples of one step, over all ranks.
    pub fn global_batch(&self) -> u64 {
        u64::from(self.world_size) * u64::from(self.batch_size)
    }

    /// Looks for contradictions; also says how the shards' views are drawn.
    pub(crate) fn check(&self) -> Result<ViewSpec, LoaderError> {
        let dir = || self.shards.dir().to_owned();
        let spec = self.shards.spec();
        if self.shards.is_empty() {
            return Err(LoaderError::EmptySet { dir: dir() });
        }
        let counts: [(&'static str, u64); 6] = [
            ("workers", self.workers as u64),
            ("batch_size", self.batch_size.into()),
            ("slots", self.slots as u64),
            ("world_size", self.world_size.into()),
            ("view_px", self.view_px.into()),
            ("the number of views in the shards", spec.views.into()),
        ];
        if let Some(&(option, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(LoaderError::Zero { option });
        }
        if self.ranks.is_empty() || self.ranks.end > self.world_size {
            return Err(LoaderError::Ranks { ranks: self.ranks.clone(), world_size: self.world_size });
        }
        let tokens = PatchGrid { rows: spec.grid.0.into(), cols: spec.grid.1.into() };
        if self.grid != tokens {
            return Err(LoaderError::GridMismatch { patches: self.grid, tokens });
        }
        // The token grid of a set is never empty, so neither side is 0 here.
        if !self.view_px.is_multiple_of(self.grid.rows) || !self.view_px.is_multiple_of(self.grid.cols) {
            return Err(LoaderError::ViewSize { view_px: self.view_px, patches: self.grid });
        }
        self.mask.check(self.grid)?;
        let global_batch = self.global_batch();
        // Room for as many steps again as have passed, and for the ring's own counting.
        if self.first_step.checked_mul(global_batch).is_none_or(|position| position > u64::MAX / 4) {
            return Err(LoaderError::TooFar { first_step: self.first_step, global_batch });
        }
        if let Shuffle::Blocks { block_samples, window_blocks } = self.shuffle {
            if block_samples == 0 || window_blocks == 0 {
                let option =
                    if block_samples == 0 { "shuffle_block_samples" } else { "shuffle_window_blocks" };
                return Err(LoaderError::Zero { option });
            }
            if block_samples.checked_mul(window_blocks).is_none_or(|samples| samples >= 1 << 62) {
                return Err(LoaderError::Window { block_samples, window_blocks });
            }
        }
        self.check_generations()?;
        spec.view_spec.parse().map_err(|source| LoaderError::ViewSpec { dir: dir(), source })
    }
}

impl Options {
    /// The generations of the set, at least one.
    pub(crate) fn generations(&self) -> Vec<Generation> {
        match self.generations.is_empty() {
            true => vec![Generation::first(self.shards.len())],
            false => self.generations.clone(),
        }
    }

    /// Each generation begins where an epoch of the one before ends, and none has samples that the set has not.
    fn check_generations(&self) -> Result<(), LoaderError> {
        let generations = self.generations();
        let sound = |generation: &Generation| (1..=self.shards.len()).contains(&generation.samples);
        let follows = |pair: &[Generation]| {
            let (before, after) = (pair[0], pair[1]);
            let positions = after.position.checked_sub(before.position);
            let epochs = after.epoch.checked_sub(before.epoch);
            matches!((positions, epochs), (Some(positions), Some(epochs))
                if epochs.checked_mul(before.samples) == Some(positions))
        };
        match generations.iter().all(sound) && generations.windows(2).all(follows) {
            true => Ok(()),
            false => Err(LoaderError::Generations { samples: self.shards.len(), generations }),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("shards", &self.shards.dir())
            .field("view_px", &self.view_px)
            .field("interpolation", &self.interpolation)
            .field("grid", &self.grid)
            .field("mask", &self.mask)
            .field("seed", &self.seed)
            .field("world_size", &self.world_size)
            .field("ranks", &self.ranks)
            .field("batch_size", &self.batch_size)
            .field("workers", &self.workers)
            .field("slots", &self.slots)
            .field("first_step", &self.first_step)
            .field("max_corrupt", &self.max_corrupt)
            .field("shuffle", &self.shuffle)
            .field("read_ahead", &self.read_ahead)
            .field("fresh_views", &self.fresh_views)
            .finish_non_exhaustive()
    }
}
