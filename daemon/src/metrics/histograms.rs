//! Histograms whose counts come from elsewhere: the worker measures, here its lives are added up.
//!
//! The `prometheus` crate's own histogram can only observe, so this is a collector that tells what it was told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beit_loader::{BOUNDS_NS, BUCKETS};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::wire::Times;

/// The histograms of one name, one for each value of its label.
#[derive(Clone, Debug)]
pub(super) struct Histograms {
    desc: Desc,
    label: Option<&'static str>,
    series: Arc<Mutex<BTreeMap<String, Series>>>,
}

/// Counts by bucket, each in its own bucket only, and their sum in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    buckets: [u64; BUCKETS],
    seconds: f64,
}

/// One histogram.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    /// Of all workers before the present one.
    before: Counts,
    /// Of the present one.
    life: Counts,
}

impl Histograms {
    pub fn new(name: &str, help: &str, label: Option<&'static str>) -> prometheus::Result<Histograms> {
        let labels = label.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        Ok(Histograms { desc, label, series: Arc::default() })
    }

    /// Makes the histogram of this value, empty.
    pub fn touch(&self, value: &str) {
        self.lock().entry(value.to_owned()).or_default();
    }

    /// A new worker counts from 0.
    pub fn begin_life(&self) {
        for series in self.lock().values_mut() {
            let Series { before, life } = series;
            before.buckets.iter_mut().zip(life.buckets).for_each(|(sum, count)| *sum += count);
            before.seconds += life.seconds;
            *life = Counts::default();
        }
    }

    /// What the present worker has measured so far; counts never fall, and buckets that are not ours are left out.
    pub fn show(&self, value: &str, times: &Times) {
        let mut all = self.lock();
        let life = &mut all.entry(value.to_owned()).or_default().life;
        for (count, told) in life.buckets.iter_mut().zip(&times.counts) {
            *count = (*count).max(*told);
        }
        life.seconds = life.seconds.max(times.seconds);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metric(&self, value: &str, series: &Series) -> Metric {
        let mut labels = Vec::new();
        if let Some(name) = self.label {
            let mut label = LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value.to_owned());
            labels.push(label);
        }
        let mut below = 0;
        let mut buckets = Vec::with_capacity(BUCKETS);
        let ends = BOUNDS_NS.iter().map(|ns| *ns as f64 / 1e9).chain([f64::INFINITY]);
        for (end, (before, life)) in ends.zip(series.before.buckets.iter().zip(&series.life.buckets)) {
            below += before + life;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(end);
            bucket.set_cumulative_count(below);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_sample_count(below);
        histogram.set_sample_sum(series.before.seconds + series.life.seconds);
        // The encoder adds the last bucket, +Inf, from the count.
        buckets.pop();
        histogram.set_bucket(buckets);
        let mut metric = Metric::from_label(labels);
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for Histograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.lock().iter().map(|(value, series)| self.metric(value, series)).collect();
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics);
        vec![family]
    }
}
