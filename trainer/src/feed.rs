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

/// A batch on the device, its pixels still bytes, so that the next one costs little memory while a step runs.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Of the batch.
    pub step: u64,
    /// Its micro-batches.
    pub parts: Vec<Part>,
}

/// One micro-batch of it.
#[derive(Debug)]
pub(crate) struct Part {
    bytes: Tensor, // [B, S, S, 3]
    hidden: Hidden,
    labels: Tensor, // [M]
}

impl Part {
    /// Hidden patches.
    pub(crate) fn hidden(&self) -> u64 {
        self.hidden.count() as u64
    }
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

    /// Sends a batch to the device as `parts` equal micro-batches. On a GPU nothing here waits for what it computes.
    pub(crate) fn stage(&self, batch: &Batch<'_>, parts: u32) -> Result<Staged, TrainError> {
        let parts = (0..parts).map(|part| self.stage_part(batch, part, parts));
        Ok(Staged { step: batch.step(), parts: parts.collect::<Result<_, _>>()? })
    }

    fn stage_part(&self, batch: &Batch<'_>, part: u32, parts: u32) -> Result<Part, TrainError> {
        let (bytes, mask) = (share(batch.pixels(), part, parts), share(batch.mask(), part, parts));
        let samples = share(batch.ids(), part, parts).len();
        let tokens = self.tokens(batch, part, parts)?;
        Ok(Part {
            bytes: self.send(bytes)?,
            hidden: Hidden::from_flags(mask, samples, self.device).map_err(torch("taking over the mask"))?,
            labels: labels(&tokens, mask, self.device).map_err(torch("taking over the tokens"))?,
        })
    }

    /// A staged micro-batch, normalised.
    pub(crate) fn ready(&self, part: Part) -> Result<Input, TrainError> {
        let Part { bytes, hidden, labels } = part;
        Ok(Input { pixels: self.normalised(&bytes)?, hidden, labels })
    }

    /// The tokens of micro-batch `part` of `parts`, `[B, N]`: the shards', or made now.
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
        self.normalised(&self.send(bytes)?)
    }

    /// [B, S, S, 3] bytes on the device; to a GPU from pinned memory, without waiting for the copy (not yet run on one).
    fn send(&self, bytes: &[u8]) -> Result<Tensor, TrainError> {
        let batch = bytes.len() as i64 / (self.px * self.px * 3);
        let host = Tensor::f_from_data_size(bytes, &[batch, self.px, self.px, 3], Kind::Uint8);
        let sent = match self.device {
            Device::Cuda(_) => host
                .and_then(|host| host.f_pin_memory(self.device))
                .and_then(|pinned| pinned.f_to_device_(self.device, Kind::Uint8, true, false)),
            _ => host.and_then(|host| host.f_to_device(self.device)),
        };
        sent.map_err(torch("sending pixels"))
    }

    fn normalised(&self, bytes: &Tensor) -> Result<Tensor, TrainError> {
        bytes
            .f_to_kind(Kind::Float)
            .and_then(|mut pixels| pixels.f_div_scalar_(255.0))
            .and_then(|mut pixels| pixels.f_sub_(&self.mean))
            .and_then(|mut pixels| pixels.f_div_(&self.std))
            .and_then(|pixels| pixels.f_permute([0, 3, 1, 2]))
            .and_then(|pixels| pixels.f_contiguous())
            .map_err(torch("normalising pixels"))
    }
}

/// Part `part` of `parts` equal ones.
fn share<T>(whole: &[T], part: u32, parts: u32) -> &[T] {
    let length = whole.len() / parts.max(1) as usize;
    &whole[part as usize * length..][..length]
}
