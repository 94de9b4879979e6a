//! One rank's replica of the model and what it does in a step.

use std::borrow::Borrow;
use std::time::{Duration, Instant};

use beit_loader::Batch;
use beit_torch::{Reducer, ReducerOptions, clip_to_norm, foreach_norm};
use tch::Tensor;

use crate::amp::{Amp, LossScaler, ScalerState};
use crate::drop_path::DropPathKey;
use crate::error::{TrainError, torch};
use crate::feed::{Feed, Input, Part, Staged};
use crate::loss::{LossMean, Score, Weights, score};
use crate::model::{Hidden, Model};
use crate::optimizer::{Optimizer, OptimizerOptions};
use crate::plan::Plan;
use crate::ranks::Comm;
use crate::schedule::Schedule;

/// What a rank saw in its own part of a step, before the update: means over its micro-batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Masked-token loss in nats, weighted so that the mean over ranks is the loss of the step.
    pub loss: f64,
    /// Share of masked tokens guessed right, weighted likewise.
    pub mlm_acc: f64,
}

/// A step's forward and backward, whose numbers may not be there yet.
pub(crate) struct Learned {
    loss: Tensor,
    mlm_acc: Tensor,
    /// How long this rank stood waiting for the others' counts of hidden patches.
    pub waited: Duration,
}

impl Learned {
    /// Waits for the numbers.
    pub(crate) fn read(self) -> Result<Seen, TrainError> {
        Ok(Seen { loss: number(&self.loss)?, mlm_acc: number(&self.mlm_acc)? })
    }
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub lr: f64,
    pub weight_decay: f64,
    pub grad_norm: f64,
}

/// A rank's model, optimizer and line to the others.
pub(crate) struct Replica {
    // Before the model and the group: its hooks hold both.
    reducer: Reducer,
    pub model: Model,
    pub optimizer: Optimizer,
    feed: Feed,
    lr: Schedule,
    weight_decay: Schedule,
    clip: Option<f64>,
    amp: Amp,
    scaler: Option<LossScaler>,
    micro_batches: u32,
    batch_size: u32,
    loss_mean: LossMean,
    seed: u64,
    first_position: u32,
}

/// Parameters and optimizer state by name, as a checkpoint has them.
pub(crate) type Tensors = Vec<(String, Tensor)>;

impl Replica {
    /// Builds the model, takes over a checkpoint's weights where given (rank 0's count), and makes sure that all
    /// ranks start from the same ones.
    pub(crate) fn new(
        plan: &Plan,
        comm: &Comm,
        saved: Option<(&Tensors, &Tensors)>,
        scaler: Option<ScalerState>,
    ) -> Result<Replica, TrainError> {
        let device = plan.device.of(plan.world.device_of(comm.rank));
        let recipe = &plan.recipe;
        let mut model = Model::new(&plan.model, recipe.seed, device).map_err(torch("building the model"))?;
        model.recompute_activations(recipe.checkpoint_activations);
        let options = OptimizerOptions {
            betas: recipe.opt_betas,
            eps: recipe.opt_eps,
            weight_decay: recipe.weight_decay,
        };
        let mut optimizer =
            Optimizer::new(model.parameters(), options).map_err(torch("preparing the optimizer"))?;
        take_over(&model, &mut optimizer, comm, saved)?;
        comm.same("weights", &digest(model.parameters())?)?;
        comm.same("optimizer states", &digest(&optimizer.state())?)?;
        let reducer = Reducer::new(comm.gradients(), model.parameters(), ReducerOptions::default())
            .map_err(torch("preparing to average gradients"))?;
        let scaler = match recipe.amp() {
            Amp::Fp16 => Some(LossScaler::new(scaler, device)?),
            Amp::Off | Amp::Bf16 => None,
        };
        Ok(Replica {
            reducer,
            optimizer,
            feed: Feed::new(plan, device)?,
            lr: plan.learning_rate()?,
            weight_decay: plan.weight_decay()?,
            clip: recipe.clip_grad,
            amp: recipe.amp(),
            scaler,
            micro_batches: recipe.update_freq,
            batch_size: recipe.batch_size,
            loss_mean: recipe.loss_mean(),
            seed: recipe.seed,
            first_position: comm.rank * recipe.rank_batch(),
            model,
        })
    }

    /// Back to saved weights and optimizer state, on every rank (rank 0's count).
    pub(crate) fn roll_back(
        &mut self,
        comm: &Comm,
        saved: Option<(&Tensors, &Tensors)>,
    ) -> Result<(), TrainError> {
        take_over(&self.model, &mut self.optimizer, comm, saved)
    }

    /// Sends a batch to the device ahead of its step.
    pub(crate) fn stage(&self, batch: &Batch<'_>) -> Result<Staged, TrainError> {
        self.feed.stage(batch, self.micro_batches)
    }

    /// Forward and backward, micro-batch by micro-batch; gradients are then averaged over ranks. On a GPU all of it may
    /// still be under way when this returns: [`Learned::read`] waits for it.
    pub(crate) fn learn(&self, batch: Staged, comm: &Comm) -> Result<Learned, TrainError> {
        let Staged { step, parts } = batch;
        let hidden: Vec<u64> = parts.iter().map(Part::hidden).collect();
        self.learn_parts(step, comm, &hidden, parts.into_iter().map(|part| self.feed.ready(part)))
    }

    /// [`Replica::learn`] with micro-batches from wherever they come; `hidden` counts the hidden patches of each.
    pub(crate) fn learn_parts<I: Borrow<Input>>(
        &self,
        step: u64,
        comm: &Comm,
        hidden: &[u64],
        parts: impl IntoIterator<Item = Result<I, TrainError>>,
    ) -> Result<Learned, TrainError> {
        let mut pending = Some(Weights::ask(self.loss_mean, comm, hidden)?);
        self.optimizer.zero_grad().map_err(torch("zeroing gradients"))?;
        let (mut weights, mut waited) = (Vec::new(), Duration::ZERO);
        let mut seen: Option<[Tensor; 2]> = None;
        for (part, (number, input)) in (0..self.micro_batches).zip(parts.into_iter().enumerate()) {
            let input = input?;
            let last = part + 1 == self.micro_batches;
            let score = self.forward(input.borrow(), step, part, last)?;
            if let Some(pending) = pending.take() {
                let asked = Instant::now();
                weights = pending.get()?;
                waited = asked.elapsed();
            }
            let weight: f64 = weights[number];
            self.backward(&score, weight, last)?;
            let here = [score.loss.detach() * weight, score.mlm_acc * weight];
            seen = Some(match seen {
                None => here,
                Some([losses, accs]) => {
                    let [loss, acc] = here;
                    [losses + loss, accs + acc]
                }
            });
        }
        let Some([loss, mlm_acc]) = seen else {
            return Err(TrainError::Broken("a step has no micro-batch".to_owned()));
        };
        Ok(Learned { loss, mlm_acc, waited })
    }

    /// How long the newest backward waited for the other ranks' gradients when its own were all there; its numbers must
    /// have been read.
    pub(crate) fn exposed(&self) -> Result<Duration, TrainError> {
        let exposed = self.reducer.exposed().map_err(torch("asking how long gradients were waited for"))?;
        Ok(exposed.unwrap_or_default())
    }

    /// The likeliest token of each hidden patch, as in evaluation: no drop path, no draw, nothing that training would notice.
    ///
    /// # Shapes
    /// `pixels` `[B, S, S, 3]`, `mask` `[B, N]`; out `[M]`, row-major over the mask
    pub(crate) fn guess(&self, pixels: &[u8], mask: &[u8], samples: usize) -> Result<Vec<u16>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let device = self.model.device();
        let hidden = Hidden::from_flags(mask, samples, device).map_err(torch("taking over the mask"))?;
        if hidden.count() == 0 {
            return Ok(Vec::new());
        }
        let pixels = self.feed.pixels(pixels)?;
        let _amp = self.amp.enter(device)?;
        let logits = self.model.forward_hidden(&pixels, &hidden, None).map_err(torch("running the model"))?; // [M, V]
        let tokens = logits.f_argmax(1, false).map_err(torch("picking tokens"))?;
        let tokens = Vec::<i64>::try_from(&tokens).map_err(torch("copying tokens"))?;
        Ok(tokens.into_iter().map(|token| token as u16).collect()) // below the vocabulary, which fits 16 bits
    }

    fn forward(&self, input: &Input, step: u64, part: u32, last: bool) -> Result<Score, TrainError> {
        let first_position = self.first_position + part * self.batch_size;
        let drop = DropPathKey { seed: self.seed, step, first_position };
        if last {
            self.reducer.before_forward().map_err(torch("preparing to average gradients"))?;
        }
        let _amp = self.amp.enter(self.model.device())?;
        let logits = self
            .model
            .forward_hidden(&input.pixels, &input.hidden, Some(drop))
            .map_err(torch("running the model"))?; // [M, V]
        score(&logits, &input.labels).map_err(torch("computing the loss"))
    }

    /// Gradients add up on this rank; with the last micro-batch they go out to the others.
    fn backward(&self, score: &Score, weight: f64, last: bool) -> Result<(), TrainError> {
        if last {
            self.reducer.before_backward(&[]).map_err(torch("preparing to average gradients"))?;
        }
        let scale = self.scaler.as_ref().map_or(1.0, LossScaler::scale);
        score
            .loss
            .f_mul_scalar(scale * weight)
            .and_then(|loss| loss.f_backward())
            .map_err(torch("computing gradients"))
    }

    /// Scales gradients back and clips them; the update is [`Replica::update`]'s, once all ranks agree to it.
    pub(crate) fn clip(&mut self) -> Result<(Vec<Tensor>, f64), TrainError> {
        let gradients = self.optimizer.gradients().map_err(torch("reading gradients"))?;
        if let Some(scaler) = &mut self.scaler {
            scaler.unscale(&gradients)?;
        }
        let norm = match self.clip {
            Some(most) => clip_to_norm(&gradients, most),
            None => foreach_norm(&gradients),
        };
        let norm = norm.map_err(torch("measuring gradients"))?;
        Ok((gradients, number(&norm)?))
    }

    /// The update of step `step`, counted from 0.
    pub(crate) fn update(&mut self, step: u64, gradients: &[Tensor]) -> Result<(f64, f64), TrainError> {
        let (lr, weight_decay) = self.schedules(step);
        self.optimizer.set(lr, weight_decay);
        self.optimizer.update(gradients, None).map_err(torch("updating the weights"))?;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(false);
        }
        Ok((lr, weight_decay))
    }

    /// Leaves the update of step `step` out, since its gradients are no numbers.
    pub(crate) fn skip(&mut self, step: u64) -> (f64, f64) {
        if let Some(scaler) = &mut self.scaler {
            scaler.update(true);
        }
        self.schedules(step)
    }

    /// Where losses are scaled: by what, and how that goes on.
    pub(crate) fn scaler(&self) -> Option<ScalerState> {
        self.scaler.as_ref().map(LossScaler::state)
    }

    fn schedules(&self, step: u64) -> (f64, f64) {
        (self.lr.at(step), self.weight_decay.at(step))
    }
}

/// Rank 0's saved weights and optimizer state, where given, and then rank 0's on every rank.
fn take_over(
    model: &Model,
    optimizer: &mut Optimizer,
    comm: &Comm,
    saved: Option<(&Tensors, &Tensors)>,
) -> Result<(), TrainError> {
    if let Some((weights, state)) = saved {
        model.load(weights).map_err(torch("taking over the weights of the checkpoint"))?;
        optimizer.load_state(state).map_err(torch("taking over the optimizer of the checkpoint"))?;
    }
    comm.broadcast(model.parameters())?;
    comm.broadcast(&optimizer.state())
}

fn number(scalar: &Tensor) -> Result<f64, TrainError> {
    scalar.f_double_value(&[]).map_err(torch("reading a number"))
}

/// Digest of names and bytes.
pub(crate) fn digest(tensors: &[(String, Tensor)]) -> Result<blake3::Hash, TrainError> {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in tensors {
        hasher.update(name.as_bytes());
        hasher.update(&bytes(tensor)?);
    }
    Ok(hasher.finalize())
}

/// A tensor's elements, row-major, as they lie in memory.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>, TrainError> {
    let doing = "reading a tensor";
    let host = tensor
        .detach()
        .f_to_device(tch::Device::Cpu)
        .and_then(|host| host.f_contiguous())
        .map_err(torch(doing))?;
    let mut bytes = vec![0; host.numel() * host.kind().elt_size_in_bytes()];
    host.f_copy_data_u8(&mut bytes, host.numel()).map_err(torch(doing))?;
    Ok(bytes)
}
