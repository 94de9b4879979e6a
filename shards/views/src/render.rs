//! From pixels or a payload to a finished view.

use std::time::{Duration, Instant};

use crate::image::{DecodeError, RgbImage};
use crate::jitter::Tone;
use crate::kernels::Level;
use crate::payload::{Payload, PayloadKind, splice};
use crate::region::RegionDecoder;
use crate::turbo::{Complaint, Pixels, Turbo};
use crate::view::{Interpolation, Jitter, PixelRect, View};

mod stages;

pub(crate) use stages::Stages;

/// Nanoseconds spent per stage; each render adds to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Finding the crop's segments and entropy decoding; all of the decoding where libjpeg-turbo does it.
    pub entropy_ns: u64,
    /// Inverse DCT, spreading of chroma, colour.
    pub idct_ns: u64,
    /// Colour jitter.
    pub jitter_ns: u64,
    /// Both passes of the resize, and the flip.
    pub resize_ns: u64,
}

/// The grey level that the jitter's contrast step blends with: the rounded mean luma of the *whole* image as it is
/// when that step comes. Everything else in a jitter acts on single pixels, so with this byte a crop suffices.
pub fn contrast_grey(image: &RgbImage, jitter: &Jitter) -> u8 {
    let sum = Level::detect().luma_sum(&Tone::new(jitter, 0), &image.pixels);
    (sum as f64 / (image.pixels.len() / 3).max(1) as f64 + 0.5) as u8
}

/// Renders views; keeps its buffers and its decoders from one to the next.
#[derive(Debug)]
pub struct Renderer {
    level: Level,
    decoder: RegionDecoder,
    turbo: Option<Turbo>,
    /// The small JPEG of a crop, and its pixels, where libjpeg-turbo decodes it.
    jpeg: Vec<u8>,
    pixels: Vec<u8>,
    stages: Stages,
}

impl Default for Renderer {
    fn default() -> Self {
        Self::new()
    }
}

/// A rectangle within rows of interleaved RGB.
#[derive(Clone, Copy)]
struct Region<'a> {
    pixels: &'a [u8],
    /// Columns of `pixels`.
    columns: u32,
    rect: PixelRect,
}

impl Region<'_> {
    /// Row `y` of the rectangle, as three channels.
    fn row(&self, level: Level, y: usize, planes: &mut [u8]) {
        let PixelRect { left, top, width, .. } = self.rect;
        let start = ((top as usize + y) * self.columns as usize + left as usize) * 3;
        level.split(&self.pixels[start..start + 3 * width as usize], planes);
    }
}

impl Renderer {
    /// A renderer without memory yet; the first render allocates.
    pub fn new() -> Self {
        Self::on(Level::detect())
    }

    fn on(level: Level) -> Self {
        Self {
            level,
            decoder: RegionDecoder::default(),
            turbo: None,
            jpeg: Vec::new(),
            pixels: Vec::new(),
            stages: Stages::default(),
        }
    }

    /// Renders a view of a decoded image: jitter (with this `grey`, see [`contrast_grey`]), flip, crop, resize.
    ///
    /// # Shapes
    /// `out` has `[px, px, 3]` bytes
    /// # Panics
    /// when `out` has another length or the view's crop does not lie in `image`
    pub fn render_image(
        &mut self,
        image: &RgbImage,
        view: &View,
        grey: u8,
        px: u32,
        interpolation: Interpolation,
        out: &mut [u8],
    ) {
        assert!(view.crop.fits(image.width, image.height), "the view was drawn for another image");
        let rect = view.source_rect(image.width);
        let region = Region { pixels: &image.pixels, columns: image.width, rect };
        self.render_region(region, view, grey, (px, interpolation), out, &mut StageTimes::default());
    }

    /// Renders a view straight from a payload, decoding little more than the crop; the same pixels as
    /// [`render_image`](Self::render_image) gives for the image that was packed.
    ///
    /// # Shapes
    /// `out` has `[px, px, 3]` bytes
    /// # Errors
    /// when the payload is not one, or its size is not the one the view was drawn for
    /// # Panics
    /// when `out` has another length
    #[expect(clippy::too_many_arguments, reason = "each is another thing, and callers keep them apart")]
    pub fn render_payload(
        &mut self,
        payload: Payload<'_>,
        view: &View,
        grey: u8,
        px: u32,
        interpolation: Interpolation,
        out: &mut [u8],
        times: &mut StageTimes,
    ) -> Result<(), DecodeError> {
        let Payload { kind, width, height, bytes } = payload;
        if !view.crop.fits(width, height) {
            return Err(DecodeError::corrupt("payload: the view was drawn for another image"));
        }
        let rect = view.source_rect(width);
        match kind {
            PayloadKind::Rgb => {
                if bytes.len() as u128 != u128::from(width) * u128::from(height) * 3 {
                    return Err(DecodeError::corrupt("payload: not as many pixels as its size says"));
                }
                let region = Region { pixels: bytes, columns: width, rect };
                self.render_region(region, view, grey, (px, interpolation), out, times);
            }
            PayloadKind::Jpeg => {
                let spent = self.decoder.decode(self.level, &payload, rect)?;
                let Some(spent) = spent else {
                    return self.render_spliced(&payload, rect, view, grey, (px, interpolation), out, times);
                };
                let Self { level, decoder, stages, .. } = self;
                let tone = Tone::new(&view.jitter, grey);
                stages.set(*level, (rect.width, rect.height), (px, px), interpolation, view.flip);
                let row = |y, planes: &mut [u8]| decoder.row(*level, rect, rect.top + y as u32, planes);
                let stages = stages.run(*level, Some(&tone), row, out);
                times.entropy_ns += nanoseconds(spent.entropy);
                times.idct_ns += nanoseconds(spent.inverse + stages.fetch);
                times.jitter_ns += nanoseconds(stages.jitter);
                times.resize_ns += nanoseconds(stages.resize);
            }
        }
        Ok(())
    }

    /// As [`render_payload`](Self::render_payload), for JPEGs of a rare kind: libjpeg-turbo decodes a small JPEG of the
    /// crop's segments.
    #[expect(clippy::too_many_arguments, reason = "as above")]
    fn render_spliced(
        &mut self,
        payload: &Payload<'_>,
        rect: PixelRect,
        view: &View,
        grey: u8,
        size: (u32, Interpolation),
        out: &mut [u8],
        times: &mut StageTimes,
    ) -> Result<(), DecodeError> {
        let started = Instant::now();
        let cut = splice(payload, rect, &mut self.jpeg)?;
        let len = cut.width as usize * cut.height as usize * 3;
        if self.pixels.len() < len {
            self.pixels.resize(len, 0);
        }
        let turbo = match &mut self.turbo {
            Some(turbo) => turbo,
            none => none.insert(Turbo::decoder(0)?),
        };
        match turbo.decode(&self.jpeg, (cut.width, cut.height), Pixels::Rgb, &mut self.pixels) {
            Ok(()) => {}
            Err(Complaint::Warning(detail) | Complaint::Fatal(detail)) => {
                return Err(DecodeError::corrupt(format!("payload: {detail}")));
            }
        }
        times.entropy_ns += nanoseconds(started.elapsed());
        let pixels = std::mem::take(&mut self.pixels);
        let rect = PixelRect { left: rect.left - cut.left, top: rect.top - cut.top, ..rect };
        let region = Region { pixels: &pixels, columns: cut.width, rect };
        self.render_region(region, view, grey, size, out, times);
        self.pixels = pixels;
        Ok(())
    }

    fn render_region(
        &mut self,
        region: Region<'_>,
        view: &View,
        grey: u8,
        (px, interpolation): (u32, Interpolation),
        out: &mut [u8],
        times: &mut StageTimes,
    ) {
        let Self { level, stages, .. } = self;
        let PixelRect { width, height, .. } = region.rect;
        let tone = Tone::new(&view.jitter, grey);
        stages.set(*level, (width, height), (px, px), interpolation, view.flip);
        let row = |y, planes: &mut [u8]| region.row(*level, y, planes);
        let spent = stages.run(*level, Some(&tone), row, out);
        times.jitter_ns += nanoseconds(spent.fetch + spent.jitter);
        times.resize_ns += nanoseconds(spent.resize);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
