//! Decodes of a payload of kind `jpeg` just what a crop needs, to the very pixels that libjpeg-turbo makes.

use std::time::{Duration, Instant};

use crate::image::DecodeError;
use crate::kernels::{Level, PAD};
use crate::payload::{Map, Payload, refusal, segment_end};
use crate::view::PixelRect;

mod entropy;
mod header;
mod huffman;
mod rows;

pub(crate) use entropy::Quad;
use entropy::{Row, SLACK};
use header::{Component, Header};

/// A decoder; its memory is kept from image to image.
#[derive(Debug, Default)]
pub(crate) struct RegionDecoder {
    header: Header,
    /// The wanted segments of a row of minimum coded units, their stuffing taken out.
    bytes: Vec<u8>,
    /// Where each of them starts, and where the last one ends.
    starts: Vec<usize>,
    /// Coefficients of a row of minimum coded units.
    quads: Vec<Quad>,
    /// Whether not all of them are zero.
    dirty: bool,
    /// For each quad, how many coefficients may not be zero, in the order they are coded.
    reaches: Vec<u8>,
    /// How many quads a row has.
    used: usize,
    planes: [Plane; 3],
    rows: rows::Scratch,
}

/// The samples of a component that a crop needs, by whole blocks.
#[derive(Debug, Default)]
struct Plane {
    samples: Vec<u8>,
    /// Bytes between rows.
    stride: usize,
    /// The image's sample column and row that the first sample is.
    left: u32,
    top: u32,
    /// First quad of a row of blocks, and quads per row of blocks.
    quad: usize,
    quads: usize,
}

/// Nanoseconds of a decode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub entropy: Duration,
    pub inverse: Duration,
}

/// Minimum coded units from one to another.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    end: u32,
}

impl RegionDecoder {
    /// Decodes the samples that `crop` needs, and says how long it took; `None` if libjpeg-turbo must do it, for this is a
    /// rare kind of JPEG.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no payload of that size
    pub fn decode(
        &mut self,
        level: Level,
        payload: &Payload<'_>,
        crop: PixelRect,
    ) -> Result<Option<Spent>, DecodeError> {
        let (mut last, mut spent) = (Instant::now(), Spent::default());
        let Some((map, columns, rows)) = self.prepare(payload, crop)? else { return Ok(None) };
        for row in rows.first..rows.end {
            self.entropy(level, &map, row, columns)?;
            let now = Instant::now();
            spent.entropy += now - last;
            self.inverse(level, (row - rows.first) as usize);
            last = Instant::now();
            spent.inverse += last - now;
        }
        Ok(Some(spent))
    }

    /// As [`decode`](Self::decode), but stops at the coefficients: for benches.
    pub fn decode_entropy(
        &mut self,
        level: Level,
        payload: &Payload<'_>,
        crop: PixelRect,
    ) -> Result<bool, DecodeError> {
        let Some((map, columns, rows)) = self.prepare(payload, crop)? else { return Ok(false) };
        (rows.first..rows.end).try_for_each(|row| self.entropy(level, &map, row, columns))?;
        Ok(true)
    }

    /// Reads the header and makes room; the units that are wanted, across and down.
    fn prepare<'a>(
        &mut self,
        payload: &Payload<'a>,
        crop: PixelRect,
    ) -> Result<Option<(Map<'a>, Span, Span)>, DecodeError> {
        if !crop.fits(payload.width, payload.height) {
            return Err(refusal("the crop lies outside the image"));
        }
        let map = Map::read(payload)?;
        if self.header.read(map.header, &map.frame).is_none() {
            return Ok(None);
        }
        let (mcu_width, mcu_height) = map.frame.mcu();
        let components = &self.header.components[..self.header.count];
        // Smoothed chroma looks at the next sample.
        let widest = components.iter().map(|component| component.wide).max().unwrap_or(1);
        let tallest = components.iter().map(|component| component.tall).max().unwrap_or(1);
        let span = |start: u32, len: u32, margin: u32, step: u32, side: u32| {
            let margin = if margin == 1 { 0 } else { margin };
            let end = (start + len + margin).min(side).div_ceil(step);
            Span { first: start.saturating_sub(margin) / step, end }
        };
        let columns = span(crop.left, crop.width, widest, mcu_width, payload.width);
        let rows = span(crop.top, crop.height, tallest, mcu_height, payload.height);
        self.lay_out(columns, rows);
        Ok(Some((map, columns, rows)))
    }

    /// The coefficients of a row of minimum coded units.
    fn entropy(&mut self, level: Level, map: &Map<'_>, row: u32, columns: Span) -> Result<(), DecodeError> {
        let decoded = self.gather(map, row, columns).and_then(|()| self.coefficients(level, map, columns));
        decoded.ok_or_else(|| refusal("its entropy-coded bytes are damaged"))
    }

    /// Makes room for the planes and the quads of a row.
    fn lay_out(&mut self, columns: Span, rows: Span) {
        let mut quad = 0;
        for (component, plane) in self.header.components.iter().zip(&mut self.planes).take(self.header.count)
        {
            let Component { across, down, .. } = *component;
            plane.quads = ((columns.end - columns.first) * across).div_ceil(4) as usize;
            plane.quad = quad;
            quad += plane.quads * down as usize;
            plane.stride = 32 * plane.quads;
            plane.left = columns.first * across * 8;
            plane.top = rows.first * down * 8;
            let lines = ((rows.end - rows.first) * down * 8) as usize;
            let len = lines * plane.stride + 2 * PAD;
            if plane.samples.len() < len {
                plane.samples.resize(len, 0);
            }
        }
        self.used = quad;
        if self.quads.len() < quad {
            self.quads.resize(quad, [0; 256]);
            self.reaches.resize(quad, 0);
        }
    }

    /// Copies the wanted segments of a row, without their stuffing.
    fn gather(&mut self, map: &Map<'_>, row: u32, columns: Span) -> Option<()> {
        let per_row = map.frame.mcus().0 / map.interval;
        let segments = per_row * map.frame.mcus().1;
        let (first, end) = (columns.first / map.interval, columns.end.div_ceil(map.interval));
        let mut at = u32::from_le_bytes(*map.rows.get(row as usize)?) as usize;
        self.bytes.clear();
        self.starts.clear();
        for index in 0..end {
            let serial = row * per_row + index;
            let expected = match serial + 1 == segments {
                true => crate::markers::code::EOI,
                false => crate::markers::code::RST0 + (serial % 8) as u8,
            };
            if index < first {
                let (stop, marker) = segment_end(map.data, at)?;
                if marker != expected {
                    return None;
                }
                at = stop + 2;
                continue;
            }
            self.starts.push(self.bytes.len());
            let (stop, marker) = crate::payload::unstuff(map.data, at, &mut self.bytes)?;
            if marker != expected {
                return None;
            }
            at = stop + 2;
        }
        self.starts.push(self.bytes.len());
        self.bytes.extend([0; SLACK]);
        Some(())
    }

    /// Decodes the gathered segments to coefficients.
    fn coefficients(&mut self, level: Level, map: &Map<'_>, columns: Span) -> Option<()> {
        let Self { header, bytes, starts, quads, dirty, reaches, planes, used, .. } = self;
        let (quads, reaches) = (quads.get_mut(..*used)?, reaches.get_mut(..*used)?);
        reaches.fill(0);
        // What a damaged image left; otherwise the inverse leaves zeros.
        if std::mem::replace(dirty, true) {
            quads.fill([0; 256]);
        }
        let row = Row { header, planes, starts, bytes, columns, interval: map.interval };
        level.run(|| entropy::decode(&row, quads, reaches))
    }

    /// From the coefficients of a row of minimum coded units to samples.
    fn inverse(&mut self, level: Level, row: usize) {
        for (component, plane) in self.header.components.iter().zip(&mut self.planes).take(self.header.count)
        {
            let quant = &self.header.quants[component.quant];
            for down in 0..component.down as usize {
                let first = plane.quad + down * plane.quads;
                let line = (row * component.down as usize + down) * 8;
                let quads = self.quads[first..first + plane.quads].iter_mut();
                let reaches = &self.reaches[first..first + plane.quads];
                for (column, (quad, &reach)) in quads.zip(reaches).enumerate() {
                    let out = &mut plane.samples[line * plane.stride + 32 * column..];
                    level.inverse(quad, quant, reach, out, plane.stride);
                }
            }
        }
        self.dirty = false;
    }
}

#[cfg(test)]
mod tests;
