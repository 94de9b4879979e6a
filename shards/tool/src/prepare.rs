//! Decode and render: one group of images becomes payloads and token views, ready for the tokenizer.

use crate::source::Entry;
use beit_shards::SampleId;
use beit_views::{DecodeError, Limits, PayloadKind, Purpose, Renderer, RgbImage, SeedKey, View, ViewSpec};

/// Images that are tokenized together: their views fill the tokenizer's batches, whatever happens to single images,
/// so that no token depends on a neighbour, on the number of jobs or on where an interrupted build went on.
#[derive(Debug)]
pub struct Group {
    /// Position of the group in the listing, from 0.
    pub index: u64,
    /// At most [`images_per_group`] entries; fewer only at the end.
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

/// A group with its token views: `images_per_group × K` views of `[px, px, 3]`; the places of bad images are black.
#[derive(Debug)]
pub struct PreparedGroup {
    pub index: u64,
    pub items: Vec<(Entry, Outcome)>,
    pub views: Vec<u8>,
}

/// The largest number of views in one call of the tokenizer.
pub const VIEWS_PER_BATCH: usize = 16;

/// How many images make a group when each has `views` views.
pub fn images_per_group(views: u32) -> usize {
    (VIEWS_PER_BATCH / views as usize).max(1)
}

/// Renders groups; one per worker thread.
pub struct Preparer<'a> {
    spec: &'a ViewSpec,
    seed: u64,
    views: u32,
    limits: Limits,
    renderer: Renderer,
}

impl<'a> Preparer<'a> {
    pub fn new(spec: &'a ViewSpec, seed: u64, views: u32) -> Self {
        Self { spec, seed, views, limits: Limits::default(), renderer: Renderer::new() }
    }

    /// Reads, decodes and renders every entry of the group.
    pub fn prepare(&mut self, group: Group) -> PreparedGroup {
        let px = self.spec.token_px;
        let image_bytes = self.views as usize * view_bytes(px);
        let mut views = vec![0; images_per_group(self.views) * image_bytes];
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
            let view = View::draw(self.spec, image.width, image.height, view_key(self.seed, id, k as u32));
            let grey = beit_views::contrast_grey(&image, &view.jitter);
            self.renderer.render_image(&image, &view, grey, self.spec.token_px, self.spec.token_interpolation, out);
            greys.push(grey);
        }
        Ok(Outcome::Sample(Prepared { width: image.width, height: image.height, kind, payload, greys }))
    }
}

/// The key of view `k` of a sample, the same at build and in the loader.
pub fn view_key(seed: u64, id: SampleId, k: u32) -> SeedKey {
    SeedKey { seed, stream: id.0, index: k, purpose: Purpose::View }
}

fn view_bytes(px: u32) -> usize {
    px as usize * px as usize * 3
}
