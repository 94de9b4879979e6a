//! How well the hidden patches' visual tokens were guessed.

use tch::{Device, Kind, Reduction, Tensor};

use crate::error::TrainError;
use crate::model::{ModelError, tensor};
use crate::ranks::{Comm, Sum};

/// How a step's loss is put together from batches that hide unequal numbers of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossMean {
    /// The mean of each batch's own mean, as the reference's ranks do: a patch in a batch with few hidden ones weighs more.
    Rank,
    /// The mean over all hidden patches of the global batch, however it is split.
    Global,
}

/// The weights of this rank's batches in the loss of a step, which may still be on their way.
#[derive(Debug)]
pub(crate) struct Weights {
    hidden: Vec<u64>,
    /// None: no batch waits for the others' counts.
    all: Option<Sum>,
    ranks: f64,
}

impl Weights {
    /// Starts to agree on the weights of a step; `hidden` counts the hidden patches of each of its micro-batches here.
    ///
    /// Every rank calls this once a step, before anything else that ranks do together in it.
    ///
    /// # Errors
    /// A rank is gone.
    pub(crate) fn ask(mean: LossMean, comm: &Comm, hidden: &[u64]) -> Result<Weights, TrainError> {
        let all = match mean {
            LossMean::Rank => None,
            LossMean::Global => Some(comm.begin_sum(&[hidden.iter().sum::<u64>() as f64])?),
        };
        Ok(Weights { hidden: hidden.to_vec(), all, ranks: f64::from(comm.size) })
    }

    /// What each micro-batch's mean loss is to be multiplied by before its backward pass; gradients are then added up over
    /// micro-batches and averaged over ranks.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub(crate) fn get(self) -> Result<Vec<f64>, TrainError> {
        let even = 1.0 / self.hidden.len().max(1) as f64;
        match self.all {
            None => Ok(vec![even; self.hidden.len()]),
            Some(all) => {
                let all = all.get()?[0];
                Ok(self.hidden.iter().map(|here| *here as f64 * self.ranks / all).collect())
            }
        }
    }
}

/// What one forward pass scored. The tensors stay on the device: reading one waits for it.
#[derive(Debug)]
pub struct Score {
    /// Scalar f32 with a graph: mean cross-entropy over all hidden patches of the local batch, in nats.
    pub loss: Tensor,
    /// Scalar f32: the share of them whose likeliest token is the right one.
    pub mlm_acc: Tensor,
    /// `M`: how many there were.
    pub hidden: i64,
}

/// Scores guesses against visual tokens, in f32 whatever the guesses' kind.
///
/// Images with more hidden patches weigh more, as in the reference.
///
/// # Shapes
/// `logits` `[M, V]`; `labels` `[M]` i64
/// # Errors
/// [`ModelError::NothingHidden`] when M is 0; [`ModelError::Shape`] when M differs between the two
/// # Source
/// `unilm/beit/engine_for_pretraining.py`
pub fn score(logits: &Tensor, labels: &Tensor) -> Result<Score, ModelError> {
    let (guesses, hidden) = (logits.size(), labels.size());
    if guesses.len() != 2 || hidden != guesses[..1] {
        let expected = format!("[{}], one for each row of logits", guesses.first().unwrap_or(&0));
        return Err(ModelError::Shape { what: "labels", expected, found: hidden });
    }
    if hidden[0] == 0 {
        return Err(ModelError::NothingHidden);
    }
    let loss = logits
        .f_to_kind(Kind::Float)
        .and_then(|logits| logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, 0.0))
        .map_err(tensor("computing the loss"))?;
    let mlm_acc = tch::no_grad(|| {
        logits
            .f_argmax(-1, false)
            .and_then(|best| best.f_eq_tensor(labels))
            .and_then(|right| right.f_mean(Kind::Float))
    })
    .map_err(tensor("computing mlm_acc"))?;
    Ok(Score { loss, mlm_acc, hidden: hidden[0] })
}

/// The visual tokens of hidden patches, picked on the host.
///
/// # Shapes
/// `tokens`, `flags` `[B, N]` row-major, flag not 0 = hidden; out `[M]` i64
/// # Errors
/// the two differ in length
pub fn labels(tokens: &[u16], flags: &[u8], device: Device) -> Result<Tensor, ModelError> {
    if tokens.len() != flags.len() {
        let expected = format!("{} tokens, one for each flag", flags.len());
        return Err(ModelError::Shape { what: "tokens", expected, found: vec![tokens.len() as i64] });
    }
    let picked: Vec<i64> = tokens
        .iter()
        .zip(flags)
        .filter(|(_, flag)| **flag != 0)
        .map(|(token, _)| i64::from(*token))
        .collect();
    Tensor::f_from_slice(&picked)
        .and_then(|labels| labels.f_to_device(device))
        .map_err(tensor("taking over visual tokens"))
}

#[cfg(test)]
mod tests;
