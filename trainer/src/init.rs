//! What parameters start as, drawn by name.

use beit_views::{Purpose, SeedKey};
use tch::{Kind, Tensor};

use crate::model::ModelError;
use crate::model::tensor;

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
                let mut uniform = vec![0f32; usize::try_from(count).unwrap_or(0)];
                let key = SeedKey { seed, stream: stream_of(name), index: 0, purpose: Purpose::Init };
                key.draws().fill_unit_f32(&mut uniform);
                // P(|z| < cut) = erf(cut/√2), so u ∈ [0, 1) becomes (2u − 1)·erf(cut/√2), and erf⁻¹ of that is z/√2.
                let inside = f64::from(erf(cut / std::f64::consts::SQRT_2));
                Tensor::f_from_slice(&uniform)
                    .and_then(|mut u| u.f_mul_scalar_(2.0 * inside))
                    .and_then(|mut u| u.f_sub_scalar_(inside))
                    .and_then(|mut u| u.f_erfinv_())
                    .and_then(|mut z| z.f_mul_scalar_(std * std::f64::consts::SQRT_2))
                    .and_then(|mut z| z.f_clamp_(-cut * std, cut * std))
                    .and_then(|mut z| z.f_div_scalar_(divisor))
                    .and_then(|z| z.f_view(shape))
                    .map_err(tensor("drawing a parameter"))
            }
        }
    }
}

/// The stream of a parameter: 64 bits of its name's digest.
fn stream_of(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first)
}
