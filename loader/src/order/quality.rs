//! How well an order mixes, in numbers that a perfect shuffle makes 0 or 1.

use super::{EpochOrder, Order};

/// Places that are looked at, in stretches spread evenly over the epoch.
const PROBED: u64 = 1 << 18;
/// Places of one stretch, and of one batch.
const STRETCH: u64 = 4096;
const BATCH: u64 = 256;

/// How far the epochs of an order are from a perfect shuffle of the stored order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShuffleQuality {
    /// Mean distance between a sample's place in storage and its place in the epoch, relative to the third of the set
    /// that a perfect shuffle gives: 1 is perfect, 0 is no shuffle at all.
    pub displacement: f64,
    /// Pearson's correlation between the stored places of a sample and of the next one: 0 is perfect, 1 is no shuffle.
    pub neighbour_correlation: f64,
    /// Samples of one class in a row; nothing for a set of one class, whose every sample follows one of its class.
    pub same_class_run: Option<SameClassRun>,
    /// Spread of the mean stored place of batches of 256, relative to the spread that a perfect shuffle gives: 1 is
    /// perfect; above it, what batches show wanders from batch to batch.
    pub batch_drift: f64,
}

/// Mean number of samples of one class in a row, if the set's classes are equally large and lie one after the other, as a
/// build from class folders writes them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SameClassRun {
    /// In this order.
    pub mean: f64,
    /// In a perfect shuffle.
    pub by_chance: f64,
}

impl ShuffleQuality {
    /// Looks at about 2¹⁸ places of the first epochs, whatever the size of the set; `classes` classes of equal size.
    pub fn of(order: &Order, classes: u64) -> ShuffleQuality {
        let samples = order.samples(0);
        let classes = classes.clamp(1, samples);
        let stretches = (PROBED / STRETCH).min(samples.div_ceil(STRETCH)).max(1);
        let mut sums = Sums::default();
        // Small sets are looked at in many epochs, so that chance evens out.
        for epoch in 0..(PROBED / samples).clamp(1, 256) {
            let epoch = order.epoch(epoch);
            for stretch in 0..stretches {
                let start = (u128::from(samples) * u128::from(stretch) / u128::from(stretches)) as u64;
                sums.stretch(&epoch, start..(start + STRETCH).min(samples), samples, classes);
            }
        }
        sums.quality(samples, classes)
    }
}

/// What is added up over the places; stored places are taken relative to the middle of the set.
#[derive(Default)]
struct Sums {
    places: f64,
    distance: f64,
    pairs: f64,
    x: f64,
    y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
    same: f64,
    batches: f64,
    batch_means_squared: f64,
    /// Mean over the batches of `1 / batch size`.
    batch_inverse: f64,
}

impl Sums {
    fn stretch(&mut self, epoch: &EpochOrder, places: std::ops::Range<u64>, samples: u64, classes: u64) {
        let middle = (samples - 1) as f64 / 2.0;
        let class = |sample: u64| (u128::from(sample) * u128::from(classes) / u128::from(samples)) as u64;
        let mut before: Option<u64> = None;
        let (mut batch, mut in_batch) = (0.0, 0u64);
        for place in places.clone() {
            let sample = epoch.sample(place);
            let y = sample as f64 - middle;
            self.places += 1.0;
            self.distance += sample.abs_diff(place) as f64;
            if let Some(before) = before {
                let x = before as f64 - middle;
                self.pairs += 1.0;
                (self.x, self.y) = (self.x + x, self.y + y);
                (self.xx, self.yy, self.xy) = (self.xx + x * x, self.yy + y * y, self.xy + x * y);
                self.same += f64::from(u8::from(class(before) == class(sample)));
            }
            before = Some(sample);
            (batch, in_batch) = (batch + y, in_batch + 1);
            if in_batch == BATCH || (place + 1 == places.end && self.batches == 0.0) {
                let mean = batch / in_batch as f64;
                self.batches += 1.0;
                self.batch_means_squared += mean * mean;
                self.batch_inverse += 1.0 / in_batch as f64;
                (batch, in_batch) = (0.0, 0);
            }
        }
    }

    fn quality(&self, samples: u64, classes: u64) -> ShuffleQuality {
        let (n, pairs) = (samples as f64, self.pairs.max(1.0));
        let covariance = self.xy / pairs - self.x / pairs * (self.y / pairs);
        let variances =
            (self.xx / pairs - (self.x / pairs).powi(2)) * (self.yy / pairs - (self.y / pairs).powi(2));
        let run = |same: f64| 1.0 / (1.0 - same).max(f64::MIN_POSITIVE);
        // The other members of a sample's class among all other samples.
        let chance = if samples > 1 { ((n / classes as f64 - 1.0) / (n - 1.0)).max(0.0) } else { 0.0 };
        // The middle of the set is known, so the spread is taken around it. Drawn without putting back, a batch of B
        // out of n has a mean of variance (n² - 1) / 12 / B * (n - B) / (n - 1).
        let inverse = self.batch_inverse / self.batches.max(1.0);
        let perfect = (n * n - 1.0) / 12.0 * (inverse - 1.0 / n) * n / (n - 1.0).max(1.0);
        let spread = self.batch_means_squared / self.batches.max(1.0);
        ShuffleQuality {
            displacement: self.distance
                / self.places.max(1.0)
                / ((n * n - 1.0) / (3.0 * n)).max(f64::MIN_POSITIVE),
            neighbour_correlation: if variances > 0.0 { covariance / variances.sqrt() } else { 0.0 },
            same_class_run: (classes > 1).then(|| SameClassRun {
                mean: run((self.same / pairs).min(1.0 - 1.0 / (pairs + 1.0))),
                by_chance: run(chance.min(1.0 - 1.0 / n)),
            }),
            batch_drift: if perfect > 0.0 { (spread / perfect).sqrt() } else { 1.0 },
        }
    }
}
