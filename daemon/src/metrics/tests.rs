//! What a scrape shows, and the documents that list it.

use std::collections::{BTreeMap, BTreeSet};

use beit_loader::BUCKETS;
use prometheus::proto::MetricType;

use super::*;
use crate::wire::{CheckpointSample, Flow, LoaderSample, RankSample, Times};

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.text(true, now()).unwrap()).unwrap()
}

#[track_caller]
fn check(metrics: &Metrics, line: &str) {
    let text = text(metrics);
    assert!(text.lines().any(|each| each == line), "no {line:?} in:\n{text}");
}

/// The value of a series.
#[track_caller]
fn value(metrics: &Metrics, series: &str) -> f64 {
    let text = text(metrics);
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
}

/// `quick` times below 100 µs and `slow` ones of 3 s.
fn times(quick: u64, slow: u64) -> Times {
    let mut counts = vec![0; BUCKETS];
    (counts[0], counts[23]) = (quick, slow);
    Times { counts, seconds: 3.0 * slow as f64 }
}

fn sample(samples: u64, slow: u64) -> Sample {
    Sample {
        samples,
        flops: samples as f64 * 2e9,
        mfu: Some(0.25),
        ranks: vec![RankSample {
            rank: 1,
            data_wait: times(10, slow),
            queue_depth: 3,
            queue_slots: 4,
            stage: "data".into(),
            stage_seconds: 7.0,
            ..Default::default()
        }],
        loader: LoaderSample { corrupt: BTreeMap::from([("checksum".into(), 2)]), ..Default::default() },
        checkpoint: CheckpointSample { saved: 1, at: Some(5.0), bytes: 10, ..Default::default() },
        pipeline: BTreeMap::from([(
            "view".into(),
            Flow { items_in: samples, in_progress: 2, items_out: samples - 2, last_at: Some(9.0) },
        )]),
        ..Sample::default()
    }
}

#[test]
fn counters_add_up_the_lives_of_the_workers() {
    let metrics = Metrics::new(0..2).unwrap();
    metrics.worker_started(u32::MAX);
    metrics.sample(&sample(64, 1), 1.0, None);
    metrics.sample(&sample(128, 2), 1.0, None);
    metrics.worker_gone(true);
    metrics.worker_started(u32::MAX);
    metrics.sample(&sample(32, 1), 1.0, None);
    check(&metrics, "beit_trainer_samples_total 160");
    check(&metrics, "beit_trainer_flops_total 320000000000");
    check(&metrics, "beit_trainer_mfu_ratio 0.25");
    check(&metrics, "beit_loader_queue_depth_batches{rank=\"1\"} 3");
    check(&metrics, "beit_loader_ready_ratio{rank=\"1\"} 0.75");
    check(&metrics, "beit_loader_corrupt_samples_total{reason=\"checksum\"} 4");
    check(&metrics, "beit_trainer_checkpoints_total 2");
    check(&metrics, "beit_trainer_checkpoint_last_success_timestamp_seconds 5");
    check(&metrics, "beit_pipeline_items_in_total{stage=\"view\"} 160");
    check(&metrics, "beit_pipeline_items_out_total{stage=\"view\"} 156");
    check(&metrics, "beit_pipeline_items_in_progress{stage=\"view\"} 2");
    check(&metrics, "beit_pipeline_last_activity_timestamp_seconds{stage=\"view\"} 9");
}

#[test]
fn histograms_add_up_the_lives_of_the_workers_and_never_fall() {
    let metrics = Metrics::new(0..2).unwrap();
    let series = |of: &str| format!("beit_trainer_data_wait_seconds{of}");
    metrics.worker_started(u32::MAX);
    metrics.sample(&sample(64, 1), 1.0, None);
    metrics.sample(&sample(128, 2), 1.0, None);
    metrics.sample(&sample(128, 0), 1.0, None); // a report that is behind
    metrics.worker_gone(true);
    check(&metrics, &series("_count{rank=\"1\"} 12"));
    metrics.worker_started(u32::MAX);
    check(&metrics, &series("_count{rank=\"1\"} 12"));
    metrics.sample(&sample(32, 1), 1.0, None);
    check(&metrics, &series("_bucket{rank=\"1\",le=\"0.0001\"} 20"));
    check(&metrics, &series("_bucket{rank=\"1\",le=\"2.5\"} 20"));
    check(&metrics, &series("_bucket{rank=\"1\",le=\"4\"} 23"));
    check(&metrics, &series("_bucket{rank=\"1\",le=\"+Inf\"} 23"));
    check(&metrics, &series("_sum{rank=\"1\"} 9"));
    check(&metrics, &series("_count{rank=\"0\"} 0"));
}

#[test]
fn failures_that_have_not_happened_are_counted_as_zero() {
    let metrics = Metrics::new(0..1).unwrap();
    metrics.set_run("runs/x", "tiny", "cpu");
    metrics.set_state(State::Running);
    check(&metrics, "beit_daemon_restarts_total{cause=\"signal\"} 0");
    check(&metrics, "beit_daemon_restarts_total{cause=\"hang\"} 0");
    check(&metrics, "beit_trainer_checkpoint_failures_total 0");
    check(&metrics, "beit_trainer_skipped_steps_total 0");
    check(&metrics, "beit_trainer_loss_scale 1");
    check(&metrics, "beit_daemon_state{state=\"running\"} 1");
    check(&metrics, "beit_daemon_state{state=\"failed\"} 0");
    check(&metrics, "beit_daemon_ready 1");
    check(&metrics, "beit_daemon_run_info{device=\"cpu\",recipe=\"tiny\",run=\"runs/x\"} 1");
    check(&metrics, "beit_daemon_time_seconds_total{class=\"recompute\"} 0");
    check(&metrics, "beit_loader_decode_seconds_count 0");
    check(&metrics, "beit_pipeline_last_activity_timestamp_seconds{stage=\"checkpoint\"} 0");
    let shown = text(&metrics);
    assert!(!shown.contains("beit_daemon_gpu"), "there is no GPU");
    assert!(value(&metrics, "beit_daemon_process_resident_memory_bytes{process=\"supervisor\"}") > 1e6);
}

#[test]
fn a_rank_is_in_one_stage_and_the_silence_of_its_worker_counts() {
    let metrics = Metrics::new(1..2).unwrap();
    let seconds = || value(&metrics, "beit_trainer_stage_seconds{rank=\"1\"}");
    assert_eq!(seconds(), 0.0);
    metrics.worker_started(u32::MAX);
    check(&metrics, "beit_trainer_stage{rank=\"1\",stage=\"start\"} 1");
    metrics.sample(&sample(64, 0), 1.0, None);
    check(&metrics, "beit_trainer_stage{rank=\"1\",stage=\"data\"} 1");
    check(&metrics, "beit_trainer_stage{rank=\"1\",stage=\"start\"} 0");
    let first = seconds();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(first >= 7.0 && seconds() >= first + 0.02, "no report has come since");
    metrics.worker_gone(true);
    check(&metrics, "beit_trainer_stage{rank=\"1\",stage=\"data\"} 0");
    assert_eq!(seconds(), 0.0);
}

#[test]
fn the_supervisors_time_adds_up() {
    let metrics = Metrics::new(0..1).unwrap();
    let begun = Instant::now();
    metrics.worker_started(u32::MAX);
    std::thread::sleep(std::time::Duration::from_millis(20));
    metrics.worker_gone(true);
    metrics.set_state(State::Stopped);
    let text = text(&metrics);
    let lines = text.lines().filter(|line| line.starts_with("beit_daemon_time_seconds_total"));
    let sum: f64 = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert!(sum >= 0.02 && sum <= begun.elapsed().as_secs_f64() + 0.02, "{sum} in:\n{text}");
}

/// A run of 16 ranks in which everything has happened.
fn full() -> Metrics {
    let metrics = Metrics::new(0..16).unwrap();
    metrics.set_run("runs/x", "tiny", "cuda");
    metrics.set_state(State::Running);
    metrics.gpus.show(0, 1, 2);
    metrics
}

#[test]
fn the_text_of_sixteen_ranks_stays_small() {
    let text = text(&full());
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 2100 && text.len() < 192 << 10, "{series} series in {} bytes", text.len());
}

/// Name, kind, labels and help of every series, as rows of the table in docs/metrics.md.
fn rows() -> Vec<String> {
    let families = full().registry.gather();
    let row = |family: &prometheus::proto::MetricFamily| {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let labels: Vec<String> =
            family.get_metric()[0].get_label().iter().map(|label| format!("`{}`", label.name())).collect();
        format!("| `{}` | {kind} | {} | {} |", family.name(), labels.join(", "), family.help())
            .replace("|  |", "| |")
    };
    families.iter().map(row).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let document = include_str!("../../../docs/metrics.md");
    // The series of `beit-shard` have a table of their own, and a test beside their code.
    let ours = |line: &&str| line.starts_with("| `beit_") && !line.starts_with("| `beit_shard_");
    let documented: Vec<&str> = document.lines().filter(ours).collect();
    let rows = rows();
    assert!(documented == rows, "the table of docs/metrics.md should be:\n{}", rows.join("\n"));
}

#[test]
fn every_value_of_a_label_is_documented() {
    let document = include_str!("../../../docs/metrics.md");
    let open = ["rank", "run", "recipe", "device", "gpu", "version", "profile", "arch", "le"];
    let families = full().registry.gather();
    let labels = families.iter().flat_map(|family| family.get_metric()).flat_map(|metric| metric.get_label());
    let values: BTreeSet<(&str, &str)> = labels.map(|label| (label.name(), label.value())).collect();
    for (name, value) in values {
        let row = |line: &&str| line.starts_with(&format!("| `{name}`"));
        let there = document.lines().filter(row).any(|line| line.contains(&format!("`{value}`")));
        assert!(open.contains(&name) || there, "docs/metrics.md does not name {value} as a {name}");
    }
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    for family in full().registry.gather() {
        let name = family.name();
        let rooms = ["beit_trainer_", "beit_loader_", "beit_daemon_", "beit_pipeline_"];
        assert!(rooms.iter().any(|room| name.starts_with(room)), "{name}");
        let kind = family.get_field_type();
        assert_eq!(name.ends_with("_total"), kind == MetricType::COUNTER, "{name}");
        assert!(kind != MetricType::HISTOGRAM || name.ends_with("_seconds"), "{name}");
        assert!(
            !["ms", "us", "ns", "percent"].iter().any(|bad| name.split('_').any(|word| word == *bad)),
            "{name}"
        );
    }
}
