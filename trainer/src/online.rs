//! The reference's way: tokens made in the step, from views that no shard knows.

use beit_tokenizer::Tokenizer;

use crate::device::Device;
use crate::error::{TrainError, torch};
use crate::plan::{Plan, hex};

/// A rank's tokenizer, for `tokens = "online"`.
#[derive(Debug)]
pub(crate) struct Online {
    tokenizer: Tokenizer,
    px: u32,
}

impl Online {
    /// The tokenizer that the plan's shards were made with, on a device of a local rank; `None` where tokens come
    /// from the shards.
    ///
    /// # Errors
    /// it is not found, or another one is
    pub(crate) fn open(plan: &Plan, device: tch::Device) -> Result<Option<Online>, TrainError> {
        if !plan.recipe.online() {
            return Ok(None);
        }
        let explicit = plan.recipe.discrete_vae_weight_path.as_deref();
        let found = match (plan.device, device) {
            (Device::Cuda, tch::Device::Cuda(gpu)) => Tokenizer::find_on_gpu(explicit, gpu),
            _ => Tokenizer::find(explicit),
        };
        let tokenizer = found.map_err(torch("opening the tokenizer for tokens = \"online\""))?;
        let (found, data) = (hex(&tokenizer.digest()), &plan.data);
        if found != data.tokenizer_digest {
            return Err(TrainError::Plan(format!(
                "tokens = \"online\" found tokenizer {} (digest {}), but the shards are for {} ({}): set \
                 discrete_vae_weight_path to that one's file, or build the shards with this one",
                tokenizer.name(),
                &found[..12],
                data.tokenizer,
                &data.tokenizer_digest[..data.tokenizer_digest.len().min(12)]
            )));
        }
        Ok(Some(Online { tokenizer, px: data.token_px }))
    }

    /// # Shapes
    /// `pixels` [B, T, T, 3]; out [B, N], row-major
    pub(crate) fn tokens(&self, pixels: &[u8], samples: usize) -> Result<Vec<u16>, TrainError> {
        let mut tokens = Vec::new();
        self.tokenizer.encode(pixels, samples, self.px, &mut tokens).map_err(torch("making tokens"))?;
        Ok(tokens)
    }
}
