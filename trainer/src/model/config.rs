//! The sizes of a model.

use serde::{Deserialize, Serialize};

use super::error::ModelError;

/// Everything that fixes a pre-training model's shape and arithmetic, and with a [`super::Layout`] any model's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Side of the square image in px.
    pub image_px: u32,
    /// Side of a patch in px; divides `image_px`.
    pub patch_px: u32,
    /// Numbers per position (`D`).
    pub width: u32,
    /// How many blocks.
    pub depth: u32,
    /// Attention heads; divide `width`.
    pub heads: u32,
    /// Width of the MLP's middle, in widths.
    pub mlp_ratio: f64,
    /// How many visual tokens the tokenizer knows (`V`); in a classifier, how many classes there are.
    pub vocab: u32,
    /// One relative position bias shared by all blocks.
    pub rel_pos_bias: bool,
    /// A learned embedding of absolute positions.
    pub abs_pos_emb: bool,
    /// What the layer scale γ starts at; 0 or less: no layer scale.
    pub init_values: f64,
    /// Drop path rate of the last block; the first has 0, the others lie on a line between.
    pub drop_path: f64,
    /// ε of every LayerNorm.
    pub eps: f64,
}

impl ModelConfig {
    /// `beit_base_patch16_224_8k_vocab` with the reference's default options.
    pub fn base() -> ModelConfig {
        ModelConfig {
            image_px: 224,
            patch_px: 16,
            width: 768,
            depth: 12,
            heads: 12,
            mlp_ratio: 4.0,
            vocab: 8192,
            rel_pos_bias: true,
            abs_pos_emb: false,
            init_values: 0.1,
            drop_path: 0.1,
            eps: 1e-6,
        }
    }

    /// `beit_large_patch16_224_8k_vocab`; layer scale 1e-5, as the reference advises for it.
    pub fn large() -> ModelConfig {
        ModelConfig { width: 1024, depth: 24, heads: 16, init_values: 1e-5, ..ModelConfig::base() }
    }

    /// The reference's models by their names, which [`ModelConfig::NAMES`] lists.
    pub fn named(name: &str) -> Option<ModelConfig> {
        match name {
            "beit_base_patch16_224_8k_vocab" => Some(ModelConfig::base()),
            "beit_large_patch16_224_8k_vocab" => Some(ModelConfig::large()),
            _ => None,
        }
    }

    /// What [`ModelConfig::named`] knows.
    pub const NAMES: &[&str] = &["beit_base_patch16_224_8k_vocab", "beit_large_patch16_224_8k_vocab"];

    /// Patches along one side.
    pub fn patches_per_side(&self) -> u32 {
        self.image_px / self.patch_px.max(1)
    }

    /// `N`: patches of an image.
    pub fn patches(&self) -> u32 {
        self.patches_per_side().pow(2)
    }

    /// Width of the MLP's middle.
    pub fn mlp_width(&self) -> u32 {
        // The reference's int(): towards zero.
        (f64::from(self.width) * self.mlp_ratio) as u32
    }

    /// Whether blocks have layer scale.
    pub fn layer_scale(&self) -> bool {
        self.init_values > 0.0
    }

    /// Finds sizes that do not go together.
    ///
    /// # Errors
    /// [`ModelError::Config`], naming the first one
    pub fn check(&self) -> Result<(), ModelError> {
        self.check_sizes()?;
        match self.image_px.is_multiple_of(self.patch_px) {
            true => Ok(()),
            false => {
                let rule = format!("must be a whole number of patches of {} px", self.patch_px);
                Err(ModelError::Config { key: "image_px", value: self.image_px.to_string(), rule })
            }
        }
    }

    /// The same for weights from elsewhere, whose image may leave a margin that no patch covers.
    pub(crate) fn check_sizes(&self) -> Result<(), ModelError> {
        let wrong =
            |key: &'static str, value: String, rule: String| Err(ModelError::Config { key, value, rule });
        let sizes = [
            ("image_px", self.image_px),
            ("patch_px", self.patch_px),
            ("width", self.width),
            ("depth", self.depth),
            ("heads", self.heads),
            ("vocab", self.vocab),
        ];
        if let Some((key, value)) = sizes.into_iter().find(|(_, value)| *value == 0) {
            return wrong(key, value.to_string(), "must be at least 1".to_owned());
        }
        if self.image_px < self.patch_px {
            let rule = format!("must have room for a patch of {} px", self.patch_px);
            return wrong("image_px", self.image_px.to_string(), rule);
        }
        if self.patches_per_side() > 1024 {
            let rule = format!("makes more than 1024 patches of {} px a side", self.patch_px);
            return wrong("image_px", self.image_px.to_string(), rule);
        }
        if !self.width.is_multiple_of(self.heads) {
            let rule = format!("must be a multiple of the {} heads", self.heads);
            return wrong("width", self.width.to_string(), rule);
        }
        if !(self.mlp_ratio.is_finite() && self.mlp_width() > 0) {
            return wrong("mlp_ratio", self.mlp_ratio.to_string(), "must leave the MLP a width".to_owned());
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return wrong("drop_path", self.drop_path.to_string(), "must be in [0, 1)".to_owned());
        }
        if !self.init_values.is_finite() {
            return wrong("init_values", self.init_values.to_string(), "must be a number".to_owned());
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return wrong("eps", self.eps.to_string(), "must be above 0".to_owned());
        }
        Ok(())
    }
}
