//! BEiT: a vision transformer that guesses the visual tokens of hidden patches, or an image's class.
//!
//! Letters in shapes: `B` batch, `S` image side in px, `P` patch side, `N` patches, `T` = N + 1 positions with cls,
//! `D` width, `H` heads, `K` head width, `V` token vocabulary, `M` hidden patches of the whole batch.

mod attention;
mod block;
mod config;
mod error;
mod flops;
mod hidden;
mod layers;
mod layout;
mod patch_embed;
mod position;
pub(crate) mod weights;

pub use config::ModelConfig;
pub use error::ModelError;
pub(crate) use error::tensor;
pub use hidden::Hidden;
pub use layout::{Head, Layout};
pub use position::relative_position_index;

use std::sync::Arc;

use tch::{Device, Tensor};

use self::block::Block;
use self::layers::{LayerNorm, Linear};
use self::patch_embed::PatchEmbed;
use self::position::RelativePositionBias;
use self::weights::{Builder, Source};
use crate::drop_path::{DropPath, DropPathKey, Gates};
use crate::init::Fill;

/// The pre-training model; with another [`Layout`] than [`Layout::PRETRAIN`], a classifier or a variant of it.
///
/// Parameters have the reference's names and order, so its checkpoints load as they are.
///
/// # Source
/// BEiT, arXiv:2106.08254; `unilm/beit/modeling_pretrain.py`, `modeling_finetune.py`
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    layout: Layout,
    device: Device,
    parameters: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
    order: Vec<String>,
    cls_token: Tensor,          // [1, 1, D]
    mask_token: Option<Tensor>, // [1, 1, D]
    pos_embed: Option<Tensor>,  // [1, T, D]
    patch_embed: PatchEmbed,
    rel_pos_bias: Option<RelativePositionBias>,
    blocks: Vec<Arc<Block>>,
    recompute: bool,
    drop_path: DropPath,
    encoder_norm: Option<LayerNorm>,
    norm: LayerNorm,
    head: Linear,
}

impl Model {
    /// A fresh model. The same `config` and `seed` give the same weights on every rank, thread and machine, and a
    /// parameter's weights depend on nothing but its name.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the sizes do not go together; libtorch out of memory
    pub fn new(config: &ModelConfig, seed: u64, device: Device) -> Result<Model, ModelError> {
        config.check()?;
        Model::build(config, Layout::PRETRAIN, Builder::new(Source::Seed(seed), device))
    }

    /// Names and shapes of the parameters that a model of these sizes has, without making them.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the sizes do not go together
    pub fn outline(config: &ModelConfig) -> Result<Vec<(String, Vec<i64>)>, ModelError> {
        config.check()?;
        let model = Model::build(config, Layout::PRETRAIN, Builder::new(Source::Outline, Device::Cpu))?;
        Ok(model.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect())
    }

    /// A model to load weights into: its parameters hold anything until [`Model::load`].
    ///
    /// # Errors
    /// [`ModelError::Config`] when the sizes do not go together; libtorch out of memory
    pub fn blank(config: &ModelConfig, layout: Layout, device: Device) -> Result<Model, ModelError> {
        Model::build(config, layout, Builder::new(Source::Blank, device))
    }

    /// The state dict that such a model has: parameters that take no memory (strides of 0), true buffers.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the sizes do not go together
    pub fn skeleton(config: &ModelConfig, layout: Layout) -> Result<Vec<(String, Tensor)>, ModelError> {
        Ok(Model::build(config, layout, Builder::new(Source::Outline, Device::Cpu))?.state_dict())
    }

    fn build(config: &ModelConfig, layout: Layout, mut build: Builder) -> Result<Model, ModelError> {
        config.check_sizes()?;
        let device = build.device();
        let width = config.width.into();
        let positions = i64::from(config.patches()) + 1;
        let cls_token = build.parameter("cls_token", &[1, 1, width], Fill::PRETRAIN)?;
        let mask_token = match layout.mask_token {
            true => Some(build.parameter("mask_token", &[1, 1, width], Fill::PRETRAIN)?),
            false => None,
        };
        let pos_embed = match config.abs_pos_emb {
            true => Some(build.parameter("pos_embed", &[1, positions, width], Fill::PRETRAIN)?),
            false => None,
        };
        let patch_embed = PatchEmbed::new(&mut build, "patch_embed", config)?;
        let rel_pos_bias = match config.rel_pos_bias {
            true => Some(RelativePositionBias::new(&mut build, "rel_pos_bias", config)?),
            false => None,
        };
        let blocks = (0..config.depth)
            .map(|layer| Block::new(&mut build, layer, config, layout).map(shared))
            .collect::<Result<Vec<_>, _>>()?;
        let encoder_norm = match layout.encoder_norm {
            true => Some(LayerNorm::new(&mut build, "encoder_norm", width, config.eps)?),
            false => None,
        };
        let (norm, head) = layout.head.names();
        let norm = LayerNorm::new(&mut build, norm, width, config.eps)?;
        let head = Linear::new(&mut build, head, width, config.vocab.into(), Fill::PRETRAIN)?;
        let drop_path = DropPath::new(config.drop_path, config.depth);
        let (parameters, buffers, order) = build.finish();
        Ok(Model {
            config: config.clone(),
            layout,
            device,
            parameters,
            buffers,
            order,
            cls_token,
            mask_token,
            pos_embed,
            patch_embed,
            rel_pos_bias,
            blocks,
            recompute: false,
            drop_path,
            encoder_norm,
            norm,
            head,
        })
    }

    /// What it was made from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Which layers it has.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where its parameters lie.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What training changes, in the reference's order and under its names.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// How many numbers training changes.
    pub fn parameter_count(&self) -> u64 {
        self.parameters.iter().map(|(_, tensor)| tensor.numel() as u64).sum()
    }

    /// Parameters and buffers as the reference's state dict has them, in its order; handles, not copies.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        weights::state_dict(&self.order, &self.parameters, &self.buffers)
    }

    /// Whether backward computes the activations of a block again instead of keeping them (`checkpoint_activations`).
    pub fn recompute_activations(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Takes over all parameters of a state dict, converted to this model's kind and device.
    ///
    /// Buffers may be absent, since they follow from the sizes; where present they must be equal.
    ///
    /// # Errors
    /// [`ModelError::Weights`] when a parameter is missing, unknown or of another shape; nothing is changed then
    pub fn load(&self, tensors: &[(String, Tensor)]) -> Result<(), ModelError> {
        weights::load(&self.parameters, &self.buffers, tensors)
    }

    /// Guesses the visual token of every hidden patch; [`Model::forward_hidden`] without the host's help.
    ///
    /// # Shapes
    /// `pixels` `[B, 3, S, S]` f32, normalised; `mask` `[B, N]` bool, true = hidden; out `[M, V]`, row-major over the mask
    /// # Errors
    /// other shapes or kinds
    pub fn forward(
        &self,
        pixels: &Tensor,
        mask: &Tensor,
        drop: Option<DropPathKey>,
    ) -> Result<Tensor, ModelError> {
        self.forward_hidden(pixels, &Hidden::from_mask(mask)?, drop)
    }

    /// Guesses the visual token of every hidden patch. Without `drop` no residual branch is dropped: evaluation.
    ///
    /// # Shapes
    /// `pixels` `[B, 3, S, S]` f32, normalised; out `[M, V]`, row-major over the mask
    /// # Errors
    /// other shapes or kinds, or `hidden` made for another batch
    pub fn forward_hidden(
        &self,
        pixels: &Tensor,
        hidden: &Hidden,
        drop: Option<DropPathKey>,
    ) -> Result<Tensor, ModelError> {
        let features = self.features(pixels, Some(hidden), drop)?; // [B, T, D]
        let patches = features
            .f_narrow(1, 1, self.config.patches().into()) // [B, N, D]
            .and_then(|patches| patches.f_reshape([-1, i64::from(self.config.width)])) // [B·N, D]
            .map_err(tensor("dropping the cls position"))?;
        // LayerNorm works row by row, so norm the few rows that are needed.
        let picked = patches.f_index_select(0, hidden.rows()).map_err(tensor("picking hidden patches"))?; // [M, D]
        let picked = match &self.encoder_norm {
            Some(norm) => norm.forward(&picked)?,
            None => picked,
        };
        self.head.forward(&self.norm.forward(&picked)?) // [M, V]
    }

    /// Guesses the class of every image. Without `drop` no residual branch is dropped: evaluation.
    ///
    /// # Shapes
    /// `pixels` `[B, 3, S, S]` f32, normalised; out `[B, V]`, `V` being the number of classes
    /// # Errors
    /// other shapes or kinds
    pub fn classify(&self, pixels: &Tensor, drop: Option<DropPathKey>) -> Result<Tensor, ModelError> {
        let features = self.features(pixels, None, drop)?; // [B, T, D]
        let pooled = match self.layout.head {
            Head::Cls => features.f_select(1, 0),
            Head::MeanPool | Head::Tokens => features
                .f_narrow(1, 1, self.config.patches().into())
                .and_then(|patches| patches.f_mean_dim(1i64, false, tch::Kind::Float)),
        };
        let pooled = pooled.map_err(tensor("pooling the image"))?; // [B, D]
        self.head.forward(&self.norm.forward(&pooled)?) // [B, V]
    }

    /// What leaves the last block, before the final norm.
    ///
    /// # Shapes
    /// `pixels` `[B, 3, S, S]` f32; out `[B, T, D]`, the cls position first
    /// # Errors
    /// other shapes or kinds
    pub fn features(
        &self,
        pixels: &Tensor,
        hidden: Option<&Hidden>,
        drop: Option<DropPathKey>,
    ) -> Result<Tensor, ModelError> {
        let patches = self.patch_embed.forward(pixels)?; // [B, N, D]
        let batch = patches.size()[0];
        let patches = match hidden {
            Some(hidden) => {
                hidden.check(batch, self.config.patches().into())?;
                self.mask_token
                    .as_ref()
                    .ok_or(ModelError::NoMaskToken)?
                    .f_to_kind(patches.kind()) // smaller under autocast
                    .and_then(|token| token.f_where_self(hidden.cells(), &patches))
                    .map_err(tensor("hiding patches"))? // [B, N, D]
            }
            None => patches,
        };
        let width = i64::from(self.config.width);
        let mut x = self
            .cls_token
            .f_expand([batch, 1, width], false)
            .and_then(|cls| cls.f_to_kind(tch::Kind::Float))
            .and_then(|cls| Tensor::f_cat(&[cls, patches.f_to_kind(tch::Kind::Float)?], 1)) // [B, T, D]
            .map_err(tensor("prepending the cls token"))?;
        if let Some(pos_embed) = &self.pos_embed {
            x = x.f_add(pos_embed).map_err(tensor("adding the position embedding"))?;
        }
        let bias = self.rel_pos_bias.as_ref().map(RelativePositionBias::forward).transpose()?; // [1, H, T, T]
        let gates = self.drop_path.gates(drop, batch, self.device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = match self.recompute && x.requires_grad() {
                true => recomputed_block(block, x, bias.as_ref(), &gates, layer)?,
                false => block.forward(&x, bias.as_ref(), &gates, layer)?,
            }; // [B, T, D]
        }
        Ok(x)
    }
}

/// A block whose activations backward computes again from its input.
fn recomputed_block(
    block: &Arc<Block>,
    x: Tensor,
    bias: Option<&Tensor>,
    gates: &Gates,
    layer: usize,
) -> Result<Tensor, ModelError> {
    let inputs: Vec<Tensor> = std::iter::once(x).chain(bias.map(Tensor::shallow_clone)).collect();
    let (block, gates) = (block.clone(), gates.share());
    let body = move |inputs: &[Tensor]| block.forward(&inputs[0], inputs.get(1), &gates, layer);
    Ok(beit_torch::recomputed(&inputs, body)?)
}

#[expect(
    clippy::arc_with_non_send_sync,
    reason = "libtorch may let go of a block on its own thread of a device"
)]
fn shared(block: Block) -> Arc<Block> {
    Arc::new(block)
}

#[cfg(test)]
mod tests;
