//! First weights: random ones, and the rescaling of the head that keeps codes alive.

use super::Options;
use crate::error::{TokenizerError, torch};
use crate::geometry::Geometry;
use crate::network::{Decoder, Encoder};
use crate::tokenizer::Networks;
use crate::weights::Weights;
use beit_views::{Purpose, SeedKey};
use std::f64::consts::TAU;
use tch::{Device, Tensor};

/// Logits' spread over the data, per code, after [`spread_codes`].
const SPREAD: f64 = 2.0;

/// Networks with weights from N(0, 1/fan-in) and no biases, as DALL-E's; every tensor has its own random stream.
pub(super) fn networks(options: &Options, device: Device) -> Result<Networks, TokenizerError> {
    let shape = Geometry {
        groups: options.groups,
        blocks_per_group: options.blocks,
        hidden: options.hidden,
        vocab: options.vocab,
        post_gain: Geometry::usual_gain(options.groups, options.blocks),
    };
    let vocab = i64::from(options.vocab);
    let last = options.groups - 1;

    let mut bag = Bag { weights: Weights::new("the new encoder", device), seed: options.seed, stream: 0 };
    bag.conv("blocks.input", 3, shape.width(0), 7)?;
    let widths: Vec<i64> = (0..options.groups).map(|g| shape.width(g)).collect();
    bag.groups(shape.width(0), &widths, options.blocks, [3, 3, 3, 1])?;
    bag.conv("blocks.output.conv", shape.width(last), vocab, 1)?;
    let encoder = Encoder::new(bag.weights, None)?;

    let shape = Geometry { hidden: options.decoder_hidden.unwrap_or(options.hidden), ..shape };
    let mut bag =
        Bag { weights: Weights::new("the new decoder", device), seed: options.seed, stream: 1 << 32 };
    let first = i64::from(options.decoder_init);
    bag.conv("blocks.input", vocab, first, 1)?;
    let widths: Vec<i64> = (0..options.groups).rev().map(|g| shape.width(g)).collect();
    bag.groups(first, &widths, options.blocks, [1, 3, 3, 3])?;
    bag.conv("blocks.output.conv", shape.width(0), 6, 1)?;
    let decoder = Decoder::new(bag.weights, vocab, None)?;
    Ok(Networks { encoder, decoder: Some(decoder) })
}

/// Rescales the encoder's head so that over `images` every code's logit has mean 0 and standard deviation 2.
///
/// Without it the logits differ more between codes than between images, and whichever code leads takes all.
/// `images` are mapped pixels [B, 3, S, S].
pub(super) fn spread_codes(encoder: &Encoder, images: &[Tensor]) -> Result<(), TokenizerError> {
    let verb = torch("spreading codes over the data");
    let _guard = tch::no_grad_guard();
    let mut rows = Vec::new();
    for batch in images {
        let logits = encoder.forward(batch)?;
        let logits = logits.f_permute([0, 2, 3, 1]).map_err(&verb)?;
        rows.push(logits.f_reshape([-1, encoder.head().outputs]).map_err(&verb)?);
    }
    let rows = Tensor::f_cat(&rows, 0).map_err(&verb)?; // [positions, V]
    let (std, mean) = rows.f_std_mean_dim(0i64, true, false).map_err(&verb)?;
    let scale = std.f_clamp_min(1e-6).and_then(|t| t.f_reciprocal()).and_then(|t| t.f_mul_scalar(SPREAD));
    let scale = scale.map_err(&verb)?;
    let mut weight = encoder.head().weight.shallow_clone();
    let mut bias = encoder.head().bias.shallow_clone();
    let column = scale.f_view([-1, 1, 1, 1]).map_err(&verb)?;
    let _ = weight.f_mul_(&column).map_err(&verb)?;
    let _ = bias.f_sub_(&mean).and_then(|mut t| t.f_mul_(&scale)).map_err(&verb)?;
    Ok(())
}

/// A bag that is being filled with random convolutions.
struct Bag {
    weights: Weights,
    seed: u64,
    stream: u64,
}

impl Bag {
    fn conv(&mut self, name: &str, inputs: i64, outputs: i64, kernel: i64) -> Result<(), TokenizerError> {
        let shape = [outputs, inputs, kernel, kernel].map(|n| n as usize);
        let fan_in = (inputs * kernel * kernel) as f64;
        let mut draws =
            SeedKey { seed: self.seed, stream: self.stream, index: 0, purpose: Purpose::Init }.draws();
        self.stream += 1;
        let normals = std::iter::from_fn(|| {
            let radius = (-2.0 * (1.0 - draws.unit()).ln()).sqrt() / fan_in.sqrt();
            let angle = TAU * draws.unit();
            Some([radius * angle.cos(), radius * angle.sin()])
        });
        let values: Vec<f32> = normals.flatten().map(|v| v as f32).take(shape.iter().product()).collect();
        self.weights.insert(&format!("{name}.w"), &shape, &values)?;
        self.weights.insert(&format!("{name}.b"), &shape[..1], &vec![0.0; shape[0]])
    }

    fn groups(
        &mut self,
        first: i64,
        widths: &[i64],
        blocks: u32,
        kernels: [i64; 4],
    ) -> Result<(), TokenizerError> {
        let mut inputs = first;
        for (g, &outputs) in widths.iter().enumerate() {
            for k in 1..=blocks {
                let name = format!("blocks.group_{}.block_{k}", g + 1);
                if inputs != outputs {
                    self.conv(&format!("{name}.id_path"), inputs, outputs, 1)?;
                }
                let inner = outputs / 4;
                let channels = [inputs, inner, inner, inner, outputs];
                for (i, &kernel) in kernels.iter().enumerate() {
                    let name = format!("{name}.res_path.conv_{}", i + 1);
                    self.conv(&name, channels[i], channels[i + 1], kernel)?;
                }
                inputs = outputs;
            }
        }
        Ok(())
    }
}
