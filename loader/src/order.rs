//! The global order: a pure function from a position in the run to one view of one sample.
//!
//! Nothing here knows of workers, nodes or batches in flight, so nothing of them can change the order: the
//! state of a run is one integer. Memory is a few dozen bytes at any number of samples.

mod blocks;
mod permutation;
mod quality;

use blocks::Blocks;
pub(crate) use blocks::Window;
use permutation::{Permutation, Use, keys};
pub use quality::{SameClassRun, ShuffleQuality};
use std::fmt;

/// How the samples of an epoch are shuffled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shuffle {
    /// Over the whole set: each sample may come anywhere.
    #[default]
    Full,
    /// Blocks over the whole set, and samples within a window of blocks, so that disks read long stretches.
    Blocks {
        /// Stored neighbours that make a block; at least 1.
        block_samples: u64,
        /// Blocks whose samples are mixed with each other; at least 1.
        window_blocks: u64,
    },
}

impl Shuffle {
    /// Blocks of 128 samples (14 MB of ImageNet) in windows of 128.
    pub const BLOCKS: Shuffle = Shuffle::Blocks { block_samples: 128, window_blocks: 128 };
}

impl fmt::Display for Shuffle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shuffle::Full => f.pad("shuffle"),
            Shuffle::Blocks { block_samples, window_blocks } => {
                write!(f, "blocks of {block_samples} samples, shuffled in windows of {window_blocks}")
            }
        }
    }
}

/// What stands at one position of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Passes over the whole set completed before this position.
    pub epoch: u64,
    /// Place within the epoch, `0..samples`.
    pub place: u64,
    /// Index of the sample in the set, `0..samples`.
    pub sample: u64,
    /// The view to show, `0..views`: epochs take the views in turn.
    pub view: u32,
}

/// From a position on, epochs have these samples: a set may grow between two epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// First position with these samples: 0, or the end of an epoch of the generation before.
    pub position: u64,
    /// The epoch that starts there.
    pub epoch: u64,
    /// Samples of an epoch: the first ones of the set.
    pub samples: u64,
}

impl Generation {
    /// A set that was there from the start.
    pub fn first(samples: u64) -> Generation {
        Generation { position: 0, epoch: 0, samples }
    }
}

/// The order of a whole run.
///
/// Positions are counted from 0 and never end; each stretch of as many positions as there are samples is one epoch and
/// holds every sample exactly once. Every epoch has a permutation of its own, drawn from `(seed, epoch)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    /// The generation before the newest, or the newest again.
    older: Generation,
    newest: Generation,
    views: u32,
    shuffle: Shuffle,
}

impl Order {
    /// The order that is shuffled over the whole set.
    ///
    /// # Panics
    /// when `samples` or `views` is 0; `Loader::start` refuses both with an error before it comes here
    pub fn new(seed: u64, samples: u64, views: u32) -> Order {
        Order::shuffled(seed, samples, views, Shuffle::Full)
    }

    /// An order with a shuffle of choice.
    ///
    /// # Panics
    /// when any number is 0, or a window of blocks has 2⁶³ samples or more; `Loader::start` refuses that with an
    /// error before it comes here
    pub fn shuffled(seed: u64, samples: u64, views: u32, shuffle: Shuffle) -> Order {
        Order::grown(seed, &[Generation::first(samples)], views, shuffle)
    }

    /// The order of a set that has grown, from the last generation but one on; earlier positions are never asked for again.
    ///
    /// # Panics
    /// as [`Order::shuffled`], and when there is no generation
    pub fn grown(seed: u64, generations: &[Generation], views: u32, shuffle: Shuffle) -> Order {
        let (older, newest) = match *generations {
            [.., older, newest] => (older, newest),
            [only] => (only, only),
            [] => panic!("an order needs a generation of samples"),
        };
        assert!(older.samples > 0 && newest.samples > 0 && views > 0, "an order needs samples and views");
        if let Shuffle::Blocks { block_samples, window_blocks } = shuffle {
            let window = block_samples.checked_mul(window_blocks);
            assert!(window.is_some_and(|window| (1..1 << 63).contains(&window)), "{shuffle:?} is no window");
        }
        Order { seed, older, newest, views, shuffle }
    }

    /// Samples of one epoch.
    pub fn samples(&self, epoch: u64) -> u64 {
        match epoch >= self.newest.epoch {
            true => self.newest.samples,
            false => self.older.samples,
        }
    }

    /// How epochs are shuffled.
    pub fn shuffle(&self) -> Shuffle {
        self.shuffle
    }

    /// Epoch and place within it of one position of the run.
    pub fn place(&self, position: u64) -> (u64, u64) {
        let of = if position >= self.newest.position { self.newest } else { self.older };
        let since = position - of.position;
        (of.epoch + since / of.samples, since % of.samples)
    }

    /// Looks up one position of the run.
    pub fn at(&self, position: u64) -> Placed {
        let (epoch, place) = self.place(position);
        Placed { epoch, place, sample: self.epoch(epoch).sample(place), view: self.view(epoch) }
    }

    /// The view that every sample shows in `epoch`.
    pub fn view(&self, epoch: u64) -> u32 {
        (epoch % u64::from(self.views)) as u32
    }

    /// The permutation of one epoch; keep it while positions stay within the epoch.
    pub fn epoch(&self, epoch: u64) -> EpochOrder {
        let (seed, samples) = (self.seed, self.samples(epoch));
        let kind = match self.shuffle {
            Shuffle::Full => Kind::Full(Permutation::new(samples, keys(seed, epoch, Use::Samples))),
            Shuffle::Blocks { block_samples, window_blocks } => {
                // A block longer than the set is the set.
                let block = block_samples.min(samples);
                Kind::Blocks(Blocks::new(seed, epoch, samples, block, window_blocks))
            }
        };
        EpochOrder { epoch, samples, kind }
    }
}

/// An order that keeps the permutations of the epochs under way: at an epoch's end, lookups go to and fro.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epochs {
    order: Order,
    /// Epoch `e` lies at `e % 2`.
    kept: [EpochOrder; 2],
}

impl Epochs {
    pub fn new(order: Order) -> Epochs {
        Epochs { order, kept: [order.epoch(0), order.epoch(1)] }
    }

    /// See [`Order::at`].
    pub fn at(&mut self, position: u64) -> Placed {
        let (epoch, place) = self.order.place(position);
        Placed { epoch, place, sample: self.epoch(epoch).sample(place), view: self.order.view(epoch) }
    }

    /// See [`Order::view`].
    pub fn view(&self, epoch: u64) -> u32 {
        self.order.view(epoch)
    }

    /// See [`Order::epoch`].
    pub fn epoch(&mut self, epoch: u64) -> &EpochOrder {
        let kept = &mut self.kept[(epoch % 2) as usize];
        if kept.epoch != epoch {
            *kept = self.order.epoch(epoch);
        }
        kept
    }
}

/// The permutation of one epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochOrder {
    epoch: u64,
    samples: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Full(Permutation),
    Blocks(Blocks),
}

impl EpochOrder {
    /// The epoch this permutation belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The sample at `place` of the epoch.
    ///
    /// # Panics
    /// when `place` is not below the number of samples
    pub fn sample(&self, place: u64) -> u64 {
        assert!(place < self.samples, "place {place} of an epoch of {} samples", self.samples);
        match &self.kind {
            Kind::Full(permutation) => permutation.at(place),
            Kind::Blocks(blocks) => blocks.sample(place),
        }
    }

    /// The place at which `sample` comes in the epoch: the inverse of [`EpochOrder::sample`].
    ///
    /// # Panics
    /// when `sample` is not below the number of samples
    pub fn place(&self, sample: u64) -> u64 {
        assert!(sample < self.samples, "sample {sample} of a set of {} samples", self.samples);
        match &self.kind {
            Kind::Full(permutation) => permutation.inverse(sample),
            Kind::Blocks(blocks) => blocks.place(sample),
        }
    }

    /// The window of blocks that holds `place`; `None` in an order without blocks.
    pub(crate) fn window_at(&self, place: u64) -> Option<Window> {
        match &self.kind {
            Kind::Full(_) => None,
            Kind::Blocks(blocks) => Some(blocks.window_at(place)),
        }
    }

    /// Window `number` of the epoch; `None` behind the last one, and in an order without blocks.
    pub(crate) fn window(&self, number: u64) -> Option<Window> {
        match &self.kind {
            Kind::Blocks(blocks) if number < blocks.windows() => Some(blocks.window(number)),
            _ => None,
        }
    }

    /// Sample number `index` of a window as it lies on disk.
    ///
    /// # Panics
    /// in an order without blocks, which has no windows
    pub(crate) fn stored(&self, window: Window, index: u64) -> u64 {
        match &self.kind {
            Kind::Blocks(blocks) => blocks.stored(window, index),
            Kind::Full(_) => panic!("an order without blocks has no windows"),
        }
    }
}

#[cfg(test)]
#[path = "order/tests.rs"]
mod tests;
