//! Huffman tables, laid out so that one look gives a code's length, the bits behind it and the zeros before it.

/// Bits of a look; longer codes take the long way.
pub(super) const LOOK: u32 = 10;

/// Most bits of a code and a value that may have zeros before it.
pub(super) const MOST_BITS: u32 = 16 + 10;

/// Added to a coefficient's place by an end of block: past all places, and apart from any overlong run of zeros.
pub(super) const END: u8 = 127;

/// What one code says.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(4))]
pub(super) struct Symbol {
    /// Bits of the code and of the value behind it, at most [`MOST_BITS`] if there are runs; 0 is no code.
    pub total: u8,
    /// Bits of the value.
    pub size: u8,
    /// Zeros before the value, or [`END`].
    pub skip: u8,
}

impl Symbol {
    /// A code of `length` bits for the byte `coded`: zeros to skip and bits of the value.
    fn new(length: u32, coded: u8) -> Self {
        let (run, size) = (coded >> 4, coded & 15);
        let skip = match (run, size) {
            (0..15, 0) => END,
            _ => run,
        };
        Self { total: length as u8 + size, size, skip }
    }

    /// The value behind the code that `bits` begin with.
    #[inline(always)]
    pub fn value(self, bits: u64) -> i32 {
        let low = (bits >> (self.total.wrapping_neg() & 63)) as u32;
        let above = u32::MAX << (self.size & 31);
        let magnitude = (low & !above) as i32;
        // One that begins with a 0 is negative, and too high by all ones of its size.
        let negative = magnitude.wrapping_add(above as i32).wrapping_add(1);
        // Below half of the values of its size, both together are below zero.
        if magnitude.wrapping_add(negative) < 0 { negative } else { magnitude }
    }
}

/// No code.
const NONE: Symbol = Symbol { total: 0, size: 0, skip: 0 };

/// The codes that a look can tell.
pub(super) type Looks = [Symbol; 1 << LOOK];

/// One table.
#[derive(Clone, Debug)]
pub(super) struct Huffman {
    pub looks: Box<Looks>,
    /// For each length, the first 16 bits that are past its codes.
    limits: [u32; 17],
    /// For each length, the 16 bits of its first code and that code's place in `symbols`.
    firsts: [(u32, u32); 17],
    symbols: [u8; 256],
}

impl Default for Huffman {
    fn default() -> Self {
        Self { looks: Box::new([NONE; 1 << LOOK]), limits: [0; 17], firsts: [(0, 0); 17], symbols: [0; 256] }
    }
}

impl Huffman {
    /// Makes the table anew; `None`, and a table of some other codes, for codes that are none.
    ///
    /// Values of 8-bit samples have at most `most_size` bits, and only where there are `runs`, zeros before them.
    pub fn set(&mut self, counts: &[u8; 16], symbols: &[u8], most_size: u8, runs: bool) -> Option<()> {
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            let these = symbols.get(place..place + count)?;
            self.firsts[length as usize] = (code, place as u32);
            for &coded in these {
                if coded & 15 > most_size || (coded > 15 && !runs) {
                    return None;
                }
                let next = code + (1 << (16 - length));
                if length <= LOOK {
                    let looks = (code >> (16 - LOOK)) as usize..(next >> (16 - LOOK)) as usize;
                    self.looks.get_mut(looks)?.fill(Symbol::new(length, coded));
                }
                self.symbols[place] = coded;
                place += 1;
                code = next;
            }
            // No code may be all ones.
            if count > 0 && code + (1 << (16 - length)) > 1 << 16 {
                return None;
            }
            self.limits[length as usize] = code;
            if length == LOOK {
                self.looks[(code >> (16 - LOOK)) as usize..].fill(NONE);
            }
        }
        (place == symbols.len()).then_some(())
    }

    /// The code that `bits` begin with, if it is a long one.
    #[cold]
    #[inline(never)]
    pub fn look_long(&self, bits: u64) -> Symbol {
        let head = (bits >> 48) as u32;
        for length in LOOK + 1..=16 {
            if head < self.limits[length as usize] {
                let (first, place) = self.firsts[length as usize];
                let place = place + ((head - first) >> (16 - length));
                return Symbol::new(length, self.symbols[place as usize & 255]);
            }
        }
        NONE
    }
}
