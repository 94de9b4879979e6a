//! How a shard keeps the pixels of one sample; `PAYLOAD.md` is the byte-by-byte description.

use crate::image::{DecodeError, Format, Limits, RgbImage};
use crate::kernels::{Level, padded};
use crate::markers::{self, Frame, code};
use crate::region::RegionDecoder;
use crate::turbo::{Complaint, Pixels, Turbo};
use crate::view::PixelRect;

mod map;
mod splice;

pub(crate) use map::{Map, segment_end, unstuff};
pub(crate) use splice::splice;

/// How a payload's bytes are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// A baseline JPEG with restart markers and a row index, cut open without entropy-decoding the rest.
    Jpeg,
    /// Red, green and blue of each pixel, row by row.
    Rgb,
}

/// The pixels of one sample, as a shard holds them. The bytes need not be trusted.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// How `bytes` are coded.
    pub kind: PayloadKind,
    /// Columns of the image.
    pub width: u32,
    /// Rows of the image.
    pub height: u32,
    /// The coded pixels.
    pub bytes: &'a [u8],
}

/// What the row index's segment begins with.
const INDEX_NAME: &[u8] = b"BEIT\x01";

/// Most minimum coded units between restart markers.
const RESTART_MCUS: u32 = 4;

/// Says that bytes are not the payload they should be.
pub(crate) fn refusal(detail: &str) -> DecodeError {
    DecodeError::corrupt(format!("payload: {detail}"))
}

/// Packs an image for a shard: a JPEG losslessly laid out anew if that gives exactly `image`, raw RGB otherwise.
///
/// `image` must be what [`decode`](crate::decode) made of `source`. What is written is decoded, by libjpeg-turbo and as a
/// [`Renderer`](crate::Renderer) will, and compared to it.
///
/// # Errors
/// when `image` has no pixels or not as many as it says
pub fn pack_payload(source: &[u8], image: &RgbImage) -> Result<(PayloadKind, Vec<u8>), DecodeError> {
    let RgbImage { width, height, ref pixels } = *image;
    if width == 0 || height == 0 {
        return Err(DecodeError::TooSmall { width, height });
    }
    if pixels.len() as u128 != u128::from(width) * u128::from(height) * 3 {
        return Err(DecodeError::corrupt(format!("{} bytes are no {width}x{height} pixels", pixels.len())));
    }
    if matches!(Format::of(source), Ok(Format::Jpeg)) {
        let jpeg = lay_out(source).filter(|jpeg| shows(jpeg, image) && shows_by_region(jpeg, image));
        if let Some(jpeg) = jpeg {
            return Ok((PayloadKind::Jpeg, jpeg));
        }
    }
    Ok((PayloadKind::Rgb, pixels.clone()))
}

/// Writes a JPEG anew, with restart markers and a row index; `None` if it is of a kind we do not cut.
pub(crate) fn lay_out(source: &[u8]) -> Option<Vec<u8>> {
    let frame = markers::frame(source)?;
    let (across, _) = frame.mcus();
    let interval = (1..=RESTART_MCUS).rev().find(|interval| across.is_multiple_of(*interval))?;
    let mut turbo = Turbo::relayout(interval, Limits::default().max_scans).ok()?;
    let jpeg = turbo.transcode(source).ok()?;
    insert_index(&jpeg)
}

/// Puts the row index behind the start-of-image marker.
fn insert_index(jpeg: &[u8]) -> Option<Vec<u8>> {
    let (frame, interval, data) = map::survey(jpeg)?;
    let rows = row_offsets(jpeg.get(data..)?, &frame, interval)?;
    let body = INDEX_NAME.len() + 4 * rows.len();
    let length = u16::try_from(body + 2).ok()?;
    let mut out = Vec::with_capacity(jpeg.len() + body + 4);
    out.extend([0xFF, code::SOI, 0xFF, code::APP15]);
    out.extend(length.to_be_bytes());
    out.extend(INDEX_NAME);
    rows.iter().for_each(|row| out.extend(row.to_le_bytes()));
    out.extend(&jpeg[2..]);
    Some(out)
}

/// Where each row of minimum coded units starts, counted from the first entropy-coded byte.
fn row_offsets(data: &[u8], frame: &Frame, interval: u32) -> Option<Vec<u32>> {
    let (across, down) = frame.mcus();
    let segments = across / interval;
    let mut rows = Vec::with_capacity(down as usize);
    let mut at = 0;
    for number in 0..segments * down {
        if number % segments == 0 {
            rows.push(u32::try_from(at).ok()?);
        }
        let (end, marker) = segment_end(data, at)?;
        let expected =
            if number + 1 == segments * down { code::EOI } else { code::RST0 + (number % 8) as u8 };
        if marker != expected {
            return None;
        }
        at = end + 2;
    }
    Some(rows)
}

/// Whether libjpeg-turbo decodes a written payload to exactly the image it was made from.
fn shows(jpeg: &[u8], image: &RgbImage) -> bool {
    let mut pixels = vec![0; image.pixels.len()];
    let decoded = Turbo::decoder(0)
        .map_err(|error| Complaint::Fatal(error.to_string()))
        .and_then(|mut turbo| turbo.decode(jpeg, (image.width, image.height), Pixels::Rgb, &mut pixels));
    decoded.is_ok() && pixels == image.pixels
}

/// Whether the region decoder does so too, if it takes this payload.
pub(crate) fn shows_by_region(jpeg: &[u8], image: &RgbImage) -> bool {
    let RgbImage { width, height, ref pixels } = *image;
    let payload = Payload { kind: PayloadKind::Jpeg, width, height, bytes: jpeg };
    let (level, mut decoder) = (Level::detect(), RegionDecoder::default());
    let whole = PixelRect { left: 0, top: 0, width, height };
    match decoder.decode(level, &payload, whole) {
        Ok(Some(_)) => {}
        Ok(None) => return true,
        Err(_) => return false,
    }
    let columns = width as usize;
    let (mut planes, mut row) = (vec![0; 3 * padded(columns)], vec![0; 3 * columns]);
    (0..height).zip(pixels.chunks_exact(3 * columns)).all(|(y, expected)| {
        decoder.row(level, whole, y, &mut planes);
        level.interleave(&planes, padded(columns), &mut row);
        row == expected
    })
}
