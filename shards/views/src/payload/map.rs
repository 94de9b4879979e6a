//! The header of a payload of kind `jpeg`: where its rows and restart segments lie.

use super::{INDEX_NAME, Payload};
use crate::image::DecodeError;
use crate::markers::{Frame, code, segment};

/// A payload's header, its lies found out.
pub(crate) struct Map<'a> {
    /// Size and sampling.
    pub frame: Frame,
    /// Minimum coded units between restart markers; divides those of a row.
    pub interval: u32,
    /// Row index, four bytes each, little-endian.
    pub rows: &'a [[u8; 4]],
    /// Segments behind the index, up to and including the start of scan.
    pub header: &'a [u8],
    /// Where the frame's height stands in `header`.
    pub size_at: usize,
    /// Entropy-coded bytes and the end-of-image marker.
    pub data: &'a [u8],
}

/// Frame, restart interval and start of the entropy-coded bytes of a baseline JPEG of one scan, if it is one that can
/// be cut: 8 bits, one or three components, whole restart segments in each row.
pub(crate) fn survey(jpeg: &[u8]) -> Option<(Frame, u32, usize)> {
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
    /// # Errors
    /// `Corrupt` for bytes that are no payload of that size
    pub fn read(payload: &Payload<'a>) -> Result<Self, DecodeError> {
        let refusal = "not a JPEG with restart markers and a row index of this size";
        Self::find(payload).ok_or_else(|| super::refusal(refusal))
    }

    fn find(payload: &Payload<'a>) -> Option<Self> {
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

/// Where the entropy-coded segment that starts at `at` ends, and the marker behind it.
#[inline]
pub(crate) fn segment_end(data: &[u8], mut at: usize) -> Option<(usize, u8)> {
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
    let (blocks, rest) = bytes.as_chunks::<32>();
    for (number, block) in blocks.iter().enumerate() {
        if block.iter().fold(0, |found, &byte| found | u8::from(byte == 0xFF)) != 0 {
            let (words, _) = block.as_chunks::<8>();
            let places = words.iter().zip([0, 8, 16, 24]);
            let found = places.map(|(word, place)| Some(place + ff_in_word(*word)?)).find(Option::is_some);
            return Some(32 * number + found??);
        }
    }
    Some(32 * blocks.len() + rest.iter().position(|&byte| byte == 0xFF)?)
}

/// The first `FF` among eight bytes.
#[inline]
fn ff_in_word(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let inverted = !u64::from_le_bytes(word);
    // The highest bit of a byte that is zero; perhaps also of others, but behind it.
    let found = inverted.wrapping_sub(ONES) & !inverted & (ONES << 7);
    (found != 0).then_some(found.trailing_zeros() as usize / 8)
}

/// Appends the entropy-coded segment that starts at `at` to `out`, without its stuffing; says where it ends and what marker
/// stands there.
#[inline]
pub(crate) fn unstuff(data: &[u8], mut at: usize, out: &mut Vec<u8>) -> Option<(usize, u8)> {
    loop {
        let rest = data.get(at..)?;
        let len = position_of_ff(rest)?;
        match *rest.get(len + 1)? {
            0 => {
                out.extend_from_slice(&rest[..=len]);
                at += len + 2;
            }
            marker @ (code::RST0..=code::RST7 | code::EOI) => {
                out.extend_from_slice(&rest[..len]);
                return Some((at + len, marker));
            }
            _ => return None,
        }
    }
}
