//! AVX-512 with VBMI and VNNI. A weight is three signed digits of 8 bits, so that one instruction multiplies four samples
//! of 16 outputs by one digit.
#![expect(unsafe_code, reason = "vector loads and stores; lengths are asserted at the door")]

use std::arch::x86_64::*;

use super::avx2;
use crate::jitter::Tone;
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

/// # Safety
/// AVX-512 F, BW, VL, VBMI; `planes` has room for three channels of `stride` bytes, which is at least the row's pixels
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) unsafe fn tone(tone: &Tone, row: &[u8], planes: &mut [u8], stride: usize) -> usize {
    let columns = row.len() / 3;
    let picks = picks();
    for x in (0..columns).step_by(16) {
        let left = (columns - x).min(16);
        // SAFETY: x + left <= columns.
        let mut pixels = unsafe { load(row, x, left, picks) };
        for &(step, factor) in &tone.steps {
            pixels = blend(pixels, step, factor, tone.grey);
        }
        for (channel, values) in pixels.into_iter().enumerate() {
            let values = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(values));
            let mask = u16::MAX >> (16 - left);
            // SAFETY: x + left <= columns <= stride, and three strides fit `planes`.
            unsafe {
                _mm_mask_storeu_epi8(planes.as_mut_ptr().add(channel * stride + x).cast(), mask, values)
            };
        }
    }
    columns
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
/// AVX-512 F, BW, VL, VBMI, VNNI; `plan` is packed in digits; `row` and `out` are padded
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn across(plan: &Plan, row: &[u8], out: &mut [u8]) {
    if !plan.packed.three_digits {
        return resize::across(plan, row, &mut out[..plan.output as usize]);
    }
    let packed = &plan.packed;
    let groups = (plan.output as usize).div_ceil(16);
    let quads = packed.quads;
    assert!(packed.index.len() >= groups * 64 && packed.digits.len() >= groups * quads * 192);
    assert!(packed.bases.len() >= groups && packed.offsets.len() >= 16 * groups);
    for group in 0..groups {
        let mut sums = [_mm512_set1_epi32(HALF), _mm512_setzero_si512(), _mm512_setzero_si512()];
        // SAFETY: the lengths were compared above; the plan's packing keeps every read within the padded row.
        unsafe {
            let index = _mm512_loadu_si512(packed.index.as_ptr().add(64 * group).cast());
            let offsets = _mm512_loadu_si512(packed.offsets.as_ptr().add(16 * group).cast());
            let base = row.as_ptr().add(packed.bases[group] as usize);
            for quad in 0..quads {
                let samples = if packed.gathered {
                    _mm512_i32gather_epi32::<1>(offsets, row.as_ptr().add(4 * quad).cast())
                } else {
                    _mm512_permutexvar_epi8(index, _mm512_loadu_si512(base.add(4 * quad).cast()))
                };
                let digits = packed.digits.as_ptr().add(192 * (group * quads + quad));
                for (place, sum) in sums.iter_mut().enumerate() {
                    let digit = _mm512_loadu_si512(digits.add(64 * place).cast());
                    *sum = _mm512_dpbusd_epi32(*sum, samples, digit);
                }
            }
            _mm_storeu_si128(out.as_mut_ptr().add(16 * group).cast(), levels(sums));
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
