//! One transformer block: attention, then an MLP, each beside a residual stream.

use tch::Tensor;

use super::attention::Attention;
use super::config::ModelConfig;
use super::error::{ModelError, tensor};
use super::layers::{LayerNorm, Linear};
use super::layout::Layout;
use super::weights::Builder;
use crate::drop_path::{Branch, Gates};
use crate::init::Fill;

#[derive(Debug)]
pub(super) struct Block {
    gamma_1: Option<Tensor>, // [D]
    gamma_2: Option<Tensor>, // [D]
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    pub(super) fn new(
        build: &mut Builder,
        layer: u32,
        config: &ModelConfig,
        layout: Layout,
    ) -> Result<Block, ModelError> {
        let name = format!("blocks.{layer}");
        let width = config.width.into();
        let mut gamma = |number: u32| match config.layer_scale() {
            true => build
                .parameter(&format!("{name}.gamma_{number}"), &[width], Fill::Constant(config.init_values))
                .map(Some),
            false => Ok(None),
        };
        let (gamma_1, gamma_2) = (gamma(1)?, gamma(2)?);
        Ok(Block {
            gamma_1,
            gamma_2,
            norm1: LayerNorm::new(build, &format!("{name}.norm1"), width, config.eps)?,
            attn: Attention::new(build, &format!("{name}.attn"), layer, config, layout)?,
            norm2: LayerNorm::new(build, &format!("{name}.norm2"), width, config.eps)?,
            mlp: Mlp::new(build, &format!("{name}.mlp"), layer, config)?,
        })
    }

    /// `x` `[B, T, D]` → `[B, T, D]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        gates: &Gates,
        layer: usize,
    ) -> Result<Tensor, ModelError> {
        let attended = self.attn.forward(&self.norm1.forward(x)?, bias)?;
        let x = residual(x, &attended, self.gamma_1.as_ref(), gates.of(layer, Branch::Attention)?)?;
        let thought = self.mlp.forward(&self.norm2.forward(&x)?)?;
        residual(&x, &thought, self.gamma_2.as_ref(), gates.of(layer, Branch::Mlp)?)
    }
}

/// x + gate ⊙ γ ⊙ branch; `gate` `[B, 1, 1]` is 0 or 1/keep.
fn residual(
    x: &Tensor,
    branch: &Tensor,
    gamma: Option<&Tensor>,
    gate: Option<Tensor>,
) -> Result<Tensor, ModelError> {
    let added = match (gamma, gate) {
        (Some(gamma), Some(gate)) => gamma.f_mul(branch).and_then(|b| x.f_add(&b.f_mul(&gate)?)),
        (Some(gamma), None) => x.f_addcmul(gamma, branch),
        (None, Some(gate)) => x.f_addcmul(&gate, branch),
        (None, None) => x.f_add(branch),
    };
    added.map_err(tensor("adding a residual branch"))
}

/// Widen, exact GELU, narrow.
#[derive(Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(build: &mut Builder, name: &str, layer: u32, config: &ModelConfig) -> Result<Mlp, ModelError> {
        let (width, middle) = (config.width.into(), config.mlp_width().into());
        Ok(Mlp {
            fc1: Linear::new(build, &format!("{name}.fc1"), width, middle, Fill::PRETRAIN)?,
            fc2: Linear::new(build, &format!("{name}.fc2"), middle, width, Fill::PRETRAIN.at_depth(layer))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let wide = self.fc1.forward(x)?.f_gelu("none").map_err(tensor("running GELU"))?; // [B, T, 4·D]
        self.fc2.forward(&wide)
    }
}
