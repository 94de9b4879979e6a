//! Where series are made, and how those of a worker that starts at 0 again become counters that only rise.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Opts, Registry};

use super::histograms::Histograms;

/// Makes and registers series.
pub(super) struct Book {
    pub registry: Registry,
}

impl Book {
    fn add<T: Collector + Clone + 'static>(&self, series: T) -> prometheus::Result<T> {
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }

    pub fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.add(Gauge::new(name, help)?)
    }

    pub fn counter(&self, name: &str, help: &str) -> prometheus::Result<Counter> {
        self.add(Counter::new(name, help)?)
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        self.add(CounterVec::new(Opts::new(name, help), labels)?)
    }

    /// One histogram for each value of `label`, or one without a label.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        label: Option<&'static str>,
    ) -> prometheus::Result<Histograms> {
        self.add(Histograms::new(name, help, label)?)
    }
}

/// What the present worker has counted so far, by series.
#[derive(Debug, Default)]
pub(super) struct Life(Mutex<HashMap<String, f64>>);

impl Life {
    /// A new worker counts from 0.
    pub fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds what the worker has counted since its last report.
    pub fn raise(&self, series: &str, counter: &Counter, count: f64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.get(series).copied().unwrap_or(0.0);
        if count > before {
            counter.inc_by(count - before);
            seen.insert(series.to_owned(), count);
        }
    }

    /// [`Life::raise`] for the series of one label's value.
    pub fn raise_of(&self, name: &str, counters: &CounterVec, label: &str, count: f64) {
        self.raise(&format!("{name} {label}"), &counters.with_label_values(&[label]), count);
    }
}
