//! What a checkpoint knows about images it has not seen.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use beit_loader::Loader;
use beit_shards::Io;
use serde::Serialize;

use crate::checkpoint::{self, Shelf};
use crate::device::Device;
use crate::error::{TrainError, torch};
use crate::feed::Feed;
use crate::loss::score;
use crate::model::Model;
use crate::plan::{Ask, DataFacts, Plan, open_set};
use crate::ranks::World;

/// What to evaluate, and on what.
#[derive(Clone, Debug)]
pub struct EvaluateAsk {
    /// A checkpoint directory, or a run directory, whose newest sound checkpoint is taken.
    pub checkpoint: PathBuf,
    /// The held-out shards, of the same tokenizer.
    pub shards: PathBuf,
    /// At most so many samples; none: all.
    pub samples: Option<u64>,
    /// Samples per forward pass.
    pub batch_size: u32,
    /// Whether to ask again with another image's pixels under the same masks and targets.
    pub shuffle_pixels: bool,
}

/// The outcome. Losses and entropies are in nats per masked token, over all masked tokens alike.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Step of the checkpoint.
    pub step: u64,
    /// Samples evaluated.
    pub samples: u64,
    /// Masked tokens among them.
    pub masked_tokens: u64,
    /// Cross-entropy of the model's guesses.
    pub loss: f64,
    /// Share of tokens whose likeliest guess is right.
    pub accuracy: f64,
    /// Entropy of the same tokens' frequencies: the loss of a model that knows those and no image.
    pub marginal_entropy: f64,
    /// `marginal_entropy` - `loss`.
    pub gain: f64,
    /// Share of the most frequent token: the accuracy of always guessing it.
    pub majority_share: f64,
    /// Different tokens among the masked ones.
    pub distinct_tokens: u64,
    /// The loss when shown another image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_image_loss: Option<f64>,
    /// The accuracy when shown another image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_image_accuracy: Option<f64>,
}

/// Sums over masked tokens.
#[derive(Default)]
struct Sums {
    loss: f64,
    right: f64,
}

/// Runs the model over held-out shards without drop path; the same call gives the same report.
///
/// # Errors
/// No sound checkpoint; shards of another tokenizer or grid; a data set that can't be read.
pub fn evaluate(ask: &EvaluateAsk) -> Result<Report, TrainError> {
    let saved = checkpoint::read(&find(ask)?)?;
    let trained: Plan =
        serde_json::from_value(saved.state.plan.clone()).map_err(|error| TrainError::Damaged {
            checkpoint: saved.path.clone(),
            reason: format!("its plan can't be understood: {error}"),
        })?;
    let set = Arc::new(open_set(&ask.shards, Io::Auto)?);
    let data = DataFacts::of(&set)?;
    if data.tokenizer_digest != trained.data.tokenizer_digest {
        return Err(TrainError::Plan(format!(
            "{} has tokens of {}, but the checkpoint learned those of {}; build these shards with that tokenizer",
            ask.shards.display(),
            data.tokenizer,
            trained.data.tokenizer
        )));
    }
    let samples = ask.samples.unwrap_or(data.samples).min(data.samples);
    let mut recipe = trained.recipe.clone();
    recipe.batch_size = u32::try_from(samples).unwrap_or(u32::MAX).min(ask.batch_size).max(1);
    recipe.steps = Some(samples.div_ceil(recipe.batch_size.into()).max(1));
    recipe.warmup_steps = 1;
    recipe.order = "shuffle".into(); // some of the samples are a fair choice then
    recipe.second_input_size = None;
    recipe.tokens = "shard".into();
    if ask.shuffle_pixels && recipe.batch_size < 2 {
        return Err(TrainError::Plan("another image's pixels need at least two samples in a batch".into()));
    }
    let plan = Plan::decide(
        Ask {
            recipe_name: trained.recipe_name.clone(),
            recipe,
            shards: ask.shards.clone(),
            run: trained.run.clone(),
            world: World::inside(1),
            device: Device::Cpu,
            resume_anyway: false,
        },
        data,
    )?;
    beit_torch::set_threads(plan.threads_per_rank).map_err(torch("setting threads"))?;
    let device = plan.device.of(0);
    let model = Model::new(&plan.model, plan.recipe.seed, device).map_err(torch("building the model"))?;
    model.load(&saved.model).map_err(torch("taking over the weights of the checkpoint"))?;
    let feed = Feed::new(&plan, device)?;

    let mut loader =
        Loader::start(plan.loader_options(set, 0)).map_err(|error| TrainError::Data(Box::new(error)))?;
    let mut batches = loader.take_rank(0);
    let (mut own, mut other, mut counts) = (Sums::default(), Sums::default(), HashMap::<u16, u64>::new());
    let (mut masked, mut left) = (0u64, samples);
    let _guard = tch::no_grad_guard();
    while left > 0 {
        let batch = batches.next().map_err(|error| TrainError::Data(Box::new(error)))?;
        let taken = (batch.ids().len() as u64).min(left) as usize;
        left -= taken as u64;
        let cells = taken * plan.grid().len();
        let (tokens, mask) = (&batch.tokens()[..cells], &batch.mask()[..cells]);
        for (token, _) in tokens.iter().zip(mask).filter(|(_, hidden)| **hidden != 0) {
            *counts.entry(*token).or_default() += 1;
        }
        let all = feed.pixels(batch.pixels())?; // [B, 3, S, S]
        let rows = taken as i64;
        let input = feed.input(all.narrow(0, 0, rows), tokens, mask, taken)?;
        masked += input.labels.numel() as u64;
        own.add(&model, &input)?;
        if ask.shuffle_pixels {
            // Sample i is shown image i + 1 of the batch; the last one the first.
            let shifted = all.f_roll([-1], [0]).map_err(torch("shuffling pixels"))?.narrow(0, 0, rows);
            other.add(&model, &crate::feed::Input { pixels: shifted, ..input })?;
        }
    }
    drop(batches);
    loader.stop();
    let total = masked as f64;
    let shares = counts.values().map(|count| *count as f64 / total);
    let marginal_entropy = shares.clone().map(|share| -share * share.ln()).sum::<f64>();
    let loss = own.loss / total;
    Ok(Report {
        step: saved.state.step,
        samples,
        masked_tokens: masked,
        loss,
        accuracy: own.right / total,
        marginal_entropy,
        gain: marginal_entropy - loss,
        majority_share: shares.fold(0.0, f64::max),
        distinct_tokens: counts.len() as u64,
        other_image_loss: ask.shuffle_pixels.then_some(other.loss / total),
        other_image_accuracy: ask.shuffle_pixels.then_some(other.right / total),
    })
}

impl Sums {
    fn add(&mut self, model: &Model, input: &crate::feed::Input) -> Result<(), TrainError> {
        let logits =
            model.forward_hidden(&input.pixels, &input.hidden, None).map_err(torch("running the model"))?;
        let score = score(&logits, &input.labels).map_err(torch("computing the loss"))?;
        let hidden = score.hidden as f64;
        self.loss += score.loss.double_value(&[]) * hidden;
        self.right += score.mlm_acc.double_value(&[]) * hidden;
        Ok(())
    }
}

/// The checkpoint that is meant.
fn find(ask: &EvaluateAsk) -> Result<PathBuf, TrainError> {
    if ask.checkpoint.join("manifest.json").exists() {
        return Ok(ask.checkpoint.clone());
    }
    if !ask.checkpoint.join("checkpoints").is_dir() {
        return Err(TrainError::Plan(format!(
            "{} is neither a checkpoint nor a run directory",
            ask.checkpoint.display()
        )));
    }
    match Shelf::newest_of(&ask.checkpoint)?.found {
        Some(found) => Ok(found.path),
        None => Err(TrainError::Plan(format!("{} has no sound checkpoint", ask.checkpoint.display()))),
    }
}
