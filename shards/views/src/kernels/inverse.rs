//! The inverse DCT of libjpeg's `jidctint.c`, as its vector units compute it: 16-bit steps that wrap, 16-bit results that are
//! clipped.

use crate::region::Quad;

const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

/// Fractional bits of the factors, and of the samples between the passes.
const FACTOR_BITS: u32 = 13;
const BETWEEN_BITS: u32 = 2;
/// What the two passes shift their sums by.
pub(super) const SHIFTS: [u32; 2] = [FACTOR_BITS - BETWEEN_BITS, FACTOR_BITS + BETWEEN_BITS + 3];

/// The pairs of factors that a vector unit multiplies pairs of samples with.
pub(super) const PAIRS: [[i32; 2]; 8] = [
    [F_0_541 + F_0_765, F_0_541],
    [F_0_541, F_0_541 - F_1_847],
    [F_1_175 - F_1_961, F_1_175],
    [F_1_175, F_1_175 - F_0_390],
    [F_0_298 - F_0_899, -F_0_899],
    [-F_0_899, F_1_501 - F_0_899],
    [F_2_053 - F_2_562, -F_2_562],
    [-F_2_562, F_3_072 - F_2_562],
];

/// The same where the higher half of the samples is zero.
pub(super) const SPARSE_PAIRS: [[i32; 2]; 4] = [
    [F_1_175 - F_1_961, F_1_175 - F_0_899],
    [F_1_175, F_1_175 - F_0_390 + F_1_501 - F_0_899],
    [F_1_175 - F_2_562, F_1_175 - F_0_390],
    [F_1_175 - F_1_961 + F_3_072 - F_2_562, F_1_175],
];

/// Coefficients, in the order they are coded, that lie in the first four rows and columns of a block.
pub(super) const SPARSE_REACH: u8 = 10;

/// The largest first-row coefficient for which the short way of a block without further rows is the same as the long way.
const SHORT_MOST: i16 = 8191;
/// Added to such coefficients, it leaves the upper two bits clear.
pub(super) const SHORT_BIAS: i16 = SHORT_MOST + 1;

/// One dimension of eight samples.
fn pass(x: [i16; 8], shift: u32) -> [i16; 8] {
    let wide = i32::from;
    let (two, six) = (wide(x[2]), wide(x[6]));
    let even = [two * PAIRS[0][0] + six * PAIRS[0][1], two * PAIRS[1][0] + six * PAIRS[1][1]];
    let sum = wide(x[0].wrapping_add(x[4])) << FACTOR_BITS;
    let difference = wide(x[0].wrapping_sub(x[4])) << FACTOR_BITS;
    let (z3, z4) = (wide(x[3].wrapping_add(x[7])), wide(x[1].wrapping_add(x[5])));
    let third = z3 * PAIRS[2][0] + z4 * PAIRS[2][1];
    let fourth = z3 * PAIRS[3][0] + z4 * PAIRS[3][1];
    let (one, three, five, seven) = (wide(x[1]), wide(x[3]), wide(x[5]), wide(x[7]));
    let odd = [
        (one * PAIRS[5][1] + seven * PAIRS[5][0]).wrapping_add(fourth),
        (three * PAIRS[7][1] + five * PAIRS[7][0]).wrapping_add(third),
        (three * PAIRS[6][1] + five * PAIRS[6][0]).wrapping_add(fourth),
        (one * PAIRS[4][1] + seven * PAIRS[4][0]).wrapping_add(third),
    ];
    let even = [
        sum.wrapping_add(even[0]),
        difference.wrapping_add(even[1]),
        difference.wrapping_sub(even[1]),
        sum.wrapping_sub(even[0]),
    ];
    std::array::from_fn(|at| {
        let sum = match at {
            0..4 => even[at].wrapping_add(odd[at]),
            _ => even[7 - at].wrapping_sub(odd[7 - at]),
        };
        let shifted = sum.wrapping_add(1 << (shift - 1)) >> shift;
        shifted.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
    })
}

/// Four blocks to eight rows of 32 samples.
pub(super) fn plain(quad: &Quad, quant: &[i16; 64], out: &mut [u8], stride: usize) {
    for block in 0..4 {
        let coefficient = |y: usize, x: usize| quad[32 * y + 8 * block + x].wrapping_mul(quant[8 * y + x]);
        let first_row_only = (1..8).all(|y| quad[32 * y + 8 * block..][..8] == [0; 8]);
        let columns: [[i16; 8]; 8] = std::array::from_fn(|x| match first_row_only {
            true => [coefficient(0, x) << BETWEEN_BITS; 8],
            false => pass(std::array::from_fn(|y| coefficient(y, x)), SHIFTS[0]),
        });
        for y in 0..8 {
            let row = pass(std::array::from_fn(|x| columns[x][y]), SHIFTS[1]);
            let out = &mut out[y * stride + 8 * block..][..8];
            for (out, value) in out.iter_mut().zip(row) {
                *out = (value.clamp(-128, 127) + 128) as u8;
            }
        }
    }
}

/// Functions for one width of vectors, which hold a row of two or four blocks side by side.
macro_rules! inverse {
    ($feature:literal, $vector:ty, $count:ty, $set1_32:ident, $zero:ident, $add16:ident, $sub16:ident,
     $add32:ident, $sub32:ident, $madd:ident, $shift:ident, $packs32:ident, $packs16:ident, $xor:ident,
     $low8:ident, $high8:ident, $low16:ident, $high16:ident, $low32:ident, $high32:ident, $low64:ident, $high64:ident) => {
        /// A pair of factors in each lane of 32 bits.
        #[inline]
        #[target_feature(enable = $feature)]
        fn factors([low, high]: [i32; 2]) -> $vector {
            $set1_32((low & 0xFFFF) | high << 16)
        }

        /// Half a vector's sums and differences, shifted.
        #[inline]
        #[target_feature(enable = $feature)]
        fn finish<const SHIFT: $count>(even: [[$vector; 2]; 4], odd: [[$vector; 2]; 4]) -> [$vector; 8] {
            std::array::from_fn(|at| {
                let half = |half: usize| {
                    let sum = match at {
                        0..4 => $add32(even[at][half], odd[at][half]),
                        _ => $sub32(even[7 - at][half], odd[7 - at][half]),
                    };
                    $shift::<SHIFT>(sum)
                };
                $packs32(half(0), half(1))
            })
        }

        /// The sums of the even samples, with the half that rounds.
        #[inline]
        #[target_feature(enable = $feature)]
        fn evens<const SHIFT: $count>(
            sum: $vector,
            difference: $vector,
            two: $vector,
            six: $vector,
        ) -> [[$vector; 2]; 4] {
            let (zero, half) = ($zero(), $set1_32(1i32 << (SHIFT - 1)));
            let twos = [$low16(two, six), $high16(two, six)];
            let outer = twos.map(|pair| $madd(pair, factors(PAIRS[0])));
            let inner = twos.map(|pair| $madd(pair, factors(PAIRS[1])));
            let widen = |value| {
                [$low16(zero, value), $high16(zero, value)].map(|wide| $add32($shift::<3>(wide), half))
            };
            let (sum, difference) = (widen(sum), widen(difference));
            let both = |a: [$vector; 2], b: [$vector; 2]| [$add32(a[0], b[0]), $add32(a[1], b[1])];
            let less = |a: [$vector; 2], b: [$vector; 2]| [$sub32(a[0], b[0]), $sub32(a[1], b[1])];
            [both(sum, outer), both(difference, inner), less(difference, inner), less(sum, outer)]
        }

        /// One dimension of eight samples, in each lane of 16 bits.
        #[inline]
        #[target_feature(enable = $feature)]
        fn pass<const SHIFT: $count>(x: [$vector; 8]) -> [$vector; 8] {
            let even = evens::<SHIFT>($add16(x[0], x[4]), $sub16(x[0], x[4]), x[2], x[6]);
            let (z3, z4) = ($add16(x[3], x[7]), $add16(x[1], x[5]));
            let odds = |low, high, pairs: [[i32; 2]; 2]| {
                let both = [$low16(low, high), $high16(low, high)];
                pairs.map(|pair| both.map(|both| $madd(both, factors(pair))))
            };
            let [third, fourth] = odds(z3, z4, [PAIRS[2], PAIRS[3]]);
            let [zeroth, last] = odds(x[7], x[1], [PAIRS[4], PAIRS[5]]);
            let [first, second] = odds(x[5], x[3], [PAIRS[6], PAIRS[7]]);
            let both = |a: [$vector; 2], b: [$vector; 2]| [$add32(a[0], b[0]), $add32(a[1], b[1])];
            let odd = [both(last, fourth), both(second, third), both(first, fourth), both(zeroth, third)];
            finish::<SHIFT>(even, odd)
        }

        /// The same for four samples behind which there are only zeros.
        #[inline]
        #[target_feature(enable = $feature)]
        fn sparse_pass<const SHIFT: $count>(x: [$vector; 4]) -> [$vector; 8] {
            let even = evens::<SHIFT>(x[0], x[0], x[2], $zero());
            let pairs = [$low16(x[3], x[1]), $high16(x[3], x[1])];
            let [zeroth, last, first, second] =
                SPARSE_PAIRS.map(|pair| pairs.map(|both| $madd(both, factors(pair))));
            finish::<SHIFT>(even, [last, second, first, zeroth])
        }

        /// Rows to columns within each block.
        #[inline]
        #[target_feature(enable = $feature)]
        fn transpose(x: [$vector; 8]) -> [$vector; 8] {
            let [low0, low1] = half_transpose([0, 2, 4, 6].map(|at| $low16(x[at], x[at + 1])));
            let [high0, high1] = half_transpose([0, 2, 4, 6].map(|at| $high16(x[at], x[at + 1])));
            [low0[0], low0[1], low1[0], low1[1], high0[0], high0[1], high1[0], high1[1]]
        }

        /// The first four columns of rows of eight, from pairs of rows.
        #[inline]
        #[target_feature(enable = $feature)]
        fn half_transpose(x: [$vector; 4]) -> [[$vector; 2]; 2] {
            let (a, b) = ($low32(x[0], x[1]), $low32(x[2], x[3]));
            let (c, d) = ($high32(x[0], x[1]), $high32(x[2], x[3]));
            [[$low64(a, b), $high64(a, b)], [$low64(c, d), $high64(c, d)]]
        }

        /// Eight rows of coefficients to pairs of rows of samples.
        #[inline]
        #[target_feature(enable = $feature)]
        fn dense(x: [$vector; 8]) -> [$vector; 4] {
            let columns = transpose(pass::<{ SHIFTS[0] as $count }>(x));
            bytes(pass::<{ SHIFTS[1] as $count }>(columns))
        }

        /// The same where only the first four rows and columns are not zero.
        #[inline]
        #[target_feature(enable = $feature)]
        fn sparse(x: [$vector; 4]) -> [$vector; 4] {
            let rows = sparse_pass::<{ SHIFTS[0] as $count }>(x);
            let [a, b] = half_transpose([0, 2, 4, 6].map(|at| $low16(rows[at], rows[at + 1])));
            bytes(sparse_pass::<{ SHIFTS[1] as $count }>([a[0], a[1], b[0], b[1]]))
        }

        /// Columns of samples to pairs of rows of bytes.
        #[inline]
        #[target_feature(enable = $feature)]
        fn bytes(x: [$vector; 8]) -> [$vector; 4] {
            let packed: [$vector; 4] = std::array::from_fn(|at| $packs16(x[at], x[at + 4]));
            let (a, b) = ($low8(packed[0], packed[1]), $high8(packed[0], packed[1]));
            let (c, d) = ($low8(packed[2], packed[3]), $high8(packed[2], packed[3]));
            let (first, second) = ([$low16(a, c), $high16(a, c)], [$low16(b, d), $high16(b, d)]);
            let rows = [
                $low32(first[0], second[0]),
                $high32(first[0], second[0]),
                $low32(first[1], second[1]),
                $high32(first[1], second[1]),
            ];
            rows.map(|row| $xor(row, $set1_32(0x8080_8080u32 as i32)))
        }
    };
}

pub(super) use inverse;
