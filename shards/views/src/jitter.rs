//! Colour jitter, with Pillow's single-precision blends cut to whole levels.

use crate::view::{Jitter, JitterStep};

/// A jitter whose grey is known, so that it acts on each pixel by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tone {
    /// The steps that are taken, with their factors.
    pub steps: [(JitterStep, f32); 3],
    /// The mean grey that contrast blends with.
    pub grey: u8,
}

impl Tone {
    pub fn new(jitter: &Jitter, grey: u8) -> Self {
        Self { steps: jitter.order.map(|step| (step, jitter.factor(step))), grey }
    }

    /// The steps before contrast, which its grey depends on.
    pub fn before_contrast(&self) -> &[(JitterStep, f32)] {
        let contrast = self.steps.iter().position(|&(step, _)| step == JitterStep::Contrast);
        &self.steps[..contrast.unwrap_or(self.steps.len())]
    }

    /// One pixel through all steps.
    #[inline]
    pub fn apply(&self, pixel: [u8; 3]) -> [u8; 3] {
        self.apply_steps(&self.steps, pixel)
    }

    /// One pixel through some steps.
    #[inline]
    pub fn apply_steps(&self, steps: &[(JitterStep, f32)], mut pixel: [u8; 3]) -> [u8; 3] {
        for &(step, factor) in steps {
            pixel = self.step(step, factor, pixel);
        }
        pixel
    }

    #[inline]
    fn step(&self, step: JitterStep, factor: f32, pixel: [u8; 3]) -> [u8; 3] {
        let base = match step {
            JitterStep::Brightness => 0,
            JitterStep::Contrast => self.grey,
            JitterStep::Saturation => luma(pixel),
        };
        pixel.map(|value| blend(base, value, factor))
    }
}

/// Pillow's luma.
#[inline]
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// `base + factor * (value - base)`, rounded to single precision twice, then cut (never rounded) and clipped.
#[inline]
pub(crate) fn blend(base: u8, value: u8, factor: f32) -> u8 {
    let change = f32::from(i16::from(value) - i16::from(base));
    (f32::from(base) + factor * change) as u8 // saturates and cuts
}
