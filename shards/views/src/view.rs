//! A view: the random choices that turn an image into one training example, made before any pixel is touched.

use std::fmt;
use std::str::FromStr;

use crate::random::{Draws, SeedKey};

/// A resampling kernel, as Pillow names and computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interpolation {
    /// Triangle of radius 1.
    Bilinear,
    /// Cubic of radius 2, a = −0.5.
    Bicubic,
    /// Windowed sinc of radius 3.
    Lanczos,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        })
    }
}

impl FromStr for Interpolation {
    type Err = ViewSpecError;

    fn from_str(text: &str) -> Result<Self, ViewSpecError> {
        match text {
            "bilinear" => Ok(Self::Bilinear),
            "bicubic" => Ok(Self::Bicubic),
            "lanczos" => Ok(Self::Lanczos),
            _ => Err(ViewSpecError::Value { key: "interpolation", found: text.to_owned() }),
        }
    }
}

/// From what the views of a data set are drawn. Its `Display` is the one canonical line that shards and digests
/// carry; `FromStr` reads it back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewSpec {
    /// Side of the tokenizer's view, in pixels.
    pub token_px: u32,
    /// Kernel of the tokenizer's view.
    pub token_interpolation: Interpolation,
    /// Lowest and highest share of the image's area that a crop is drawn with.
    pub crop_scale: (f64, f64),
    /// Lowest and highest width / height that a crop is drawn with.
    pub crop_ratio: (f64, f64),
    /// Brightness, contrast and saturation are drawn from 1 ± this, not below 0; 0 = no jitter.
    pub color_jitter: f64,
    /// Probability of a mirrored view.
    pub flip: f64,
}

impl Default for ViewSpec {
    /// The reference's pre-training recipe.
    fn default() -> Self {
        Self {
            token_px: 112,
            token_interpolation: Interpolation::Lanczos,
            crop_scale: (0.08, 1.0),
            crop_ratio: (3.0 / 4.0, 4.0 / 3.0),
            color_jitter: 0.4,
            flip: 0.5,
        }
    }
}

impl fmt::Display for ViewSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "view-1 token_px={} token_interpolation={} crop_scale={}..{} crop_ratio={}..{} color_jitter={} flip={}",
            self.token_px,
            self.token_interpolation,
            self.crop_scale.0,
            self.crop_scale.1,
            self.crop_ratio.0,
            self.crop_ratio.1,
            self.color_jitter,
            self.flip
        )
    }
}

/// Why a view specification is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewSpecError {
    /// The line does not start as this version writes it.
    #[error("view specification {found:?} does not start with \"view-1\"; it was written by another version")]
    Version {
        /// the line
        found: String,
    },
    /// A key is missing, or out of its place.
    #[error("view specification lacks {key} in its place")]
    Missing {
        /// the key expected here
        key: &'static str,
    },
    /// A value cannot be read or makes no sense.
    #[error("view specification: {key} cannot be {found:?}")]
    Value {
        /// the key
        key: &'static str,
        /// its text
        found: String,
    },
}

impl FromStr for ViewSpec {
    type Err = ViewSpecError;

    fn from_str(line: &str) -> Result<Self, ViewSpecError> {
        let mut fields = line.split(' ');
        if fields.next() != Some("view-1") {
            return Err(ViewSpecError::Version { found: line.to_owned() });
        }
        let mut next = |key: &'static str| {
            let field = fields.next().and_then(|field| field.strip_prefix(key)?.strip_prefix('='));
            field.ok_or(ViewSpecError::Missing { key })
        };
        let spec = Self {
            token_px: number("token_px", next("token_px")?)?,
            token_interpolation: next("token_interpolation")?.parse()?,
            crop_scale: range("crop_scale", next("crop_scale")?)?,
            crop_ratio: range("crop_ratio", next("crop_ratio")?)?,
            color_jitter: number("color_jitter", next("color_jitter")?)?,
            flip: number("flip", next("flip")?)?,
        };
        match fields.next() {
            Some(more) => Err(ViewSpecError::Value { key: "end of line", found: more.to_owned() }),
            None => spec.check().map(|()| spec),
        }
    }
}

fn number<T: FromStr>(key: &'static str, text: &str) -> Result<T, ViewSpecError> {
    text.parse().map_err(|_| ViewSpecError::Value { key, found: text.to_owned() })
}

fn range(key: &'static str, text: &str) -> Result<(f64, f64), ViewSpecError> {
    let (low, high) =
        text.split_once("..").ok_or_else(|| ViewSpecError::Value { key, found: text.to_owned() })?;
    Ok((number(key, low)?, number(key, high)?))
}

impl ViewSpec {
    /// Whether views can be drawn from this: sides and ranges positive, in order and finite.
    ///
    /// # Errors
    /// the first value that makes no sense
    pub fn check(&self) -> Result<(), ViewSpecError> {
        let ordered = |(low, high): (f64, f64)| low > 0.0 && low <= high && high.is_finite();
        let refuse = |key, found: String| Err(ViewSpecError::Value { key, found });
        if self.token_px == 0 || self.token_px > 1 << 14 {
            return refuse("token_px", self.token_px.to_string());
        }
        if !ordered(self.crop_scale) || self.crop_scale.1 > 1.0 {
            return refuse("crop_scale", format!("{}..{}", self.crop_scale.0, self.crop_scale.1));
        }
        if !ordered(self.crop_ratio) {
            return refuse("crop_ratio", format!("{}..{}", self.crop_ratio.0, self.crop_ratio.1));
        }
        if !(0.0..=100.0).contains(&self.color_jitter) {
            return refuse("color_jitter", self.color_jitter.to_string());
        }
        if !(0.0..=1.0).contains(&self.flip) {
            return refuse("flip", self.flip.to_string());
        }
        Ok(())
    }
}

/// A rectangle of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PixelRect {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl PixelRect {
    /// Whether the rectangle has pixels, and all of them lie in an image of this size.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        let within = |start: u32, len: u32, side: u32| len > 0 && start <= side && len <= side - start;
        within(self.left, self.width, width) && within(self.top, self.height, height)
    }
}

/// One step of the colour jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JitterStep {
    /// Blend with black.
    Brightness,
    /// Blend with the mean grey of the whole image as it is at this step.
    Contrast,
    /// Blend with the pixel's own luma.
    Saturation,
}

/// Colour jitter: three blends in a drawn order. A factor of exactly 1 changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    /// Factor of the blend with black.
    pub brightness: f32,
    /// Factor of the blend with the mean grey.
    pub contrast: f32,
    /// Factor of the blend with the luma.
    pub saturation: f32,
    /// The steps in the order they are taken.
    pub order: [JitterStep; 3],
}

impl Jitter {
    /// Leaves every pixel as it is.
    pub const NONE: Self = Self {
        brightness: 1.0,
        contrast: 1.0,
        saturation: 1.0,
        order: [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation],
    };

    /// The factor of one step.
    pub fn factor(&self, step: JitterStep) -> f32 {
        match step {
            JitterStep::Brightness => self.brightness,
            JitterStep::Contrast => self.contrast,
            JitterStep::Saturation => self.saturation,
        }
    }

    fn draw(strength: f64, draws: &mut Draws) -> Self {
        let low = (1.0 - strength).max(0.0);
        let mut factor = || match strength {
            0.0 => 1.0,
            // Pillow blends with single-precision factors.
            _ => draws.uniform(low, 1.0 + strength) as f32,
        };
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let mut order = Self::NONE.order;
        order.swap(2, draws.below(3) as usize);
        order.swap(1, draws.below(2) as usize);
        Self { brightness, contrast, saturation, order }
    }
}

/// The random choices of one view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Colour jitter of the whole image.
    pub jitter: Jitter,
    /// Whether the image is mirrored, left for right.
    pub flip: bool,
    /// The crop, in the coordinates of the *mirrored* image where `flip` is set: the reference crops after flipping.
    pub crop: PixelRect,
}

impl View {
    /// Draws the view of an image of this size.
    ///
    /// The order of the draws is fixed, for shards depend on it: brightness, contrast, saturation; their order (two
    /// swaps); flip; then up to ten tries of area, aspect and, for a crop that fits, top and left.
    ///
    /// # Source
    /// `unilm/beit/transforms.py` and torchvision's `ColorJitter`. Ours differs: a crop of no rows or no columns
    /// counts as one that does not fit, where the reference would fail later.
    /// # Panics
    /// when the image has no pixels
    pub fn draw(spec: &ViewSpec, width: u32, height: u32, key: SeedKey) -> Self {
        assert!(width > 0 && height > 0, "an image of {width}x{height} has no view");
        let mut draws = key.draws();
        let jitter = Jitter::draw(spec.color_jitter, &mut draws);
        let flip = draws.unit() < spec.flip;
        let crop = draw_crop(spec, width, height, &mut draws);
        Self { jitter, flip, crop }
    }

    /// The crop in the coordinates of the image as stored, which is `width` pixels wide.
    pub fn source_rect(&self, width: u32) -> PixelRect {
        match self.flip {
            true => PixelRect { left: width - self.crop.left - self.crop.width, ..self.crop },
            false => self.crop,
        }
    }
}

fn draw_crop(spec: &ViewSpec, width: u32, height: u32, draws: &mut Draws) -> PixelRect {
    let area = f64::from(width) * f64::from(height);
    let log_ratio = (spec.crop_ratio.0.ln(), spec.crop_ratio.1.ln());
    for _ in 0..10 {
        let target = draws.uniform(spec.crop_scale.0, spec.crop_scale.1) * area;
        let aspect = draws.uniform(log_ratio.0, log_ratio.1).exp();
        let w = (target * aspect).sqrt().round_ties_even() as u32;
        let h = (target / aspect).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = draws.below(height - h + 1);
            let left = draws.below(width - w + 1);
            return PixelRect { left, top, width: w, height: h };
        }
    }
    central_crop(spec.crop_ratio, width, height)
}

/// The crop that is taken when ten tries did not fit: the middle, no narrower or wider than the ratios allow.
fn central_crop((low, high): (f64, f64), width: u32, height: u32) -> PixelRect {
    let ratio = f64::from(width) / f64::from(height);
    let side = |length: f64, most: u32| (length.round_ties_even() as u32).clamp(1, most);
    let (w, h) = if ratio < low {
        (width, side(f64::from(width) / low, height))
    } else if ratio > high {
        (side(f64::from(height) * high, width), height)
    } else {
        (width, height)
    };
    PixelRect { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

#[cfg(test)]
mod tests;
