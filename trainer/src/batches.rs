//! The batches of a run as files, for whoever compares another implementation with this one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use beit_loader::{Batch, Loader, Options};
use beit_torchfile::{Dtype, Tensor, write_safetensors};

use crate::error::{TrainError, io};
use crate::feed::Feed;
use crate::generation::Generations;
use crate::plan::{Plan, open_set};
use crate::step::bytes;

/// What [`write()`] wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// One for each step and rank.
    pub files: u64,
    /// Of all tensors together.
    pub bytes: u64,
}

/// Writes what the local ranks of `plan` see in `steps` (counted from 0) into the folder `out`: `plan.json`, and for each step and
/// rank `step-00000012.rank-0003.safetensors`, whose metadata repeats both, the epoch and the batch's digest.
///
/// A run shows exactly these batches, whatever checkpoint it goes on from, as long as its data set does not grow.
///
/// # Shapes
/// `pixels` `[B, 3, S, S]` f32, normalised; `mask` `[B, N]` u8, 1 = hidden; `labels` `[M]` i64, the tokens of hidden patches,
/// row-major; `tokens` `[B, N]` i64, of all patches; `ids` `[B]` i64, the sample ids' 64 bits
/// # Errors
/// no steps; the data set can't be read; the folder can't be written
pub fn write(plan: &Plan, steps: Range<u64>, out: &Path) -> Result<Written, TrainError> {
    if steps.is_empty() {
        let Range { start, end } = steps;
        return Err(TrainError::Plan(format!(
            "there is no step from {start} up to {end}, without {end} itself"
        )));
    }
    std::fs::create_dir_all(out).map_err(io("creating", out))?;
    let text = serde_json::to_vec_pretty(plan)
        .map_err(|error| TrainError::Broken(format!("writing the plan: {error}")))?;
    let path = out.join("plan.json");
    std::fs::write(&path, text).map_err(io("writing", &path))?;

    let data = |error| TrainError::Data(Box::new(error));
    let set = open_set(&plan.shards, plan.recipe.io())?;
    let generations = Generations::first(&set).plain();
    let options = plan.loader_options(Arc::new(set), steps.start);
    let mut loader = Loader::start(Options { generations, ..options }).map_err(data)?;
    let feed = Feed::new(plan, tch::Device::Cpu)?;
    let mut ranks: Vec<_> = plan.world.ranks().map(|rank| loader.take_rank(rank)).collect();
    let mut written = Written::default();
    for _ in steps {
        for batches in &mut ranks {
            let rank = batches.rank();
            let batch = batches.next().map_err(data)?;
            written.bytes += one(&feed, plan.recipe.update_freq, rank, &batch, out)?;
            written.files += 1;
        }
    }
    drop(ranks);
    loader.stop();
    Ok(written)
}

fn one(feed: &Feed, parts: u32, rank: u32, batch: &Batch<'_>, out: &Path) -> Result<u64, TrainError> {
    let samples = batch.ids().len();
    let tokens =
        (0..parts).map(|part| feed.tokens(batch, part, parts)).collect::<Result<Vec<_>, _>>()?.concat();
    let input = feed.input(feed.pixels(batch.pixels())?, &tokens, batch.mask(), samples)?;
    let patches = batch.mask().len() / samples;
    let pixels: Vec<usize> = input.pixels.size().into_iter().map(|side| side as usize).collect();
    let tokens = tokens.iter().flat_map(|token| i64::from(*token).to_le_bytes()).collect();
    let ids = batch.ids().iter().flat_map(|id| id.0.to_le_bytes()).collect();
    let tensors = [
        ("pixels", tensor(Dtype::F32, &pixels, bytes(&input.pixels)?)?),
        ("mask", tensor(Dtype::U8, &[samples, patches], batch.mask().to_vec())?),
        ("labels", tensor(Dtype::I64, &[input.labels.numel()], bytes(&input.labels)?)?),
        ("tokens", tensor(Dtype::I64, &[samples, patches], tokens)?),
        ("ids", tensor(Dtype::I64, &[samples], ids)?),
    ];
    let facts = [
        ("step", batch.step().to_string()),
        ("rank", rank.to_string()),
        ("epoch", batch.epoch().to_string()),
        ("digest", format!("{:032x}", batch.digest())),
    ];
    let facts: BTreeMap<String, String> = facts.map(|(name, fact)| (name.to_owned(), fact)).into();
    let path = out.join(format!("step-{:08}.rank-{rank:04}.safetensors", batch.step()));
    write_safetensors(&path, tensors.iter().map(|(name, tensor)| (*name, tensor)), &facts)
        .map_err(|error| TrainError::Broken(error.to_string()))?;
    Ok(tensors.iter().map(|(_, tensor)| tensor.byte_len() as u64).sum())
}

fn tensor(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Result<Tensor, TrainError> {
    Tensor::from_bytes(dtype, shape, bytes).map_err(|error| TrainError::Broken(error.to_string()))
}

#[cfg(test)]
mod tests;
