//! From the samples of the components to rows of pixels: chroma spread as libjpeg-turbo does it, then colour.

use super::header::{Colours, Component};
use super::{Plane, RegionDecoder};
use crate::kernels::{Level, PAD, padded};
use crate::view::PixelRect;

/// Memory for one row.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Samples weighted down, three parts of the nearer and one of the farther.
    sums: Vec<u16>,
    /// A row of each component, a sample for each pixel.
    spread: [Vec<u8>; 3],
}

/// How the samples of a component are spread over pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// They are as many.
    None,
    /// Three parts of the nearer sample, one of the farther: across, down or both.
    Smooth { across: bool, down: bool },
    /// Each is repeated.
    Repeat,
}

impl Component {
    fn spread(&self) -> Spread {
        match (self.wide, self.tall) {
            (1, 1) => Spread::None,
            (1, 2) => Spread::Smooth { across: false, down: true },
            (2, tall @ (1 | 2)) if self.columns > 2 => Spread::Smooth { across: true, down: tall == 2 },
            _ => Spread::Repeat,
        }
    }
}

impl Plane {
    /// Samples of a row from a column on.
    fn samples(&self, row: u32, column: u32, count: usize) -> &[u8] {
        let start = (row - self.top) as usize * self.stride + (column - self.left) as usize;
        &self.samples[start..start + count]
    }
}

impl RegionDecoder {
    /// Row `y` of the image within the crop that was decoded last, as three channels, `padded(crop.width)` bytes apart.
    pub fn row(&mut self, level: Level, crop: PixelRect, y: u32, out: &mut [u8]) {
        let columns = crop.width as usize;
        let whole = columns.next_multiple_of(PAD);
        let count = self.header.count;
        let parts = self.planes.iter().zip(&self.header.components).zip(&mut self.rows.spread);
        for ((plane, component), out) in parts.take(count) {
            if component.spread() != Spread::None {
                out.resize(out.len().max(whole), 0);
                let sums = &mut self.rows.sums;
                level.run(|| spread(component, plane, crop, y, sums, &mut out[..columns]));
            }
        }
        let channel = |number: usize| match self.header.components[number].spread() {
            Spread::None => self.planes[number].samples(y, crop.left, whole),
            _ => &self.rows.spread[number][..whole],
        };
        let stride = padded(columns);
        match self.header.colours {
            Colours::Ycc => level.colour([channel(0), channel(1), channel(2)], columns, out),
            Colours::Rgb => {
                for (number, out) in out.chunks_exact_mut(stride).take(3).enumerate() {
                    out[..columns].copy_from_slice(&channel(number)[..columns]);
                }
            }
            Colours::Grey => {
                for out in out.chunks_exact_mut(stride).take(3) {
                    out[..columns].copy_from_slice(&channel(0)[..columns]);
                }
            }
        }
    }
}

/// A row of one sample per pixel, from samples that stand for several.
#[inline(always)]
fn spread(
    component: &Component,
    plane: &Plane,
    crop: PixelRect,
    y: u32,
    sums: &mut Vec<u16>,
    out: &mut [u8],
) {
    let near = y / component.tall;
    let far = match y % 2 {
        0 => near.saturating_sub(1),
        _ => (near + 1).min(component.rows - 1),
    };
    match component.spread() {
        Spread::Smooth { across: false, .. } => {
            let bias = 1 + (y % 2) as u16;
            let near = plane.samples(near, crop.left, out.len());
            let far = plane.samples(far, crop.left, out.len());
            for ((out, &near), &far) in out.iter_mut().zip(near).zip(far) {
                *out =
                    (3u16.wrapping_mul(near.into()).wrapping_add(far.into()).wrapping_add(bias) >> 2) as u8;
            }
        }
        Spread::Smooth { down, .. } => {
            // One sample more on each side, the edge's own where the image ends.
            let (first, last) = (crop.left / 2, (crop.left + crop.width - 1) / 2);
            let (from, to) = (first.saturating_sub(1), (last + 1).min(component.columns - 1));
            let (count, lead) = ((to - from + 1) as usize, usize::from(first == 0));
            let len = (last - first) as usize + 3;
            sums.resize(sums.len().max(len), 0);
            let sums = &mut sums[..len];
            let nears = plane.samples(near, from, count).iter();
            let middle = sums[lead..lead + count].iter_mut();
            if down {
                let samples = nears.zip(plane.samples(far, from, count));
                for (sum, (&near, &far)) in middle.zip(samples) {
                    *sum = 3u16.wrapping_mul(near.into()).wrapping_add(far.into());
                }
            } else {
                middle.zip(nears).for_each(|(sum, &near)| *sum = u16::from(near));
            }
            if first == 0 {
                sums[0] = sums[1];
            }
            if to == last {
                sums[len - 1] = sums[len - 2];
            }
            match down {
                true => smooth::<4>(sums, [8, 7], crop.left % 2 == 1, out),
                false => smooth::<2>(sums, [1, 2], crop.left % 2 == 1, out),
            }
        }
        _ => {
            let (wide, first) = (component.wide, crop.left / component.wide);
            let last = (crop.left + crop.width - 1) / wide;
            let samples = plane.samples(near, first, (last - first + 1) as usize);
            for (x, out) in (crop.left..).zip(out) {
                *out = samples[(x / wide - first) as usize];
            }
        }
    }
}

/// Two pixels of each of `sums` but the first and the last; without the first of all pixels if `odd`.
#[inline(always)]
fn smooth<const SHIFT: u32>(sums: &[u16], bias: [u16; 2], odd: bool, out: &mut [u8]) {
    let left =
        |sums: [u16; 3]| 3u16.wrapping_mul(sums[1]).wrapping_add(sums[0]).wrapping_add(bias[0]) >> SHIFT;
    let right =
        |sums: [u16; 3]| 3u16.wrapping_mul(sums[1]).wrapping_add(sums[2]).wrapping_add(bias[1]) >> SHIFT;
    let (half, out) = out.split_at_mut(usize::from(odd));
    if let [half] = half {
        *half = right([sums[0], sums[1], sums[2]]) as u8;
    }
    let sums = &sums[usize::from(odd)..];
    let (pairs, rest) = out.as_chunks_mut::<2>();
    let count = pairs.len();
    let (before, here, after) = (&sums[..count], &sums[1..][..count], &sums[2..][..count]);
    for (((pair, &before), &here), &after) in pairs.iter_mut().zip(before).zip(here).zip(after) {
        let sums = [before, here, after];
        // Both are below 256: two bytes of one number.
        *pair = (left(sums) | right(sums) << 8).to_le_bytes();
    }
    if let [out] = rest {
        *out = left([sums[count], sums[count + 1], 0]) as u8;
    }
}
