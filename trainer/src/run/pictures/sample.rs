//! The samples that pictures are made of: the first of the run's first epoch, the same at every start.

use std::collections::HashSet;
use std::sync::Arc;

use beit_loader::{Loader, LoaderError, Options, Shuffle};
use beit_shards::{SampleId, ShardSet};

use crate::generation::Generations;
use crate::plan::Plan;

/// One sample as the model is shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub id: SampleId,
    /// `[S, S, 3]`: its view 0.
    pub pixels: Vec<u8>,
    /// `[N]`, 1 = hidden.
    pub mask: Vec<u8>,
    /// `[N]`: the shard's tokens of that view.
    pub tokens: Vec<u16>,
}

impl Sample {
    /// How many patches are hidden.
    pub fn hidden(&self) -> usize {
        self.mask.iter().filter(|flag| **flag != 0).count()
    }

    /// The tokens with those of hidden patches replaced by `guesses`, and how many of these are right.
    pub fn with(&self, guesses: &[u16]) -> (Vec<u16>, usize) {
        let mut tokens = self.tokens.clone();
        let places = tokens.iter_mut().zip(&self.mask).filter(|(_, flag)| **flag != 0);
        let mut right = 0;
        for ((token, _), guess) in places.zip(guesses) {
            right += usize::from(*token == *guess);
            *token = *guess;
        }
        (tokens, right)
    }
}

/// Reads as many samples as the recipe asks for, or as the run began with if that is fewer.
///
/// They stand at the first positions of an order of the whole set, so seed and set alone name them, with view and mask of
/// epoch 0. Where a record is unreadable the next sound one stands in for it, as in training.
///
/// # Errors
/// more unreadable records than the recipe allows
pub(super) fn choose(
    plan: &Plan,
    set: Arc<ShardSet>,
    generations: &Generations,
) -> Result<Vec<Sample>, LoaderError> {
    let generations = generations.plain();
    let all = generations.first().map_or(set.len(), |first| first.samples);
    let count = u64::from(plan.recipe.pictures).min(all);
    let options = plan.loader_options(set, 0);
    let mut loader = Loader::start(Options {
        world_size: 1,
        ranks: 0..1,
        batch_size: count as u32, // at most 64
        workers: 1,
        slots: 2,
        shuffle: Shuffle::Full,
        read_ahead: 0,
        fresh_views: false,
        generations,
        on_corrupt: None, // training tells
        ..options
    })?;
    let mut batches = loader.take_rank(0);
    let (mut seen, mut samples) = (HashSet::new(), Vec::new());
    // A stand-in may come a second time in its own place; so there may be more than one batch to look at, within the epoch.
    for _ in 0..all.div_ceil(count) {
        let batch = batches.next()?;
        let views = batch.pixels().chunks_exact(batch.pixels().len() / count as usize);
        let patches = batch.mask().len() / count as usize;
        let marks = batch.mask().chunks_exact(patches).zip(batch.tokens().chunks_exact(patches));
        for ((id, pixels), (mask, tokens)) in batch.ids().iter().zip(views).zip(marks) {
            if samples.len() < count as usize && seen.insert(*id) {
                samples.push(Sample {
                    id: *id,
                    pixels: pixels.to_vec(),
                    mask: mask.to_vec(),
                    tokens: tokens.to_vec(),
                });
            }
        }
        if samples.len() == count as usize {
            break;
        }
    }
    Ok(samples)
}
