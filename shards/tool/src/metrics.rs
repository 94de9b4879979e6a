//! `/metrics` of a build or a watch: every name of ours that Prometheus knows from it is in this file, and in
//! `docs/metrics.md`.
//!
//! A page is made anew from the [`Tally`] each time somebody asks, so nothing is kept twice and a line that stands still
//! cannot keep anybody from asking.

use crate::tally::Tally;
use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{CounterVec, GaugeVec, Opts, Registry, Result, TextEncoder};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is known of the machine rather than of the line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Bytes free where the shards go; 0: not known.
    pub disk_free_bytes: u64,
    /// Memory of this process; 0: not known.
    pub resident_bytes: u64,
}

/// The text of `/metrics`.
///
/// # Errors
/// the encoder's, which would be a slip in this file
pub fn text(tally: &Tally, machine: Machine) -> Result<String> {
    TextEncoder::new().encode_to_string(&families(tally, machine)?)
}

/// Every series.
fn families(tally: &Tally, machine: Machine) -> Result<Vec<MetricFamily>> {
    use MetricType::{COUNTER, GAUGE};
    let page = Page(Registry::new_custom(None, None)?);
    let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    let build = [
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        std::env::consts::ARCH,
    ];
    page.many(
        (GAUGE, "beit_shard_build_info", "1; the build is in the labels."),
        &["version", "profile", "arch"],
        [(build.to_vec(), 1.0)],
    )?;
    let (progress, eta) = tally.progress();
    for (kind, name, help, value) in [
        (
            GAUGE,
            "beit_shard_start_timestamp_seconds",
            "When the process started, seconds since 1970.",
            tally.started,
        ),
        (
            GAUGE,
            "beit_shard_samples_planned",
            "Images of the source, or of the part, as far as it is listed; those of earlier runs included.",
            count(&tally.planned),
        ),
        (COUNTER, "beit_shard_samples_total", "Images packed by this process.", count(&tally.samples)),
        (COUNTER, "beit_shard_views_total", "Views packed with their tokens.", count(&tally.views)),
        (
            COUNTER,
            "beit_shard_source_bytes_total",
            "Bytes of encoded images that were read.",
            count(&tally.stages.source_bytes),
        ),
        (
            COUNTER,
            "beit_shard_payload_bytes_total",
            "Bytes of the payloads that samples were packed with.",
            count(&tally.payload_bytes),
        ),
        (COUNTER, "beit_shard_shards_total", "Shards finished by this process.", count(&tally.shards)),
        (
            GAUGE,
            "beit_shard_progress_ratio",
            "Images packed or rejected as a share of those planned; 0: the listing's end is not known yet.",
            progress,
        ),
        (
            GAUGE,
            "beit_shard_eta_seconds",
            "Time to the last image at the average speed so far; 0: not known.",
            eta,
        ),
        (
            COUNTER,
            "beit_shard_watch_scans_total",
            "Looks at the source by a watch; of a build none.",
            count(&tally.scans),
        ),
        (
            GAUGE,
            "beit_shard_watch_pending_samples",
            "Images found and not yet packed, those that somebody may still be writing included.",
            tally.pending() as f64,
        ),
        (
            GAUGE,
            "beit_shard_disk_free_bytes",
            "Bytes free for this user where the shards go; 0: not known.",
            machine.disk_free_bytes as f64,
        ),
        (
            GAUGE,
            "beit_shard_process_resident_memory_bytes",
            "Memory of this process that is resident; 0: not known.",
            machine.resident_bytes as f64,
        ),
    ] {
        page.many((kind, name, help), &[], [(Vec::new(), value)])?;
    }
    page.many(
        (
            COUNTER,
            "beit_shard_rejected_samples_total",
            "Images that cannot be used and were kept out, by reason.",
        ),
        &["reason"],
        tally.rejections().into_iter().map(|(reason, images)| (vec![reason], images as f64)),
    )?;
    page.many(
        (
            COUNTER,
            "beit_shard_stage_seconds_total",
            "Processor time by stage over all threads; tokenize: all that the process used beside the others.",
        ),
        &["stage"],
        tally.cpu_seconds().named().map(|(stage, seconds)| (vec![stage], seconds)),
    )?;
    let stages = tally.stages.named();
    page.many(
        (COUNTER, "beit_shard_items_in_total", "Images that came into a stage."),
        &["stage"],
        stages.map(|(name, stage)| (vec![name], stage.images().0 as f64)),
    )?;
    page.many(
        (
            GAUGE,
            "beit_shard_items_in_progress",
            "Images in a stage now; of scan, those listed that wait for the stages behind it.",
        ),
        &["stage"],
        stages.map(|(name, stage)| (vec![name], (stage.images().0 - stage.images().1) as f64)),
    )?;
    page.many(
        (COUNTER, "beit_shard_items_out_total", "Images that left a stage, rejected ones included."),
        &["stage"],
        stages.map(|(name, stage)| (vec![name], stage.images().1 as f64)),
    )?;
    page.many(
        (
            GAUGE,
            "beit_shard_last_activity_timestamp_seconds",
            "When an image last came into a stage or left it, seconds since 1970; 0: not yet.",
        ),
        &["stage"],
        stages.map(|(name, stage)| (vec![name], stage.last())),
    )?;
    Ok(page.0.gather())
}

/// What is put on one page.
struct Page(Registry);

impl Page {
    /// A metric and its values by their labels.
    fn many<'a>(
        &self,
        (kind, name, help): (MetricType, &str, &str),
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<&'a str>, f64)>,
    ) -> Result<()> {
        let opts = Opts::new(name, help);
        let series: Box<dyn Collector> = match kind {
            MetricType::COUNTER => {
                let counters = CounterVec::new(opts, labels)?;
                for (labels, value) in values {
                    counters.with_label_values(&labels).inc_by(value);
                }
                Box::new(counters)
            }
            _ => {
                let gauges = GaugeVec::new(opts, labels)?;
                for (labels, value) in values {
                    gauges.with_label_values(&labels).set(value);
                }
                Box::new(gauges)
            }
        };
        self.0.register(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, kind, labels and help of every series, as rows of the table in docs/metrics.md.
    fn rows() -> Vec<String> {
        let row = |family: &MetricFamily| {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                other => panic!("{other:?}"),
            };
            let labels = family.get_metric()[0].get_label().iter();
            let labels: Vec<String> = labels.map(|label| format!("`{}`", label.name())).collect();
            format!("| `{}` | {kind} | {} | {} |", family.name(), labels.join(", "), family.help())
                .replace("|  |", "| |")
        };
        families(&Tally::start(), Machine::default()).unwrap().iter().map(row).collect()
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_metric_exists() {
        let document = include_str!("../../../docs/metrics.md");
        let documented: Vec<&str> =
            document.lines().filter(|line| line.starts_with("| `beit_shard_")).collect();
        let rows = rows();
        assert!(documented == rows, "the table of docs/metrics.md should be:\n{}", rows.join("\n"));
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for row in rows() {
            let name = row.split('`').nth(1).unwrap();
            assert!(name.starts_with("beit_shard_"), "{name}");
            assert_eq!(name.ends_with("_total"), row.contains("| counter |"), "{name}");
        }
    }

    #[test]
    fn counters_only_rise_and_every_series_is_there_from_the_start() {
        let tally = Tally::start();
        let text = |tally: &Tally| text(tally, Machine { disk_free_bytes: 7, resident_bytes: 9 }).unwrap();
        let before = text(&tally);
        for line in [
            "beit_shard_rejected_samples_total{reason=\"unreadable\"} 0",
            "beit_shard_items_in_progress{stage=\"tokenize\"} 0",
            "beit_shard_last_activity_timestamp_seconds{stage=\"scan\"} 0",
            "beit_shard_disk_free_bytes 7",
            "beit_shard_watch_pending_samples 0",
        ] {
            assert!(before.lines().any(|each| each == line), "no {line:?} in:\n{before}");
        }
        // Work that another stage now says was its own must not be taken away from the tokenizer's.
        let spun = std::time::Instant::now();
        while tally.cpu_seconds().tokenize < 0.02 && spun.elapsed().as_secs() < 60 {}
        let tokenize = tally.cpu_seconds().tokenize;
        tally.stages.decode.spent(10_000_000_000);
        assert!(tally.cpu_seconds().tokenize >= tokenize);
        tally.stages.decode.enter(2);
        tally.stages.decode.leave(1);
        let after = text(&tally);
        for line in [
            "beit_shard_items_in_total{stage=\"decode\"} 2",
            "beit_shard_items_in_progress{stage=\"decode\"} 1",
            "beit_shard_items_out_total{stage=\"decode\"} 1",
        ] {
            assert!(after.lines().any(|each| each == line), "no {line:?} in:\n{after}");
        }
    }
}
