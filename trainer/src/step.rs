//! One rank's replica of the model and what it does in a step.

use beit_loader::Batch;
use beit_torch::{Reducer, ReducerOptions, clip_to_norm, foreach_norm};
use tch::Tensor;

use crate::drop_path::DropPathKey;
use crate::error::{TrainError, torch};
use crate::feed::Feed;
use crate::loss::{LossMean, Weights, score};
use crate::model::Model;
use crate::optimizer::{Optimizer, OptimizerOptions};
use crate::plan::Plan;
use crate::ranks::Comm;
use crate::schedule::Schedule;

/// What a rank saw in its own part of a step, before the update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Masked-token loss in nats, weighted so that the mean over ranks is the loss of the step.
    pub loss: f64,
    /// Share of masked tokens guessed right, weighted likewise.
    pub mlm_acc: f64,
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
    ) -> Result<Replica, TrainError> {
        let device = plan.device.of(plan.world.device_of(comm.rank));
        let recipe = &plan.recipe;
        let model = Model::new(&plan.model, recipe.seed, device).map_err(torch("building the model"))?;
        let options = OptimizerOptions {
            betas: recipe.opt_betas,
            eps: recipe.opt_eps,
            weight_decay: recipe.weight_decay,
        };
        let mut optimizer =
            Optimizer::new(model.parameters(), options).map_err(torch("preparing the optimizer"))?;
        if let Some((weights, state)) = saved {
            model.load(weights).map_err(torch("taking over the weights of the checkpoint"))?;
            optimizer.load_state(state).map_err(torch("taking over the optimizer of the checkpoint"))?;
        }
        comm.broadcast(model.parameters())?;
        comm.broadcast(&optimizer.state())?;
        comm.same("weights", &digest(model.parameters())?)?;
        comm.same("optimizer states", &digest(&optimizer.state())?)?;
        let reducer = Reducer::new(comm.gradients(), model.parameters(), ReducerOptions::default())
            .map_err(torch("preparing to average gradients"))?;
        Ok(Replica {
            reducer,
            optimizer,
            feed: Feed::new(plan, device)?,
            lr: plan.learning_rate()?,
            weight_decay: plan.weight_decay()?,
            clip: recipe.clip_grad,
            loss_mean: recipe.loss_mean(),
            seed: recipe.seed,
            first_position: comm.rank * recipe.batch_size,
            model,
        })
    }

    /// Forward and backward; when it returns, gradients are averaged over ranks.
    pub(crate) fn learn(&mut self, batch: &Batch<'_>, comm: &Comm) -> Result<Seen, TrainError> {
        let hidden = batch.mask().iter().filter(|flag| **flag != 0).count() as u64;
        let weights = Weights::ask(self.loss_mean, comm, &[hidden])?;
        let input = self.feed.take(batch)?;
        let drop = DropPathKey { seed: self.seed, step: batch.step(), first_position: self.first_position };
        self.reducer.before_forward().map_err(torch("preparing to average gradients"))?;
        let logits = self
            .model
            .forward_hidden(&input.pixels, &input.hidden, Some(drop))
            .map_err(torch("running the model"))?; // [M, V]
        let score = score(&logits, &input.labels).map_err(torch("computing the loss"))?;
        self.optimizer.zero_grad().map_err(torch("zeroing gradients"))?;
        self.reducer.before_backward(&[]).map_err(torch("preparing to average gradients"))?;
        let weight = weights.get()?[0];
        let loss = score.loss.f_mul_scalar(weight).map_err(torch("weighing the loss"))?;
        loss.f_backward().map_err(torch("computing gradients"))?;
        Ok(Seen { loss: number(&score.loss)? * weight, mlm_acc: number(&score.mlm_acc)? * weight })
    }

    /// Clips the gradients; the update is [`Replica::update`]'s, once all ranks agree to it.
    pub(crate) fn clip(&self) -> Result<(Vec<Tensor>, f64), TrainError> {
        let gradients = self.optimizer.gradients().map_err(torch("reading gradients"))?;
        let norm = match self.clip {
            Some(most) => clip_to_norm(&gradients, most),
            None => foreach_norm(&gradients),
        };
        let norm = norm.map_err(torch("measuring gradients"))?;
        Ok((gradients, number(&norm)?))
    }

    /// The update of step `step`, counted from 0.
    pub(crate) fn update(&mut self, step: u64, gradients: &[Tensor]) -> Result<(f64, f64), TrainError> {
        let (lr, weight_decay) = (self.lr.at(step), self.weight_decay.at(step));
        self.optimizer.set(lr, weight_decay);
        self.optimizer.update(gradients, None).map_err(torch("updating the weights"))?;
        Ok((lr, weight_decay))
    }
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
