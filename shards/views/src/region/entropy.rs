//! From entropy-coded bytes to coefficients, two segments at a time.
//!
//! Each code must be read before the next one can be found, so a single segment leaves most of a core idle; segments do not
//! depend on one another, and two of them fill it better.

use std::cell::Cell;

use super::header::{Header, ZIGZAG};
use super::huffman::{END, Huffman, LOOK, Looks, MOST_BITS};
use super::{Plane, Span};

/// Four blocks side by side, row by row: coefficient (y, x) of block b stands at 32 y + 8 b + x.
pub(crate) type Quad = [i16; 256];

/// Where in each of a quad's blocks the coefficients lie in the order they are coded. What lies past the last one, an end of
/// block or an overlong run, goes to the last one's place: nothing has been written there then.
static PLACES: [[u8; 256]; 4] = {
    let mut places = [[0; 256]; 4];
    let mut at = 0;
    while at < 1024 {
        let (block, coefficient) = (at / 256, if at % 256 < 64 { at % 256 } else { 63 });
        places[block][at % 256] = ZIGZAG[coefficient] / 8 * 32 + ZIGZAG[coefficient] % 8 + 8 * block as u8;
        at += 1;
    }
    places
};

/// Most blocks of a minimum coded unit: the standard allows ten, the factors of three components more.
const MOST_BLOCKS: usize = 48;

/// Bytes that must follow the last segment, for looks reach past its end.
pub(super) const SLACK: usize = 16;

/// The segments of one row of minimum coded units, without their stuffing, and where they go.
pub(super) struct Row<'a> {
    pub header: &'a Header,
    pub planes: &'a [Plane; 3],
    /// Where each segment starts in `bytes`, and where the last one ends.
    pub starts: &'a [usize],
    pub bytes: &'a [u8],
    /// Wanted units; the first segment starts at or before the first of them.
    pub columns: Span,
    /// Units of a segment.
    pub interval: u32,
}

/// One block of a minimum coded unit.
#[derive(Clone, Copy)]
struct Place<'a> {
    component: usize,
    dc: &'a Huffman,
    ac: &'a Huffman,
    /// First quad of its row of blocks.
    quad: usize,
    /// Blocks per unit across, and which of them this is.
    across: usize,
    number: usize,
}

/// The bits of a segment and the place in a block: what changes with each coefficient.
#[derive(Clone, Copy, Default)]
struct Bits {
    /// Loaded bits, the next one highest, and how many of them count.
    loaded: u64,
    count: u32,
    /// Next coefficient of the block, in the order they are coded.
    next: u32,
    /// Next byte to load.
    at: usize,
}

impl Bits {
    /// Loads at least 56 bits; `None` at the end of all bytes.
    #[inline(always)]
    fn load(&mut self, bytes: &[u8]) -> Option<()> {
        let next = bytes.get(self.at..)?.first_chunk::<8>()?;
        self.loaded |= u64::from_be_bytes(*next) >> (self.count & 63);
        self.at = self.at.wrapping_add((63u32.wrapping_sub(self.count) >> 3) as usize);
        self.count |= 56;
        Some(())
    }

    /// Takes a code and its value from what is loaded, of which there must be enough; gives the zeros before it, and it.
    #[inline(always)]
    fn take(&mut self, looks: &Looks, table: &Huffman) -> Option<(u32, i32)> {
        let mut symbol = &looks[(self.loaded >> (64 - LOOK)) as usize];
        let long;
        if symbol.total == 0 {
            long = table.look_long(self.loaded);
            symbol = &long;
            if symbol.total == 0 {
                return None;
            }
        }
        let value = symbol.value(self.loaded);
        self.loaded <<= symbol.total & 63;
        self.count = self.count.wrapping_sub(u32::from(symbol.total));
        Some((u32::from(symbol.skip), value))
    }

    /// Decodes one coefficient, or the end of the block.
    #[inline(always)]
    fn step(&mut self, block: &Block<'_>) -> Option<()> {
        let (skip, value) = self.take(block.looks, block.ac)?;
        let next = self.next.wrapping_add(skip);
        let place = block.places[(next & 255) as usize];
        block.quad[usize::from(place)].set(value as i16);
        self.next = next.wrapping_add(1);
        Some(())
    }

    /// Decodes the rest of a block by itself.
    #[inline(always)]
    fn rest(mut self, block: &Block<'_>, bytes: &[u8]) -> Option<Self> {
        while self.next < 64 {
            self.load(bytes)?;
            self.step(block)?;
            if self.next < 64 && self.count >= MOST_BITS {
                self.step(block)?;
            }
        }
        Some(self)
    }
}

/// Where a block's coefficients go, and the codes they have.
#[derive(Clone, Copy)]
struct Block<'a> {
    looks: &'a Looks,
    places: &'static [u8; 256],
    quad: &'a [Cell<i16>; 256],
    ac: &'a Huffman,
}

/// A segment being decoded.
struct Lane<'a> {
    bits: Bits,
    block: Block<'a>,
    /// What becomes of the block's reach.
    reach: &'a Cell<u8>,
    /// The block in its unit, the unit, and the unit after the last wanted one of the segment.
    number: usize,
    unit: u32,
    end: u32,
    predictions: [i32; 3],
    /// Where the segment ends; `None` where it is not decoded to its end.
    stop: Option<usize>,
}

/// Decodes on in both blocks until one of them ends.
#[inline(always)]
fn both(mut one: Bits, mut other: Bits, blocks: [&Block<'_>; 2], bytes: &[u8]) -> Option<(Bits, Bits)> {
    loop {
        one.load(bytes)?;
        other.load(bytes)?;
        // Two codes and values fit what is loaded, and nearly always a third: a count that can be foreseen.
        for turn in 0..3 {
            if turn == 2 && one.count.min(other.count) < MOST_BITS {
                break;
            }
            one.step(blocks[0])?;
            other.step(blocks[1])?;
            if one.next | other.next >= 64 {
                return Some((one, other));
            }
        }
    }
}

/// Decodes all segments of a row to quads that hold zeros, and notes for each quad how many coefficients, in the order they
/// are coded, reach to the last one that is not zero. `None` if these bits are no such segments.
#[inline(always)]
pub(super) fn decode(row: &Row<'_>, quads: &mut [Quad], reaches: &mut [u8]) -> Option<()> {
    let (unwanted, unwanted_reach) = (Cell::new([0; 256]), Cell::new(0));
    let mut work = Work {
        row,
        places: [None; MOST_BLOCKS],
        blocks: 0,
        quads: Cell::from_mut(quads).as_slice_of_cells(),
        reaches: Cell::from_mut(reaches).as_slice_of_cells(),
        unwanted: (&unwanted, &unwanted_reach),
        segment: 0,
    };
    work.place()?;
    let Some(mut one) = work.open()? else { return Some(()) };
    let Some(mut other) = work.open()? else { return work.alone(&mut one) };
    loop {
        let blocks = (one.block, other.block);
        (one.bits, other.bits) = both(one.bits, other.bits, [&blocks.0, &blocks.1], row.bytes)?;
        if one.bits.next >= 64 && !work.advance(&mut one)? {
            return work.alone(&mut other);
        }
        if other.bits.next >= 64 && !work.advance(&mut other)? {
            return work.alone(&mut one);
        }
    }
}

/// What is to be done, and by which lane next.
struct Work<'a, 'q> {
    row: &'a Row<'a>,
    places: [Option<Place<'a>>; MOST_BLOCKS],
    blocks: usize,
    quads: &'q [Cell<Quad>],
    reaches: &'q [Cell<u8>],
    /// Where blocks go that nobody wants.
    unwanted: (&'q Cell<Quad>, &'q Cell<u8>),
    /// The next segment.
    segment: usize,
}

impl<'a: 'q, 'q> Work<'a, 'q> {
    /// Lists the blocks of a unit.
    fn place(&mut self) -> Option<()> {
        let header = self.row.header;
        for number in 0..header.count {
            let (component, plane) = (&header.components[number], &self.row.planes[number]);
            for down in 0..component.down as usize {
                for across in 0..component.across as usize {
                    *self.places.get_mut(self.blocks)? = Some(Place {
                        component: number,
                        dc: &header.dc[component.dc],
                        ac: &header.ac[component.ac],
                        quad: plane.quad + down * plane.quads,
                        across: component.across as usize,
                        number: across,
                    });
                    self.blocks += 1;
                }
            }
        }
        (self.blocks > 0).then_some(())
    }

    /// A lane at the first coefficient of the next segment; nothing if there is none left.
    fn open(&mut self) -> Option<Option<Lane<'q>>> {
        let place = self.places[0]?;
        let mut lane = Lane {
            bits: Bits::default(),
            block: Block {
                looks: &place.ac.looks,
                places: &PLACES[0],
                quad: self.unwanted.0.as_array_of_cells(),
                ac: place.ac,
            },
            reach: self.unwanted.1,
            number: 0,
            unit: 0,
            end: 0,
            predictions: [0; 3],
            stop: None,
        };
        Some(self.enter(&mut lane)?.then_some(lane))
    }

    /// Puts a lane to the next segment; `false` if there is none left.
    fn enter(&mut self, lane: &mut Lane<'q>) -> Option<bool> {
        let Row { starts, columns, interval, .. } = *self.row;
        let Some(&[start, stop]) = starts.get(self.segment..).and_then(|starts| starts.first_chunk::<2>())
        else {
            return Some(false);
        };
        lane.unit = (columns.first / interval + self.segment as u32) * interval;
        lane.end = (lane.unit + interval).min(columns.end);
        lane.stop = (lane.end == lane.unit + interval).then_some(stop);
        lane.bits = Bits { at: start, ..Bits::default() };
        lane.number = 0;
        lane.predictions = [0; 3];
        self.segment += 1;
        self.begin(lane)?;
        Some(true)
    }

    /// Begins the lane's block: its first coefficient.
    #[inline(always)]
    fn begin(&mut self, lane: &mut Lane<'q>) -> Option<()> {
        let place = self.places.get(lane.number)?.as_ref()?;
        let mut block = 0;
        let (quad, reach) = if lane.unit >= self.row.columns.first {
            let column = (lane.unit - self.row.columns.first) as usize;
            let column = column.wrapping_mul(place.across).wrapping_add(place.number);
            let at = place.quad.wrapping_add(column / 4);
            block = column % 4;
            (self.quads.get(at)?, self.reaches.get(at)?)
        } else {
            self.unwanted
        };
        lane.reach = reach;
        lane.block = Block {
            looks: &place.ac.looks,
            places: &PLACES[block],
            quad: quad.as_array_of_cells(),
            ac: place.ac,
        };
        let mut bits = lane.bits;
        bits.load(self.row.bytes)?;
        let (_, difference) = bits.take(&place.dc.looks, place.dc)?;
        let prediction = &mut lane.predictions[place.component];
        *prediction = prediction.wrapping_add(difference);
        lane.block.quad[8 * block].set(*prediction as i16);
        bits.next = 1;
        lane.bits = bits;
        Some(())
    }

    /// Ends the lane's block and begins its next one; `false` if there is none left.
    #[inline(always)]
    fn advance(&mut self, lane: &mut Lane<'q>) -> Option<bool> {
        let reach = match lane.bits.next {
            64 => 64,
            past if past > u32::from(END) => (past - u32::from(END) - 1) as u8,
            _ => return None,
        };
        lane.reach.set(lane.reach.get().max(reach));
        lane.number = lane.number.wrapping_add(1);
        if lane.number == self.blocks {
            lane.number = 0;
            lane.unit = lane.unit.wrapping_add(1);
            if lane.unit == lane.end {
                // All bits, but for those that fill the last byte, if the segment was wanted to its end.
                let read = (8 * lane.bits.at).wrapping_sub(lane.bits.count as usize);
                if let Some(stop) = lane.stop
                    && (8 * stop).checked_sub(read).is_none_or(|left| left >= 8)
                {
                    return None;
                }
                return self.enter(lane);
            }
        }
        self.begin(lane)?;
        Some(true)
    }

    /// Decodes what is left with one lane.
    fn alone(&mut self, lane: &mut Lane<'q>) -> Option<()> {
        loop {
            let block = lane.block;
            lane.bits = lane.bits.rest(&block, self.row.bytes)?;
            if !self.advance(lane)? {
                return Some(());
            }
        }
    }
}
