//! Smaller and re-encoded copies of images, for data sets that trade pixels for speed.

use crate::image::{DecodeError, RgbImage};
use crate::kernels::Level;
use crate::render::Stages;
use crate::turbo::Turbo;
use crate::view::Interpolation;

/// Shrinks an image so that its shorter side has `side` pixels; an image whose shorter side is no longer stays as it is.
///
/// The pixels are those of Pillow's `resize(…, LANCZOS)`, the sharpest of its antialiased kernels; the longer side is
/// cut to whole pixels as torchvision's `Resize` does.
///
/// # Panics
/// when `side` is 0 or the image has fewer pixels than it says
pub fn shrink_to_short_side(image: &RgbImage, side: u32) -> RgbImage {
    assert!(side > 0, "an image has no side of 0 pixels");
    let RgbImage { width, height, .. } = *image;
    if width.min(height) <= side {
        return image.clone();
    }
    let scaled = |long: u32, short: u32| (u64::from(side) * u64::from(long) / u64::from(short)) as u32;
    match width < height {
        true => resize(image, side, scaled(height, width)),
        false => resize(image, scaled(width, height), side),
    }
}

fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (level, mut stages) = (Level::detect(), Stages::default());
    stages.set(level, (image.width, image.height), (width, height), Interpolation::Lanczos, false);
    let pitch = 3 * image.width as usize;
    let row = |y: usize, planes: &mut [u8]| level.split(&image.pixels[y * pitch..(y + 1) * pitch], planes);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    stages.run(level, None, row, &mut pixels);
    RgbImage { width, height, pixels }
}

/// Encodes an image as a JPEG with chroma halved both ways (4:2:0), as Pillow's `save(quality=…)` does by default.
///
/// # Errors
/// when the image has no pixels, not as many as it says, or a side that no JPEG can have
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, DecodeError> {
    let RgbImage { width, height, ref pixels } = *image;
    if width == 0 || height == 0 {
        return Err(DecodeError::TooSmall { width, height });
    }
    if width > JPEG_SIDE || height > JPEG_SIDE {
        let detail = format!("{width}x{height} pixels, a JPEG has at most {JPEG_SIDE} a side");
        return Err(DecodeError::TooLarge { detail });
    }
    if pixels.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return Err(DecodeError::corrupt(format!("{} bytes are no {width}x{height} pixels", pixels.len())));
    }
    Ok(Turbo::encoder(quality)?.encode(pixels, (width, height))?)
}

/// Most pixels per side that libjpeg writes.
const JPEG_SIDE: u32 = 65_500;

#[cfg(test)]
mod tests;
