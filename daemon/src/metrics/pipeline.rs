//! The same four series for every stage a sample passes, so that one panel shows where it gets stuck.

use std::collections::BTreeMap;

use prometheus::{CounterVec, GaugeVec};

use super::book::{Book, Life};
use crate::wire::Flow;

/// The stages, in the order in which a sample passes them.
const PIPELINE: [&str; 5] = ["read", "view", "batch", "step", "checkpoint"];

#[derive(Debug)]
pub(super) struct Pipeline {
    items_in: CounterVec,
    in_progress: GaugeVec,
    items_out: CounterVec,
    last_activity: GaugeVec,
}

impl Pipeline {
    pub fn new(book: &Book) -> prometheus::Result<Pipeline> {
        let labels = &["stage"];
        let pipeline = Pipeline {
            items_in: book.counters(
                "beit_pipeline_items_in_total",
                "Items a stage has begun: records, views, batches, batches by ranks, checkpoints.",
                labels,
            )?,
            in_progress: book.gauges(
                "beit_pipeline_items_in_progress",
                "Items a stage is busy with now.",
                labels,
            )?,
            items_out: book.counters(
                "beit_pipeline_items_out_total",
                "Items a stage has finished well.",
                labels,
            )?,
            last_activity: book.gauges(
                "beit_pipeline_last_activity_timestamp_seconds",
                "When a stage last finished an item, seconds since 1970; 0: not yet.",
                labels,
            )?,
        };
        for stage in PIPELINE {
            let label = [stage];
            let _ = pipeline.items_in.with_label_values(&label);
            let _ = pipeline.in_progress.with_label_values(&label);
            let _ = pipeline.items_out.with_label_values(&label);
            let _ = pipeline.last_activity.with_label_values(&label);
        }
        Ok(pipeline)
    }

    /// What was in the hands of a worker that is gone is lost.
    pub fn end_life(&self) {
        for stage in PIPELINE {
            self.in_progress.with_label_values(&[stage]).set(0.0);
        }
    }

    pub fn sample(&self, life: &Life, flows: &BTreeMap<String, Flow>) {
        for stage in PIPELINE {
            let Some(flow) = flows.get(stage) else { continue };
            life.raise_of("in", &self.items_in, stage, flow.items_in as f64);
            life.raise_of("out", &self.items_out, stage, flow.items_out as f64);
            self.in_progress.with_label_values(&[stage]).set(flow.in_progress as f64);
            if let Some(at) = flow.last_at {
                self.last_activity.with_label_values(&[stage]).set(at);
            }
        }
    }
}
