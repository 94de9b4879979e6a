//! How well the hidden patches' visual tokens were guessed.

use tch::{Device, Kind, Reduction, Tensor};

use crate::model::{ModelError, tensor};

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
