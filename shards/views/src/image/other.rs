//! PNG and the rarer formats, through the `image` crate.

use std::error::Error;
use std::io::{Cursor, ErrorKind};

use image::codecs::png::PngEncoder;
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader};

use super::{DecodeError, Limits, RgbImage};

pub(super) fn decode(bytes: &[u8], format: ImageFormat, limits: &Limits) -> Result<RgbImage, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut memory = image::Limits::default();
    memory.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(memory);
    let decoder = reader.into_decoder().map_err(refusal)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    let colors = decoder.color_type();
    // Bit depth and colour type stand at a fixed place in a PNG; a transparent level would make such grey La16 below.
    let deep_grey = format == ImageFormat::Png && bytes.get(24..26) == Some(&[16, 0]);
    let size = usize::try_from(decoder.total_bytes()).map_err(|_| DecodeError::TooLarge {
        detail: format!("{width}x{height} pixels do not fit the memory of this machine"),
    })?;
    let mut raw = vec![0; size];
    decoder.read_image(&mut raw).map_err(refusal)?;
    let pixels = to_rgb(raw, colors, deep_grey)?;
    Ok(RgbImage { width, height, pixels })
}

/// Encodes an image as a PNG, which loses nothing.
///
/// # Errors
/// when the image has no pixels, or not as many as it says
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>, DecodeError> {
    let RgbImage { width, height, ref pixels } = *image;
    if width == 0 || height == 0 {
        return Err(DecodeError::TooSmall { width, height });
    }
    if pixels.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return Err(DecodeError::corrupt(format!("{} bytes are no {width}x{height} pixels", pixels.len())));
    }
    let mut png = Vec::new();
    let encoder = PngEncoder::new(&mut png);
    encoder.write_image(pixels, width, height, ExtendedColorType::Rgb8).map_err(refusal)?;
    Ok(png)
}

fn to_rgb(raw: Vec<u8>, colors: ColorType, deep_grey: bool) -> Result<Vec<u8>, DecodeError> {
    let wide = |at: &[u8]| u16::from_ne_bytes([at[0], at[1]]);
    let high = |at: &[u8]| (wide(at) >> 8) as u8;
    // Pillow reads 16-bit grey whole and clips it; 16-bit colour, and grey beside an alpha, it halves to the high byte.
    let clipped = |at: &[u8]| wide(at).min(255) as u8;
    Ok(match colors {
        ColorType::Rgb8 => raw,
        ColorType::L8 => raw.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::La8 => raw.chunks_exact(2).flat_map(|at| [at[0]; 3]).collect(),
        ColorType::Rgba8 => raw.chunks_exact(4).flat_map(|at| [at[0], at[1], at[2]]).collect(),
        ColorType::L16 => raw.chunks_exact(2).flat_map(|at| [clipped(at); 3]).collect(),
        ColorType::La16 if deep_grey => raw.chunks_exact(4).flat_map(|at| [clipped(at); 3]).collect(),
        ColorType::La16 => raw.chunks_exact(4).flat_map(|at| [high(at); 3]).collect(),
        ColorType::Rgb16 => raw.chunks_exact(2).map(high).collect(),
        ColorType::Rgba16 => {
            raw.chunks_exact(8).flat_map(|at| [high(at), high(&at[2..]), high(&at[4..])]).collect()
        }
        other => return Err(DecodeError::Unsupported { detail: format!("pixels of type {other:?}") }),
    })
}

fn refusal(error: ImageError) -> DecodeError {
    let detail = error.to_string();
    match &error {
        ImageError::Limits(_) => DecodeError::TooLarge { detail },
        ImageError::Unsupported(_) => DecodeError::Unsupported { detail },
        _ if ends_early(&error, &detail) => DecodeError::Truncated { detail },
        _ => DecodeError::Corrupt { detail },
    }
}

fn ends_early(error: &ImageError, detail: &str) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if at.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::UnexpectedEof) {
            return true;
        }
        cause = at.source();
    }
    let detail = detail.to_lowercase();
    ["unexpected end", "unexpected eof", "end of file", "truncated"]
        .iter()
        .any(|words| detail.contains(words))
}
