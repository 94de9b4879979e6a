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

impl Plan {
    /// For AVX2.
    pub fn pack_pairs(&mut self) {
        self.lay_windows(8, 4, 16);
        let packed = &mut self.packed;
        let quads = packed.quads;
        packed.halves.clear();
        packed.halves.resize(packed.offsets.len() / 8 * quads * 64, 0);
        packed.pairs.clear();
        packed.pairs.resize(self.output as usize * quads * 4, 0);
        for output in 0..self.output as usize {
            let shift = (self.starts[output] - packed.offsets[output]) as usize;
            let weights = &self.weights[output * self.taps..][..self.counts[output] as usize];
            for (tap, &weight) in weights.iter().enumerate() {
                let (quad, tap) = ((tap + shift) / 4, (tap + shift) % 4);
                let (low, high) = halves(weight);
                let vector = ((output / 8) * quads + quad) * 4 + tap % 2;
                let lane = (output % 8) * 2 + tap / 2;
                packed.halves[16 * vector + lane] = low;
                packed.halves[16 * (vector + 2) + lane] = high;
                let pair = (output * quads + quad) * 4 + tap % 2;
                packed.pairs[pair] |= i32::from(low as u16) << (16 * (tap / 2));
                packed.pairs[pair + 2] |= i32::from(high as u16) << (16 * (tap / 2));
            }
        }
    }

    /// For AVX-512.
    pub fn pack_digits(&mut self) {
        self.lay_windows(16, 16, 64);
        let packed = &mut self.packed;
        let quads = packed.quads;
        packed.digits.clear();
        packed.digits.resize(packed.offsets.len() / 16 * quads * 192, 0);
        packed.numbers.clear();
        packed.numbers.resize(self.output as usize * quads * 3, 0);
        packed.three_digits = true;
        for output in 0..self.output as usize {
            let shift = (self.starts[output] - packed.offsets[output]) as usize;
            let weights = &self.weights[output * self.taps..][..self.counts[output] as usize];
            for (tap, &weight) in weights.iter().enumerate() {
                let (quad, tap) = ((tap + shift) / 4, (tap + shift) % 4);
                let (digits, fit) = digits(weight);
                packed.three_digits &= fit;
                let block = ((output / 16) * quads + quad) * 192 + (output % 16) * 4 + tap;
                let number = (output * quads + quad) * 3;
                for (place, digit) in digits.into_iter().enumerate() {
                    packed.digits[block + 64 * place] = digit;
                    packed.numbers[number + place] |= i32::from(digit as u8) << (8 * tap);
                }
            }
        }
    }

    /// Windows for groups of `group` outputs, `shared` of them read by one load of `load` bytes.
    fn lay_windows(&mut self, group: usize, shared: usize, load: u32) {
        let packed = &mut self.packed;
        let most = self.counts.iter().copied().max().unwrap_or(0) as usize;
        packed.quads = most.div_ceil(4);
        let farthest = self.input.saturating_sub(4 * packed.quads as u32);
        packed.offsets.clear();
        packed.offsets.extend(self.starts.iter().map(|&start| start.min(farthest)));
        let last = packed.offsets.last().copied().unwrap_or(0);
        packed.offsets.resize((self.output as usize).next_multiple_of(group), last);
        packed.bases.clear();
        packed.index.clear();
        packed.gathered = false;
        for offsets in packed.offsets.chunks_exact(shared) {
            let base = offsets.iter().copied().min().unwrap_or(0);
            packed.bases.push(base);
            for &offset in offsets {
                packed.gathered |= offset - base + 4 > load;
                packed.index.extend((0..4).map(|tap| (offset - base + tap) as u8));
            }
        }
    }
}
