//! One rank from its first step to its last.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use beit_loader::{Batch, RankBatches};
use beit_shards::SampleId;
use serde_json::json;

use super::pictures::Pictures;
use super::reporter::Reporter;
use super::saver::{Saver, Standing};
use super::streak::{self, Next, Odd, Skipped, Streak};
use super::{Shared, trace};
use crate::checkpoint::{Checkpoint, Metrics};
use crate::error::{TrainError, torch};
use crate::feed::Staged;
use crate::memory::peak_resident_bytes;
use crate::meter::Numbers;
use crate::ranks::Comm;
use crate::stats::Stage;
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

/// Trains until the last step, a stop, or a failure; `saver` is rank 0's.
pub(super) fn train(
    shared: &Shared<'_>,
    comm: &Comm,
    saved: Option<Checkpoint>,
    mut saver: Option<Saver>,
) -> Result<End, TrainError> {
    let Shared { plan, stats, .. } = shared;
    let local = (comm.rank - plan.world.first) as usize;
    beit_torch::set_threads(plan.threads_per_rank).map_err(torch("setting threads"))?;
    let weights = saved.as_ref().map(|saved| (&saved.model, &saved.optimizer));
    let scaler = saved.as_ref().and_then(|saved| saved.state.scaler);
    let mut metrics = saved.as_ref().map(|saved| saved.state.metrics).unwrap_or_default();
    let mut replica = Replica::new(plan, comm, weights, scaler)?;
    let parameters = replica.model.parameter_count();
    let left = saved.as_ref().and_then(|saved| saved.state.epoch_sums.as_ref());
    let mut reporter = (comm.rank == 0).then(|| Reporter::open(shared, parameters, left)).transpose()?;
    drop(saved);
    if comm.rank == 0 && shared.first_step == 0 {
        tracing::info!(parameters, "Built a new model.");
    }
    let mut step = shared.first_step;
    let mut batches = shared.supply.take(comm.rank)?;
    let mut pictures = if comm.rank == 0 { Pictures::open(shared) } else { None };
    let mut exchange = None;
    let mut ahead: Option<Taken> = None;
    let mut streak = Streak::default();
    let mut save_due = false;
    loop {
        if exchange == Some(step) {
            stats.enter(local, Stage::Data);
            batches = shared.supply.exchange(plan, comm.rank, batches, step, &shared.log)?;
            (exchange, ahead) = (None, None);
        }
        let begun = Instant::now();
        stats.enter(local, Stage::Data);
        let Taken { staged, epoch, ids, samples, waited } = match ahead.take() {
            Some(taken) => taken,
            None => take(shared, comm, &replica, &mut batches, step)?,
        };
        if step == shared.first_step {
            stats.first_wait_ns.fetch_add(waited.as_nanos() as u64, Relaxed);
        }
        stats.enter(local, Stage::Step);
        let learned = replica.learn(staged, comm)?;
        if step + 1 < plan.steps && exchange != Some(step + 1) && batches.is_ready() {
            ahead = Some(take(shared, comm, &replica, &mut batches, step + 1)?); // while the device computes
        }
        let weights_waited = learned.waited;
        let seen = learned.read()?;
        let exchanged = weights_waited + replica.exposed()?;

        stats.enter(local, Stage::Agree);
        let (gradients, grad_norm) = replica.clip()?;
        let agreeing = Instant::now();
        let agreed = agree(shared, comm, seen, grad_norm, samples)?;
        stats.ranks[local].all_reduce.add(exchanged + agreeing.elapsed());
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
                    if let Some(saver) = &mut saver {
                        saver.settle()?; // the newest checkpoint may still be under way
                    }
                    streak::roll_back(shared, comm, &mut replica, step + 1)?;
                }
                replica.skip(step)
            }
        };
        drop(gradients);
        step += 1;
        let took = begun.elapsed();
        stats.ranks[local].step.add(took);
        if local == 0 {
            stats.loss_scale.set(replica.scaler().map_or(1.0, |scaler| scaler.scale));
            let update = Update { lr, weight_decay, grad_norm };
            tell(shared, step, epoch, &agreed, update, waited, took);
            if let Some(reporter) = &mut reporter {
                reporter.step(shared, step, &numbers(&agreed, update, stats.loss_scale.get()), waited, took);
            }
        }

        let mut over = step >= plan.steps || agreed.stop;
        let mut save = |reporter: &Option<Reporter>, replica: &Replica| {
            // Rank 0 has both.
            let (Some(saver), Some(reporter)) = (&mut saver, reporter) else { return Ok(()) };
            stats.enter(local, Stage::Checkpoint);
            saver.save(shared, replica, Standing { step, metrics, epoch_sums: reporter.sums() })
        };
        save_due |= agreed.checkpoint || plan.saves_after(step);
        // Weights in doubt are saved only if there is no other time for it.
        if over || save_due && !streak.runs() {
            save_due = false;
            save(&reporter, &replica)?;
        }
        if agreed.grown && exchange.is_none() {
            exchange = Some(shared.supply.exchange_at(plan, step));
        }
        // Whoever pauses a run may want to look at it, and it may be stopped then.
        if let Some(due) = pictures.as_mut().filter(|pictures| over || pictures.due(agreed.pause)) {
            stats.enter(local, Stage::Step);
            due.take(&replica, step);
        }
        while agreed.pause && !over {
            if stats.stage(local).0 != Stage::Paused {
                stats.enter(local, Stage::Paused);
            }
            let wish = rest(shared, comm)?;
            over = wish.stop;
            if wish.stop || wish.checkpoint {
                save(&reporter, &replica)?;
            }
            if !wish.pause {
                break;
            }
        }
        if over {
            let checkpoint = saver.map_or(Ok(None), |saver| saver.finish(shared))?;
            if let Some(pictures) = pictures {
                pictures.finish();
            }
            return Ok(End { step, checkpoint });
        }
    }
}

/// A batch, taken from the loader and on its way to the device.
struct Taken {
    staged: Staged,
    epoch: u64,
    ids: Vec<SampleId>,
    /// What [`trace`] makes of it.
    samples: f64,
    waited: Duration,
}

/// Takes the batch of step `step`; waits for it.
fn take(
    shared: &Shared<'_>,
    comm: &Comm,
    replica: &Replica,
    batches: &mut RankBatches,
    step: u64,
) -> Result<Taken, TrainError> {
    let Shared { plan, stats, .. } = shared;
    let begun = Instant::now();
    let batch = batches.next().map_err(|error| TrainError::Data(Box::new(error)))?;
    let waited = begun.elapsed();
    let local = (comm.rank - plan.world.first) as usize;
    stats.ranks[local].data_wait.add(waited);
    stats.ranks[local].batches.fetch_add(1, Relaxed);
    check(&batch, step)?;
    if step == shared.first_step {
        first_batch(shared, comm, &batch);
    }
    let first_position = u64::from(comm.rank) * u64::from(plan.recipe.rank_batch());
    Ok(Taken {
        staged: replica.stage(&batch)?,
        epoch: batch.epoch(),
        ids: batch.ids().to_vec(),
        samples: trace::part(&batch, first_position),
        waited,
    })
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

/// What is asked of ranks that stand still.
struct Wish {
    pause: bool,
    stop: bool,
    checkpoint: bool,
}

/// Naps once and asks what comes next. Ranks keep step, so none of them times out.
fn rest(shared: &Shared<'_>, comm: &Comm) -> Result<Wish, TrainError> {
    std::thread::sleep(NAP);
    let control = shared.control;
    let wishes = [control.pause_wanted(), control.stop_wanted(), control.take_checkpoint()];
    let sums = comm.sum(&wishes.map(|wish| f64::from(u8::from(wish))))?;
    Ok(Wish { pause: sums[0] > 0.0, stop: sums[1] > 0.0, checkpoint: sums[2] > 0.0 })
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
    let peak = peak_resident_bytes();
    stats.peak_memory_bytes.store(peak.unwrap_or(0), Relaxed);
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
        "peak_memory_bytes": peak,
    }));
}

/// What the reference tells of a step.
fn numbers(agreed: &Agreed, update: Update, loss_scale: f64) -> Numbers {
    Numbers {
        lr: update.lr,
        min_lr: update.lr, // every group of pre-training has a scale of 1
        mlm_acc: agreed.mlm_acc,
        loss: agreed.loss,
        loss_scale,
        weight_decay: update.weight_decay,
        grad_norm: update.grad_norm,
    }
}
