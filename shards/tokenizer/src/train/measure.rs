//! What a tokenizer is worth, measured with hard codes over images it was not trained on.

use crate::error::{TokenizerError, torch};
use crate::tokenizer::{Networks, Tokenizer, map_pixels, pixels_u8};
use crate::usage::{CodeUse, psnr};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// Images per pass over the network.
const BATCH: usize = 16;

/// Figures over some images; PSNR is that of the reconstruction from the tokens alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Number of images.
    pub images: usize,
    /// Number of tokens.
    pub tokens: u64,
    /// exp(entropy) of the tokens.
    pub perplexity: f64,
    /// Entropy of the tokens in nats.
    pub entropy_nats: f64,
    /// Codes seen at least once.
    pub used_codes: usize,
    /// Share of the most frequent code, 0 to 1.
    pub top_share: f64,
    /// Peak signal-to-noise ratio in dB, from the mean squared error over all images.
    pub psnr_db: f64,
}

/// Whether a tokenizer is fit for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// Many codes are in use.
    Healthy,
    /// Fewer than a tenth of the codes' worth is in use: usable, but train longer.
    Narrow,
    /// A few codes stand for everything.
    Collapsed,
}

impl Verdict {
    /// What it means, in a sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy: many codes are in use",
            Verdict::Narrow => {
                "narrow: few codes carry most tokens; train for more steps or on more varied images"
            }
            Verdict::Collapsed => {
                "collapsed: a few codes stand for everything, so masked tokens would be trivial to guess; \
                 do not use it (keep the usage term and the data-dependent start on, lower the learning rate, train longer)"
            }
        }
    }
}

impl Measured {
    /// Judges by code usage; PSNR does not show a collapse.
    pub fn verdict(&self, vocab: u32) -> Verdict {
        let vocab = f64::from(vocab);
        if self.perplexity < vocab / 20.0 || self.top_share > 0.5 {
            Verdict::Collapsed
        } else if self.perplexity < vocab / 10.0 {
            Verdict::Narrow
        } else {
            Verdict::Healthy
        }
    }

    /// A sentence of warning once a third of the run is over and the codes are collapsed.
    pub(super) fn warning(&self, vocab: u32, done: u64, steps: u64) -> Option<String> {
        (done * 3 >= steps && self.verdict(vocab) == Verdict::Collapsed).then(|| {
            format!(
                "the codes are collapsing: perplexity {:.1} of {vocab} and {:.0} % of all tokens are one code after {done} of {steps} steps",
                self.perplexity,
                100.0 * self.top_share
            )
        })
    }
}

/// Measures a tokenizer with a decoder over `[n, px, px, 3]` bytes.
///
/// # Errors
/// [`TokenizerError::NoDecoder`], [`TokenizerError::Grid`]
pub fn measure(tokenizer: &Tokenizer, px: u32, images: &[u8]) -> Result<Measured, TokenizerError> {
    tokenizer.grid(px)?;
    if !tokenizer.has_decoder() {
        return Err(TokenizerError::NoDecoder { name: tokenizer.name().to_owned() });
    }
    networks(&tokenizer.lock(), tokenizer.vocab(), px, images)
}

pub(super) fn networks(
    networks: &Networks,
    vocab: u32,
    px: u32,
    images: &[u8],
) -> Result<Measured, TokenizerError> {
    let _guard = tch::no_grad_guard();
    let image = px as usize * px as usize * 3;
    let verb = torch("measuring");
    let decoder = networks.decoder.as_ref().expect("callers checked that there is a decoder");
    let mut codes = CodeUse::new(vocab);
    let mut squared_error = 0.0;
    for batch in images.chunks(BATCH * image) {
        let count = batch.len() / image;
        let logits = networks.encoder.forward(&map_pixels(batch, count, px, Device::Cpu)?)?;
        let rows = logits.f_permute([0, 2, 3, 1]).and_then(|t| t.f_contiguous()).map_err(&verb)?;
        let tokens = rows.f_argmax(-1, false).map_err(&verb)?; // [B, h, w]
        let mut ids = vec![0i64; tokens.numel()];
        tokens.f_contiguous().and_then(|t| t.f_copy_data(&mut ids, tokens.numel())).map_err(&verb)?;
        let ids: Vec<u16> = ids.iter().map(|&id| id as u16).collect();
        codes.add(&ids);
        let seen = pixels_u8(&decoder.forward_tokens(&tokens)?)?.f_view([-1]).map_err(&verb)?;
        let truth = Tensor::f_from_data_size(batch, &[batch.len() as i64], Kind::Uint8).map_err(&verb)?;
        let [seen, truth] = [seen, truth].map(|t| t.f_to_kind(Kind::Float));
        let error = seen.and_then(|seen| seen.f_sub(&truth?)).and_then(|t| t.f_square()).map_err(&verb)?;
        squared_error += error.f_sum(Kind::Double).and_then(|t| t.f_double_value(&[])).map_err(&verb)?;
    }
    Ok(Measured {
        images: images.len() / image,
        tokens: codes.tokens(),
        perplexity: codes.perplexity(),
        entropy_nats: codes.entropy(),
        used_codes: codes.used(),
        top_share: codes.top_share(),
        psnr_db: psnr(squared_error, images.len() as f64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(perplexity: f64, top_share: f64, expect: Verdict) {
        let measured = Measured { perplexity, top_share, ..Measured::default() };
        assert_eq!(measured.verdict(512), expect);
        assert_eq!(measured.warning(512, 100, 300).is_some(), expect == Verdict::Collapsed);
        assert_eq!(measured.warning(512, 99, 300), None, "too early to judge");
    }

    #[test]
    fn a_dozen_codes_are_a_collapse_and_half_of_the_vocabulary_is_health() {
        check(249.0, 0.02, Verdict::Healthy);
        check(40.0, 0.1, Verdict::Narrow);
        check(12.0, 0.2, Verdict::Collapsed);
        check(100.0, 0.51, Verdict::Collapsed);
    }
}
