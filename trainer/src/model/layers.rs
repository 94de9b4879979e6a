//! The two layers everything is made of.

use tch::Tensor;

use super::error::{ModelError, tensor};
use super::weights::Builder;
use crate::init::Fill;

/// x·Wᵀ + b.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor, // [out, in]
    bias: Tensor,   // [out]
}

impl Linear {
    pub(super) fn new(
        build: &mut Builder,
        name: &str,
        inputs: i64,
        outputs: i64,
        fill: Fill,
    ) -> Result<Linear, ModelError> {
        let weight = build.parameter(&format!("{name}.weight"), &[outputs, inputs], fill)?;
        let bias = build.parameter(&format!("{name}.bias"), &[outputs], Fill::Constant(0.0))?;
        Ok(Linear { weight, bias })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(beit_torch::linear(x, &self.weight, &self.bias)?)
    }
}

/// Each row to mean 0 and variance 1, then scaled and shifted.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor, // [D]
    bias: Tensor,   // [D]
    width: i64,
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(
        build: &mut Builder,
        name: &str,
        width: i64,
        eps: f64,
    ) -> Result<LayerNorm, ModelError> {
        let weight = build.parameter(&format!("{name}.weight"), &[width], Fill::Constant(1.0))?;
        let bias = build.parameter(&format!("{name}.bias"), &[width], Fill::Constant(0.0))?;
        Ok(LayerNorm { weight, bias, width, eps })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        x.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.eps, true)
            .map_err(tensor("running a layer norm"))
    }
}
