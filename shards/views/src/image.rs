//! Encoded bytes to RGB pixels, as Pillow's `convert("RGB")` gives them.

/// An image in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of each pixel, row by row: `width * height * 3` bytes.
    pub pixels: Vec<u8>,
}

/// What an image may cost before it is refused unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels of an image, known from its header before anything is allocated.
    pub max_pixels: u64,
    /// Most bytes of an encoded image.
    pub max_bytes: u64,
    /// Most scans of a progressive JPEG.
    pub max_scans: u32,
}

impl Default for Limits {
    /// Pillow's own limit of 178,956,970 pixels, 256 MiB, 500 scans.
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_bytes: 256 << 20, max_scans: 500 }
    }
}

/// Why bytes are not taken for an image. [`DecodeError::reason`] is the word for catalogs and counters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the image does.
    #[error("the image is truncated: {detail}; copy the file again")]
    Truncated {
        /// what the decoder missed
        detail: String,
    },
    /// No image format starts like this.
    #[error("not an image: {detail}")]
    NotAnImage {
        /// what it looks like instead
        detail: String,
    },
    /// An image, but of a kind that is not read.
    #[error("unsupported image: {detail}; convert it to JPEG or PNG")]
    Unsupported {
        /// what kind
        detail: String,
    },
    /// Over one of the [`Limits`].
    #[error("the image is too large: {detail}")]
    TooLarge {
        /// which limit, and by how much
        detail: String,
    },
    /// No pixels.
    #[error("the image has no pixels: its header says {width}x{height}")]
    TooSmall {
        /// columns
        width: u32,
        /// rows
        height: u32,
    },
    /// An image whose bytes contradict its format.
    #[error("the image is corrupt: {detail}")]
    Corrupt {
        /// the decoder's complaint
        detail: String,
    },
}

impl DecodeError {
    /// One word of a small closed set: `truncated`, `not_an_image`, `unsupported`, `too_large`, `too_small`, `corrupt`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "truncated",
            Self::NotAnImage { .. } => "not_an_image",
            Self::Unsupported { .. } => "unsupported",
            Self::TooLarge { .. } => "too_large",
            Self::TooSmall { .. } => "too_small",
            Self::Corrupt { .. } => "corrupt",
        }
    }

    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt { detail: detail.into() }
    }
}

impl Limits {
    /// Refuses a size from a header before any memory is asked for.
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::TooSmall { width, height });
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels {
            let detail = format!("{width}x{height} pixels, at most {} are read", self.max_pixels);
            return Err(DecodeError::TooLarge { detail });
        }
        Ok(())
    }
}

/// Decodes an image of any supported format: JPEG, PNG, PNM, BMP, TIFF, WebP, told apart by their bytes.
///
/// As Pillow 13's `convert("RGB")`: EXIF orientation is ignored, alpha is dropped without compositing, grey is spread
/// over the channels (16-bit grey clipped at 255, as there), inks are converted without a profile, and of an animation
/// the first picture is taken. Stricter than Pillow in one thing: a PNG that lacks its end chunk is truncated.
///
/// # Errors
/// see [`DecodeError`]; nothing is allocated before the size in the header has passed `limits`
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, DecodeError> {
    if bytes.len() as u64 > limits.max_bytes {
        let detail = format!("{} bytes, at most {} are read", bytes.len(), limits.max_bytes);
        return Err(DecodeError::TooLarge { detail });
    }
    match Format::of(bytes)? {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Other(format) => other::decode(bytes, format, limits),
    }
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Other(image::ImageFormat),
}

impl Format {
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, DecodeError> {
        use image::ImageFormat::{Bmp, Png, Pnm, Tiff, WebP};
        let unsupported = |what: &str| Err(DecodeError::Unsupported { detail: what.to_owned() });
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Ok(Self::Other(Png)),
            [b'P', b'1'..=b'6', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] => Ok(Self::Other(Pnm)),
            [b'B', b'M', ..] => Ok(Self::Other(Bmp)),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Ok(Self::Other(Tiff)),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::Other(WebP)),
            [0x1F, 0x8B, ..] => unsupported("gzip-compressed data; unpack it first"),
            [b'G', b'I', b'F', b'8', ..] => unsupported("a GIF"),
            [0, 0, 0, 12, b'j', b'P', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => unsupported("a JPEG 2000"),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => unsupported("an AVIF, HEIF or video file"),
            [] => Err(DecodeError::NotAnImage { detail: "the file is empty".to_owned() }),
            _ => {
                let head = &bytes[..bytes.len().min(16)];
                let detail = format!("no known format starts with \"{}\"", head.escape_ascii());
                Err(DecodeError::NotAnImage { detail })
            }
        }
    }
}

mod jpeg;
mod other;

pub use self::other::encode_png;

#[cfg(test)]
mod tests;
