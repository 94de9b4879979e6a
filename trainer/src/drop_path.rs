//! Drop path (stochastic depth): a residual branch left out, sample by sample.

use beit_views::{Purpose, SeedKey};
use tch::{Device, Tensor};

use crate::model::{ModelError, tensor};

/// Which samples of a run a batch holds, so that their draws depend on neither rank nor thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropPathKey {
    /// Of the run.
    pub seed: u64,
    /// The optimizer update, from 0.
    pub step: u64,
    /// Where in the step's global batch this batch begins.
    pub first_position: u32,
}

/// The two residual branches of a block; their draws are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Branch {
    Attention = 0,
    Mlp = 1,
}

/// The rates of all blocks.
#[derive(Clone, Debug)]
pub(crate) struct DropPath {
    /// Chance of dropping, per block.
    rates: Vec<f32>,
}

/// What each branch of each sample is multiplied by in one forward pass: 0 or 1/keep.
#[derive(Debug)]
pub(crate) struct Gates {
    /// `[L, 2, B, 1, 1]`; none: nothing is dropped.
    values: Option<Tensor>,
    rates: Vec<f32>,
}

impl DropPath {
    /// Rates on a line from 0 at the first block to `rate` at the last.
    pub(crate) fn new(rate: f64, depth: u32) -> DropPath {
        let last = f64::from(depth.saturating_sub(1)).max(1.0);
        DropPath { rates: (0..depth).map(|layer| (rate * f64::from(layer) / last) as f32).collect() }
    }

    /// Draws for a batch, on the host in f32 (a half's uniform draws are too coarse: Q38), and sent in one copy.
    ///
    /// Sample `i` reads the stream of (seed, step, `first_position` + i), layer by layer, attention before MLP.
    pub(crate) fn gates(
        &self,
        key: Option<DropPathKey>,
        batch: i64,
        device: Device,
    ) -> Result<Gates, ModelError> {
        let Some(key) = key.filter(|_| self.rates.iter().any(|rate| *rate > 0.0)) else {
            return Ok(Gates { values: None, rates: Vec::new() });
        };
        let samples = usize::try_from(batch).unwrap_or(0);
        let rows = self.rates.len() * 2;
        let mut values = vec![0f32; rows * samples];
        let mut draws = vec![0f32; rows];
        for sample in 0..samples {
            let index = key.first_position + sample as u32;
            let key = SeedKey { seed: key.seed, stream: key.step, index, purpose: Purpose::DropPath };
            key.draws().fill_unit_f32(&mut draws);
            for (row, draw) in draws.iter().enumerate() {
                let keep = 1.0 - self.rates[row / 2];
                values[row * samples + sample] = (keep + draw).floor() / keep;
            }
        }
        let values = Tensor::f_from_slice(&values)
            .and_then(|values| values.f_view([self.rates.len() as i64, 2, batch, 1, 1]))
            .and_then(|values| values.f_to_device(device))
            .map_err(tensor("drawing drop path"))?;
        Ok(Gates { values: Some(values), rates: self.rates.clone() })
    }
}

impl Gates {
    /// The same gates once more; the numbers are not copied.
    pub(crate) fn share(&self) -> Gates {
        Gates { values: self.values.as_ref().map(Tensor::shallow_clone), rates: self.rates.clone() }
    }

    /// `[B, 1, 1]` of one branch; none where nothing can be dropped.
    pub(crate) fn of(&self, layer: usize, branch: Branch) -> Result<Option<Tensor>, ModelError> {
        let Some(values) = self.values.as_ref().filter(|_| self.rates[layer] > 0.0) else {
            return Ok(None);
        };
        values
            .f_select(0, layer as i64)
            .and_then(|branches| branches.f_select(0, branch as i64))
            .map(Some)
            .map_err(tensor("reading drop path"))
    }
}

#[cfg(test)]
mod tests;
