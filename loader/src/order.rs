//! The global order: a pure function from a position in the run to one view of one sample.
//!
//! Nothing here knows of workers, nodes or batches in flight, so nothing of them can change the order: the
//! state of a run is one integer. Memory is a few dozen bytes at any number of samples.

use beit_views::{Purpose, SeedKey};

/// Rounds of the permutation; four already suffice against distinguishers of this size, the rest is margin.
const ROUNDS: usize = 8;

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

/// The order of a whole run over a set of fixed size.
///
/// Positions are counted from 0 and never end; each stretch of `samples` positions is one epoch and holds every
/// sample exactly once. Every epoch has a permutation of its own, drawn from `(seed, epoch)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    samples: u64,
    views: u32,
}

impl Order {
    /// # Panics
    /// when `samples` or `views` is 0; `Loader::start` refuses both with an error before it comes here
    pub fn new(seed: u64, samples: u64, views: u32) -> Order {
        assert!(samples > 0 && views > 0, "an order needs samples and views");
        Order { seed, samples, views }
    }

    /// Samples of one epoch.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Looks up one position of the run.
    pub fn at(&self, position: u64) -> Placed {
        let epoch = position / self.samples;
        let place = position % self.samples;
        Placed { epoch, place, sample: self.epoch(epoch).sample(place), view: self.view(epoch) }
    }

    /// The view that every sample shows in `epoch`.
    pub fn view(&self, epoch: u64) -> u32 {
        (epoch % u64::from(self.views)) as u32
    }

    /// The permutation of one epoch; keep it while positions stay within the epoch.
    pub fn epoch(&self, epoch: u64) -> EpochOrder {
        let mut draws = SeedKey { seed: self.seed, stream: epoch, index: 0, purpose: Purpose::Order }.draws();
        let keys = std::array::from_fn(|_| draws.u64());
        let tall = self.samples.isqrt().max(self.samples.min(2));
        let wide = self.samples.div_ceil(tall);
        EpochOrder { epoch, samples: self.samples, tall, wide, keys }
    }
}

/// The permutation of one epoch.
///
/// A Feistel network whose halves are the row and the column of a `tall` × `wide` table just large enough for
/// the samples, so that at most one row of cells is empty and the walk past empty cells is rarely taken.
///
/// # Source
/// J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: the generalised Feistel network
/// and cycle walking. The round function is MurmurHash3's 64-bit finaliser; its keys come from Philox.
#[derive(Clone, Copy, Debug)]
pub struct EpochOrder {
    epoch: u64,
    samples: u64,
    tall: u64,
    wide: u64,
    keys: [u64; ROUNDS],
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
        let mut cell = self.forward(place);
        while cell >= self.samples {
            cell = self.forward(cell);
        }
        cell
    }

    /// The place at which `sample` comes in the epoch: the inverse of [`EpochOrder::sample`].
    ///
    /// # Panics
    /// when `sample` is not below the number of samples
    pub fn place(&self, sample: u64) -> u64 {
        assert!(sample < self.samples, "sample {sample} of a set of {} samples", self.samples);
        let mut cell = self.backward(sample);
        while cell >= self.samples {
            cell = self.backward(cell);
        }
        cell
    }

    fn forward(&self, cell: u64) -> u64 {
        let (mut row, mut column) = (cell / self.wide, cell % self.wide);
        for pair in self.keys.chunks_exact(2) {
            row = add(row, shift(column, pair[0], self.tall), self.tall);
            column = add(column, shift(row, pair[1], self.wide), self.wide);
        }
        row * self.wide + column
    }

    fn backward(&self, cell: u64) -> u64 {
        let (mut row, mut column) = (cell / self.wide, cell % self.wide);
        for pair in self.keys.chunks_exact(2).rev() {
            column = add(column, self.wide - shift(row, pair[1], self.wide), self.wide);
            row = add(row, self.tall - shift(column, pair[0], self.tall), self.tall);
        }
        row * self.wide + column
    }
}

/// `a + b` modulo `size`, for `a < size` and `b <= size`.
fn add(a: u64, b: u64, size: u64) -> u64 {
    let sum = a + b;
    if sum >= size { sum - size } else { sum }
}

/// A keyed shift in `0..size`: the hash read as a fraction of 2^64.
fn shift(half: u64, key: u64, size: u64) -> u64 {
    ((u128::from(mix(half ^ key)) * u128::from(size)) >> 64) as u64
}

/// MurmurHash3's 64-bit finaliser (Austin Appleby, public domain).
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
#[path = "order/tests.rs"]
mod tests;
