//! A small JPEG made of those restart segments of a payload that a crop touches.

use super::map::{Map, segment_end};
use super::{Payload, refusal};
use crate::image::DecodeError;
use crate::markers::code;
use crate::view::PixelRect;

/// Where a spliced JPEG lies in the image it was cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// First column of the image that the small JPEG shows.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns it shows.
    pub width: u32,
    /// Rows it shows.
    pub height: u32,
}

/// Writes to `out` a JPEG that shows at least `crop`, pixel for pixel as the payload does.
///
/// With subsampled chroma the pixels at a border depend on what lies beyond it, so such a cut reaches further.
///
/// # Errors
/// `Corrupt` for bytes that are no payload of that size
pub(crate) fn splice(payload: &Payload<'_>, crop: PixelRect, out: &mut Vec<u8>) -> Result<Cut, DecodeError> {
    if !crop.fits(payload.width, payload.height) {
        return Err(refusal("the crop lies outside the image"));
    }
    let map = Map::read(payload)?;
    let (mcu_width, mcu_height) = map.frame.mcu();
    let margin = if map.frame.subsampled() { mcu_width.max(mcu_height) / 4 } else { 0 };
    let span = |start: u32, len: u32, step: u32, side: u32| {
        let first = start.saturating_sub(margin) / step;
        let end = (start + len + margin).min(side).div_ceil(step);
        (first, end, first * step, (end * step).min(side) - first * step)
    };
    let across = map.frame.mcus().0 / map.interval;
    let (first_row, end_row, top, height) = span(crop.top, crop.height, mcu_height, payload.height);
    let (first, end, left, width) = span(crop.left, crop.width, mcu_width * map.interval, payload.width);

    out.clear();
    out.extend([0xFF, code::SOI]);
    let size_at = out.len() + map.size_at;
    out.extend(map.header);
    out[size_at..size_at + 2].copy_from_slice(&(height as u16).to_be_bytes());
    out[size_at + 2..size_at + 4].copy_from_slice(&(width as u16).to_be_bytes());
    let mut number = 0u32;
    for row in first_row..end_row {
        let mut at = u32::from_le_bytes(map.rows[row as usize]) as usize;
        for index in 0..end {
            let Some((stop, marker)) = segment_end(map.data, at) else {
                return Err(refusal("its entropy-coded bytes end early"));
            };
            let serial = row * across + index;
            let last = serial + 1 == across * map.frame.mcus().1;
            let expected = if last { code::EOI } else { code::RST0 + (serial % 8) as u8 };
            if marker != expected {
                return Err(refusal("its restart markers are out of order"));
            }
            if index >= first {
                out.extend(&map.data[at..stop]);
                out.extend([0xFF, code::RST0 + (number % 8) as u8]);
                number += 1;
            }
            at = stop + 2;
        }
    }
    let end = out.len();
    out[end - 1] = code::EOI;
    Ok(Cut { left, top, width, height })
}
