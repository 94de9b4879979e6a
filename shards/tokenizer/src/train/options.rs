//! The options of a training run; the defaults are those of a run that was measured.

use crate::error::TokenizerError;

/// Everything that decides the result, but for the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Number of codes, 2 to 65536.
    pub vocab: u32,
    /// Channels after the first convolution; a multiple of 4.
    pub hidden: u32,
    /// The decoder's channels before its last convolution; as the encoder's if not given.
    pub decoder_hidden: Option<u32>,
    /// Channels after the decoder's first convolution.
    pub decoder_init: u32,
    /// Groups of residual blocks; a token covers 2^(groups − 1) px.
    pub groups: u32,
    /// Residual blocks per group.
    pub blocks: u32,
    /// Side of the training images in px, a multiple of the stride.
    pub px: u32,
    /// Number of updates.
    pub steps: u64,
    /// Images per update.
    pub batch: u32,
    /// Highest learning rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// The last learning rate, as a share of the highest.
    pub lr_floor: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Greatest norm of the gradient.
    pub clip_norm: f64,
    /// Weight of KL(batch's mean code distribution ‖ uniform); 0 = the paper's recipe.
    pub usage_weight: f64,
    /// Weight of the paper's KL term, per pixel and colour; the paper's own is 6.6.
    pub kl_weight: f64,
    /// Share of the run over which the paper's KL term rises to its weight.
    pub kl_ramp: f64,
    /// Rescale the encoder's head over 256 images before the first step.
    pub data_init: bool,
    /// Share of the run over which the temperature falls from 1.
    pub tau_share: f64,
    /// The last temperature.
    pub tau_last: f64,
    /// Run the convolutions in bfloat16 (weights, softmax and losses stay fp32).
    pub bf16: bool,
    /// Names every random stream.
    pub seed: u64,
    /// Steps between two looks at the held-out images.
    pub measure_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vocab: 512,
            hidden: 32,
            decoder_hidden: None,
            decoder_init: 64,
            groups: 4,
            blocks: 2,
            px: 112,
            steps: 2028,
            batch: 32,
            lr: 3e-3,
            warmup: 100,
            lr_floor: 0.02,
            weight_decay: 1e-4,
            clip_norm: 1.0,
            usage_weight: 0.1,
            kl_weight: 0.0,
            kl_ramp: 0.3,
            data_init: true,
            tau_share: 0.5,
            tau_last: 1.0 / 16.0,
            bf16: false,
            seed: 0,
            measure_every: 200,
        }
    }
}

impl Options {
    /// Bytes of one training image.
    pub fn image_bytes(&self) -> usize {
        self.px as usize * self.px as usize * 3
    }

    /// Tokens of one training image.
    pub(super) fn positions(&self) -> usize {
        let side = self.px as usize >> (self.groups - 1);
        side * side
    }

    /// Checks every option, before any image is read.
    ///
    /// # Errors
    /// [`TokenizerError::Option`] names the option and what is wrong with it
    pub fn check(&self) -> Result<(), TokenizerError> {
        let bad = |option, problem: String| Err(TokenizerError::Option { option, problem });
        if !(2..=65536).contains(&self.vocab) {
            return bad("vocab", format!("{} codes; 2 to 65536 are possible", self.vocab));
        }
        if self.hidden == 0
            || !self.hidden.is_multiple_of(4)
            || self.decoder_hidden.is_some_and(|n| n == 0 || !n.is_multiple_of(4))
        {
            return bad("hidden", "channels must be a positive multiple of 4".to_owned());
        }
        if !(1..=8).contains(&self.groups) || self.blocks == 0 || self.decoder_init == 0 {
            return bad("groups", "there must be 1 to 8 groups of at least one block".to_owned());
        }
        let stride = 1 << (self.groups - 1);
        if self.px < stride || !self.px.is_multiple_of(stride) {
            let problem = format!(
                "{} px, but {} groups make tokens of {stride} px: not a multiple",
                self.px, self.groups
            );
            return bad("px", problem);
        }
        if self.steps == 0 || self.batch == 0 {
            return bad("steps", "at least one step of at least one image".to_owned());
        }
        let positive = [self.lr, self.clip_norm, self.tau_last];
        let natural = [
            self.usage_weight,
            self.kl_weight,
            self.weight_decay,
            self.lr_floor,
            self.tau_share,
            self.kl_ramp,
        ];
        if positive.iter().any(|v| !(v.is_finite() && *v > 0.0))
            || natural.iter().any(|v| !(v.is_finite() && *v >= 0.0))
        {
            return bad(
                "lr",
                "rates, weights, shares and temperatures must be finite and not negative".to_owned(),
            );
        }
        Ok(())
    }
}
