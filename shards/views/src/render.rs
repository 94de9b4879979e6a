//! From pixels or a payload to a finished view.

use std::time::Instant;

use crate::image::{DecodeError, RgbImage};
use crate::jitter::Tone;
use crate::kernels::{Level, padded};
use crate::payload::{Payload, PayloadKind, splice};
use crate::resize::Plan;
use crate::turbo::{Complaint, Pixels, Turbo};
use crate::view::{Interpolation, Jitter, PixelRect, View};

/// Nanoseconds spent per stage; each render adds to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Cutting the crop's segments out of the payload.
    pub splice_ns: u64,
    /// Entropy decoding, inverse DCT and colour.
    pub decode_ns: u64,
    /// Colour jitter, flip and the horizontal pass of the resize.
    pub jitter_ns: u64,
    /// The vertical pass of the resize.
    pub resize_ns: u64,
}

/// The grey level that the jitter's contrast step blends with: the rounded mean luma of the *whole* image as it is
/// when that step comes. Everything else in a jitter acts on single pixels, so with this byte a crop suffices.
pub fn contrast_grey(image: &RgbImage, jitter: &Jitter) -> u8 {
    let sum = Level::detect().luma_sum(&Tone::new(jitter, 0), &image.pixels);
    (sum as f64 / (image.pixels.len() / 3).max(1) as f64 + 0.5) as u8
}

/// Renders views; keeps its buffers and its decoder from one to the next.
#[derive(Debug)]
pub struct Renderer {
    level: Level,
    turbo: Option<Turbo>,
    /// The small JPEG of a crop.
    jpeg: Vec<u8>,
    /// Its pixels.
    pixels: Vec<u8>,
    across: Plan,
    down: Plan,
    /// One jittered row, channel after channel.
    planes: Vec<u8>,
    /// Rows resized across, channel after channel in each row.
    middle: Vec<u8>,
    /// One finished row, channel after channel.
    row: Vec<u8>,
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

impl Renderer {
    /// A renderer without memory yet; the first render allocates.
    pub fn new() -> Self {
        Self::on(Level::detect())
    }

    fn on(level: Level) -> Self {
        Self {
            level,
            turbo: None,
            jpeg: Vec::new(),
            pixels: Vec::new(),
            across: Plan::default(),
            down: Plan::default(),
            planes: Vec::new(),
            middle: Vec::new(),
            row: Vec::new(),
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
                let (columns, rect) = self.decode_crop(&payload, rect, times)?;
                let pixels = std::mem::take(&mut self.pixels);
                let region = Region { pixels: &pixels, columns, rect };
                self.render_region(region, view, grey, (px, interpolation), out, times);
                self.pixels = pixels;
            }
        }
        Ok(())
    }

    /// Decodes at least `rect` into `self.pixels`; says how wide those rows are and where in them `rect` lies.
    fn decode_crop(
        &mut self,
        payload: &Payload<'_>,
        rect: PixelRect,
        times: &mut StageTimes,
    ) -> Result<(u32, PixelRect), DecodeError> {
        let started = Instant::now();
        let cut = splice(payload, rect, &mut self.jpeg)?;
        let spliced = Instant::now();
        let size = cut.width as usize * cut.height as usize * 3;
        grow(&mut self.pixels, size);
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
        times.splice_ns += nanoseconds(started, spliced);
        times.decode_ns += nanoseconds(spliced, Instant::now());
        Ok((cut.width, PixelRect { left: rect.left - cut.left, top: rect.top - cut.top, ..rect }))
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
        let side = px as usize;
        assert_eq!(out.len(), side * side * 3, "a view of {px} pixels has {px} x {px} x 3 bytes");
        let started = Instant::now();
        let PixelRect { left, top, width, height } = region.rect;
        let tone = Tone::new(&view.jitter, grey);
        self.across.set(width, px, interpolation, view.flip);
        self.down.set(height, px, interpolation, false);
        let level = self.level;
        level.pack(&mut self.across);
        level.pack(&mut self.down);
        let (columns, stride) = (width as usize, padded(side));
        grow(&mut self.planes, 3 * padded(columns));
        grow(&mut self.middle, height as usize * 3 * stride);
        grow(&mut self.row, 3 * stride);
        for (y, middle) in self.middle.chunks_exact_mut(3 * stride).take(height as usize).enumerate() {
            let start = ((top as usize + y) * region.columns as usize + left as usize) * 3;
            level.tone(&tone, &region.pixels[start..start + 3 * columns], &mut self.planes);
            for (plane, middle) in
                self.planes.chunks_exact(padded(columns)).zip(middle.chunks_exact_mut(stride))
            {
                level.across(&self.across, plane, middle);
            }
        }
        let halfway = Instant::now();
        for (y, out) in out.chunks_exact_mut(3 * side).enumerate() {
            level.down(&self.down, y, &self.middle, &mut self.row[..3 * stride]);
            level.interleave(&self.row, stride, out);
        }
        times.jitter_ns += nanoseconds(started, halfway);
        times.resize_ns += nanoseconds(halfway, Instant::now());
    }
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    (to - from).as_nanos() as u64
}

/// Makes room without ever giving any back.
fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}
