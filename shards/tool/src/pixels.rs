//! Pixels: which pixels a set keeps of its images.

use anyhow::Context;
use beit_views::{DecodeError, Limits, PayloadKind, RgbImage};
use std::fmt;
use std::str::FromStr;

/// The shorter side of a scaled image.
const SHORT: u32 = 256;
/// JPEG quality of a scaled image.
const QUALITY: u8 = 90;

/// What becomes of an image before anything else is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pixels {
    /// Every pixel as the file has it
    Original,
    /// Scaled to 256 px on the shorter side and encoded as JPEG of quality 90
    Short256,
    /// Scaled to 256 px on the shorter side and kept as plain RGB
    Raw256,
}

impl fmt::Display for Pixels {
    /// The words that a set's description carries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Original => "original",
            Self::Short256 => "short256 q90",
            Self::Raw256 => "raw256",
        })
    }
}

impl FromStr for Pixels {
    type Err = anyhow::Error;

    /// Reads those words.
    fn from_str(words: &str) -> anyhow::Result<Self> {
        let all = [Self::Original, Self::Short256, Self::Raw256];
        let known = all.into_iter().find(|pixels| pixels.to_string() == words);
        known.with_context(|| format!("the set keeps its pixels as {words:?}, which a newer version wrote"))
    }
}

impl Pixels {
    /// The sample that an image becomes, and its payload. Views are drawn on the sample's size and tokens made from its
    /// pixels, so that whoever reads the set sees what the tokenizer saw.
    pub fn keep(
        self,
        source: &[u8],
        image: RgbImage,
    ) -> Result<(RgbImage, PayloadKind, Vec<u8>), DecodeError> {
        match self {
            Self::Original => {
                let (kind, payload) = beit_views::pack_payload(source, &image)?;
                Ok((image, kind, payload))
            }
            Self::Raw256 => {
                let image = shrink(image);
                let payload = image.pixels.clone();
                Ok((image, PayloadKind::Rgb, payload))
            }
            Self::Short256 => {
                if image.width.min(image.height) <= SHORT {
                    // Nothing to scale: a JPEG stays lossless.
                    let (kind, payload) = beit_views::pack_payload(source, &image)?;
                    if kind == PayloadKind::Jpeg {
                        return Ok((image, kind, payload));
                    }
                }
                let jpeg = beit_views::encode_jpeg(&shrink(image), QUALITY)?;
                let image = beit_views::decode(&jpeg, &Limits::default())?;
                let (kind, payload) = beit_views::pack_payload(&jpeg, &image)?;
                Ok((image, kind, payload))
            }
        }
    }

    /// Whether raw pixels are kept for speed, and zstd would only cost.
    pub fn plain(self) -> bool {
        self == Self::Raw256
    }
}

fn shrink(image: RgbImage) -> RgbImage {
    match image.width.min(image.height) <= SHORT {
        true => image,
        false => beit_views::shrink_to_short_side(&image, SHORT),
    }
}
