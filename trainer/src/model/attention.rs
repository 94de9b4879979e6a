//! Self-attention with a relative position bias.

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::error::{ModelError, tensor};
use super::layers::Linear;
use super::layout::Layout;
use super::position::RelativePositionBias;
use super::weights::Builder;
use crate::init::Fill;

/// Multi-head self-attention. Queries and values have a bias, keys have none: it would cancel in the softmax.
#[derive(Debug)]
pub(super) struct Attention {
    q_bias: Tensor, // [D]
    k_bias: Tensor, // [D], zero for ever and no parameter
    v_bias: Tensor, // [D]
    own_bias: Option<RelativePositionBias>,
    qkv_weight: Tensor, // [3·D, D]
    proj: Linear,
    heads: i64,
    width: i64,
}

impl Attention {
    pub(super) fn new(
        build: &mut Builder,
        name: &str,
        layer: u32,
        config: &ModelConfig,
        layout: Layout,
    ) -> Result<Attention, ModelError> {
        let width = config.width.into();
        let q_bias = build.parameter(&format!("{name}.q_bias"), &[width], Fill::Constant(0.0))?;
        let v_bias = build.parameter(&format!("{name}.v_bias"), &[width], Fill::Constant(0.0))?;
        let own_bias = match layout.block_rel_pos_bias {
            true => Some(RelativePositionBias::new(build, name, config)?),
            false => None,
        };
        let qkv_weight =
            build.parameter(&format!("{name}.qkv.weight"), &[3 * width, width], Fill::PRETRAIN)?;
        let k_bias =
            Tensor::f_zeros([width], (Kind::Float, build.device())).map_err(tensor("making the key bias"))?;
        let proj = Linear::new(build, &format!("{name}.proj"), width, width, Fill::PRETRAIN.at_depth(layer))?;
        Ok(Attention {
            q_bias,
            k_bias,
            v_bias,
            own_bias,
            qkv_weight,
            proj,
            heads: config.heads.into(),
            width,
        })
    }

    /// `x` `[B, T, D]`, `bias` `[1, H, T, T]` added to the scaled scores → `[B, T, D]`.
    pub(super) fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let size = x.size();
        let (batch, positions) = (size[0], size[1]);
        let own = self.own_bias.as_ref().map(RelativePositionBias::forward).transpose()?; // [1, H, T, T]
        let both = match (bias, &own) {
            (Some(shared), Some(own)) => {
                Some(shared.f_add(own).map_err(tensor("adding up position biases"))?)
            }
            _ => None,
        };
        let bias = both.as_ref().or(own.as_ref()).or(bias);
        let qkv_bias = Tensor::f_cat(&[&self.q_bias, &self.k_bias, &self.v_bias], 0)
            .map_err(tensor("putting the biases of attention together"))?; // [3·D]
        let qkv = beit_torch::linear(x, &self.qkv_weight, &qkv_bias)?; // [B, T, 3·D]
        let mixed = self.mix(&qkv, bias, batch, positions).map_err(tensor("running attention"))?;
        self.proj.forward(&mixed)
    }

    fn mix(
        &self,
        qkv: &Tensor,
        bias: Option<&Tensor>,
        batch: i64,
        positions: i64,
    ) -> Result<Tensor, tch::TchError> {
        let qkv = qkv
            .f_view([batch, positions, 3, self.heads, self.width / self.heads])? // [B, T, 3, H, K]
            .f_permute([2, 0, 3, 1, 4])?; // [3, B, H, T, K]
        let (q, k, v) = (qkv.f_select(0, 0)?, qkv.f_select(0, 1)?, qkv.f_select(0, 2)?);
        let mixed = match q.device() == Device::Cpu && q.kind() != Kind::Float {
            true => self.mix_small(&q, &k, &v, bias)?,
            false => {
                // The scale is 1/√K by default. Under autocast the bias follows the queries' kind.
                let bias = bias.map(|bias| bias.f_to_kind(q.kind())).transpose()?;
                Tensor::f_scaled_dot_product_attention(&q, &k, &v, bias.as_ref(), 0.0, false, None, false)?
            }
        }; // [B, H, T, K]
        mixed.f_transpose(1, 2)?.f_reshape([batch, positions, self.width]) // [B, T, D]
    }

    /// Attention on a CPU in bfloat16 or half, where libtorch's own widens everything to f32 because the bias learns.
    /// The products are in the small kind, bias and softmax in f32, as the reference's are under autocast.
    fn mix_small(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor, tch::TchError> {
        let scale = 1.0 / ((self.width / self.heads) as f64).sqrt();
        let scores = q.f_mul_scalar(scale)?.f_matmul(&k.f_transpose(-2, -1)?)?; // [B, H, T, T]
        let scores = match bias {
            Some(bias) => scores.f_add(bias)?,
            None => scores,
        };
        scores.f_softmax(-1, Kind::Float)?.f_to_kind(v.kind())?.f_matmul(v) // [B, H, T, K]
    }
}
