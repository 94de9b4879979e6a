//! `/metrics`: every name of ours that Prometheus knows is in this file, and in `docs/metrics.md`.
//!
//! Names are `beit_<room>_<what>_<unit>[_total]` in base units. The worker's counts start at 0 in each of its lives;
//! here they are added up, so that counters only rise as long as the supervisor lives.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{Counter, CounterVec, Encoder, Gauge, GaugeVec, Opts, Registry, TextEncoder};

use crate::board::{State, now};
use crate::wire::{Planned, Sample};

/// Why a worker had to be replaced.
pub const CAUSES: [&str; 6] = ["signal", "out_of_memory", "panic", "hang", "error", "exit"];

/// Stages of the loader that report their time.
pub const STAGES: [&str; 8] = ["read", "entropy", "idct", "jitter", "resize", "mask", "handoff", "idle"];

/// Why a record could not be used; the loader and the views have the last word, these are there from the start.
pub const REASONS: [&str; 9] = [
    "checksum",
    "corrupt",
    "io",
    "malformed",
    "not_an_image",
    "too_large",
    "too_small",
    "truncated",
    "unsupported",
];

/// All series of one supervisor.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    step: Gauge,
    target_steps: Gauge,
    epoch: Gauge,
    loss: Gauge,
    mlm_acc: Gauge,
    lr: Gauge,
    grad_norm: Gauge,
    progress: Gauge,
    eta: Gauge,
    samples_rate: Gauge,
    mfu: Gauge,
    last_step: Gauge,
    steps: Counter,
    samples: Counter,
    flops: Counter,
    data_wait: CounterVec,
    queue_depth: GaugeVec,
    loaded: Counter,
    loaded_bytes: Counter,
    cpu_seconds: Counter,
    replaced: Counter,
    stage_seconds: CounterVec,
    corrupt: CounterVec,
    checkpoint_step: Gauge,
    checkpoint_at: Gauge,
    checkpoint_age: Gauge,
    checkpoint_bytes: Gauge,
    checkpoint_seconds: Gauge,
    checkpoints: Counter,
    checkpoint_failures: Counter,
    checkpoint_blocked: Counter,
    restarts: CounterVec,
    state: GaugeVec,
    worker_up: Gauge,
    ready: Gauge,
    http_requests: CounterVec,
    /// What the present worker has counted so far, by series.
    seen: Mutex<HashMap<String, f64>>,
}

impl Metrics {
    /// Registers every series for these ranks, at 0.
    ///
    /// # Errors
    /// A name registered twice: a slip in this file.
    pub fn new(ranks: Range<u32>) -> prometheus::Result<Metrics> {
        let book = Book { registry: Registry::new_custom(None, None)? };
        let metrics = Metrics {
            step: book.gauge("beit_trainer_step", "Optimizer steps done over the whole run.")?,
            target_steps: book.gauge("beit_trainer_target_steps", "Optimizer steps of the whole run.")?,
            epoch: book.gauge("beit_trainer_epoch", "Epoch of the last step, from 0.")?,
            loss: book.gauge(
                "beit_trainer_loss",
                "Masked-token cross entropy of the last step in nats, mean over ranks.",
            )?,
            mlm_acc: book.gauge(
                "beit_trainer_mlm_acc_ratio",
                "Share of hidden tokens predicted right in the last step.",
            )?,
            lr: book.gauge("beit_trainer_lr", "Learning rate of the last step.")?,
            grad_norm: book.gauge(
                "beit_trainer_grad_norm",
                "Global L2 norm of the gradients of the last step, before clipping.",
            )?,
            progress: book.gauge("beit_trainer_progress_ratio", "Steps done as a share of the run's.")?,
            eta: book.gauge(
                "beit_trainer_eta_seconds",
                "Time to the last step at the present speed; 0: not known.",
            )?,
            samples_rate: book.gauge(
                "beit_trainer_samples_per_second",
                "Samples trained on per second over the last 20 s, over all ranks.",
            )?,
            mfu: book.gauge(
                "beit_trainer_mfu_ratio",
                "Model FLOPs utilisation: what the model needs as a share of what the devices can do; 0: their peak is not known.",
            )?,
            last_step: book.gauge(
                "beit_trainer_last_step_timestamp_seconds",
                "When the last step ended, seconds since 1970.",
            )?,
            steps: book.counter(
                "beit_trainer_steps_total",
                "Steps computed since the daemon started, those computed again after a restart included.",
            )?,
            samples: book.counter(
                "beit_trainer_samples_total",
                "Samples trained on since the daemon started, over all ranks.",
            )?,
            flops: book.counter(
                "beit_trainer_flops_total",
                "Floating-point operations of the model's forward and backward passes since the daemon started, over all ranks.",
            )?,
            data_wait: book.counters(
                "beit_trainer_data_wait_seconds_total",
                "Time a rank has stood waiting for its next batch.",
                &["rank"],
            )?,
            queue_depth: book.gauges(
                "beit_loader_queue_depth_batches",
                "Batches ready and waiting for a rank.",
                &["rank"],
            )?,
            loaded: book.counter("beit_loader_samples_total", "Samples the loader has made ready.")?,
            loaded_bytes: book.counter(
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
                "Different records that could not be used and were replaced, by reason.",
                &["reason"],
            )?,
            checkpoint_step: book
                .gauge("beit_trainer_checkpoint_step", "Step of the last published checkpoint.")?,
            checkpoint_at: book.gauge(
                "beit_trainer_checkpoint_last_success_timestamp_seconds",
                "When the last checkpoint was published, seconds since 1970; 0: not yet.",
            )?,
            checkpoint_age: book.gauge(
                "beit_trainer_checkpoint_age_seconds",
                "Time since the last checkpoint was published, or since the daemon started.",
            )?,
            checkpoint_bytes: book
                .gauge("beit_trainer_checkpoint_bytes", "Size of the last published checkpoint.")?,
            checkpoint_seconds: book.gauge(
                "beit_trainer_checkpoint_duration_seconds",
                "How long the last checkpoint took to save.",
            )?,
            checkpoints: book.counter(
                "beit_trainer_checkpoints_total",
                "Checkpoints published since the daemon started.",
            )?,
            checkpoint_failures: book
                .counter("beit_trainer_checkpoint_failures_total", "Checkpoints that could not be saved.")?,
            checkpoint_blocked: book.counter(
                "beit_trainer_checkpoint_blocked_seconds_total",
                "Time training stood still for checkpoints; they are written while it goes on.",
            )?,
            restarts: book.counters(
                "beit_daemon_restarts_total",
                "Workers that died and were replaced, by cause.",
                &["cause"],
            )?,
            state: book.gauges(
                "beit_daemon_state",
                "1 for the state the supervisor is in, 0 for the others.",
                &["state"],
            )?,
            worker_up: book.gauge("beit_daemon_worker_up", "1 while a worker process lives.")?,
            ready: book.gauge("beit_daemon_ready", "1 while training makes progress, as /readyz says.")?,
            http_requests: book.counters(
                "beit_daemon_http_requests_total",
                "HTTP requests answered, by class of status.",
                &["status"],
            )?,
            registry: book.registry.clone(),
            seen: Mutex::default(),
        };
        book.gauges(
            "beit_daemon_build_info",
            "1; the build is in the labels.",
            &["version", "profile", "arch"],
        )?
        .with_label_values(&[
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "debug" } else { "release" },
            std::env::consts::ARCH,
        ])
        .set(1.0);
        book.gauge(
            "beit_daemon_start_timestamp_seconds",
            "When the supervisor started, seconds since 1970.",
        )?
        .set(now());
        // A series that appears with its first failure hides that failure from rate().
        for rank in ranks {
            metrics.data_wait.with_label_values(&[rank.to_string()]);
            metrics.queue_depth.with_label_values(&[rank.to_string()]);
        }
        STAGES.iter().for_each(|stage| drop(metrics.stage_seconds.with_label_values(&[stage])));
        REASONS.iter().for_each(|reason| drop(metrics.corrupt.with_label_values(&[reason])));
        CAUSES.iter().for_each(|cause| drop(metrics.restarts.with_label_values(&[cause])));
        ["2xx", "4xx", "5xx"]
            .iter()
            .for_each(|class| drop(metrics.http_requests.with_label_values(&[class])));
        Ok(metrics)
    }

    /// A new worker counts from 0.
    pub fn worker_started(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.worker_up.set(1.0);
    }

    /// There is no worker now, so nothing moves.
    pub fn worker_gone(&self) {
        self.worker_up.set(0.0);
        self.samples_rate.set(0.0);
        self.mfu.set(0.0);
        self.eta.set(0.0);
    }

    /// A worker is replaced; `cause` is one of [`CAUSES`].
    pub fn restarted(&self, cause: &str) {
        self.restarts.with_label_values(&[cause]).inc();
    }

    /// The supervisor is in this state now.
    pub fn set_state(&self, state: State) {
        for each in State::ALL {
            self.state.with_label_values(&[each.word()]).set(f64::from(u8::from(each == state)));
        }
    }

    /// One HTTP request was answered with this status.
    pub fn answered(&self, status: u16) {
        let class = match status {
            0..400 => "2xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.http_requests.with_label_values(&[class]).inc();
    }

    /// The worker's plan.
    pub fn planned(&self, plan: &Planned) {
        self.target_steps.set(plan.steps as f64);
    }

    /// The worker's report.
    pub fn sample(&self, sample: &Sample, samples_per_second: f64, eta_seconds: Option<f64>) {
        self.step.set(sample.step as f64);
        let target = self.target_steps.get();
        self.progress.set(if target > 0.0 { sample.step as f64 / target } else { 0.0 });
        self.samples_rate.set(samples_per_second);
        self.eta.set(eta_seconds.unwrap_or(0.0));
        self.mfu.set(sample.mfu.unwrap_or(0.0));
        if let Some(at) = sample.last_step_at {
            self.epoch.set(sample.epoch as f64);
            self.loss.set(sample.loss);
            self.mlm_acc.set(sample.mlm_acc);
            self.lr.set(sample.lr);
            self.grad_norm.set(sample.grad_norm);
            self.last_step.set(at);
        }
        self.raise("steps", &self.steps, sample.steps_done as f64);
        self.raise("samples", &self.samples, sample.samples as f64);
        self.raise("flops", &self.flops, sample.flops);
        for rank in &sample.ranks {
            let label = [rank.rank.to_string()];
            self.queue_depth.with_label_values(&label).set(rank.queue_depth as f64);
            self.raise_labelled("data_wait", &self.data_wait, &label[0], rank.data_wait_seconds);
        }
        self.raise("loaded", &self.loaded, sample.loader.samples as f64);
        self.raise("loaded_bytes", &self.loaded_bytes, sample.loader.bytes as f64);
        self.raise("cpu_seconds", &self.cpu_seconds, sample.loader.cpu_seconds);
        self.raise("replaced", &self.replaced, sample.loader.replaced as f64);
        for (stage, seconds) in &sample.loader.stage_seconds {
            self.raise_labelled("stage", &self.stage_seconds, stage, *seconds);
        }
        for (reason, count) in &sample.loader.corrupt {
            self.raise_labelled("corrupt", &self.corrupt, reason, *count as f64);
        }
        let checkpoint = &sample.checkpoint;
        self.raise("saved", &self.checkpoints, checkpoint.saved as f64);
        self.raise("failed", &self.checkpoint_failures, checkpoint.failed as f64);
        self.raise("blocked", &self.checkpoint_blocked, checkpoint.blocked_seconds);
        if let Some(step) = checkpoint.step {
            self.checkpoint_step.set(step as f64);
        }
        if let Some(at) = checkpoint.at {
            self.checkpoint_at.set(at);
            self.checkpoint_bytes.set(checkpoint.bytes as f64);
            self.checkpoint_seconds.set(checkpoint.seconds);
        }
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// The encoder's, which would be a slip in this file.
    pub fn text(&self, ready: bool, started_at: f64) -> prometheus::Result<Vec<u8>> {
        self.ready.set(f64::from(u8::from(ready)));
        let since = if self.checkpoint_at.get() > 0.0 { self.checkpoint_at.get() } else { started_at };
        self.checkpoint_age.set((now() - since).max(0.0));
        let mut text = Vec::with_capacity(1 << 14);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn raise_labelled(&self, name: &str, counters: &CounterVec, label: &str, count: f64) {
        self.raise(&format!("{name} {label}"), &counters.with_label_values(&[label]), count);
    }

    /// Adds what the worker has counted since its last report.
    fn raise(&self, series: &str, counter: &Counter, count: f64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.get(series).copied().unwrap_or(0.0);
        if count > before {
            counter.inc_by(count - before);
            seen.insert(series.to_owned(), count);
        }
    }
}

/// Makes and registers series.
struct Book {
    registry: Registry,
}

impl Book {
    fn add<T: Collector + Clone + 'static>(&self, series: T) -> prometheus::Result<T> {
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.add(Gauge::new(name, help)?)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<Counter> {
        self.add(Counter::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        self.add(CounterVec::new(Opts::new(name, help), labels)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prometheus::proto::MetricType;

    use super::*;
    use crate::wire::{CheckpointSample, LoaderSample, RankSample};

    #[track_caller]
    fn check(metrics: &Metrics, line: &str) {
        let text = String::from_utf8(metrics.text(true, now()).unwrap()).unwrap();
        assert!(text.lines().any(|each| each == line), "no {line:?} in:\n{text}");
    }

    fn sample(samples: u64, wait: f64) -> Sample {
        Sample {
            samples,
            flops: samples as f64 * 2e9,
            mfu: Some(0.25),
            ranks: vec![RankSample {
                rank: 1,
                data_wait_seconds: wait,
                queue_depth: 3,
                ..Default::default()
            }],
            loader: LoaderSample { corrupt: BTreeMap::from([("checksum".into(), 2)]), ..Default::default() },
            checkpoint: CheckpointSample { saved: 1, at: Some(5.0), bytes: 10, ..Default::default() },
            ..Sample::default()
        }
    }

    #[test]
    fn counters_add_up_the_lives_of_the_workers() {
        let metrics = Metrics::new(0..2).unwrap();
        metrics.worker_started();
        metrics.sample(&sample(64, 0.5), 1.0, None);
        metrics.sample(&sample(128, 0.75), 1.0, None);
        metrics.worker_gone();
        metrics.worker_started();
        metrics.sample(&sample(32, 0.25), 1.0, None);
        check(&metrics, "beit_trainer_samples_total 160");
        check(&metrics, "beit_trainer_flops_total 320000000000");
        check(&metrics, "beit_trainer_mfu_ratio 0.25");
        check(&metrics, "beit_trainer_data_wait_seconds_total{rank=\"1\"} 1");
        check(&metrics, "beit_trainer_data_wait_seconds_total{rank=\"0\"} 0");
        check(&metrics, "beit_loader_queue_depth_batches{rank=\"1\"} 3");
        check(&metrics, "beit_loader_corrupt_samples_total{reason=\"checksum\"} 4");
        check(&metrics, "beit_trainer_checkpoints_total 2");
        check(&metrics, "beit_trainer_checkpoint_last_success_timestamp_seconds 5");
    }

    #[test]
    fn failures_that_have_not_happened_are_counted_as_zero() {
        let metrics = Metrics::new(0..1).unwrap();
        metrics.set_state(State::Running);
        check(&metrics, "beit_daemon_restarts_total{cause=\"signal\"} 0");
        check(&metrics, "beit_trainer_checkpoint_failures_total 0");
        check(&metrics, "beit_daemon_state{state=\"running\"} 1");
        check(&metrics, "beit_daemon_state{state=\"failed\"} 0");
        check(&metrics, "beit_daemon_ready 1");
    }

    /// Name, kind, labels and help of every series, as rows of the table in docs/metrics.md.
    fn rows() -> Vec<String> {
        let families = Metrics::new(0..1).map(|metrics| {
            metrics.set_state(State::Running);
            metrics.registry.gather()
        });
        families
            .unwrap()
            .iter()
            .map(|family| {
                let kind = match family.get_field_type() {
                    MetricType::COUNTER => "counter",
                    MetricType::GAUGE => "gauge",
                    other => panic!("{other:?}"),
                };
                let labels: Vec<String> = family.get_metric()[0]
                    .get_label()
                    .iter()
                    .map(|label| format!("`{}`", label.name()))
                    .collect();
                format!("| `{}` | {kind} | {} | {} |", family.name(), labels.join(", "), family.help())
                    .replace("|  |", "| |")
            })
            .collect()
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_metric_exists() {
        let document = include_str!("../../docs/metrics.md");
        let documented: Vec<&str> = document.lines().filter(|line| line.starts_with("| `beit_")).collect();
        let rows = rows();
        assert!(documented == rows, "the table of docs/metrics.md should be:\n{}", rows.join("\n"));
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for row in rows() {
            let name = row.split('`').nth(1).unwrap();
            assert!(
                ["beit_trainer_", "beit_loader_", "beit_daemon_"].iter().any(|room| name.starts_with(room)),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), row.contains("| counter |"), "{name}");
            assert!(!["_ms", "_us", "_ns", "percent", ":"].iter().any(|bad| name.contains(bad)), "{name}");
        }
    }
}
