//! Series of the trainer.

use std::ops::Range;

use prometheus::{Counter, Gauge, GaugeVec};

use beit_trainer::stats::Stage;

use super::book::{Book, Life};
use super::histograms::Histograms;
use crate::wire::{CheckpointSample, Planned, RankSample, Sample};

#[derive(Debug)]
pub(super) struct Trainer {
    step: Gauge,
    target_steps: Gauge,
    epoch: Gauge,
    loss: Gauge,
    mlm_acc: Gauge,
    lr: Gauge,
    grad_norm: Gauge,
    loss_scale: Gauge,
    progress: Gauge,
    eta: Gauge,
    samples_rate: Gauge,
    mfu: Gauge,
    last_step: Gauge,
    steps: Counter,
    samples: Counter,
    tokens: Counter,
    flops: Counter,
    skipped_steps: Counter,
    rollbacks: Counter,
    step_duration: Histograms,
    data_wait: Histograms,
    all_reduce: Histograms,
    stage: GaugeVec,
    stage_seconds: GaugeVec,
}

impl Trainer {
    pub fn new(book: &Book, ranks: Range<u32>) -> prometheus::Result<Trainer> {
        let trainer = Trainer {
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
            loss_scale: book.gauge(
                "beit_trainer_loss_scale",
                "What the loss is multiplied by in fp16; 1 with other numbers.",
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
            tokens: book.counter(
                "beit_trainer_tokens_total",
                "Visual tokens of those samples, one for each patch, hidden or seen.",
            )?,
            flops: book.counter(
                "beit_trainer_flops_total",
                "Floating-point operations of the model's forward and backward passes since the daemon started, over all ranks.",
            )?,
            skipped_steps: book.counter(
                "beit_trainer_skipped_steps_total",
                "Steps whose update was left out because their loss or a gradient was not finite; in fp16 some are normal.",
            )?,
            rollbacks: book.counter(
                "beit_trainer_rollbacks_total",
                "Returns to the weights of a checkpoint after a row of skipped steps.",
            )?,
            step_duration: book.histograms(
                "beit_trainer_step_duration_seconds",
                "A rank's steps, from asking for the batch to the end of the update; checkpoints and pauses are apart.",
                Some("rank"),
            )?,
            data_wait: book.histograms(
                "beit_trainer_data_wait_seconds",
                "How long a rank stood waiting for each batch.",
                Some("rank"),
            )?,
            all_reduce: book.histograms(
                "beit_trainer_all_reduce_seconds",
                "How long a rank stood waiting for the other ranks in each step, its own backward done.",
                Some("rank"),
            )?,
            stage: book.gauges(
                "beit_trainer_stage",
                "1 for what a rank does now, 0 for the rest; all 0 while there is no worker.",
                &["rank", "stage"],
            )?,
            stage_seconds: book.gauges(
                "beit_trainer_stage_seconds",
                "For how long a rank has been doing that; it goes on growing when the worker falls silent.",
                &["rank"],
            )?,
        };
        trainer.loss_scale.set(1.0);
        for rank in ranks {
            let rank = rank.to_string();
            for histogram in trainer.histograms() {
                histogram.touch(&rank);
            }
            trainer.stage_seconds.with_label_values(&[&rank]).set(0.0);
            trainer.set_stage(&rank, None);
        }
        Ok(trainer)
    }

    fn histograms(&self) -> [&Histograms; 3] {
        [&self.step_duration, &self.data_wait, &self.all_reduce]
    }

    fn set_stage(&self, rank: &str, stage: Option<&str>) {
        for each in Stage::ALL {
            let here = stage == Some(each.name());
            self.stage.with_label_values(&[rank, each.name()]).set(f64::from(u8::from(here)));
        }
    }

    pub fn planned(&self, plan: &Planned) {
        self.target_steps.set(plan.steps as f64);
    }

    /// A new worker measures from 0, and its ranks start.
    pub fn begin_life(&self, ranks: Range<u32>) {
        self.histograms().into_iter().for_each(Histograms::begin_life);
        ranks.for_each(|rank| self.set_stage(&rank.to_string(), Some(Stage::Start.name())));
    }

    /// There is no worker now, so nothing moves.
    pub fn end_life(&self, ranks: Range<u32>) {
        self.samples_rate.set(0.0);
        self.mfu.set(0.0);
        self.eta.set(0.0);
        ranks.for_each(|rank| self.set_stage(&rank.to_string(), None));
    }

    /// How long this rank has been in its stage.
    pub fn set_stage_seconds(&self, rank: u32, seconds: f64) {
        self.stage_seconds.with_label_values(&[rank.to_string()]).set(seconds);
    }

    pub fn sample(&self, life: &Life, sample: &Sample, samples_per_second: f64, eta_seconds: Option<f64>) {
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
            self.loss_scale.set(sample.loss_scale);
            self.last_step.set(at);
        }
        life.raise("steps", &self.steps, sample.steps_done as f64);
        life.raise("samples", &self.samples, sample.samples as f64);
        life.raise("tokens", &self.tokens, sample.tokens as f64);
        life.raise("flops", &self.flops, sample.flops);
        life.raise("skipped_steps", &self.skipped_steps, sample.skipped_steps as f64);
        life.raise("rollbacks", &self.rollbacks, sample.rollbacks as f64);
        for RankSample { rank, stage, step_duration, data_wait, all_reduce, .. } in &sample.ranks {
            let rank = rank.to_string();
            self.set_stage(&rank, Some(stage));
            self.step_duration.show(&rank, step_duration);
            self.data_wait.show(&rank, data_wait);
            self.all_reduce.show(&rank, all_reduce);
        }
    }
}

/// Series of the trainer's checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    step: Gauge,
    at: Gauge,
    age: Gauge,
    bytes: Gauge,
    seconds: Gauge,
    saved: Counter,
    failures: Counter,
    blocked: Counter,
}

impl Checkpoints {
    pub fn new(book: &Book) -> prometheus::Result<Checkpoints> {
        Ok(Checkpoints {
            step: book.gauge("beit_trainer_checkpoint_step", "Step of the last published checkpoint.")?,
            at: book.gauge(
                "beit_trainer_checkpoint_last_success_timestamp_seconds",
                "When the last checkpoint was published, seconds since 1970; 0: not yet.",
            )?,
            age: book.gauge(
                "beit_trainer_checkpoint_age_seconds",
                "Time since the last checkpoint was published, or since the daemon started.",
            )?,
            bytes: book.gauge("beit_trainer_checkpoint_bytes", "Size of the last published checkpoint.")?,
            seconds: book.gauge(
                "beit_trainer_checkpoint_duration_seconds",
                "How long the last checkpoint took to save.",
            )?,
            saved: book.counter(
                "beit_trainer_checkpoints_total",
                "Checkpoints published since the daemon started.",
            )?,
            failures: book
                .counter("beit_trainer_checkpoint_failures_total", "Checkpoints that could not be saved.")?,
            blocked: book.counter(
                "beit_trainer_checkpoint_blocked_seconds_total",
                "Time training stood still for checkpoints; they are written while it goes on.",
            )?,
        })
    }

    pub fn sample(&self, life: &Life, checkpoint: &CheckpointSample) {
        life.raise("saved", &self.saved, checkpoint.saved as f64);
        life.raise("failed", &self.failures, checkpoint.failed as f64);
        life.raise("blocked", &self.blocked, checkpoint.blocked_seconds);
        if let Some(step) = checkpoint.step {
            self.step.set(step as f64);
        }
        if let Some(at) = checkpoint.at {
            self.at.set(at);
            self.bytes.set(checkpoint.bytes as f64);
            self.seconds.set(checkpoint.seconds);
        }
    }

    /// Its age at `now`; that of the daemon when there is none.
    pub fn grow_old(&self, now: f64, started_at: f64) {
        let since = if self.at.get() > 0.0 { self.at.get() } else { started_at };
        self.age.set((now - since).max(0.0));
    }
}
