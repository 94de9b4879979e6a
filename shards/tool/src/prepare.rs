//! Decode and render: one group of images becomes payloads and token views, ready for the tokenizer.

use crate::source::Entry;
use beit_shards::SampleId;
use beit_views::{DecodeError, Limits, PayloadKind, Renderer, RgbImage, SeedKey, View, ViewSpec};

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

/// Renders groups; one per worker thread.
pub struct Preparer<'a> {
    spec: &'a ViewSpec,
    seed: u64,
    views: u32,
    batching: Batching,
    limits: Limits,
    renderer: Renderer,
}

impl<'a> Preparer<'a> {
    pub fn new(spec: &'a ViewSpec, seed: u64, views: u32) -> Self {
        let batching = Batching::of(views, spec.token_px);
        Self { spec, seed, views, batching, limits: Limits::default(), renderer: Renderer::new() }
    }

    /// Reads, decodes and renders every entry of the group.
    pub fn prepare(&mut self, group: Group) -> PreparedGroup {
        let px = self.spec.token_px;
        let image_bytes = self.views as usize * view_bytes(px);
        let mut views = vec![0; self.batching.images * image_bytes];
        let mut items = Vec::with_capacity(group.entries.len());
        for (entry, out) in group.entries.into_iter().zip(views.chunks_exact_mut(image_bytes)) {
            let outcome = self.prepare_image(&entry, out);
            items.push((entry, outcome));
        }
        PreparedGroup { index: group.index, items, views }
    }

    fn prepare_image(&mut self, entry: &Entry, out: &mut [u8]) -> Outcome {
        let bytes = match std::fs::read(&entry.file) {
            Ok(bytes) => bytes,
            Err(error) => return Outcome::Bad { reason: "unreadable", detail: error.to_string() },
        };
        self.render(&bytes, SampleId::of_path(&entry.path), out).unwrap_or_else(|error| {
            out.fill(0);
            Outcome::Bad { reason: error.reason(), detail: error.to_string() }
        })
    }

    fn render(&mut self, bytes: &[u8], id: SampleId, out: &mut [u8]) -> Result<Outcome, DecodeError> {
        let image: RgbImage = beit_views::decode(bytes, &self.limits)?;
        let (kind, payload) = beit_views::pack_payload(bytes, &image)?;
        let mut greys = Vec::with_capacity(self.views as usize);
        for (k, out) in out.chunks_exact_mut(view_bytes(self.spec.token_px)).enumerate() {
            let view =
                View::draw(self.spec, image.width, image.height, SeedKey::view(self.seed, id.0, k as u32));
            let grey = beit_views::contrast_grey(&image, &view.jitter);
            self.renderer.render_image(
                &image,
                &view,
                grey,
                self.spec.token_px,
                self.spec.token_interpolation,
                out,
            );
            greys.push(grey);
        }
        Ok(Outcome::Sample(Prepared { width: image.width, height: image.height, kind, payload, greys }))
    }
}

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
