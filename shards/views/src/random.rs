//! The only random generator of the workspace: Philox 4x32-10, counter-based.
//!
//! A [`SeedKey`] names a stream of numbers; the numbers are a pure function of that name. So nothing has to be
//! saved or replayed to draw them again, and neither the number of threads nor the order of work matters.
//!
//! The packing, part of every shard's meaning and therefore fixed: the Philox key is `seed` (low word, high word); the
//! counter is `[stream low, stream high, index, purpose << 24 | block]`, with `block` counting from 0 and four output
//! words per block, taken in order. A key has 2²⁴ blocks (2²⁶ words).
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11; known answers from Random123's `kat_vectors`.

/// What the numbers of a key are for, so that two uses of one sample never share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Crop, flip and colour jitter of a view.
    View = 1,
    /// Hidden patches of a sample.
    Mask = 2,
    /// The order of samples within an epoch.
    Order = 3,
    /// Initial weights.
    Init = 4,
    /// Skipped residual branches.
    DropPath = 5,
    /// Gumbel noise of the tokenizer's training.
    Gumbel = 6,
    /// The choice of a batch.
    Batch = 7,
    /// The choice of a resampling kernel.
    Interpolation = 8,
}

/// The name of one stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeedKey {
    /// The seed of the data set or of the run.
    pub seed: u64,
    /// What is drawn for: a sample's id, a tensor's number, …
    pub stream: u64,
    /// Which draw of that stream: a view's number, an epoch, …
    pub index: u32,
    /// What the numbers are used for.
    pub purpose: Purpose,
}

impl SeedKey {
    /// The key of view `k` of a sample: what the build draws, every reader draws again.
    pub fn view(seed: u64, sample: u64, k: u32) -> Self {
        Self { seed, stream: sample, index: k, purpose: Purpose::View }
    }

    /// The numbers of this key, from the first one.
    pub fn draws(self) -> Draws {
        Draws { key: self, block: 0, words: [0; 4], used: 4 }
    }
}

/// The numbers of one [`SeedKey`], in order.
#[derive(Clone, Debug)]
pub struct Draws {
    key: SeedKey,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Draws {
    /// 32 uniform bits.
    ///
    /// # Panics
    /// after 2²⁶ words of one key: the next ones would belong to another purpose
    #[inline]
    pub fn u32(&mut self) -> u32 {
        if self.used == 4 {
            self.refill();
        }
        let word = self.words[self.used];
        self.used += 1;
        word
    }

    /// 64 uniform bits, the first word drawn in the low half.
    #[inline]
    pub fn u64(&mut self) -> u64 {
        let low = self.u32();
        u64::from(self.u32()) << 32 | u64::from(low)
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// `a + (b - a) * unit()`, as Python's `random.uniform`; `a` may exceed `b`.
    #[inline]
    pub fn uniform(&mut self, a: f64, b: f64) -> f64 {
        a + (b - a) * self.unit()
    }

    /// Uniform in `0..n`, without bias (Lemire's method with rejection).
    ///
    /// # Panics
    /// when `n` is 0
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "nothing lies below 0");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Heads or tails.
    #[inline]
    pub fn coin(&mut self) -> bool {
        self.u32() >> 31 == 1
    }

    /// Fills `out` with uniform numbers in `[0, 1)`, multiples of 2⁻²⁴, one word each.
    pub fn fill_unit_f32(&mut self, out: &mut [f32]) {
        for value in out {
            *value = (self.u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32);
        }
    }

    fn refill(&mut self) {
        assert!(self.block < 1 << 24, "a key has 2^26 words; give the rest another index");
        let SeedKey { seed, stream, index, purpose } = self.key;
        let last = u32::from(purpose as u8) << 24 | self.block;
        let counter = [stream as u32, (stream >> 32) as u32, index, last];
        self.words = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32]);
        self.block += 1;
        self.used = 0;
    }
}

/// Ten rounds of Philox 4x32.
#[inline]
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> SeedKey {
        SeedKey { seed: 7, stream: 1 << 40 | 3, index, purpose: Purpose::View }
    }

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        let check = |counter, key, expect| assert_eq!(philox4x32_10(counter, key), expect);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn a_key_is_packed_as_documented() {
        let mut draws = key(5).draws();
        let first = philox4x32_10([3, 1 << 8, 5, 1 << 24], [7, 0]);
        let second = philox4x32_10([3, 1 << 8, 5, 1 << 24 | 1], [7, 0]);
        let drawn: Vec<u32> = (0..8).map(|_| draws.u32()).collect();
        assert_eq!(drawn, [first, second].concat());
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mut draws = key(0).draws();
        let mut bins = [0u32; 16];
        for _ in 0..64_000 {
            let unit = draws.unit();
            assert!((0.0..1.0).contains(&unit));
            bins[(unit * 16.0) as usize] += 1;
        }
        let chi2: f64 = bins.iter().map(|&n| (f64::from(n) - 4000.0).powi(2) / 4000.0).sum();
        assert!(chi2 < 37.7, "chi² {chi2} of 15 degrees of freedom: p < 0.001");
    }

    #[test]
    fn below_reaches_every_value_equally_often() {
        let mut draws = key(1).draws();
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[draws.below(7) as usize] += 1;
        }
        let chi2: f64 = counts.iter().map(|&n| (f64::from(n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi2 < 22.5, "chi² {chi2} of 6 degrees of freedom: p < 0.001");
        assert_eq!((0..50).map(|_| draws.below(1)).max(), Some(0));
    }

    #[test]
    fn uniform_takes_reversed_bounds() {
        let mut draws = key(2).draws();
        for _ in 0..1000 {
            let value = draws.uniform(16.0, 3.0);
            assert!(value > 3.0 && value <= 16.0);
        }
    }

    #[test]
    fn f32_units_stay_below_one() {
        let mut out = vec![2.0f32; 100_000];
        key(3).draws().fill_unit_f32(&mut out);
        assert!(out.iter().all(|unit| (0.0..1.0).contains(unit)));
        let mean = out.iter().map(|&unit| f64::from(unit)).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
    }
}
