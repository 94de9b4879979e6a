//! Pillow's antialiased resize, bit for bit: horizontal pass first, 8-bit samples between the passes, coefficients
//! of 22 fractional bits.
//!
//! Source: Pillow's `src/libImaging/Resample.c` (`precompute_coeffs`, `normalize_coeffs_8bpc`).

use crate::view::Interpolation;

mod packed;

pub(crate) use packed::Packed;

/// Fractional bits of a coefficient: 32 less 8 of the sample and 2 for the sign and for overshoot.
pub(crate) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Which input samples make each output sample, and with what weights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Input samples.
    pub input: u32,
    /// Output samples.
    pub output: u32,
    /// Weights kept for each output sample: as many as any has, and up to whole fours.
    pub taps: usize,
    /// First input sample of each output sample.
    pub starts: Vec<u32>,
    /// Number of weights of each output sample.
    pub counts: Vec<u32>,
    /// `taps` weights for each output sample, zero past its count.
    pub weights: Vec<i32>,
    /// How vector units read the same; empty until packed.
    pub packed: Packed,
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Without branches, so that several weights are computed at once.
#[inline(always)]
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    let near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = (((x - 5.0) * x + 8.0) * x - 4.0) * A;
    let far = if x < 2.0 { far } else { 0.0 };
    if x < 1.0 { near } else { far }
}

fn lanczos(x: f64) -> f64 {
    match (-3.0..3.0).contains(&x) {
        true => sinc(x) * sinc(x / 3.0),
        false => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

impl Plan {
    /// Computes the plan in place, reusing its memory. With `mirrored` the input is read from its far end: the result
    /// is that of mirroring the input first, rounding included.
    #[inline(always)]
    pub fn set(&mut self, input: u32, output: u32, interpolation: Interpolation, mirrored: bool) {
        match interpolation {
            Interpolation::Bilinear => self.fill(input, output, mirrored, 1.0, triangle),
            Interpolation::Bicubic => self.fill(input, output, mirrored, 2.0, bicubic),
            Interpolation::Lanczos => self.fill(input, output, mirrored, 3.0, lanczos),
        }
    }

    #[inline(always)]
    fn fill(&mut self, input: u32, output: u32, mirrored: bool, radius: f64, kernel: impl Fn(f64) -> f64) {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = radius * filter_scale;
        let taps = (support.ceil() as usize * 2 + 1).next_multiple_of(4);
        self.input = input;
        self.output = output;
        self.taps = taps;
        self.starts.clear();
        self.counts.clear();
        self.weights.clear();
        self.weights.resize(taps * output as usize, 0);
        let step = 1.0 / filter_scale;
        let mut raw = [0.0f64; 64];
        let mut many = Vec::new();
        let raw = if taps <= raw.len() {
            &mut raw[..taps]
        } else {
            many.resize(taps, 0.0);
            &mut many[..]
        };
        for (index, weights) in self.weights.chunks_exact_mut(taps).enumerate() {
            let center = (index as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as u32; // cut towards zero
            let end = ((center + support + 0.5) as u32).min(input);
            let count = (end - start) as usize;
            // By fours, the last ones too many.
            let fours = count.next_multiple_of(4);
            let (raws, _) = raw[..fours].as_chunks_mut::<4>();
            for (raw, place) in raws.iter_mut().zip((0..).step_by(4)) {
                *raw = [0, 1, 2, 3].map(|tap: u32| {
                    kernel((f64::from(tap + place) + f64::from(start) - center + 0.5) * step)
                });
            }
            let sum = raw[..count].iter().fold(0.0, |sum, weight| sum + weight);
            let sum = if sum == 0.0 { 1.0 } else { sum };
            let (raws, _) = raw[..fours].as_chunks::<4>();
            let (quantized, _) = weights[..fours].as_chunks_mut::<4>();
            for (quantized, raw) in quantized.iter_mut().zip(raws) {
                *quantized = raw.map(|weight| {
                    let weight = weight / sum;
                    let scaled = weight * f64::from(1 << PRECISION_BITS);
                    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
                });
            }
            weights[count..fours].fill(0);
            if mirrored {
                weights[..count].reverse();
            }
            self.starts.push(if mirrored { input - end } else { start });
            self.counts.push(count as u32);
        }
    }
}

/// Rounds and clips a sum of weighted samples.
#[inline]
pub(crate) fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Half, as the sums start with it.
pub(crate) const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// One row of one channel, resized across.
pub(crate) fn across(plan: &Plan, row: &[u8], out: &mut [u8]) {
    let places = plan.starts.iter().zip(&plan.counts).zip(plan.weights.chunks_exact(plan.taps));
    for (out, ((&start, &count), weights)) in out.iter_mut().zip(places) {
        let samples = &row[start as usize..(start + count) as usize];
        let products = samples.iter().zip(weights).map(|(&sample, &weight)| i32::from(sample) * weight);
        *out = clip(products.fold(HALF, i32::wrapping_add));
    }
}

/// One output row of all channels, from the rows of `rows`, each as long as `out`, that its weights ask for.
pub(crate) fn down(plan: &Plan, index: usize, rows: &[u8], out: &mut [u8]) {
    let stride = out.len();
    let start = plan.starts[index] as usize;
    let weights = &plan.weights[index * plan.taps..][..plan.counts[index] as usize];
    for (at, out) in out.iter_mut().enumerate() {
        let samples = rows[start * stride + at..].iter().step_by(stride);
        let products = samples.zip(weights).map(|(&sample, &weight)| i32::from(sample) * weight);
        *out = clip(products.fold(HALF, i32::wrapping_add));
    }
}

#[cfg(test)]
mod tests;
