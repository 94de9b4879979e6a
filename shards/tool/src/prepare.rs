//! Decode and render: one group of images becomes payloads and token views, ready for the tokenizer.

use crate::fetch::fetch;
use crate::pixels::Pixels;
use crate::room::{ROOM, Room, Seat};
use crate::source::Entry;
use crate::stages::Stages;
use beit_shards::SampleId;
use beit_views::{DecodeError, Limits, PayloadKind, Renderer, RgbImage, SeedKey, View, ViewSpec};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Images of more pixels than this are decoded one at a time, and only once nothing else waits to be packed, so that a few
/// giants (or bombs) do not fill the memory.
const LARGE: u64 = 32 << 20;
/// Most scans of a progressive JPEG; encoders write about ten, and each costs as much as a baseline image.
const MOST_SCANS: u32 = 100;

/// Held while a large image is decoded and rendered.
static LARGE_IMAGE: Mutex<()> = Mutex::new(());

/// Images that are tokenized together: the batches that their views make follow from the listing alone, whatever happens
/// to single images, so that no token depends on a bad neighbour, on the number of jobs or on where a killed build went on.
#[derive(Debug)]
pub struct Group {
    /// Position of the group in the listing, from 0.
    pub index: u64,
    /// [`Batching::images`] entries; fewer only at the end.
    pub entries: Vec<Entry>,
}

/// What became of one entry.
#[derive(Debug)]
pub enum Outcome {
    /// A sample to pack.
    Sample(Prepared),
    /// A file to keep out, with a reason from a small set and the decoder's words.
    Bad {
        /// `truncated`, `not_an_image`, `unreadable`, …
        reason: &'static str,
        /// What the decoder or the file system said.
        detail: String,
    },
}

/// One image, ready but for its tokens.
#[derive(Debug)]
pub struct Prepared {
    pub width: u32,
    pub height: u32,
    pub kind: PayloadKind,
    pub payload: Vec<u8>,
    /// Grey level of each view's contrast step.
    pub greys: Vec<u8>,
    /// The memory of the payload, until it is packed.
    #[expect(dead_code, reason = "it is held, not read")]
    pub seat: Seat,
}

impl Prepared {
    /// The payload's kind, as a shard's record names it.
    pub fn payload_kind(&self) -> u8 {
        match self.kind {
            PayloadKind::Jpeg => beit_shards::PAYLOAD_JPEG,
            PayloadKind::Rgb => beit_shards::PAYLOAD_RGB,
        }
    }
}

/// A group with its token views: [`Batching::images`] × K views of `[px, px, 3]`; the places of bad images are black.
#[derive(Debug)]
pub struct PreparedGroup {
    pub index: u64,
    pub items: Vec<(Entry, Outcome)>,
    pub views: Vec<u8>,
}

/// How many images make a group, and how many of their views go through the tokenizer at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Images of a group.
    pub images: usize,
    /// The most views in one call of the tokenizer.
    pub views: usize,
}

impl Batching {
    /// As many pixels at once as 16 views of 112 px have (full-size dVAE: 1 GB of activations), whatever the view's size.
    ///
    /// Follows from the options alone: see [`Group`].
    pub fn of(views: u32, px: u32) -> Self {
        const PIXELS: u64 = 16 * 112 * 112;
        let at_once = (PIXELS / (u64::from(px) * u64::from(px))).clamp(1, 256) as usize;
        Self { images: (at_once / views as usize).max(1), views: at_once }
    }
}

/// What every image of a set is made with.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    pub spec: &'a ViewSpec,
    pub seed: u64,
    pub views: u32,
    pub pixels: Pixels,
}

/// Renders groups; one per worker thread.
pub struct Preparer<'a> {
    making: Making<'a>,
    batching: Batching,
    limits: Limits,
    renderer: Renderer,
    stages: &'a Stages,
    room: Arc<Room>,
}

impl<'a> Preparer<'a> {
    pub fn new(making: Making<'a>, stages: &'a Stages, room: Arc<Room>) -> Self {
        let batching = Batching::of(making.views, making.spec.token_px);
        let limits = Limits { max_scans: MOST_SCANS, ..Limits::default() };
        Self { making, batching, limits, renderer: Renderer::new(), stages, room }
    }

    /// Reads, decodes and renders every entry of the group.
    pub fn prepare(&mut self, group: Group) -> PreparedGroup {
        let image_bytes = self.making.views as usize * view_bytes(self.making.spec.token_px);
        let mut views = vec![0; self.batching.images * image_bytes];
        let mut items = Vec::with_capacity(group.entries.len());
        for (mut entry, out) in group.entries.into_iter().zip(views.chunks_exact_mut(image_bytes)) {
            let outcome = self.prepare_image(group.index, &mut entry, out);
            items.push((entry, outcome));
        }
        PreparedGroup { index: group.index, items, views }
    }

    fn prepare_image(&mut self, group: u64, entry: &mut Entry, out: &mut [u8]) -> Outcome {
        let bytes = match self.stages.read.image(|| fetch(&mut entry.place, &self.limits)) {
            Ok(bytes) => bytes,
            Err(refusal) => return Outcome::Bad { reason: refusal.reason, detail: refusal.detail },
        };
        self.stages.source_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.render(&bytes, (group, SampleId::of_path(&entry.path)), out).unwrap_or_else(|error| {
            out.fill(0);
            Outcome::Bad { reason: error.reason(), detail: error.to_string() }
        })
    }

    fn render(
        &mut self,
        bytes: &[u8],
        (group, id): (u64, SampleId),
        out: &mut [u8],
    ) -> Result<Outcome, DecodeError> {
        let Making { spec, seed, views, pixels } = self.making;
        let stages = self.stages;
        let (image, alone) = stages.decode.image(|| self.decode(bytes, group))?;
        let (image, kind, payload) = stages.relayout.image(|| pixels.keep(bytes, image))?;
        let mut greys = Vec::with_capacity(views as usize);
        stages.render.image(|| {
            for (k, out) in out.chunks_exact_mut(view_bytes(spec.token_px)).enumerate() {
                let view = View::draw(spec, image.width, image.height, SeedKey::view(seed, id.0, k as u32));
                let grey = beit_views::contrast_grey(&image, &view.jitter);
                self.renderer.render_image(&image, &view, grey, spec.token_px, spec.token_interpolation, out);
                greys.push(grey);
            }
        });
        let seat = match alone {
            Some((mut seat, _)) => {
                seat.shrink_to(payload.len() as u64);
                seat
            }
            None => self.room.take(group, payload.len() as u64),
        };
        Ok(Outcome::Sample(Prepared { width: image.width, height: image.height, kind, payload, greys, seat }))
    }

    /// Decodes; a large image only when there is room for it, and while no other large one is being decoded.
    fn decode(&self, bytes: &[u8], group: u64) -> Result<(RgbImage, Option<Alone>), DecodeError> {
        let small = Limits { max_pixels: LARGE.min(self.limits.max_pixels), ..self.limits };
        match beit_views::decode(bytes, &small) {
            Err(DecodeError::TooLarge { .. }) => {
                // Its own length, in pixels and as a payload, is known only afterwards.
                let seat = self.room.take(group, ROOM);
                let alone = LARGE_IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
                let image = beit_views::decode(bytes, &self.limits)?;
                Ok((image, Some((seat, alone))))
            }
            decoded => Ok((decoded?, None)),
        }
    }
}

/// What a large image holds while it is in memory.
type Alone = (Seat, MutexGuard<'static, ()>);

fn view_bytes(px: u32) -> usize {
    px as usize * px as usize * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(views: u32, px: u32, images: usize, at_once: usize) {
        assert_eq!(Batching::of(views, px), Batching { images, views: at_once });
    }

    #[test]
    fn batches_hold_about_the_same_number_of_pixels() {
        check(16, 112, 1, 16);
        check(4, 112, 4, 16);
        check(150, 112, 1, 16);
        check(8, 32, 24, 196);
        check(1, 8, 256, 256);
        check(2, 4096, 1, 1);
    }
}
