//! Pixels to patches.

use tch::Tensor;

use super::config::ModelConfig;
use super::error::{ModelError, tensor};
use super::weights::Builder;
use crate::init::Fill;

/// A convolution that steps by whole patches.
#[derive(Debug)]
pub(super) struct PatchEmbed {
    weight: Tensor, // [D, 3, P, P]
    bias: Tensor,   // [D]
    image_px: i64,
    patch_px: i64,
}

impl PatchEmbed {
    pub(super) fn new(
        build: &mut Builder,
        name: &str,
        config: &ModelConfig,
    ) -> Result<PatchEmbed, ModelError> {
        let (width, patch_px) = (config.width.into(), config.patch_px.into());
        let shape = [width, 3, patch_px, patch_px];
        Ok(PatchEmbed {
            weight: build.parameter(&format!("{name}.proj.weight"), &shape, Fill::PRETRAIN)?,
            bias: build.parameter(&format!("{name}.proj.bias"), &[width], Fill::Constant(0.0))?,
            image_px: config.image_px.into(),
            patch_px,
        })
    }

    /// `[B, 3, S, S]` → `[B, N, D]`, patches row-major.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        let found = pixels.size();
        if found.len() != 4 || found[1..] != [3, self.image_px, self.image_px] {
            let expected = format!("[B, 3, {0}, {0}]", self.image_px);
            return Err(ModelError::Shape { what: "pixels", expected, found });
        }
        pixels
            .f_conv2d(&self.weight, Some(&self.bias), [self.patch_px; 2], [0; 2], [1; 2], 1) // [B, D, S/P, S/P]
            .and_then(|grid| grid.f_flatten(2, 3)) // [B, D, N]
            .and_then(|rows| rows.f_transpose(1, 2)) // [B, N, D]
            .map_err(tensor("embedding patches"))
    }
}
