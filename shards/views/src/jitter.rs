//! Colour jitter, with Pillow's single-precision blends cut to whole levels.

use crate::view::{Jitter, JitterStep};

/// New values for the 256 values of a channel.
pub(crate) type Curve = [u8; 256];

/// A jitter whose grey is known, so that it acts on each pixel by itself.
#[derive(Clone, Debug)]
pub(crate) struct Tone {
    /// The steps that are taken, with their factors.
    pub steps: [(JitterStep, f32); 3],
    /// The mean grey that contrast blends with.
    pub grey: u8,
    /// What the steps before saturation do to each channel, if anything.
    pub before: Option<Curve>,
    /// The factor of saturation, if it changes anything.
    pub saturation: Option<f32>,
    /// What the steps after saturation do to each channel, if anything.
    pub after: Option<Curve>,
}

impl Tone {
    pub fn new(jitter: &Jitter, grey: u8) -> Self {
        Self::of(jitter.order.map(|step| (step, jitter.factor(step))), grey)
    }

    /// A tone of these steps, each of which comes once.
    pub fn of(steps: [(JitterStep, f32); 3], grey: u8) -> Self {
        let place = steps.iter().position(|&(step, _)| step == JitterStep::Saturation);
        let (before, rest) = steps.split_at(place.unwrap_or(steps.len()));
        let (saturation, after) =
            rest.split_first().map_or((None, rest), |(step, rest)| (Some(step.1), rest));
        Self {
            steps,
            grey,
            before: curve(before, grey),
            saturation: saturation.filter(|&factor| factor != 1.0),
            after: curve(after, grey),
        }
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

/// What steps that act on each channel by itself do to every value.
fn curve(steps: &[(JitterStep, f32)], grey: u8) -> Option<Curve> {
    if steps.iter().all(|&(_, factor)| factor == 1.0) {
        return None;
    }
    let mut values: Curve = std::array::from_fn(|value| value as u8);
    for &(step, factor) in steps {
        let base = if step == JitterStep::Contrast { grey } else { 0 };
        values.iter_mut().for_each(|value| *value = blend(base, *value, factor));
    }
    Some(values)
}
