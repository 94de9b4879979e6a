//! The inner loops of a decode and a render, each in plain Rust and for the vector units that the machine turns out to have.
//!
//! All give the same bytes. Between them a row is kept channel after channel, each padded to whole vectors, so that
//! vectors may be read and written past its end.

#![expect(unsafe_code, reason = "calls kernels for the vector units found at run time")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod colour;
mod inverse;

use crate::jitter::{Tone, luma};
use crate::region::Quad;
use crate::resize::{self, Plan};
use crate::view::Interpolation;

/// Bytes that a kernel may touch past the last sample of a channel's row.
pub(crate) const PAD: usize = 64;

/// Bytes between the channels of a row of `samples`, with room for whole vectors.
pub(crate) fn padded(samples: usize) -> usize {
    samples.next_multiple_of(PAD) + PAD
}

/// The vector unit in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with byte permutations and byte dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best this machine has.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::Plain)
    }

    /// All that this machine has, the best one last.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
            if wide {
                levels.push(Self::Avx2);
            }
            let deep = is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512vnni");
            if deep && wide {
                levels.push(Self::Avx512);
            }
        }
        levels
    }

    /// Makes a plan and lays its weights out as this level reads them across.
    pub fn plan_across(
        self,
        plan: &mut Plan,
        from: u32,
        to: u32,
        interpolation: Interpolation,
        mirrored: bool,
    ) {
        self.run(|| {
            plan.set(from, to, interpolation, mirrored);
            match self {
                Self::Plain => {}
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => plan.pack_pairs_across(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => plan.pack_digits_across(),
            }
        });
    }

    /// As [`plan_across`](Self::plan_across), as they are read down.
    pub fn plan_down(self, plan: &mut Plan, from: u32, to: u32, interpolation: Interpolation) {
        self.run(|| {
            plan.set(from, to, interpolation, false);
            match self {
                Self::Plain => {}
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => plan.pack_pairs_down(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => plan.pack_digits_down(),
            }
        });
    }

    /// Runs plain Rust, if it is inlined, with the bit and vector instructions of this machine.
    #[inline(always)]
    pub fn run<T>(self, code: impl FnOnce() -> T) -> T {
        match self {
            Self::Plain => code(),
            // SAFETY: the level was found on this machine.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 => unsafe { avx2::run(code) },
        }
    }

    /// Four blocks of coefficients, of which the first `reach` in coding order may not be zero, to eight rows of 32 samples.
    /// Leaves zeros behind.
    pub fn inverse(self, quad: &mut Quad, quant: &[i16; 64], reach: u8, out: &mut [u8], stride: usize) {
        assert!(out.len() >= 7 * stride + 32 && stride >= 32, "room for eight rows");
        let done = match self {
            Self::Plain => false,
            // SAFETY: the level was found on this machine; the eight rows fit `out`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::inverse(quad, quant, reach, out, stride) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::inverse(quad, quant, reach, out, stride) },
        };
        if !done {
            inverse::plain(quad, quant, out, stride);
        }
        match reach <= inverse::SPARSE_REACH {
            true => quad[..128].fill(0),
            false => quad.fill(0),
        }
    }

    /// Luma and two chromas to red, green and blue, `padded(columns)` bytes apart; whole vectors are read of each.
    pub fn colour(self, from: [&[u8]; 3], columns: usize, planes: &mut [u8]) {
        let stride = padded(columns);
        assert!(planes.len() >= 3 * stride, "three padded channels");
        assert!(from.iter().all(|channel| channel.len() >= columns.next_multiple_of(PAD)), "whole vectors");
        match self {
            Self::Plain => {
                for x in 0..columns {
                    let pixel = colour::pixel(from[0][x], from[1][x], from[2][x]);
                    for (channel, value) in pixel.into_iter().enumerate() {
                        planes[channel * stride + x] = value;
                    }
                }
            }
            // SAFETY: the level was found on this machine; whole vectors are there, and fit each padded channel.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::colour(from, columns, planes, stride) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::colour(from, columns, planes, stride) },
        }
    }

    /// A row of interleaved RGB to three channels, `padded(columns)` bytes apart.
    pub fn split(self, row: &[u8], planes: &mut [u8]) {
        let columns = row.len() / 3;
        let stride = padded(columns);
        assert!(planes.len() >= 3 * stride, "three padded channels");
        let done = match self {
            Self::Plain => 0,
            // SAFETY: the level was found on this machine, and `planes` has room for three padded channels.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 => unsafe { avx2::split(row, planes, stride) },
        };
        let (pixels, _) = row.as_chunks::<3>();
        for (x, &pixel) in pixels.iter().enumerate().skip(done) {
            for (channel, value) in pixel.into_iter().enumerate() {
                planes[channel * stride + x] = value;
            }
        }
    }

    /// Jitters three channels of a row, `padded(columns)` bytes apart.
    pub fn tone(self, tone: &Tone, columns: usize, planes: &mut [u8]) {
        let stride = padded(columns);
        assert!(planes.len() >= 3 * stride, "three padded channels");
        match self {
            Self::Plain => {
                for x in 0..columns {
                    let pixel = std::array::from_fn(|channel| planes[channel * stride + x]);
                    for (channel, value) in tone.apply(pixel).into_iter().enumerate() {
                        planes[channel * stride + x] = value;
                    }
                }
            }
            // SAFETY: the level was found on this machine; there are three padded channels.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::tone(tone, columns, planes, stride) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::tone(tone, columns, planes, stride) },
        }
    }

    /// The sum of all lumas of interleaved RGB after the steps before contrast.
    pub fn luma_sum(self, tone: &Tone, mut pixels: &[u8]) -> u64 {
        let steps = tone.before_contrast();
        let mut total = 0;
        loop {
            let (sum, done) = match self {
                Self::Plain => (0, 0),
                // SAFETY: the level was found on this machine.
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => unsafe { avx2::lumas(steps, pixels) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => unsafe { avx512::lumas(steps, pixels) },
            };
            total += sum;
            pixels = &pixels[3 * done..];
            if done == 0 {
                break;
            }
        }
        let (pixels, _) = pixels.as_chunks::<3>();
        let rest: u64 = pixels.iter().map(|&pixel| u64::from(luma(tone.apply_steps(steps, pixel)))).sum();
        total + rest
    }

    /// Resizes three padded channels of a row across to channels `stride` bytes apart; up to 15 bytes more of each are
    /// written than the plan's output.
    pub fn across(self, plan: &Plan, row: &[u8], out: &mut [u8], stride: usize) {
        let padded = padded(plan.input as usize);
        assert!(row.len() >= 3 * padded, "three padded channels");
        let groups = (plan.output as usize).next_multiple_of(16);
        assert!(stride >= groups && out.len() >= 3 * stride, "room for whole groups");
        match self {
            Self::Plain => {
                for (row, out) in row.chunks_exact(padded).zip(out.chunks_exact_mut(stride)).take(3) {
                    resize::across(plan, row, &mut out[..plan.output as usize]);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                for (row, out) in row.chunks_exact(padded).zip(out.chunks_exact_mut(stride)).take(3) {
                    // SAFETY: the level was found on this machine, the plan was packed for it, both rows are padded.
                    unsafe { avx2::across(plan, row, out) }
                }
            }
            // SAFETY: as above; there are three channels of each.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::across(plan, row, padded, out, stride) },
        }
    }

    /// One output row from the rows of `rows`, `out.len()` bytes each, a whole number of vectors.
    pub fn down(self, plan: &Plan, index: usize, rows: &[u8], out: &mut [u8]) {
        assert!(
            out.len().is_multiple_of(PAD) && rows.len() >= plan.input as usize * out.len(),
            "padded rows"
        );
        assert!(index < plan.output as usize, "a row of the plan");
        match self {
            Self::Plain => resize::down(plan, index, rows, out),
            // SAFETY: the level was found on this machine, the plan was packed for it, all its rows are there.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::down(plan, index, rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::down(plan, index, rows, out) },
        }
    }

    /// Three channels, `stride` bytes apart, to interleaved RGB.
    pub fn interleave(self, planes: &[u8], stride: usize, out: &mut [u8]) {
        let columns = out.len() / 3;
        assert!(stride >= columns && planes.len() >= 3 * stride, "three channels");
        let done = match self {
            Self::Plain => 0,
            // SAFETY: the level was found on this machine; whole vectors of each channel are there.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::interleave(planes, stride, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::interleave(planes, stride, out) },
        };
        for (x, pixel) in out.chunks_exact_mut(3).enumerate().skip(done) {
            pixel.iter_mut().enumerate().for_each(|(channel, value)| *value = planes[channel * stride + x]);
        }
    }
}

#[cfg(test)]
mod tests;
