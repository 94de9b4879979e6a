//! How long something takes, each time: counts by size, which any thread may read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper ends of the buckets in ns: five to a decade (ISO 3's R5: 1, 1.6, 2.5, 4, 6.3) from 100 µs to 100 s; a quantile
/// read from them is off by a factor of 1.6 at worst. Longer times have one more bucket.
pub const BOUNDS_NS: [u64; 31] = [
    100_000,
    160_000,
    250_000,
    400_000,
    630_000,
    1_000_000,
    1_600_000,
    2_500_000,
    4_000_000,
    6_300_000,
    10_000_000,
    16_000_000,
    25_000_000,
    40_000_000,
    63_000_000,
    100_000_000,
    160_000_000,
    250_000_000,
    400_000_000,
    630_000_000,
    1_000_000_000,
    1_600_000_000,
    2_500_000_000,
    4_000_000_000,
    6_300_000_000,
    10_000_000_000,
    16_000_000_000,
    25_000_000_000,
    40_000_000_000,
    63_000_000_000,
    100_000_000_000,
];

/// Buckets of a histogram: those of [`BOUNDS_NS`] and the one above.
pub const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// Times by size. Writers never wait; a reader may see a time in its bucket and not yet in the sum.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Nothing measured.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// Adds one time.
    pub fn add(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// How many fell into each bucket, and into no smaller one.
    pub fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|at| self.counts[at].load(Relaxed))
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Relaxed))
    }
}

/// Times that one thread has measured and not yet added to a common [`Histogram`].
#[derive(Debug, Default)]
pub(crate) struct Times {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Times {
    pub fn add(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.sum_ns += ns;
    }

    pub fn flush(&mut self, histogram: &Histogram) {
        for (count, common) in self.counts.iter_mut().zip(&histogram.counts) {
            if *count > 0 {
                common.fetch_add(std::mem::take(count), Relaxed);
            }
        }
        histogram.sum_ns.fetch_add(std::mem::take(&mut self.sum_ns), Relaxed);
    }
}

/// A time belongs to the first bucket whose end it does not exceed.
fn bucket(ns: u64) -> usize {
    BOUNDS_NS.partition_point(|bound| *bound < ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        for (ns, at) in [
            (0, 0),
            (100_000, 0),
            (100_001, 1),
            (7_000_000, 10),
            (100_000_000_000, 30),
            (100_000_000_001, 31),
            (u64::MAX, 31),
        ] {
            assert_eq!(bucket(ns), at, "{ns} ns");
        }
        assert!(BOUNDS_NS.windows(2).all(|ends| ends[0] < ends[1] && 10 * ends[1] <= 17 * ends[0]));
    }

    #[test]
    fn what_threads_tally_adds_up() {
        let common = Histogram::new();
        let mut tally = Times::default();
        for ns in [50_000, 3_000_000, 4_000_000] {
            tally.add(ns);
        }
        tally.flush(&common);
        tally.flush(&common);
        common.add(Duration::from_micros(2));
        let counts = common.counts();
        assert_eq!((counts[0], counts[8], common.count()), (2, 2, 4));
        assert_eq!(common.sum(), Duration::from_micros(7052));
    }
}
