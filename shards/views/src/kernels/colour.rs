//! Luma and two chromas to red, green and blue, as libjpeg's `jdcolor.c` rounds it.

/// Factors of 16 fractional bits: red of the second chroma, green of both, blue of the first.
const RED: i32 = 91_881;
const GREEN: [i32; 2] = [-22_554, -46_802];
const BLUE: i32 = 116_130;

/// The pairs of 16-bit factors that a vector unit uses; what does not fit 16 bits is added by itself.
pub(super) struct FactorPairs;

impl FactorPairs {
    /// Once the second chroma by itself, and this.
    pub const RED: i16 = (RED - 65_536) as i16;
    /// Once less the second chroma by itself, and these.
    pub const GREEN: [i16; 2] = [GREEN[0] as i16, (GREEN[1] + 65_536) as i16];
    /// Twice the first chroma by itself, and this.
    pub const BLUE: i16 = (BLUE - 2 * 65_536) as i16;
}

/// One pixel.
#[inline]
pub(super) fn pixel(luma: u8, first: u8, second: u8) -> [u8; 3] {
    let (luma, first, second) = (i32::from(luma), i32::from(first) - 128, i32::from(second) - 128);
    let round = |sum: i32| (sum + 32_768) >> 16;
    let green = round(GREEN[0] * first + GREEN[1] * second);
    [round(RED * second), green, round(BLUE * first)].map(|change| (luma + change).clamp(0, 255) as u8)
}

/// A function for one width of vectors.
macro_rules! colour {
    ($feature:literal, $bytes:literal, $vector:ty, $load:ident, $store:ident, $set1_8:ident, $set1_16:ident, $set1_32:ident,
     $zero:ident, $low8:ident, $high8:ident, $low16:ident, $high16:ident, $add16:ident, $sub16:ident, $mul_high:ident,
     $shift16:ident, $add32:ident, $madd:ident, $shift32:ident, $packs32:ident, $packus16:ident, $sub8:ident) => {
        /// Whole vectors of pixels, as many as hold `columns`.
        ///
        /// # Safety
        /// the vector unit is there; each channel of `from` has whole vectors for `columns`, and so has each of the three
        /// channels of `out`, `stride` bytes apart
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn colour(from: [&[u8]; 3], columns: usize, out: &mut [u8], stride: usize) {
            let zero = $zero();
            let [green_first, green_second] = FactorPairs::GREEN.map(|factor| i32::from(factor as u16));
            let greens = $set1_32(green_first | green_second << 16);
            let (reds, blues) = ($set1_16(FactorPairs::RED), $set1_16(FactorPairs::BLUE));
            let (one, half) = ($set1_16(1), $set1_32(32_768));
            let mut x = 0;
            while x < columns {
                // SAFETY: whole vectors of each channel are there, as the caller says.
                let (luma, first, second) = unsafe {
                    (
                        $load(from[0].as_ptr().add(x).cast()),
                        $load(from[1].as_ptr().add(x).cast()),
                        $load(from[2].as_ptr().add(x).cast()),
                    )
                };
                // Chroma about zero, in the upper byte of 16 bits: 256 times the value.
                let centre = $set1_8(-128);
                let (first, second) = ($sub8(first, centre), $sub8(second, centre));
                let mut halves = [[zero; 3]; 2];
                for (half_of, result) in halves.iter_mut().enumerate() {
                    let part = |value, other| match half_of {
                        0 => $low8(value, other),
                        _ => $high8(value, other),
                    };
                    let luma = part(luma, zero);
                    let first = $shift16::<8>(part(zero, first));
                    let second = $shift16::<8>(part(zero, second));
                    let scaled = |value, factor| {
                        let doubled = $mul_high($add16(value, value), factor);
                        $shift16::<1>($add16(doubled, one))
                    };
                    let red = $add16(scaled(second, reds), second);
                    let blue = $add16(scaled(first, blues), $add16(first, first));
                    let sum = |pair| $shift32::<16>($add32($madd(pair, greens), half));
                    let green = $packs32(sum($low16(first, second)), sum($high16(first, second)));
                    let green = $sub16(green, second);
                    *result = [$add16(luma, red), $add16(luma, green), $add16(luma, blue)];
                }
                for channel in 0..3 {
                    let bytes = $packus16(halves[0][channel], halves[1][channel]);
                    // SAFETY: whole vectors fit each channel, as the caller says.
                    unsafe { $store(out.as_mut_ptr().add(channel * stride + x).cast(), bytes) };
                }
                x += $bytes;
            }
        }
    };
}

pub(super) use colour;
