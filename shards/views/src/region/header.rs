//! What a region decoder must know of a JPEG: tables, sampling, colours.

use super::huffman::Huffman;
use crate::markers::{Frame, code, segment};

/// Where in a block, row by row, the coefficients lie in the order they are coded.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// What the components mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Colours {
    #[default]
    Grey,
    /// Luma and two chromas.
    Ycc,
    Rgb,
}

/// One component.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    /// Blocks per minimum coded unit, across and down.
    pub across: u32,
    pub down: u32,
    /// Pixels per sample, across and down.
    pub wide: u32,
    pub tall: u32,
    /// Samples of the whole image, across and down.
    pub columns: u32,
    pub rows: u32,
    /// Its quantization table, its Huffman tables.
    pub quant: usize,
    pub dc: usize,
    pub ac: usize,
}

/// Tables and components of one JPEG; its memory is kept from image to image.
#[derive(Debug)]
pub(super) struct Header {
    pub colours: Colours,
    pub components: [Component; 3],
    /// How many of them there are.
    pub count: usize,
    /// Row by row; as 16-bit products wrap, so do the steps.
    pub quants: [[i16; 64]; 4],
    pub dc: [Huffman; 4],
    pub ac: [Huffman; 4],
}

impl Default for Header {
    fn default() -> Self {
        Self {
            colours: Colours::default(),
            components: Default::default(),
            count: 0,
            quants: [[0; 64]; 4],
            dc: Default::default(),
            ac: Default::default(),
        }
    }
}

/// The tables that have been met, a bit each.
#[derive(Default)]
struct Met {
    quants: u8,
    dc: u8,
    ac: u8,
}

fn has(met: u8, table: u8) -> Option<usize> {
    (table < 4 && met & (1 << table) != 0).then_some(usize::from(table))
}

impl Header {
    /// Reads the segments up to the start of scan; `None` for what libjpeg-turbo had better look at.
    pub fn read(&mut self, header: &[u8], frame: &Frame) -> Option<()> {
        let mut met = Met::default();
        let (mut ids, mut quants) = ([0; 3], [0; 3]);
        let (mut jfif, mut adobe) = (false, None);
        self.count = usize::from(frame.components);
        let mut at = 0;
        loop {
            let found = segment(header, at)?;
            let body = header.get(found.start..found.end)?;
            match found.marker {
                code::DQT => self.read_quants(body, &mut met)?,
                code::DHT => self.read_codes(body, &mut met)?,
                code::SOF0 | code::SOF1 => {
                    for (component, part) in body.get(6..)?.chunks_exact(3).take(3).enumerate() {
                        ids[component] = part[0];
                        quants[component] = part[2];
                    }
                }
                code::APP0 => jfif |= body.starts_with(b"JFIF\0") && body.len() >= 14,
                code::APP14 if body.starts_with(b"Adobe") && body.len() >= 12 => adobe = Some(body[11]),
                code::SOS => {
                    self.colours = colours(self.count, ids, jfif, adobe)?;
                    return self.read_scan(body, frame, ids, quants, &met);
                }
                _ => {}
            }
            at = found.end;
        }
    }

    fn read_quants(&mut self, mut body: &[u8], met: &mut Met) -> Option<()> {
        while let Some((&kind, rest)) = body.split_first() {
            let (wide, table) = (kind >> 4, kind & 15);
            let len = match wide {
                0 => 64,
                1 => 128,
                _ => return None,
            };
            let steps = rest.get(..len)?;
            if table > 3 {
                return None;
            }
            met.quants |= 1 << table;
            for (place, &at) in ZIGZAG.iter().enumerate() {
                let step = match wide {
                    0 => u16::from(steps[place]),
                    _ => u16::from_be_bytes([steps[2 * place], steps[2 * place + 1]]),
                };
                self.quants[usize::from(table)][usize::from(at)] = step as i16;
            }
            body = &rest[len..];
        }
        Some(())
    }

    fn read_codes(&mut self, mut body: &[u8], met: &mut Met) -> Option<()> {
        while let Some((&kind, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let len = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            if len > 256 {
                return None;
            }
            let (symbols, rest) = rest.split_at_checked(len)?;
            let table = kind & 15;
            if table > 3 {
                return None;
            }
            let (tables, met, most_size, runs) = match kind >> 4 {
                0 => (&mut self.dc, &mut met.dc, 11, false),
                1 => (&mut self.ac, &mut met.ac, 10, true),
                _ => return None,
            };
            tables[usize::from(table)].set(counts, symbols, most_size, runs)?;
            *met |= 1 << table;
            body = rest;
        }
        Some(())
    }

    fn read_scan(
        &mut self,
        body: &[u8],
        frame: &Frame,
        ids: [u8; 3],
        quants: [u8; 3],
        met: &Met,
    ) -> Option<()> {
        let (&count, rest) = body.split_first()?;
        let (parts, [0, 63, 0]) = rest.split_at_checked(2 * self.count)? else { return None };
        if usize::from(count) != self.count {
            return None;
        }
        let (mcu_width, mcu_height) = frame.mcu();
        for (number, part) in parts.chunks_exact(2).enumerate() {
            let (across, down) = match self.count {
                1 => (1, 1),
                _ => (u32::from(frame.sampling[number].0), u32::from(frame.sampling[number].1)),
            };
            let whole = (mcu_width / 8).is_multiple_of(across) && (mcu_height / 8).is_multiple_of(down);
            if part[0] != ids[number] || !whole {
                return None;
            }
            let (wide, tall) = (mcu_width / 8 / across, mcu_height / 8 / down);
            self.components[number] = Component {
                across,
                down,
                wide,
                tall,
                columns: frame.width.div_ceil(wide),
                rows: frame.height.div_ceil(tall),
                quant: has(met.quants, quants[number])?,
                dc: has(met.dc, part[1] >> 4)?,
                ac: has(met.ac, part[1] & 15)?,
            };
        }
        Some(())
    }
}

/// What libjpeg takes the components for.
fn colours(count: usize, ids: [u8; 3], jfif: bool, adobe: Option<u8>) -> Option<Colours> {
    Some(match (count, adobe) {
        (1, _) => Colours::Grey,
        _ if jfif => Colours::Ycc,
        (_, Some(0)) => Colours::Rgb,
        (_, Some(1)) => Colours::Ycc,
        (_, Some(_)) => return None,
        (_, None) if ids == *b"RGB" => Colours::Rgb,
        (_, None) => Colours::Ycc,
    })
}
