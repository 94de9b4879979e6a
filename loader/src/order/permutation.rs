//! A keyed permutation of `0..size` that needs no memory and can be asked for any place.

use beit_views::{Purpose, SeedKey};

/// Rounds of the permutation; four already suffice against distinguishers of this size, the rest is margin.
pub(super) const ROUNDS: usize = 8;

/// The keys of the rounds.
pub(super) type Keys = [u64; ROUNDS];

/// What the keys of an epoch are for.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// All samples.
    Samples = 0,
    /// The blocks.
    Blocks = 1,
    /// The samples within a window of blocks.
    Windows = 2,
}

/// The keys of an epoch for one use.
pub(super) fn keys(seed: u64, epoch: u64, r#use: Use) -> Keys {
    let index = r#use as u32;
    let mut draws = SeedKey { seed, stream: epoch, index, purpose: Purpose::Order }.draws();
    std::array::from_fn(|_| draws.u64())
}

/// A permutation of `0..size`.
///
/// A Feistel network whose halves are the row and the column of a `tall` × `wide` table just large enough for
/// the samples, so that at most one row of cells is empty and the walk past empty cells is rarely taken.
///
/// # Source
/// J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: the generalised Feistel network
/// and cycle walking. The round function is MurmurHash3's 64-bit finaliser; its keys come from Philox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    size: u64,
    tall: u64,
    wide: u64,
    keys: Keys,
}

impl Permutation {
    /// `size` is at least 1.
    pub fn new(size: u64, keys: Keys) -> Permutation {
        let tall = size.isqrt().max(size.min(2));
        Permutation { size, tall, wide: size.div_ceil(tall), keys }
    }

    /// What `place`, which is below `size`, goes to.
    pub fn at(&self, place: u64) -> u64 {
        self.walk(place).0
    }

    /// The same, and how many times the network was run for it.
    pub fn walk(&self, place: u64) -> (u64, u32) {
        let (mut cell, mut runs) = (self.forward(place), 1);
        while cell >= self.size {
            cell = self.forward(cell);
            runs += 1;
        }
        (cell, runs)
    }

    /// The place that goes to `value`, which is below `size`.
    pub fn inverse(&self, value: u64) -> u64 {
        let mut cell = self.backward(value);
        while cell >= self.size {
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
pub(super) fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}
