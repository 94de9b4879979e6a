//! AVX-512 with VBMI and VNNI. A weight is three signed digits of 8 bits, so that one instruction multiplies four samples
//! of 16 outputs by one digit.
#![expect(unsafe_code, reason = "vector loads and stores; lengths are asserted at the door")]

use std::arch::x86_64::*;

use super::avx2;
use super::colour::{FactorPairs, colour};
use super::inverse::{PAIRS, SHIFTS, SHORT_BIAS, SPARSE_PAIRS, SPARSE_REACH, inverse};
use crate::jitter::{Curve, Tone};
use crate::region::Quad;
use crate::resize::{self, HALF, PRECISION_BITS, Plan};
use crate::view::JitterStep;

/// Red, green and blue of sixteen pixels.
type Pixels = [__m512; 3];

/// Permutations that pick one channel of sixteen pixels, a byte to each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn picks() -> [__m512i; 3] {
    std::array::from_fn(|channel| {
        let bytes: [u8; 64] = std::array::from_fn(|at| (3 * (at / 4) + channel) as u8);
        // SAFETY: 64 bytes are read from an array of 64.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    })
}

/// Up to sixteen pixels of `row`, black past the first `count`.
///
/// # Safety
/// AVX-512 F, BW, VBMI; `count` is 1 to 16, and so many pixels from `x` on lie in `row`
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn load(row: &[u8], x: usize, count: usize, picks: [__m512i; 3]) -> Pixels {
    let bytes = u64::MAX >> (64 - 3 * count);
    // SAFETY: masked-off bytes are not read; the caller says that the others are there.
    let raw = unsafe { _mm512_maskz_loadu_epi8(bytes, row.as_ptr().add(3 * x).cast()) };
    let lowest = 0x1111_1111_1111_1111;
    picks.map(|pick| _mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(lowest, pick, raw)))
}

/// Sixty-four pixels at a time of three channels.
///
/// # Safety
/// AVX-512 F, BW, VBMI; `planes` has three padded channels for `columns`, `stride` bytes apart
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn tone(tone: &Tone, columns: usize, planes: &mut [u8], stride: usize) {
    let load = |curve: &Curve| -> [__m512i; 4] {
        // SAFETY: a curve has four vectors.
        std::array::from_fn(|part| unsafe { _mm512_loadu_si512(curve.as_ptr().add(64 * part).cast()) })
    };
    let before = tone.before.as_ref().map(load);
    let after = tone.after.as_ref().map(load);
    for x in (0..columns).step_by(64) {
        // SAFETY: x is a multiple of 64 below columns, and each channel has whole vectors.
        let mut bytes: [__m512i; 3] = std::array::from_fn(|channel| unsafe {
            _mm512_loadu_si512(planes.as_ptr().add(channel * stride + x).cast())
        });
        if let Some(curve) = before {
            bytes = bytes.map(|values| bend(curve, values));
        }
        if let Some(factor) = tone.saturation {
            bytes = saturate(bytes, factor);
        }
        if let Some(curve) = after {
            bytes = bytes.map(|values| bend(curve, values));
        }
        for (channel, values) in bytes.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(planes.as_mut_ptr().add(channel * stride + x).cast(), values) };
        }
    }
}

/// New values from a curve.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn bend([a, b, c, d]: [__m512i; 4], values: __m512i) -> __m512i {
    let (dark, light) = (_mm512_permutex2var_epi8(a, values, b), _mm512_permutex2var_epi8(c, values, d));
    _mm512_mask_blend_epi8(_mm512_movepi8_mask(values), dark, light)
}

/// The saturation step on 64 pixels; as [`blend`], but clipped where the whole levels are packed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn saturate(bytes: [__m512i; 3], factor: f32) -> [__m512i; 3] {
    let factor = _mm512_set1_ps(factor);
    let quarter = |part: usize| {
        let pixels = bytes.map(|values| {
            let four = match part {
                0 => _mm512_castsi512_si128(values),
                1 => _mm512_extracti32x4_epi32::<1>(values),
                2 => _mm512_extracti32x4_epi32::<2>(values),
                _ => _mm512_extracti32x4_epi32::<3>(values),
            };
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(four))
        });
        let base = luma(pixels);
        pixels.map(|value| {
            let change = _mm512_mul_ps(factor, _mm512_sub_ps(value, base));
            _mm512_cvttps_epi32(_mm512_add_ps(base, change))
        })
    };
    let [a, b, c, d] = [quarter(0), quarter(1), quarter(2), quarter(3)];
    // Packing takes 128 bits of each in turn.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    std::array::from_fn(|channel| {
        let (first, second) =
            (_mm512_packs_epi32(a[channel], b[channel]), _mm512_packs_epi32(c[channel], d[channel]));
        _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second))
    })
}

/// The sum of the lumas after some steps, and of how many pixels; at most 2²³ pixels go into one call.
///
/// # Safety
/// AVX-512 F, BW, VBMI
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn lumas(steps: &[(JitterStep, f32)], row: &[u8]) -> (u64, usize) {
    let columns = (row.len() / 3).min(1 << 23);
    let picks = picks();
    let mut sums = _mm512_setzero_si512();
    let mut x = 0;
    while x + 16 <= columns {
        // SAFETY: x + 16 <= columns.
        let mut pixels = unsafe { load(row, x, 16, picks) };
        for &(step, factor) in steps {
            pixels = blend(pixels, step, factor, 0);
        }
        sums = _mm512_add_epi32(sums, _mm512_cvttps_epi32(luma(pixels)));
        x += 16;
    }
    let mut lanes = [0u32; 16];
    // SAFETY: 64 bytes are written to an array of 64.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums) };
    (lanes.into_iter().map(u64::from).sum(), x)
}

/// One blend, rounded as Pillow's: product and sum each to single precision, then cut and clipped.
#[inline]
#[target_feature(enable = "avx512f")]
fn blend(pixels: Pixels, step: JitterStep, factor: f32, grey: u8) -> Pixels {
    let base = match step {
        JitterStep::Brightness => _mm512_setzero_ps(),
        JitterStep::Contrast => _mm512_set1_ps(f32::from(grey)),
        JitterStep::Saturation => luma(pixels),
    };
    let factor = _mm512_set1_ps(factor);
    pixels.map(|value| {
        let value = _mm512_add_ps(base, _mm512_mul_ps(factor, _mm512_sub_ps(value, base)));
        let value = _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(255.0));
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(value)
    })
}

/// Pillow's luma; every product and sum is a whole number below 2²⁴, so single precision is exact.
#[inline]
#[target_feature(enable = "avx512f")]
fn luma([r, g, b]: Pixels) -> __m512 {
    let sum = _mm512_fmadd_ps(r, _mm512_set1_ps(19_595.0), _mm512_set1_ps(32_768.0));
    let sum = _mm512_fmadd_ps(g, _mm512_set1_ps(38_470.0), sum);
    let sum = _mm512_fmadd_ps(b, _mm512_set1_ps(7_471.0), sum);
    let scaled = _mm512_mul_ps(sum, _mm512_set1_ps(1.0 / 65_536.0));
    _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(scaled)
}

/// Sixteen sums, digit by digit, to whole levels, clipped to bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn levels(sums: [__m512i; 3]) -> __m128i {
    _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole(sums), _mm512_setzero_si512()))
}

/// Sixteen sums, digit by digit, to whole levels.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole([low, middle, high]: [__m512i; 3]) -> __m512i {
    let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<8>(middle));
    _mm512_srai_epi32::<PRECISION_BITS>(_mm512_add_epi32(sum, _mm512_slli_epi32::<16>(high)))
}

/// # Safety
/// AVX-512 F, BW, VL, VBMI, VNNI; `plan` is packed in digits; `row` has three padded channels, `padded` bytes apart, `out`
/// three with room for whole groups, `stride` bytes apart
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn across(plan: &Plan, row: &[u8], padded: usize, out: &mut [u8], stride: usize) {
    let packed = &plan.packed;
    if !packed.three_digits {
        for (row, out) in row.chunks_exact(padded).zip(out.chunks_exact_mut(stride)).take(3) {
            resize::across(plan, row, &mut out[..plan.output as usize]);
        }
        return;
    }
    let groups = (plan.output as usize).div_ceil(16);
    let quads = packed.quads;
    assert!(packed.index.len() >= groups * 64 && packed.digits.len() >= groups * quads * 192);
    assert!(packed.bases.len() >= groups && packed.offsets.len() >= 16 * groups);
    for group in 0..groups {
        let zero = _mm512_setzero_si512();
        let mut sums = [[_mm512_set1_epi32(HALF), zero, zero]; 3];
        // SAFETY: the lengths were compared above; the plan's packing keeps every read within the padded channels.
        unsafe {
            let index = _mm512_loadu_si512(packed.index.as_ptr().add(64 * group).cast());
            let offsets = _mm512_loadu_si512(packed.offsets.as_ptr().add(16 * group).cast());
            let base = packed.bases[group] as usize;
            for quad in 0..quads {
                let digits = packed.digits.as_ptr().add(192 * (group * quads + quad));
                let digits: [__m512i; 3] =
                    std::array::from_fn(|place| _mm512_loadu_si512(digits.add(64 * place).cast()));
                for (channel, sums) in sums.iter_mut().enumerate() {
                    let row = row.as_ptr().add(channel * padded + 4 * quad);
                    let samples = if packed.gathered {
                        _mm512_i32gather_epi32::<1>(offsets, row.cast())
                    } else {
                        _mm512_permutexvar_epi8(index, _mm512_loadu_si512(row.add(base).cast()))
                    };
                    for (sum, digit) in sums.iter_mut().zip(digits) {
                        *sum = _mm512_dpbusd_epi32(*sum, samples, digit);
                    }
                }
            }
            for (channel, sums) in sums.into_iter().enumerate() {
                let out = out.as_mut_ptr().add(channel * stride + 16 * group);
                _mm_storeu_si128(out.cast(), levels(sums));
            }
        }
    }
}

/// # Safety
/// AVX-512 F, BW, VNNI; `plan` is packed in digits and has a row `index`; `rows` has `plan.input` rows of `out.len()`
/// bytes, a multiple of 64
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn down(plan: &Plan, index: usize, rows: &[u8], out: &mut [u8]) {
    let packed = &plan.packed;
    if !packed.three_digits {
        return resize::down(plan, index, rows, out);
    }
    let (stride, quads) = (out.len(), packed.quads);
    let last = plan.input as usize - 1;
    let start = packed.offsets[index] as usize;
    let numbers = &packed.numbers[3 * index * quads..3 * (index + 1) * quads];
    let mut x = 0;
    while x + 64 <= stride {
        let zero = _mm512_setzero_si512();
        let mut sums = [[_mm512_set1_epi32(HALF), zero, zero]; 4];
        for (quad, numbers) in numbers.chunks_exact(3).enumerate() {
            let load = |tap: usize| {
                let row = (start + 4 * quad + tap).min(last);
                // SAFETY: `row` is one of the rows and x + 64 <= stride.
                unsafe { _mm512_loadu_si512(rows.as_ptr().add(row * stride + x).cast()) }
            };
            let [a, b, c, d] = [load(0), load(1), load(2), load(3)];
            let (low_ab, high_ab) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (low_cd, high_cd) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            let samples = [
                _mm512_unpacklo_epi16(low_ab, low_cd),
                _mm512_unpackhi_epi16(low_ab, low_cd),
                _mm512_unpacklo_epi16(high_ab, high_cd),
                _mm512_unpackhi_epi16(high_ab, high_cd),
            ];
            for (samples, sums) in samples.into_iter().zip(&mut sums) {
                for (sum, &number) in sums.iter_mut().zip(numbers) {
                    *sum = _mm512_dpbusd_epi32(*sum, samples, _mm512_set1_epi32(number));
                }
            }
        }
        let [a, b, c, d] = sums.map(|sums| whole(sums));
        let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        // SAFETY: x + 64 <= stride, the length of `out`.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(x).cast(), bytes) };
        x += 64;
    }
}

/// # Safety
/// AVX-512 and AVX2; as [`avx2::interleave`]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn interleave(planes: &[u8], stride: usize, out: &mut [u8]) -> usize {
    // SAFETY: the same conditions.
    unsafe { avx2::interleave(planes, stride, out) }
}

inverse!(
    "avx512f,avx512bw",
    __m512i,
    u32,
    _mm512_set1_epi32,
    _mm512_setzero_si512,
    _mm512_add_epi16,
    _mm512_sub_epi16,
    _mm512_add_epi32,
    _mm512_sub_epi32,
    _mm512_madd_epi16,
    _mm512_srai_epi32,
    _mm512_packs_epi32,
    _mm512_packs_epi16,
    _mm512_xor_si512,
    _mm512_unpacklo_epi8,
    _mm512_unpackhi_epi8,
    _mm512_unpacklo_epi16,
    _mm512_unpackhi_epi16,
    _mm512_unpacklo_epi32,
    _mm512_unpackhi_epi32,
    _mm512_unpacklo_epi64,
    _mm512_unpackhi_epi64
);

/// Four blocks to eight rows of 32 samples; `false`, and nothing written, if a coefficient is too large for this way.
///
/// # Safety
/// AVX-512 F, BW; seven strides and 32 bytes fit `out`
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn inverse(
    quad: &Quad,
    quant: &[i16; 64],
    reach: u8,
    out: &mut [u8],
    stride: usize,
) -> bool {
    let row = |y: usize| {
        // SAFETY: y is 0 to 7, a quad has 8 rows of 64 bytes, a table 8 of 16.
        unsafe {
            let steps = _mm512_broadcast_i32x4(_mm_loadu_si128(quant.as_ptr().add(8 * y).cast()));
            _mm512_mullo_epi16(_mm512_loadu_si512(quad.as_ptr().add(32 * y).cast()), steps)
        }
    };
    let first = row(0);
    let biased = _mm512_add_epi16(first, _mm512_set1_epi16(SHORT_BIAS));
    if _mm512_test_epi16_mask(biased, _mm512_set1_epi16(0xC000u16 as i16)) != 0 {
        return false;
    }
    let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    let pairs = match reach {
        0 | 1 => {
            let flat = _mm512_srai_epi16::<3>(_mm512_add_epi16(first, _mm512_set1_epi16(4)));
            let flat = _mm512_shuffle_epi8(_mm512_packs_epi16(flat, flat), _mm512_setzero_si512());
            [_mm512_xor_si512(flat, _mm512_set1_epi32(0x8080_8080u32 as i32)); 4]
        }
        2..=SPARSE_REACH => sparse([first, row(1), row(2), row(3)]),
        _ => dense([first, row(1), row(2), row(3), row(4), row(5), row(6), row(7)]),
    };
    for (pair, rows) in pairs.into_iter().enumerate() {
        let rows = _mm512_permutexvar_epi64(order, rows);
        // SAFETY: rows 0 to 7 of 32 bytes fit `out`, as the caller says.
        unsafe {
            let at = out.as_mut_ptr().add(2 * pair * stride);
            _mm256_storeu_si256(at.cast(), _mm512_castsi512_si256(rows));
            _mm256_storeu_si256(at.add(stride).cast(), _mm512_extracti64x4_epi64::<1>(rows));
        }
    }
    true
}

colour!(
    "avx512f,avx512bw",
    64,
    __m512i,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi8,
    _mm512_set1_epi16,
    _mm512_set1_epi32,
    _mm512_setzero_si512,
    _mm512_unpacklo_epi8,
    _mm512_unpackhi_epi8,
    _mm512_unpacklo_epi16,
    _mm512_unpackhi_epi16,
    _mm512_add_epi16,
    _mm512_sub_epi16,
    _mm512_mulhi_epi16,
    _mm512_srai_epi16,
    _mm512_add_epi32,
    _mm512_madd_epi16,
    _mm512_srai_epi32,
    _mm512_packs_epi32,
    _mm512_packus_epi16,
    _mm512_sub_epi8
);
