//! The tokenizer: pixels to tokens, and tokens back to pixels.

use crate::card::Card;
use crate::digest;
use crate::error::{TokenizerError, torch};
use crate::geometry::Geometry;
use crate::network::{Decoder, Encoder};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// DALL-E's `logit_laplace_eps`: pixels in [0, 1] become 0.8x + 0.1.
pub(crate) const EPS: f64 = 0.1;

/// Images of one call of the network: a function of their size alone, so that no token depends on a caller's batches.
fn chunk_of(px: u32) -> usize {
    if px >= 64 { 8 } else { 16 }
}

/// What the inner layers of the encoder compute in. The last layer, the logits and the choice of a token stay fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: the tokens of the `dall-e` package on a CPU.
    #[default]
    Fp32,
    /// bfloat16: faster where the hardware has it; a few tokens differ.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "fp32" => Ok(Self::Fp32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("expected fp32 or bf16"),
        }
    }
}

/// A frozen dVAE: the encoder, and the decoder if its file had one.
///
/// Calls from several threads take turns; libtorch spreads each of them over its own threads.
#[derive(Debug)]
pub struct Tokenizer {
    card: Card,
    geometry: Geometry,
    digest: [u8; 32],
    device: Device,
    has_decoder: bool,
    precision: Precision,
    networks: Mutex<Networks>,
}

/// Both halves. Tensors may move between threads, but not be shared, hence the lock.
#[derive(Debug)]
pub(crate) struct Networks {
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Option<Decoder>,
}

impl Tokenizer {
    /// Puts networks and card together, and checks that they fit.
    pub(crate) fn new(
        where_: &str,
        mut card: Card,
        networks: Networks,
        device: Device,
    ) -> Result<Self, TokenizerError> {
        let geometry = networks.encoder.geometry(where_)?;
        if let Some(decoder) = &networks.decoder
            && decoder.groups() != geometry.groups
        {
            return Err(TokenizerError::Shape {
                where_: where_.to_owned(),
                name: "the decoder".to_owned(),
                problem: format!("has {} groups, the encoder {}", decoder.groups(), geometry.groups),
            });
        }
        let digest = digest::encoder_digest(&networks.encoder)?;
        if card.name.is_empty() {
            card.name = format!("dall-e-{}", &hex(&digest)[..8]);
        }
        let has_decoder = networks.decoder.is_some();
        let (precision, networks) = (Precision::Fp32, Mutex::new(networks));
        Ok(Self { card, geometry, digest, device, has_decoder, precision, networks })
    }

    /// Its human name, for logs; the digest is what identifies it.
    pub fn name(&self) -> &str {
        &self.card.name
    }

    /// What its file says about it.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The same tokenizer with figures on its card.
    pub fn with_measured(mut self, measured: serde_json::Value) -> Self {
        self.card.measured = Some(measured);
        self
    }

    /// The same tokenizer, encoding with this precision.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Its name as shards carry it: with the precision, unless that is fp32, as other tokens come of it.
    pub fn name_in_sets(&self) -> String {
        match self.precision {
            Precision::Fp32 => self.name().to_owned(),
            other => format!("{} ({other})", self.name()),
        }
    }

    /// The same tokenizer, encoding with the precision that its name in a set tells.
    pub fn as_in_set(self, name: &str) -> Self {
        let bf16 = self.with_precision(Precision::Bf16);
        let precision = if bf16.name_in_sets() == name { Precision::Bf16 } else { Precision::Fp32 };
        bf16.with_precision(precision)
    }

    /// Its shape, read from the tensors.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// BLAKE3 over the encoder's tensors: the same weights have the same digest in every container.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The digest in hexadecimal, as shards and logs show it.
    pub fn digest_hex(&self) -> String {
        hex(&self.digest)
    }

    /// Number of codes; tokens are below it.
    pub fn vocab(&self) -> u32 {
        self.geometry.vocab
    }

    /// Side of the square of pixels that one token covers: 2^(groups − 1).
    pub fn stride(&self) -> u32 {
        self.geometry.stride()
    }

    /// Whether [`decode`](Self::decode) works.
    pub fn has_decoder(&self) -> bool {
        self.has_decoder
    }

    /// Tokens per row (and column) of an image of `px` × `px`.
    ///
    /// # Errors
    /// [`TokenizerError::Grid`] when `px` is not a positive multiple of the stride
    pub fn grid(&self, px: u32) -> Result<u32, TokenizerError> {
        let stride = self.stride();
        if px >= stride && px.is_multiple_of(stride) {
            return Ok(px / stride);
        }
        let lower = (px / stride).max(1) * stride;
        Err(TokenizerError::Grid {
            name: self.name().to_owned(),
            px,
            stride,
            lower,
            upper: (px / stride + 1).max(2) * stride,
        })
    }

    /// Appends the tokens of `batch` images to `out`, image after image, row by row.
    ///
    /// The lowest code is taken where two logits are equal. A token depends neither on the batch size nor on
    /// the neighbours: images go through the network in fixed groups, the last one filled up with black.
    ///
    /// # Shapes
    /// `pixels` is `[batch, px, px, 3]`, RGB; `out` grows by `batch · (px / stride)²`
    /// # Errors
    /// [`TokenizerError::Grid`], [`TokenizerError::Length`], and [`TokenizerError::NotFinite`] for damaged weights
    pub fn encode(
        &self,
        pixels: &[u8],
        batch: usize,
        px: u32,
        out: &mut Vec<u16>,
    ) -> Result<(), TokenizerError> {
        let grid = self.grid(px)? as usize;
        let image = px as usize * px as usize * 3;
        if pixels.len() != batch * image {
            return Err(TokenizerError::Length {
                what: "pixels",
                expected: batch * image,
                found: pixels.len(),
            });
        }
        let networks = self.lock();
        let _guard = tch::no_grad_guard();
        let full = chunk_of(px);
        let mut ids = vec![0i64; full * grid * grid];
        let mut filled = Vec::new();
        out.reserve(batch * grid * grid);
        for chunk in pixels.chunks(full * image) {
            let count = chunk.len() / image;
            let chunk = match count == full {
                true => chunk,
                false => {
                    filled.clear();
                    filled.extend_from_slice(chunk);
                    filled.resize(full * image, 0);
                    &filled[..]
                }
            };
            let mut pixels = self.pixels(chunk, full, px)?;
            if self.precision == Precision::Bf16 {
                pixels = pixels.f_to_kind(Kind::BFloat16).map_err(torch("rounding pixels"))?;
            }
            let logits = networks.encoder.forward(&pixels)?;
            let tokens = self.pick(&logits)?.f_to_device(Device::Cpu).map_err(torch("copying tokens"))?;
            let count = count * grid * grid;
            tokens.f_copy_data(&mut ids, full * grid * grid).map_err(torch("copying tokens"))?;
            out.extend(ids[..count].iter().map(|&id| id as u16)); // below the vocabulary, which fits 16 bits
        }
        Ok(())
    }

    /// The logits of images that are already tensors.
    ///
    /// # Shapes
    /// `mapped` is fp32 `[B, 3, S, S]`, holding 0.8x + 0.1 of pixels in [0, 1]; out come `[B, V, S/stride, S/stride]`
    pub fn logits(&self, mapped: &Tensor) -> Result<Tensor, TokenizerError> {
        let networks = self.lock();
        let _guard = tch::no_grad_guard();
        networks.encoder.forward(&crate::network::channels_last(mapped)?)
    }

    /// The reconstruction of images from their tokens.
    ///
    /// # Shapes
    /// `tokens` is `[batch, grid.0, grid.1]` (rows, columns); the result `[batch, rows · stride, columns · stride, 3]`
    /// # Errors
    /// [`TokenizerError::NoDecoder`], [`TokenizerError::Length`], [`TokenizerError::Token`]
    pub fn decode(&self, tokens: &[u16], batch: usize, grid: (u32, u32)) -> Result<Vec<u8>, TokenizerError> {
        let (rows, cols) = (grid.0 as usize, grid.1 as usize);
        if tokens.len() != batch * rows * cols {
            let expected = batch * rows * cols;
            return Err(TokenizerError::Length { what: "tokens", expected, found: tokens.len() });
        }
        if let Some(&token) = tokens.iter().find(|&&token| u32::from(token) >= self.vocab()) {
            return Err(TokenizerError::Token { name: self.name().to_owned(), token, vocab: self.vocab() });
        }
        let stride = self.stride() as usize;
        let mut out = Vec::with_capacity(tokens.len() * stride * stride * 3);
        for chunk in tokens.chunks((chunk_of(rows as u32 * self.stride()) * rows * cols).max(1)) {
            let count = (chunk.len() / (rows * cols)) as i64;
            let ids: Vec<i64> = chunk.iter().map(|&token| i64::from(token)).collect();
            let ids = Tensor::f_from_slice(&ids)
                .and_then(|t| t.f_view([count, rows as i64, cols as i64]))
                .and_then(|t| t.f_to_device(self.device))
                .map_err(torch("copying tokens"))?;
            let pixels = pixels_u8(&self.maps(&ids)?)?;
            let start = out.len();
            out.resize(start + pixels.numel(), 0);
            pixels.f_copy_data(&mut out[start..], pixels.numel()).map_err(torch("copying pixels"))?;
        }
        Ok(out)
    }

    /// The decoder's six maps for token ids: place, then log width, of a logit-Laplace distribution per colour.
    ///
    /// # Shapes
    /// `tokens` is int64 `[B, h, w]`, the result fp32 `[B, 6, h · stride, w · stride]`
    /// # Errors
    /// [`TokenizerError::NoDecoder`]
    pub fn maps(&self, tokens: &Tensor) -> Result<Tensor, TokenizerError> {
        let networks = self.lock();
        let _guard = tch::no_grad_guard();
        let decoder = networks.decoder.as_ref();
        decoder
            .ok_or_else(|| TokenizerError::NoDecoder { name: self.name().to_owned() })?
            .forward_tokens(tokens)
    }

    /// Number of weights of the encoder and of the decoder (0 without one).
    pub fn weights(&self) -> (u64, u64) {
        let count = |conv: &crate::network::Conv| (conv.weight.numel() + conv.bias.numel()) as u64;
        let networks = self.lock();
        let decoder = networks.decoder.iter().flat_map(|decoder| decoder.convs()).map(count).sum();
        (networks.encoder.convs().map(count).sum(), decoder)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Networks> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner) // weights are never written, so they stay sound
    }

    /// `[batch, px, px, 3]` bytes → mapped pixels, fp32 [batch, 3, px, px], channels last without a copy.
    fn pixels(&self, pixels: &[u8], batch: usize, px: u32) -> Result<Tensor, TokenizerError> {
        map_pixels(pixels, batch, px, self.device)
    }

    /// [B, V, h, w] logits → [B, h, w] int64 tokens, the lowest of equals.
    fn pick(&self, logits: &Tensor) -> Result<Tensor, TokenizerError> {
        let verb = torch("picking tokens");
        let rows = logits.f_permute([0, 2, 3, 1]).and_then(|t| t.f_contiguous()).map_err(&verb)?;
        let (best, tokens) = rows.f_max_dim(-1, false).map_err(&verb)?;
        let finite =
            best.f_isfinite().and_then(|t| t.f_all()).and_then(|t| t.f_int64_value(&[])).map_err(&verb)?;
        match finite {
            1 => tokens.f_contiguous().map_err(verb),
            _ => Err(TokenizerError::NotFinite { name: self.name().to_owned() }),
        }
    }
}

/// `[batch, px, px, 3]` bytes → 0.8 · x / 255 + 0.1, fp32 [batch, 3, px, px] in channels-last layout.
pub(crate) fn map_pixels(
    pixels: &[u8],
    batch: usize,
    px: u32,
    device: Device,
) -> Result<Tensor, TokenizerError> {
    let size = [batch as i64, i64::from(px), i64::from(px), 3];
    let verb = torch("copying pixels");
    let x = Tensor::f_from_data_size(pixels, &size, Kind::Uint8)
        .and_then(|t| t.f_to_device(device))
        .map_err(&verb)?;
    let mut x = x.f_to_kind(Kind::Float).map_err(&verb)?;
    let _ = x.f_div_scalar_(255.0).map_err(&verb)?;
    let _ = x.f_mul_scalar_(1.0 - 2.0 * EPS).map_err(&verb)?;
    let _ = x.f_add_scalar_(EPS).map_err(&verb)?;
    x.f_permute([0, 3, 1, 2]).map_err(verb)
}

/// The decoder's maps [B, 6, S, S] → the pixels of greatest likelihood, u8 [B, S, S, 3] on the CPU.
pub(crate) fn pixels_u8(maps: &Tensor) -> Result<Tensor, TokenizerError> {
    let verb = torch("unmapping pixels");
    let x = maps.f_narrow(1, 0, 3).and_then(|t| t.f_sigmoid()).map_err(&verb)?;
    let x = x.f_sub_scalar(EPS).and_then(|t| t.f_div_scalar(1.0 - 2.0 * EPS)).map_err(&verb)?;
    let x =
        x.f_clamp(0.0, 1.0).and_then(|t| t.f_mul_scalar(255.0)).and_then(|t| t.f_round()).map_err(&verb)?;
    let x = x.f_to_kind(Kind::Uint8).and_then(|t| t.f_to_device(Device::Cpu)).map_err(&verb)?;
    x.f_permute([0, 2, 3, 1]).and_then(|t| t.f_contiguous()).map_err(verb)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
