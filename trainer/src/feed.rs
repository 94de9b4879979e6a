//! A batch's bytes become tensors on a rank's device.

use std::borrow::Cow;

use beit_loader::Batch;
use tch::{Device, Kind, Tensor};

use crate::error::{TrainError, torch};
use crate::loss::labels;
use crate::model::Hidden;
use crate::online::Online;
use crate::plan::Plan;

/// Mean and standard deviation of the reference's two normalisations, over pixels in 0..1.
const INCEPTION: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// What a step reads.
#[derive(Debug)]
pub(crate) struct Input {
    /// [B, 3, S, S] f32, normalised.
    pub pixels: Tensor,
    /// The hidden patches.
    pub hidden: Hidden,
    /// `[M]` i64: their visual tokens.
    pub labels: Tensor,
}

/// Turns batches into inputs; pixels travel as bytes and are normalised on the device.
#[derive(Debug)]
pub(crate) struct Feed {
    device: Device,
    px: i64,
    online: Option<Online>,
    mean: Tensor, // [3]
    std: Tensor,  // [3]
}

impl Feed {
    pub(crate) fn new(plan: &Plan, device: Device) -> Result<Feed, TrainError> {
        let (mean, std) = if plan.recipe.imagenet_default_mean_and_std { IMAGENET } else { INCEPTION };
        let send = |values: [f32; 3]| {
            Tensor::f_from_slice(&values)
                .and_then(|values| values.f_to_device(device))
                .map_err(torch("sending the normalisation"))
        };
        let online = Online::open(plan, device)?;
        Ok(Feed { device, px: plan.model.image_px.into(), online, mean: send(mean)?, std: send(std)? })
    }

    /// Micro-batch `part` of the `parts` equal ones of a batch.
    pub(crate) fn take(&self, batch: &Batch<'_>, part: u32, parts: u32) -> Result<Input, TrainError> {
        let pixels = self.pixels(share(batch.pixels(), part, parts))?;
        let samples = share(batch.ids(), part, parts).len();
        let tokens = self.tokens(batch, part, parts)?;
        self.input(pixels, &tokens, share(batch.mask(), part, parts), samples)
    }

    /// The tokens of such a micro-batch, `[B, N]`: the shards', or made now.
    pub(crate) fn tokens<'a>(
        &self,
        batch: &'a Batch<'_>,
        part: u32,
        parts: u32,
    ) -> Result<Cow<'a, [u16]>, TrainError> {
        match &self.online {
            None => Ok(Cow::Borrowed(share(batch.tokens(), part, parts))),
            Some(online) => {
                let samples = share(batch.ids(), part, parts).len();
                online.tokens(share(batch.token_pixels(), part, parts), samples).map(Cow::Owned)
            }
        }
    }

    /// Pixels on the device together with the rest of `samples` samples.
    pub(crate) fn input(
        &self,
        pixels: Tensor,
        tokens: &[u16],
        mask: &[u8],
        samples: usize,
    ) -> Result<Input, TrainError> {
        Ok(Input {
            pixels,
            hidden: Hidden::from_flags(mask, samples, self.device).map_err(torch("taking over the mask"))?,
            labels: labels(tokens, mask, self.device).map_err(torch("taking over the tokens"))?,
        })
    }

    /// # Shapes
    /// `bytes` [B, S, S, 3]; out [B, 3, S, S] f32, normalised
    pub(crate) fn pixels(&self, bytes: &[u8]) -> Result<Tensor, TrainError> {
        let batch = bytes.len() as i64 / (self.px * self.px * 3);
        Tensor::f_from_data_size(bytes, &[batch, self.px, self.px, 3], Kind::Uint8)
            .and_then(|pixels| pixels.f_to_device(self.device))
            .and_then(|pixels| pixels.f_to_kind(Kind::Float))
            .and_then(|mut pixels| pixels.f_div_scalar_(255.0))
            .and_then(|mut pixels| pixels.f_sub_(&self.mean))
            .and_then(|mut pixels| pixels.f_div_(&self.std))
            .and_then(|pixels| pixels.f_permute([0, 3, 1, 2]))
            .and_then(|pixels| pixels.f_contiguous())
            .map_err(torch("normalising pixels"))
    }
}

/// Part `part` of `parts` equal ones.
pub(crate) fn share<T>(whole: &[T], part: u32, parts: u32) -> &[T] {
    let length = whole.len() / parts.max(1) as usize;
    &whole[part as usize * length..][..length]
}
