//! A plan's weights, laid out for vector units: four samples ("a quad") of several outputs at a time.
#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has kernels that read it"))]

use super::Plan;

/// Weights by quads. Every output's window of `4 * quads` samples lies within the input where that is long enough, its
/// weights shifted and filled up with zeros to match.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    /// Quads of each output's window.
    pub quads: usize,
    /// First sample of each output's window; filled up to a whole group with the last one.
    pub offsets: Vec<u32>,
    /// First sample of a load: the smallest offset of the outputs that share it.
    pub bases: Vec<u32>,
    /// Where in a load each output's quad lies, byte by byte.
    pub index: Vec<u8>,
    /// Whether some window lies outside its load, so that samples have to be gathered instead.
    pub gathered: bool,
    /// AVX2, across: for 8 outputs and a quad, weights 0 and 2 and weights 1 and 3, low halves then high halves.
    pub halves: Vec<i16>,
    /// AVX2, down: the same for one output.
    pub pairs: Vec<i32>,
    /// AVX-512, across: for 16 outputs and a quad, the weights' lowest, middle and highest digit.
    pub digits: Vec<i8>,
    /// AVX-512, down: the same for one output.
    pub numbers: Vec<i32>,
    /// Whether each weight has three signed digits of 8 bits.
    pub three_digits: bool,
}

/// The low 15 bits, and what is left: `weight = high << 15 | low`.
fn halves(weight: i32) -> (i16, i16) {
    ((weight & 0x7FFF) as i16, (weight >> 15) as i16)
}

/// Three signed digits: `weight = (high * 256 + middle) * 256 + low`; the highest may not fit.
fn digits(weight: i32) -> ([i8; 3], bool) {
    let low = weight as i8;
    let rest = (weight - i32::from(low)) >> 8;
    let middle = rest as i8;
    let high = (rest - i32::from(middle)) >> 8;
    ([low, middle, high as i8], i8::try_from(high).is_ok())
}

/// The weights of a window's quad, the first `shift` of the window being none of the output's.
#[inline(always)]
fn quad_of(weights: &[i32], shift: usize, quad: usize) -> [i32; 4] {
    match weights[4 * quad..].first_chunk::<4>() {
        Some(four) if shift == 0 => *four,
        _ => std::array::from_fn(|tap| {
            let at = (4 * quad + tap).checked_sub(shift);
            at.and_then(|at| weights.get(at)).copied().unwrap_or(0)
        }),
    }
}

impl Packed {
    /// The three digits of four weights, a byte each.
    #[inline(always)]
    fn numbers_of(&mut self, weights: [i32; 4]) -> [i32; 3] {
        let digits = weights.map(digits);
        self.three_digits &= digits.iter().all(|(_, fit)| *fit);
        [0, 1, 2].map(|place| i32::from_le_bytes(digits.map(|(digits, _)| digits[place] as u8)))
    }
}

impl Plan {
    /// For AVX2, across.
    pub fn pack_pairs_across(&mut self) {
        self.lay_windows(8);
        self.lay_loads(4, 16);
        let packed = &mut self.packed;
        let quads = packed.quads;
        packed.halves.clear();
        packed.halves.resize(packed.offsets.len() / 8 * quads * 64, 0);
        for (output, weights) in self.weights.chunks_exact(self.taps).enumerate() {
            let shift = (self.starts[output] - packed.offsets[output]) as usize;
            for quad in 0..quads {
                for (tap, weight) in quad_of(weights, shift, quad).into_iter().enumerate() {
                    let (low, high) = halves(weight);
                    let vector = ((output / 8) * quads + quad) * 4 + tap % 2;
                    let lane = (output % 8) * 2 + tap / 2;
                    packed.halves[16 * vector + lane] = low;
                    packed.halves[16 * (vector + 2) + lane] = high;
                }
            }
        }
    }

    /// For AVX2, down.
    pub fn pack_pairs_down(&mut self) {
        self.lay_windows(1);
        let packed = &mut self.packed;
        packed.pairs.clear();
        for (output, weights) in self.weights.chunks_exact(self.taps).enumerate() {
            let shift = (self.starts[output] - packed.offsets[output]) as usize;
            for quad in 0..packed.quads {
                let four = quad_of(weights, shift, quad).map(halves);
                let pair = |one: i16, other: i16| i32::from(one as u16) | i32::from(other) << 16;
                packed.pairs.extend([pair(four[0].0, four[2].0), pair(four[1].0, four[3].0)]);
                packed.pairs.extend([pair(four[0].1, four[2].1), pair(four[1].1, four[3].1)]);
            }
        }
    }

    /// For AVX-512, across.
    #[inline(always)]
    pub fn pack_digits_across(&mut self) {
        self.lay_windows(16);
        self.lay_loads(16, 64);
        let packed = &mut self.packed;
        let quads = packed.quads;
        packed.digits.clear();
        packed.digits.resize(packed.offsets.len() / 16 * quads * 192, 0);
        packed.three_digits = true;
        for (output, weights) in self.weights.chunks_exact(self.taps).enumerate() {
            let shift = (self.starts[output] - packed.offsets[output]) as usize;
            for quad in 0..quads {
                let numbers = packed.numbers_of(quad_of(weights, shift, quad));
                let at = ((output / 16) * quads + quad) * 192 + (output % 16) * 4;
                let block = &mut packed.digits[at..at + 132];
                for (place, number) in numbers.into_iter().enumerate() {
                    block[64 * place..][..4].copy_from_slice(&number.to_le_bytes().map(|digit| digit as i8));
                }
            }
        }
    }

    /// For AVX-512, down.
    #[inline(always)]
    pub fn pack_digits_down(&mut self) {
        self.lay_windows(1);
        let packed = &mut self.packed;
        packed.numbers.clear();
        packed.three_digits = true;
        for (output, weights) in self.weights.chunks_exact(self.taps).enumerate() {
            let shift = (self.starts[output] - packed.offsets[output]) as usize;
            for quad in 0..packed.quads {
                let numbers = packed.numbers_of(quad_of(weights, shift, quad));
                packed.numbers.extend(numbers);
            }
        }
    }

    /// Windows for groups of `group` outputs.
    #[inline(always)]
    fn lay_windows(&mut self, group: usize) {
        let packed = &mut self.packed;
        let most = self.counts.iter().copied().max().unwrap_or(0) as usize;
        packed.quads = most.div_ceil(4);
        let farthest = self.input.saturating_sub(4 * packed.quads as u32);
        packed.offsets.clear();
        packed.offsets.extend(self.starts.iter().map(|&start| start.min(farthest)));
        let last = packed.offsets.last().copied().unwrap_or(0);
        packed.offsets.resize((self.output as usize).next_multiple_of(group), last);
    }

    /// Loads of `load` bytes, each read by the windows of `shared` outputs.
    #[inline(always)]
    fn lay_loads(&mut self, shared: usize, load: u32) {
        let packed = &mut self.packed;
        packed.bases.clear();
        packed.index.clear();
        packed.gathered = false;
        for offsets in packed.offsets.chunks_exact(shared) {
            let base = offsets.iter().copied().min().unwrap_or(0);
            packed.bases.push(base);
            for &offset in offsets {
                let place = offset - base;
                packed.gathered |= place + 4 > load;
                packed.index.extend([0, 1, 2, 3].map(|tap| (place as u8).wrapping_add(tap)));
            }
        }
    }
}
