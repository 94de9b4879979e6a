//! AVX2. A weight of 23 bits is split in two halves that fit 16-bit products, `high << 15 | low`.

#![expect(unsafe_code, reason = "vector loads and stores; lengths are asserted at the door")]

use std::arch::x86_64::*;

use super::colour::{FactorPairs, colour};
use super::inverse::{PAIRS, SHIFTS, SHORT_BIAS, SPARSE_PAIRS, SPARSE_REACH, inverse};
use crate::jitter::Tone;
use crate::region::Quad;
use crate::resize::{HALF, PRECISION_BITS, Plan};
use crate::view::JitterStep;

/// Red, green and blue of eight pixels.
type Pixels = [__m256; 3];

/// Shuffles that pick one channel of four pixels in each half, a byte to each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn picks() -> [__m256i; 3] {
    std::array::from_fn(|channel| {
        let mut bytes = [-1i8; 32];
        for pixel in 0..4 {
            bytes[4 * pixel] = (3 * pixel + channel) as i8;
            bytes[4 * pixel + 16] = (3 * pixel + channel) as i8;
        }
        // SAFETY: 32 bytes are read from an array of 32.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    })
}

/// Eight pixels of `row`; 28 bytes are read, 24 used.
///
/// # Safety
/// AVX2; 28 bytes of `row` from pixel `x` on
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(row: &[u8], x: usize, picks: [__m256i; 3]) -> Pixels {
    // SAFETY: the caller says that these bytes are there.
    let raw = unsafe {
        let at = row.as_ptr().add(3 * x);
        let low = _mm_loadu_si128(at.cast());
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), _mm_loadu_si128(at.add(12).cast()))
    };
    picks.map(|pick| _mm256_cvtepi32_ps(_mm256_shuffle_epi8(raw, pick)))
}

/// Eight pixels at a time of three channels.
///
/// # Safety
/// AVX2; `planes` has three padded channels for `columns`, `stride` bytes apart
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tone(tone: &Tone, columns: usize, planes: &mut [u8], stride: usize) {
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for x in (0..columns).step_by(8) {
        // SAFETY: x < columns, and each channel has 64 bytes more than that.
        let mut pixels: Pixels = std::array::from_fn(|channel| unsafe {
            let bytes = _mm_loadl_epi64(planes.as_ptr().add(channel * stride + x).cast());
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        });
        for &(step, factor) in &tone.steps {
            if factor != 1.0 {
                pixels = blend(pixels, step, factor, tone.grey);
            }
        }
        let [r, g, b] = pixels.map(|channel| _mm256_cvttps_epi32(channel));
        let blues = _mm256_packs_epi32(b, b);
        let packed = _mm256_packus_epi16(_mm256_packs_epi32(r, g), blues);
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        let (two, blue) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        // SAFETY: as above.
        unsafe {
            let at = planes.as_mut_ptr().add(x);
            _mm_storel_epi64(at.cast(), two);
            _mm_storel_epi64(at.add(stride).cast(), _mm_unpackhi_epi64(two, two));
            _mm_storel_epi64(at.add(2 * stride).cast(), blue);
        }
    }
}

/// Sixteen pixels at a time to three channels; says how many.
///
/// # Safety
/// AVX2; `planes` has room for three channels of `stride` bytes, which is at least the row's pixels
#[target_feature(enable = "avx2")]
pub(super) unsafe fn split(row: &[u8], planes: &mut [u8], stride: usize) -> usize {
    let columns = row.len() / 3;
    // Sample i of channel c is byte 3 i + c of the 48 that 16 pixels take.
    let picks: [[__m128i; 3]; 3] = std::array::from_fn(|channel| {
        std::array::from_fn(|part| {
            let mut bytes = [-1i8; 16];
            for (at, byte) in bytes.iter_mut().enumerate() {
                let place = 3 * at + channel;
                if place / 16 == part {
                    *byte = (place % 16) as i8;
                }
            }
            // SAFETY: 16 bytes are read from an array of 16.
            unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
        })
    });
    let mut x = 0;
    while x + 16 <= columns {
        // SAFETY: 48 bytes from 3x on lie in `row`, as x + 16 <= columns.
        let parts: [__m128i; 3] = std::array::from_fn(|part| unsafe {
            _mm_loadu_si128(row.as_ptr().add(3 * x + 16 * part).cast())
        });
        for (channel, picks) in picks.iter().enumerate() {
            let [a, b, c]: [__m128i; 3] =
                std::array::from_fn(|part| _mm_shuffle_epi8(parts[part], picks[part]));
            // SAFETY: x + 16 <= columns <= stride, and three strides fit `planes`.
            unsafe {
                let at = planes.as_mut_ptr().add(channel * stride + x);
                _mm_storeu_si128(at.cast(), _mm_or_si128(_mm_or_si128(a, b), c));
            }
        }
        x += 16;
    }
    x
}

/// The sum of the lumas after some steps, and of how many pixels; at most 2²³ pixels go into one call.
///
/// # Safety
/// AVX2
#[target_feature(enable = "avx2")]
pub(super) unsafe fn lumas(steps: &[(JitterStep, f32)], row: &[u8]) -> (u64, usize) {
    let columns = (row.len() / 3).min(1 << 23);
    let picks = picks();
    let mut sums = _mm256_setzero_si256();
    let mut x = 0;
    while 3 * x + 28 <= row.len() && x + 8 <= columns {
        // SAFETY: bytes 3x to 3x + 28 lie in `row`, as the loop's condition says.
        let mut pixels = unsafe { load(row, x, picks) };
        for &(step, factor) in steps {
            pixels = blend(pixels, step, factor, 0);
        }
        sums = _mm256_add_epi32(sums, _mm256_cvttps_epi32(luma(pixels)));
        x += 8;
    }
    let mut lanes = [0u32; 8];
    // SAFETY: 32 bytes are written to an array of 32.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
    (lanes.into_iter().map(u64::from).sum(), x)
}

/// One blend, rounded as Pillow's: product and sum each to single precision, then cut and clipped.
#[inline]
#[target_feature(enable = "avx2")]
fn blend(pixels: Pixels, step: JitterStep, factor: f32, grey: u8) -> Pixels {
    let base = match step {
        JitterStep::Brightness => _mm256_setzero_ps(),
        JitterStep::Contrast => _mm256_set1_ps(f32::from(grey)),
        JitterStep::Saturation => luma(pixels),
    };
    let factor = _mm256_set1_ps(factor);
    pixels.map(|value| {
        let value = _mm256_add_ps(base, _mm256_mul_ps(factor, _mm256_sub_ps(value, base)));
        let value = _mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), _mm256_set1_ps(255.0));
        _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(value)
    })
}

/// Pillow's luma; every product and sum is a whole number below 2²⁴, so single precision is exact.
#[inline]
#[target_feature(enable = "avx2")]
fn luma([r, g, b]: Pixels) -> __m256 {
    let red = _mm256_mul_ps(r, _mm256_set1_ps(19_595.0));
    let green = _mm256_mul_ps(g, _mm256_set1_ps(38_470.0));
    let blue = _mm256_mul_ps(b, _mm256_set1_ps(7_471.0));
    let sum = _mm256_add_ps(_mm256_add_ps(red, green), _mm256_add_ps(blue, _mm256_set1_ps(32_768.0)));
    let scaled = _mm256_mul_ps(sum, _mm256_set1_ps(1.0 / 65_536.0));
    _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(scaled)
}

/// Four samples each of eight outputs, times their weights, onto the sums of low and high halves.
///
/// # Safety
/// AVX2; `halves` points to four vectors
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply(samples: __m256i, halves: [__m256i; 4], sums: &mut [__m256i; 2]) {
    let even = _mm256_and_si256(samples, _mm256_set1_epi16(0xFF)); // samples 0 and 2
    let odd = _mm256_srli_epi16::<8>(samples); // samples 1 and 3
    let low = _mm256_add_epi32(_mm256_madd_epi16(even, halves[0]), _mm256_madd_epi16(odd, halves[1]));
    let high = _mm256_add_epi32(_mm256_madd_epi16(even, halves[2]), _mm256_madd_epi16(odd, halves[3]));
    sums[0] = _mm256_add_epi32(sums[0], low);
    sums[1] = _mm256_add_epi32(sums[1], high);
}

/// Eight sums to eight whole levels, not yet clipped.
#[inline]
#[target_feature(enable = "avx2")]
fn levels([low, high]: [__m256i; 2]) -> __m256i {
    let sum = _mm256_add_epi32(low, _mm256_slli_epi32::<15>(high));
    _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(sum)
}

/// # Safety
/// AVX2; `plan` is packed in pairs; `row` and `out` are padded
#[target_feature(enable = "avx2")]
pub(super) unsafe fn across(plan: &Plan, row: &[u8], out: &mut [u8]) {
    let groups = (plan.output as usize).div_ceil(8);
    let quads = plan.packed.quads;
    assert!(plan.packed.index.len() >= groups * 32 && plan.packed.halves.len() >= groups * quads * 64);
    assert!(plan.packed.bases.len() >= 2 * groups && plan.packed.offsets.len() >= 8 * groups);
    for group in 0..groups {
        let mut sums = [_mm256_set1_epi32(HALF), _mm256_setzero_si256()];
        for quad in 0..quads {
            let place = group * quads + quad;
            // SAFETY: the lengths were compared above; the plan's packing keeps every read within the padded row.
            unsafe {
                let samples = if plan.packed.gathered {
                    let offsets = _mm256_loadu_si256(plan.packed.offsets.as_ptr().add(8 * group).cast());
                    _mm256_i32gather_epi32::<1>(row.as_ptr().add(4 * quad).cast(), offsets)
                } else {
                    let at = |half: usize| {
                        row.as_ptr().add(plan.packed.bases[2 * group + half] as usize + 4 * quad)
                    };
                    let low = _mm256_castsi128_si256(_mm_loadu_si128(at(0).cast()));
                    let both = _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(at(1).cast()));
                    _mm256_shuffle_epi8(
                        both,
                        _mm256_loadu_si256(plan.packed.index.as_ptr().add(32 * group).cast()),
                    )
                };
                let at = plan.packed.halves.as_ptr().add(64 * place).cast::<__m256i>();
                let halves = std::array::from_fn(|half| _mm256_loadu_si256(at.add(half)));
                multiply(samples, halves, &mut sums);
            }
        }
        let levels = levels(sums);
        let words = _mm256_packs_epi32(levels, levels);
        let bytes = _mm256_packus_epi16(words, words);
        let low = _mm256_castsi256_si128(bytes);
        let both = _mm_unpacklo_epi32(low, _mm256_extracti128_si256::<1>(bytes));
        // SAFETY: `out` is padded, so the last group fits too.
        unsafe { _mm_storel_epi64(out.as_mut_ptr().add(8 * group).cast(), both) };
    }
}

/// # Safety
/// AVX2; `plan` is packed in pairs and has a row `index`; `rows` has `plan.input` rows of `out.len()` bytes, a
/// multiple of 64
#[target_feature(enable = "avx2")]
pub(super) unsafe fn down(plan: &Plan, index: usize, rows: &[u8], out: &mut [u8]) {
    let (stride, quads) = (out.len(), plan.packed.quads);
    let last = plan.input as usize - 1;
    let start = plan.packed.offsets[index] as usize;
    let pairs = &plan.packed.pairs[4 * index * quads..4 * (index + 1) * quads];
    let mut x = 0;
    while x + 32 <= stride {
        let mut sums = [[_mm256_set1_epi32(HALF), _mm256_setzero_si256()]; 4];
        for quad in 0..quads {
            let halves: [__m256i; 4] = std::array::from_fn(|half| _mm256_set1_epi32(pairs[4 * quad + half]));
            let load = |tap: usize| {
                let row = (start + 4 * quad + tap).min(last);
                // SAFETY: `row` is one of the rows and x + 32 <= stride.
                unsafe { _mm256_loadu_si256(rows.as_ptr().add(row * stride + x).cast()) }
            };
            let [a, b, c, d] = [load(0), load(1), load(2), load(3)];
            let (low_ab, high_ab) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let (low_cd, high_cd) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
            // SAFETY: AVX2 is there.
            unsafe {
                multiply(_mm256_unpacklo_epi16(low_ab, low_cd), halves, &mut sums[0]);
                multiply(_mm256_unpackhi_epi16(low_ab, low_cd), halves, &mut sums[1]);
                multiply(_mm256_unpacklo_epi16(high_ab, high_cd), halves, &mut sums[2]);
                multiply(_mm256_unpackhi_epi16(high_ab, high_cd), halves, &mut sums[3]);
            }
        }
        let [a, b, c, d] = sums.map(|sums| levels(sums));
        let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        // SAFETY: x + 32 <= stride, the length of `out`.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(x).cast(), bytes) };
        x += 32;
    }
}

/// Byte i of the 48 that 16 pixels take is sample i / 3 of channel i % 3: for each 16 of them, and each channel, its bytes.
static MIX: [[[i8; 16]; 3]; 3] = {
    let mut picks = [[[-1; 16]; 3]; 3];
    let mut at = 0;
    while at < 48 {
        picks[at / 16][at % 3][at % 16] = (at / 3) as i8;
        at += 1;
    }
    picks
};

/// # Safety
/// AVX2; `planes` has three channels `stride` bytes apart, which is at least the pixels of `out`
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn interleave(planes: &[u8], stride: usize, out: &mut [u8]) -> usize {
    let columns = out.len() / 3;
    // SAFETY: 16 bytes are read from an array of 16.
    let picks = MIX.map(|part| part.map(|bytes| unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }));
    let mut x = 0;
    while x + 16 <= columns {
        // SAFETY: x + 16 <= columns <= stride, and three strides lie in `planes`.
        let channels: [__m128i; 3] = std::array::from_fn(|channel| unsafe {
            _mm_loadu_si128(planes.as_ptr().add(channel * stride + x).cast())
        });
        for (part, picks) in picks.iter().enumerate() {
            let r = _mm_shuffle_epi8(channels[0], picks[0]);
            let g = _mm_shuffle_epi8(channels[1], picks[1]);
            let b = _mm_shuffle_epi8(channels[2], picks[2]);
            // SAFETY: 48 bytes from 3x on lie in `out`, as x + 16 <= columns.
            unsafe {
                let at = out.as_mut_ptr().add(3 * x + 16 * part);
                _mm_storeu_si128(at.cast(), _mm_or_si128(_mm_or_si128(r, g), b));
            }
        }
        x += 16;
    }
    x
}

inverse!(
    "avx2",
    __m256i,
    i32,
    _mm256_set1_epi32,
    _mm256_setzero_si256,
    _mm256_add_epi16,
    _mm256_sub_epi16,
    _mm256_add_epi32,
    _mm256_sub_epi32,
    _mm256_madd_epi16,
    _mm256_srai_epi32,
    _mm256_packs_epi32,
    _mm256_packs_epi16,
    _mm256_xor_si256,
    _mm256_unpacklo_epi8,
    _mm256_unpackhi_epi8,
    _mm256_unpacklo_epi16,
    _mm256_unpackhi_epi16,
    _mm256_unpacklo_epi32,
    _mm256_unpackhi_epi32,
    _mm256_unpacklo_epi64,
    _mm256_unpackhi_epi64
);

/// Four blocks to eight rows of 32 samples, two at a time; `false` if a coefficient is too large for this way.
///
/// # Safety
/// AVX2; seven strides and 32 bytes fit `out`
#[target_feature(enable = "avx2")]
pub(super) unsafe fn inverse(
    quad: &Quad,
    quant: &[i16; 64],
    reach: u8,
    out: &mut [u8],
    stride: usize,
) -> bool {
    for half in 0..2 {
        let row = |y: usize| {
            // SAFETY: y is 0 to 7, half is 0 or 1; a quad has 8 rows of 64 bytes, a table 8 of 16.
            unsafe {
                let steps = _mm256_broadcastsi128_si256(_mm_loadu_si128(quant.as_ptr().add(8 * y).cast()));
                let at = quad.as_ptr().add(32 * y + 16 * half);
                _mm256_mullo_epi16(_mm256_loadu_si256(at.cast()), steps)
            }
        };
        let first = row(0);
        let biased = _mm256_add_epi16(first, _mm256_set1_epi16(SHORT_BIAS));
        if _mm256_testz_si256(biased, _mm256_set1_epi16(0xC000u16 as i16)) == 0 {
            return false;
        }
        let pairs = match reach {
            0 | 1 => {
                let flat = _mm256_srai_epi16::<3>(_mm256_add_epi16(first, _mm256_set1_epi16(4)));
                let flat = _mm256_shuffle_epi8(_mm256_packs_epi16(flat, flat), _mm256_setzero_si256());
                [_mm256_xor_si256(flat, _mm256_set1_epi32(0x8080_8080u32 as i32)); 4]
            }
            2..=SPARSE_REACH => sparse([first, row(1), row(2), row(3)]),
            _ => dense([first, row(1), row(2), row(3), row(4), row(5), row(6), row(7)]),
        };
        for (pair, rows) in pairs.into_iter().enumerate() {
            let rows = _mm256_permute4x64_epi64::<0b11_01_10_00>(rows);
            // SAFETY: rows 0 to 7 of 32 bytes fit `out`, as the caller says.
            unsafe {
                let at = out.as_mut_ptr().add(2 * pair * stride + 16 * half);
                _mm_storeu_si128(at.cast(), _mm256_castsi256_si128(rows));
                _mm_storeu_si128(at.add(stride).cast(), _mm256_extracti128_si256::<1>(rows));
            }
        }
    }
    true
}

colour!(
    "avx2",
    32,
    __m256i,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi8,
    _mm256_set1_epi16,
    _mm256_set1_epi32,
    _mm256_setzero_si256,
    _mm256_unpacklo_epi8,
    _mm256_unpackhi_epi8,
    _mm256_unpacklo_epi16,
    _mm256_unpackhi_epi16,
    _mm256_add_epi16,
    _mm256_sub_epi16,
    _mm256_mulhi_epi16,
    _mm256_srai_epi16,
    _mm256_add_epi32,
    _mm256_madd_epi16,
    _mm256_srai_epi32,
    _mm256_packs_epi32,
    _mm256_packus_epi16,
    _mm256_sub_epi8
);

/// # Safety
/// AVX2, BMI2
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn run<T>(code: impl FnOnce() -> T) -> T {
    code()
}
