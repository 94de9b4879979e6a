//! The block-shuffled order: blocks of stored neighbours come in random order, and samples are shuffled within a
//! window of so many blocks. What a window needs lies in few long stretches of the shards, which a disk or a
//! network file system reads several times as fast as single records.

use super::permutation::{Keys, Permutation, Use, keys, mix};

/// The order of one epoch.
///
/// The set is cut into blocks of `block` stored neighbours, the last of which may be shorter; a permutation orders
/// them; each `window` blocks of that order are one window, within which another permutation orders the samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    samples: u64,
    block: u64,
    window: u64,
    order: Permutation,
    keys: Keys,
    /// Place of the set's last block in the order of blocks, and how many samples it lacks.
    last: u64,
    lacking: u64,
}

/// One window of an epoch of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its number within the epoch.
    pub number: u64,
    /// Its first place in the epoch.
    pub start: u64,
    /// Its samples.
    pub len: u64,
}

impl Blocks {
    pub fn new(seed: u64, epoch: u64, samples: u64, block: u64, window: u64) -> Blocks {
        let count = samples.div_ceil(block);
        let order = Permutation::new(count, keys(seed, epoch, Use::Blocks));
        Blocks {
            samples,
            block,
            window,
            order,
            keys: keys(seed, epoch, Use::Windows),
            last: order.inverse(count - 1),
            lacking: count * block - samples,
        }
    }

    pub fn sample(&self, place: u64) -> u64 {
        let window = self.window_at(place);
        self.stored(window, self.within(window).at(place - window.start))
    }

    pub fn place(&self, sample: u64) -> u64 {
        let block = self.order.inverse(sample / self.block);
        let window = self.window(block / self.window);
        let mut stored = block % self.window * self.block + sample % self.block;
        if block / self.window == self.last / self.window && block > self.last {
            stored -= self.lacking;
        }
        window.start + self.within(window).inverse(stored)
    }

    /// The window that holds a place.
    pub fn window_at(&self, place: u64) -> Window {
        let whole = self.block * self.window;
        // Windows from the one with the short block on start that much earlier.
        let number = place / whole;
        let number = if number < self.last / self.window { number } else { (place + self.lacking) / whole };
        self.window(number)
    }

    /// How many windows an epoch has.
    pub fn windows(&self) -> u64 {
        self.samples.div_ceil(self.block).div_ceil(self.window)
    }

    pub fn window(&self, number: u64) -> Window {
        let starts = |number: u64| {
            let shift = if number > self.last / self.window { self.lacking } else { 0 };
            (number * self.block * self.window).saturating_sub(shift).min(self.samples)
        };
        let start = starts(number);
        Window { number, start, len: starts(number + 1) - start }
    }

    /// Sample number `index` of a window as the window lies on disk: block after block.
    pub fn stored(&self, window: Window, index: u64) -> u64 {
        let first = window.number * self.window;
        let last = self.last.checked_sub(first).filter(|&last| last < self.window);
        // Behind the short block, counting goes on as if it were whole.
        let short_end = last.map(|last| (last + 1) * self.block - self.lacking);
        let index = if short_end.is_some_and(|end| index >= end) { index + self.lacking } else { index };
        self.order.at(first + index / self.block) * self.block + index % self.block
    }

    /// The order within a window.
    fn within(&self, window: Window) -> Permutation {
        let own = mix(window.number.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Permutation::new(window.len, self.keys.map(|key| key ^ own))
    }
}
