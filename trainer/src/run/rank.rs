//! One rank from its first step to its last.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use beit_loader::Batch;
use serde_json::json;

use super::streak::{self, Next, Odd, Skipped, Streak};
use super::{Shared, trace};
use crate::checkpoint::{Checkpoint, Metrics, State};
use crate::error::{TrainError, torch};
use crate::ranks::Comm;
use crate::stats::{Stage, unix_ms};
use crate::step::{Replica, Seen, Update};

/// Where a rank stood when it ended well.
pub(super) struct End {
    /// Steps done.
    pub step: u64,
    /// The newest checkpoint, from the rank that writes them.
    pub checkpoint: Option<PathBuf>,
}

/// What the ranks agreed on at the end of a step's forward and backward.
struct Agreed {
    loss: f64,
    mlm_acc: f64,
    stop: bool,
    checkpoint: bool,
    pause: bool,
    /// The data set has more samples than the run knows of.
    grown: bool,
    /// Why the weights must not change.
    odd: Option<Odd>,
    /// Which samples all ranks saw.
    batch: f64,
}

/// How long a paused rank sleeps between two looks.
const NAP: Duration = Duration::from_millis(50);

/// Trains until the last step, a stop, or a failure.
pub(super) fn train(shared: &Shared<'_>, comm: &Comm, saved: Option<Checkpoint>) -> Result<End, TrainError> {
    let Shared { plan, stats, .. } = shared;
    let local = (comm.rank - plan.world.first) as usize;
    beit_torch::set_threads(plan.threads_per_rank).map_err(torch("setting threads"))?;
    let weights = saved.as_ref().map(|saved| (&saved.model, &saved.optimizer));
    let scaler = saved.as_ref().and_then(|saved| saved.state.scaler);
    let mut metrics = saved.as_ref().map(|saved| saved.state.metrics).unwrap_or_default();
    let mut replica = Replica::new(plan, comm, weights, scaler)?;
    drop(saved);
    if comm.rank == 0 && shared.first_step == 0 {
        tracing::info!(parameters = replica.model.parameter_count(), "Built a new model.");
    }
    let mut newest = shared.resumed.clone();
    let mut step = shared.first_step;
    let mut batches = shared.supply.take(comm.rank)?;
    let mut exchange = None;
    let mut streak = Streak::default();
    let mut save_due = false;
    loop {
        if exchange == Some(step) {
            stats.enter(local, Stage::Data);
            batches = shared.supply.exchange(plan, comm.rank, batches, step, &shared.log)?;
            exchange = None;
        }
        let begun = Instant::now();
        stats.enter(local, Stage::Data);
        let batch = batches.next().map_err(|error| TrainError::Data(Box::new(error)))?;
        let waited = begun.elapsed();
        stats.ranks[local].data_wait_ns.fetch_add(waited.as_nanos() as u64, Relaxed);
        check(&batch, step)?;
        if step == shared.first_step {
            first_batch(shared, comm, &batch);
            stats.first_wait_ns.fetch_add(waited.as_nanos() as u64, Relaxed);
        }
        stats.enter(local, Stage::Step);
        let stepping = Instant::now();
        let epoch = batch.epoch();
        let samples = trace::part(&batch, u64::from(comm.rank) * u64::from(plan.recipe.rank_batch()));
        let seen = replica.learn(&batch, comm)?;
        let ids = batch.ids().to_vec();
        drop(batch);
        stats.ranks[local].step_ns.fetch_add(stepping.elapsed().as_nanos() as u64, Relaxed);

        stats.enter(local, Stage::Agree);
        let (gradients, grad_norm) = replica.clip()?;
        let agreed = agree(shared, comm, seen, grad_norm, samples)?;
        stats.enter(local, Stage::Update);
        let (lr, weight_decay) = match &agreed.odd {
            None => {
                streak.end();
                metrics = Metrics { loss: agreed.loss, mlm_acc: agreed.mlm_acc };
                replica.update(step, &gradients)?
            }
            Some(odd) => {
                let scale = replica.scaler().map(|scaler| scaler.scale);
                if local == 0 {
                    stats.skipped_steps.fetch_add(1, Relaxed);
                }
                let skipped =
                    Skipped { rank: comm.rank, step: step + 1, loss: agreed.loss, odd, samples: &ids };
                if streak.go_on(shared, skipped, scale)? == Next::RollBack {
                    streak::roll_back(shared, comm, &mut replica, step + 1)?;
                }
                replica.skip(step)
            }
        };
        drop(gradients);
        step += 1;
        if local == 0 {
            stats.loss_scale.set(replica.scaler().map_or(1.0, |scaler| scaler.scale));
            let update = Update { lr, weight_decay, grad_norm };
            tell(shared, step, epoch, &agreed, update, waited, begun.elapsed());
        }

        let over = step >= plan.steps || agreed.stop;
        save_due |= agreed.checkpoint || step.is_multiple_of(plan.save_every_steps);
        // Weights in doubt are saved only if there is no other time for it.
        if comm.rank == 0 && (over || save_due && !streak.runs()) {
            stats.enter(local, Stage::Checkpoint);
            save_due = false;
            match save(shared, &replica, step, metrics) {
                Ok(path) => newest = Some(path),
                // The weights are still here: the next checkpoint may succeed. The last one has no next.
                Err(error) if over => return Err(error),
                Err(error) => {
                    tracing::error!(step, %error, "A checkpoint could not be written; training goes on.")
                }
            }
        }
        if agreed.grown && exchange.is_none() {
            exchange = Some(shared.supply.exchange_at(plan, step));
        }
        if over {
            return Ok(End { step, checkpoint: newest });
        }
        if agreed.pause {
            stats.enter(local, Stage::Paused);
            while paused(shared, comm)? {}
        }
    }
}

/// The loader and the loop count steps on their own; they must agree.
fn check(batch: &Batch<'_>, step: u64) -> Result<(), TrainError> {
    if batch.step() == step {
        return Ok(());
    }
    Err(TrainError::Broken(format!("the loader is at step {}, the trainer at {step}", batch.step())))
}

/// Leaves a trace by which two starts can be compared.
fn first_batch(shared: &Shared<'_>, comm: &Comm, batch: &Batch<'_>) {
    let digest = format!("{:032x}", batch.digest());
    tracing::info!(rank = comm.rank, step = batch.step(), digest, "Took the first batch.");
    shared.log.event("first_batch", json!({ "rank": comm.rank, "step": batch.step(), "digest": digest }));
}

/// Sums up what ranks saw and what was asked of them, so that all go on, or stop, at the same step.
fn agree(
    shared: &Shared<'_>,
    comm: &Comm,
    seen: Seen,
    grad_norm: f64,
    samples: f64,
) -> Result<Agreed, TrainError> {
    let flag = |yes: bool| f64::from(u8::from(yes));
    let control = shared.control;
    let mut notes = vec![
        seen.loss,
        seen.mlm_acc,
        flag(control.stop_wanted()),
        flag(control.take_checkpoint()),
        flag(control.pause_wanted()),
        flag(comm.rank == 0 && shared.supply.grown()),
        samples,
    ];
    let first_flag = notes.len();
    // A loss that is no number spoils the averaged gradients of every rank, so the norm alone would name them all.
    let odd_loss = !seen.loss.is_finite();
    notes.resize(first_flag + comm.size as usize, 0.0);
    notes[first_flag + comm.rank as usize] = flag(odd_loss);
    notes.push(flag(!grad_norm.is_finite()));
    let sums = comm.sum(&notes)?;
    let size = f64::from(comm.size);
    let odd_losses: Vec<u32> =
        (0..comm.size).filter(|rank| sums[first_flag + *rank as usize] > 0.0).collect();
    let odd = match (odd_losses.is_empty(), sums[notes.len() - 1] > 0.0) {
        (false, _) => Some(Odd::Loss(odd_losses)),
        (true, true) => Some(Odd::Gradient),
        (true, false) => None,
    };
    Ok(Agreed {
        loss: sums[0] / size,
        mlm_acc: sums[1] / size,
        stop: sums[2] > 0.0,
        checkpoint: sums[3] > 0.0,
        pause: sums[4] > 0.0,
        grown: sums[5] > 0.0,
        odd,
        batch: sums[6],
    })
}

/// Naps once; whether to nap again. Ranks keep step, so none of them times out.
fn paused(shared: &Shared<'_>, comm: &Comm) -> Result<bool, TrainError> {
    std::thread::sleep(NAP);
    let wanted = shared.control.pause_wanted() && !shared.control.stop_wanted();
    Ok(comm.sum(&[f64::from(u8::from(wanted))])?[0] > 0.0)
}

/// Puts a step into the numbers and, where this process leads, into the log.
fn tell(
    shared: &Shared<'_>,
    step: u64,
    epoch: u64,
    agreed: &Agreed,
    update: Update,
    waited: Duration,
    took: Duration,
) {
    let (plan, stats) = (shared.plan, shared.stats);
    let took = took.as_secs_f64().max(1e-9);
    let rate = plan.global_batch as f64 / took;
    let smooth = match stats.steps_here.fetch_add(1, Relaxed) {
        0 => rate,
        _ => 1.0 / (0.95 / stats.samples_per_s.get() + 0.05 / rate), // means of times, not of rates
    };
    stats.samples_per_s.set(smooth);
    if agreed.odd.is_none() {
        stats.loss.set(agreed.loss);
        stats.mlm_acc.set(agreed.mlm_acc);
        stats.grad_norm.set(update.grad_norm);
    }
    let flops = plan.flops_per_step();
    let mfu = |steps_per_s: f64| shared.peak.map(|peak| flops * steps_per_s / peak);
    stats.flops_per_step.set(flops);
    stats.mfu.set(mfu(smooth / plan.global_batch as f64).unwrap_or(f64::NAN));
    stats.train_ns.fetch_add((took * 1e9) as u64, Relaxed);
    stats.lr.set(update.lr);
    stats.weight_decay.set(update.weight_decay);
    stats.epoch.store(epoch, Relaxed);
    stats.samples.store(step * plan.global_batch, Relaxed);
    stats.step.store(step, Relaxed);
    shared.log.line(json!({
        "step": step,
        "epoch": epoch,
        "batch": trace::text(agreed.batch),
        "loss": agreed.loss,
        "mlm_acc": agreed.mlm_acc,
        "lr": update.lr,
        "weight_decay": update.weight_decay,
        "grad_norm": update.grad_norm,
        "loss_scale": stats.loss_scale.get(),
        "samples_per_s": rate,
        "data_wait_s": waited.as_secs_f64(),
        "step_s": took,
        "flops_per_s": flops / took,
        "mfu": mfu(1.0 / took),
    }));
}

/// Publishes a checkpoint and clears away old ones.
fn save(shared: &Shared<'_>, replica: &Replica, step: u64, metrics: Metrics) -> Result<PathBuf, TrainError> {
    let Shared { plan, stats, log, .. } = shared;
    let Some(shelf) = &shared.shelf else {
        return Err(TrainError::Broken("rank 0 has nowhere to put checkpoints".into()));
    };
    let begun = Instant::now();
    let generations = shared.supply.generations();
    let state = State {
        step,
        position: step * plan.global_batch,
        epoch: generations.epoch(step * plan.global_batch),
        seed: plan.recipe.seed,
        unix_ms: unix_ms(),
        data_digest: plan.data.digest.clone(),
        tokenizer_digest: plan.data.tokenizer_digest.clone(),
        generations: generations.list().to_vec(),
        metrics,
        scaler: replica.scaler(),
        plan: serde_json::to_value(plan)
            .map_err(|error| TrainError::Broken(format!("writing the plan: {error}")))?,
    };
    let published =
        crate::checkpoint::write(shelf, &state, &replica.model.state_dict(), &replica.optimizer.state())
            .inspect_err(|error| {
                stats.checkpoint.failures.fetch_add(1, Relaxed);
                log.event("checkpoint_failed", json!({ "step": step, "error": error.to_string() }));
            })?;
    let seconds = begun.elapsed().as_secs_f64();
    stats.checkpoint.published.fetch_add(1, Relaxed);
    stats.checkpoint.step.store(step, Relaxed);
    stats.checkpoint.bytes.store(published.bytes, Relaxed);
    stats.checkpoint.seconds.set(seconds);
    stats.checkpoint.published_unix_ms.store(unix_ms(), Relaxed);
    log.event("checkpoint", json!({ "step": step, "bytes": published.bytes, "seconds": seconds }));
    tracing::info!(step, bytes = published.bytes, seconds, "Checkpoint published.");
    if let Err(error) = shelf.prune(plan.recipe.keep_last, step) {
        tracing::warn!(%error, "An old checkpoint could not be removed.");
    }
    Ok(published.path)
}
