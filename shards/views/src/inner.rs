//! Pieces for the benches; not part of the public promise.

use turbojpeg_sys as tj;

use crate::image::{DecodeError, RgbImage};
use crate::kernels::{Level, padded};
use crate::payload::Payload;
use crate::region::RegionDecoder;
use crate::turbo::Turbo;
use crate::view::PixelRect;

/// As [`encode_jpeg`](crate::encode_jpeg), with chroma as fine as luma (4:4:4).
///
/// # Errors
/// when no JPEG can be made of it
pub fn encode_jpeg_444(image: &RgbImage, quality: u8) -> Result<Vec<u8>, DecodeError> {
    let mut turbo = Turbo::sampler(quality, tj::TJSAMP_TJSAMP_444 as u32, false)?;
    Ok(turbo.encode(&image.pixels, (image.width, image.height))?)
}

/// The region decoder, stage by stage.
#[derive(Debug)]
pub struct Region {
    level: Level,
    decoder: RegionDecoder,
    planes: Vec<u8>,
}

impl Default for Region {
    fn default() -> Self {
        Self { level: Level::detect(), decoder: RegionDecoder::default(), planes: Vec::new() }
    }
}

impl Region {
    /// From a payload's bytes to coefficients; `false` if libjpeg-turbo has to do it.
    ///
    /// # Errors
    /// as [`render_payload`](crate::Renderer::render_payload)
    pub fn entropy(&mut self, payload: Payload<'_>, crop: PixelRect) -> Result<bool, DecodeError> {
        self.decoder.decode_entropy(self.level, &payload, crop)
    }

    /// From a payload's bytes to samples: [`entropy`](Self::entropy) and the inverse DCT.
    ///
    /// # Errors
    /// as [`render_payload`](crate::Renderer::render_payload)
    pub fn samples(&mut self, payload: Payload<'_>, crop: PixelRect) -> Result<bool, DecodeError> {
        Ok(self.decoder.decode(self.level, &payload, crop)?.is_some())
    }

    /// From the samples of that crop to its pixels, row by row.
    pub fn pixels(&mut self, crop: PixelRect) {
        self.planes.resize(3 * padded(crop.width as usize), 0);
        (crop.top..crop.top + crop.height)
            .for_each(|y| self.decoder.row(self.level, crop, y, &mut self.planes));
    }
}
