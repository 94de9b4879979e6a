//! What can go wrong between a set of shards and a batch.

use crate::corrupt::CorruptRecord;
use crate::order::Generation;
use beit_views::{MaskError, PatchGrid, ViewSpecError};
use std::ops::Range;
use std::path::PathBuf;

/// Why there is no loader, or no further batch. Cheap to clone: every rank that waits gets its own.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// Nothing to load.
    #[error("{} holds no samples; build it from at least one image", dir.display())]
    EmptySet {
        /// The set's directory.
        dir: PathBuf,
    },
    /// The model's patches and the tokenizer's tokens do not pair up.
    #[error(
        "{patches} patches but {tokens} tokens; each patch needs one: change the patch or view size, or use shards \
         whose tokenizer gives {patches}"
    )]
    GridMismatch {
        /// Patches of a view.
        patches: PatchGrid,
        /// Tokens of a view in the shards.
        tokens: PatchGrid,
    },
    /// The view cannot be cut into the patches asked for.
    #[error("a view of {view_px} px cannot be cut into {patches} patches of whole pixels; choose a multiple")]
    ViewSize {
        /// Side of the view.
        view_px: u32,
        /// Patches of a view.
        patches: PatchGrid,
    },
    /// A count that must not be zero.
    #[error("{option} is 0; it must be at least 1")]
    Zero {
        /// The option's name.
        option: &'static str,
    },
    /// Local ranks that are none, or not within the world.
    #[error("local ranks {}..{} are not some of the {world_size} ranks of the run", ranks.start, ranks.end)]
    Ranks {
        /// The local ranks asked for.
        ranks: Range<u32>,
        /// All ranks.
        world_size: u32,
    },
    /// The first step lies beyond any run.
    #[error("step {first_step} with {global_batch} samples a step is beyond what 64 bits can count")]
    TooFar {
        /// The step to start at.
        first_step: u64,
        /// Samples of a step over all ranks.
        global_batch: u64,
    },
    /// Generations that do not follow each other, or have other samples than the set.
    #[error(
        "the set has {samples} samples, which is not what the run remembers of how it grew ({generations:?}); give the run the \
         set that it began with"
    )]
    Generations {
        /// Samples of the set.
        samples: u64,
        /// What was asked for.
        generations: Vec<Generation>,
    },
    /// Windows of blocks beyond counting.
    #[error(
        "blocks of {block_samples} samples in windows of {window_blocks} are more than can be counted; lower one"
    )]
    Window {
        /// Samples of a block.
        block_samples: u64,
        /// Blocks of a window.
        window_blocks: u64,
    },
    /// The masks asked for do not fit the grid.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// The shards say in a foreign way how their views were drawn.
    #[error("the shards in {}: {cause}", dir.display())]
    ViewSpec {
        /// The set's directory.
        dir: PathBuf,
        /// What is foreign.
        cause: ViewSpecError,
    },
    /// The batch slots do not fit into memory.
    #[error(
        "no memory for {ranks} ranks with {slots} batch slots of {slot_bytes} bytes each; lower the batch size or the \
         number of slots"
    )]
    Memory {
        /// Local ranks.
        ranks: usize,
        /// Slots of each.
        slots: usize,
        /// Bytes of a slot.
        slot_bytes: u64,
    },
    /// A worker thread could not be started.
    #[error("starting loader worker {worker} of {workers} failed: {why}; lower the number of workers")]
    Spawn {
        /// Its number, from 0.
        worker: usize,
        /// How many were asked for.
        workers: usize,
        /// What the operating system said.
        why: String,
    },
    /// More records are damaged than one is willing to train without.
    #[error(
        "more corrupt records than the {max} that max_corrupt allows; the one too many is {last}. Mend the set with \
         `beit-shard repair SRC --shards DIR`, or raise max_corrupt"
    )]
    TooManyCorrupt {
        /// The budget.
        max: u64,
        /// The record that broke it.
        last: Box<CorruptRecord>,
    },
    /// Not one record of the set can be read.
    #[error("no record in {0} can be read; `beit-shard repair SRC --shards {0}` makes them again from their source",
            dir.display())]
    AllCorrupt {
        /// The set's directory.
        dir: PathBuf,
    },
    /// A bug: a worker panicked, and the run cannot go on without its sample.
    #[error("loader worker {worker} panicked: {message}; please report this")]
    Panicked {
        /// Its number, from 0.
        worker: usize,
        /// The panic's message.
        message: String,
    },
    /// The loader was stopped; there are no further batches.
    #[error("the loader was stopped")]
    Stopped,
}
