//! Series of the loader.

use std::ops::Range;

use prometheus::{Counter, CounterVec, Gauge, GaugeVec};

use super::book::{Book, Life};
use super::histograms::Histograms;
use super::{REASONS, STAGES};
use crate::wire::{Planned, Sample};

#[derive(Debug)]
pub(super) struct Loader {
    queue_depth: GaugeVec,
    ready_ratio: GaugeVec,
    samples: Counter,
    records: Counter,
    bytes: Counter,
    cpu_seconds: Counter,
    replaced: Counter,
    stage_seconds: CounterVec,
    corrupt: CounterVec,
    corrupt_budget: Gauge,
    decode: Histograms,
}

impl Loader {
    pub fn new(book: &Book, ranks: Range<u32>) -> prometheus::Result<Loader> {
        let loader = Loader {
            queue_depth: book.gauges(
                "beit_loader_queue_depth_batches",
                "Batches ready and waiting for a rank.",
                &["rank"],
            )?,
            ready_ratio: book.gauges(
                "beit_loader_ready_ratio",
                "Batches ready for a rank as a share of those its ring can hold.",
                &["rank"],
            )?,
            samples: book.counter("beit_loader_samples_total", "Samples the loader has made ready.")?,
            records: book.counter("beit_loader_records_total", "Records read whose checksums hold.")?,
            bytes: book.counter(
                "beit_loader_payload_bytes_total",
                "Bytes of the payloads that samples were made of.",
            )?,
            cpu_seconds: book
                .counter("beit_loader_cpu_seconds_total", "Processor time of the loader's threads.")?,
            replaced: book.counter(
                "beit_loader_replaced_samples_total",
                "Times that another sample stood in for a corrupt one; a record counts once per epoch.",
            )?,
            stage_seconds: book.counters(
                "beit_loader_stage_seconds_total",
                "Time of the loader's threads by stage, summed over threads; idle: waiting for a free slot.",
                &["stage"],
            )?,
            corrupt: book.counters(
                "beit_loader_corrupt_samples_total",
                "Different records that could not be used and were replaced, by reason; each worker counts anew.",
                &["reason"],
            )?,
            corrupt_budget: book.gauge(
                "beit_loader_corrupt_budget_samples",
                "Different corrupt records that a worker replaces before the run is given up.",
            )?,
            decode: book.histograms(
                "beit_loader_decode_seconds",
                "Making one view's pixels from its payload: decode, jitter, flip and resize.",
                None,
            )?,
        };
        // A series that appears with its first failure hides that failure from rate().
        for rank in ranks {
            let _ = loader.queue_depth.with_label_values(&[rank.to_string()]);
            let _ = loader.ready_ratio.with_label_values(&[rank.to_string()]);
        }
        STAGES.iter().for_each(|stage| drop(loader.stage_seconds.with_label_values(&[stage])));
        REASONS.iter().for_each(|reason| drop(loader.corrupt.with_label_values(&[reason])));
        loader.decode.touch("");
        Ok(loader)
    }

    pub fn planned(&self, plan: &Planned) {
        self.corrupt_budget.set(plan.max_corrupt_samples as f64);
    }

    /// A new worker measures from 0.
    pub fn begin_life(&self) {
        self.decode.begin_life();
    }

    pub fn sample(&self, life: &Life, sample: &Sample) {
        for rank in &sample.ranks {
            let label = [rank.rank.to_string()];
            let (ready, slots) = (rank.queue_depth as f64, rank.queue_slots.max(1) as f64);
            self.queue_depth.with_label_values(&label).set(ready);
            self.ready_ratio.with_label_values(&label).set((ready / slots).min(1.0));
        }
        let loader = &sample.loader;
        life.raise("loaded", &self.samples, loader.samples as f64);
        life.raise("records", &self.records, loader.records as f64);
        life.raise("loaded_bytes", &self.bytes, loader.bytes as f64);
        life.raise("cpu_seconds", &self.cpu_seconds, loader.cpu_seconds);
        life.raise("replaced", &self.replaced, loader.replaced as f64);
        for (stage, seconds) in &loader.stage_seconds {
            life.raise_of("stage", &self.stage_seconds, stage, *seconds);
        }
        for (reason, count) in &loader.corrupt {
            life.raise_of("corrupt", &self.corrupt, reason, *count as f64);
        }
        self.decode.show("", &loader.decode);
    }
}
