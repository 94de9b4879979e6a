//! A small JPEG made of those restart segments of a payload that a crop touches.

use super::{INDEX_NAME, Payload};
use crate::image::DecodeError;
use crate::markers::{Frame, code, segment};
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

/// A payload's header, its lies found out.
struct Map<'a> {
    frame: Frame,
    /// Minimum coded units between restart markers; divides those of a row.
    interval: u32,
    /// Row index, four bytes each, little-endian.
    rows: &'a [[u8; 4]],
    /// Segments behind the index, up to and including the start of scan.
    header: &'a [u8],
    /// Where the frame's height stands in `header`.
    size_at: usize,
    /// Entropy-coded bytes and the end-of-image marker.
    data: &'a [u8],
}

fn refuse<T>(detail: &str) -> Result<T, DecodeError> {
    Err(DecodeError::corrupt(format!("payload: {detail}")))
}

/// Frame, restart interval and start of the entropy-coded bytes of a baseline JPEG of one scan, if it is one that can
/// be cut: 8 bits, one or three components, whole restart segments in each row.
pub(super) fn survey(jpeg: &[u8]) -> Option<(Frame, u32, usize)> {
    let (frame, interval, _, data) = walk(jpeg, 2)?;
    Some((frame, interval, data))
}

/// As [`survey`], and where the frame's height stands.
fn walk(jpeg: &[u8], mut at: usize) -> Option<(Frame, u32, usize, usize)> {
    let (mut frame, mut interval) = (None, 0);
    loop {
        let found = segment(jpeg, at)?;
        let body = &jpeg[found.start..found.end];
        match found.marker {
            code::SOF0 | code::SOF1 if frame.is_none() => frame = Some((Frame::read(body)?, found.start + 1)),
            code::DRI => interval = u32::from(u16::from_be_bytes(body.try_into().ok()?)),
            code::DHT | code::DQT | code::APP0 | code::APP14 => {}
            code::SOS => {
                let (frame, size_at) = frame?;
                let whole = interval > 0 && frame.mcus().0.is_multiple_of(interval);
                let cuttable = frame.precision == 8 && body.first() == Some(&frame.components) && whole;
                return cuttable.then_some((frame, interval, size_at, found.end));
            }
            _ => return None,
        }
        at = found.end;
    }
}

impl<'a> Map<'a> {
    fn read(payload: &Payload<'a>) -> Option<Self> {
        let bytes = payload.bytes;
        let index = segment(bytes, 2).filter(|index| index.marker == code::APP15 && index.start == 6)?;
        let rows = bytes[index.start..index.end].strip_prefix(INDEX_NAME)?;
        let (rows, []) = rows.as_chunks::<4>() else { return None };
        let (frame, interval, size_at, data) = walk(bytes, index.end)?;
        let sound = bytes.starts_with(&[0xFF, code::SOI])
            && (frame.width, frame.height) == (payload.width, payload.height)
            && frame.mcus().1 as usize == rows.len();
        let (header, data) = (&bytes[index.end..data], &bytes[data..]);
        sound.then_some(Self { frame, interval, rows, header, size_at: size_at - index.end, data })
    }
}

/// Writes to `out` a JPEG that shows at least `crop`, pixel for pixel as the payload does.
///
/// With subsampled chroma the pixels at a border depend on what lies beyond it, so such a cut reaches further.
///
/// # Errors
/// `Corrupt` for bytes that are no payload of that size
pub(crate) fn splice(payload: &Payload<'_>, crop: PixelRect, out: &mut Vec<u8>) -> Result<Cut, DecodeError> {
    if !crop.fits(payload.width, payload.height) {
        return refuse("the crop lies outside the image");
    }
    let Some(map) = Map::read(payload) else {
        return refuse("not a JPEG with restart markers and a row index of this size");
    };
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
                return refuse("its entropy-coded bytes end early");
            };
            let serial = row * across + index;
            let last = serial + 1 == across * map.frame.mcus().1;
            let expected = if last { code::EOI } else { code::RST0 + (serial % 8) as u8 };
            if marker != expected {
                return refuse("its restart markers are out of order");
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

/// Where the entropy-coded segment that starts at `at` ends, and the marker behind it.
#[inline]
pub(super) fn segment_end(data: &[u8], mut at: usize) -> Option<(usize, u8)> {
    loop {
        at += position_of_ff(data.get(at..)?)?;
        match *data.get(at + 1)? {
            0 => at += 2,
            marker @ (code::RST0..=code::RST7 | code::EOI) => return Some((at, marker)),
            _ => return None,
        }
    }
}

/// The first `FF`, looked for 32 bytes at a time.
#[inline]
fn position_of_ff(bytes: &[u8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<32>();
    let without =
        |block: &&[u8; 32]| block.iter().fold(0, |found, &byte| found | u8::from(byte == 0xFF)) == 0;
    let skipped = 32 * blocks.iter().take_while(without).count();
    Some(skipped + bytes[skipped..].iter().position(|&byte| byte == 0xFF)?)
}
