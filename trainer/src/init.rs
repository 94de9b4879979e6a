//! What parameters start as, drawn by name.

use std::f64::consts::SQRT_2;

use beit_views::{Purpose, SeedKey};
use tch::{Kind, Tensor};

use crate::model::{ModelError, tensor};

/// What a parameter starts as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// The same number everywhere.
    Constant(f64),
    /// A normal distribution cut off on both sides, then divided.
    TruncatedNormal {
        /// Standard deviation before the cut.
        std: f64,
        /// Where it is cut, in standard deviations either side.
        cut: f64,
        /// What the result is divided by.
        divisor: f64,
    },
}

impl Fill {
    /// The reference's pre-training draw: σ 0.02, cut at ±σ (its fine-tuning code cuts at ±2, that is ±100 σ).
    pub const PRETRAIN: Fill = Fill::TruncatedNormal { std: 0.02, cut: 1.0, divisor: 1.0 };

    /// The same, made smaller for the last matrix of a residual branch of block `layer`: ÷ √(2(layer+1)).
    #[must_use]
    pub fn at_depth(self, layer: u32) -> Fill {
        match self {
            Fill::TruncatedNormal { std, cut, divisor } => {
                let divisor = divisor * (2.0 * (f64::from(layer) + 1.0)).sqrt();
                Fill::TruncatedNormal { std, cut, divisor }
            }
            constant => constant,
        }
    }

    /// The values on the CPU, f32: a function of seed, name and shape, whichever rank or thread asks.
    ///
    /// # Errors
    /// libtorch out of memory
    /// # Source
    /// `timm`'s `_trunc_normal_`: the inverse error function of a uniform draw, scaled and clamped
    pub fn tensor(self, seed: u64, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let count: i64 = shape.iter().product();
        match self {
            Fill::Constant(value) => Tensor::f_full(shape, value, (Kind::Float, tch::Device::Cpu))
                .map_err(tensor("filling a parameter")),
            Fill::TruncatedNormal { std, cut, divisor } => {
                let uniform = uniform(seed, name, usize::try_from(count).unwrap_or(0))?;
                // P(|z| < cut) = erf(cut/√2), so u ∈ [0, 1) becomes (2u − 1)·erf(cut/√2), and erf⁻¹ of that is z/√2.
                let inside = Tensor::from(cut / SQRT_2)
                    .f_erf()
                    .and_then(f64::try_from)
                    .map_err(tensor("weighing the cut of a distribution"))?;
                Tensor::f_from_slice(&uniform)
                    .and_then(|mut u| u.f_mul_scalar_(2.0 * inside))
                    .and_then(|mut u| u.f_sub_scalar_(inside))
                    .and_then(|mut u| u.f_erfinv_())
                    .and_then(|mut z| z.f_mul_scalar_(std * SQRT_2))
                    .and_then(|mut z| z.f_clamp_(-cut * std, cut * std))
                    .and_then(|mut z| z.f_div_scalar_(divisor))
                    .and_then(|z| z.f_view(shape))
                    .map_err(tensor("drawing a parameter"))
            }
        }
    }
}

/// Uniform numbers in [0, 1) of a parameter's own stream: 64 bits of its name's digest.
fn uniform(seed: u64, name: &str, count: usize) -> Result<Vec<f32>, ModelError> {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
    let stream = u64::from_le_bytes(first);
    let mut values = Vec::new();
    if values.try_reserve_exact(count).is_err() {
        return Err(ModelError::NoRoom { name: name.to_owned(), bytes: count as u64 * 4 });
    }
    values.resize(count, 0f32);
    // A key has 2²⁶ words; a new index every 2²⁴ keeps well within.
    for (chunk, index) in values.chunks_mut(1 << 24).zip(0..) {
        SeedKey { seed, stream, index, purpose: Purpose::Init }.draws().fill_unit_f32(chunk);
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
