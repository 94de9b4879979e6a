//! Training batches: random crops of the album, rendered ahead of the network by a few threads.
//!
//! What is in a batch is a function of (seed, step) alone; how many threads render does not matter.

use super::album::Album;
use anyhow::Result;
use beit_tokenizer::train::Want;
use beit_views::{
    Interpolation, Jitter, PixelRect, Purpose, Renderer, SeedKey, View, ViewSpec, contrast_grey,
};
use crossbeam::channel::{Receiver, bounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Batches that wait, rendered, per thread.
const AHEAD: usize = 2;

/// Where positions of the images begin that are used before the first step.
const INIT: u64 = 1 << 62;

/// Which images, seen how.
pub struct Shelf {
    pub album: Album,
    /// Numbers of the images to draw from.
    pub numbers: Vec<u32>,
    pub spec: ViewSpec,
    pub seed: u64,
    pub batch: usize,
}

/// One thread's tools.
pub struct Painter {
    renderer: Renderer,
    order: Option<(u64, Vec<u32>)>,
}

impl Painter {
    pub fn new() -> Self {
        Self { renderer: Renderer::new(), order: None }
    }
}

impl Shelf {
    /// Bytes of one image in a batch.
    pub fn image_bytes(&self) -> usize {
        self.spec.token_px as usize * self.spec.token_px as usize * 3
    }

    /// Renders the images that are wanted into `out`.
    pub fn paint(&self, painter: &mut Painter, want: Want, out: &mut [u8]) -> Result<()> {
        let first = match want {
            Want::Step(step) => step * self.batch as u64,
            Want::Init(n) => INIT + u64::from(n) * self.batch as u64,
        };
        for (position, out) in (first..).zip(out.chunks_exact_mut(self.image_bytes())) {
            let count = self.numbers.len() as u64;
            let order = self.order(painter, position / count);
            let page = self.album.page_from(&order, (position % count) as usize)?;
            painter.order = Some((position / count, order));
            let image = page.image();
            let key = SeedKey { seed: self.seed, stream: position, index: 0, purpose: Purpose::View };
            let view = View::draw(&self.spec, image.width, image.height, key);
            let grey = if self.spec.color_jitter > 0.0 { contrast_grey(image, &view.jitter) } else { 0 };
            let (px, interpolation) = (self.spec.token_px, self.spec.token_interpolation);
            painter.renderer.render_image(image, &view, grey, px, interpolation, out);
        }
        Ok(())
    }

    /// The order of an epoch: every image once.
    fn order(&self, painter: &mut Painter, epoch: u64) -> Vec<u32> {
        match painter.order.take() {
            Some((same, order)) if same == epoch => order,
            _ => shuffled(&self.numbers, self.seed, epoch),
        }
    }
}

/// Fisher and Yates' shuffle, keyed by (seed, epoch).
pub fn shuffled(numbers: &[u32], seed: u64, epoch: u64) -> Vec<u32> {
    let mut order = numbers.to_vec();
    let mut draws = SeedKey { seed, stream: epoch, index: 0, purpose: Purpose::Order }.draws();
    for last in (1..order.len()).rev() {
        order.swap(last, draws.below(last as u32 + 1) as usize);
    }
    order
}

/// The largest square in the middle of an image, resized to `px`: how held-out images are looked at.
pub fn render_centre(renderer: &mut Renderer, image: &beit_views::RgbImage, px: u32, out: &mut [u8]) {
    let side = image.width.min(image.height);
    let crop = PixelRect {
        left: (image.width - side) / 2,
        top: (image.height - side) / 2,
        width: side,
        height: side,
    };
    let view = View { jitter: Jitter::NONE, flip: false, crop };
    renderer.render_image(image, &view, 0, px, Interpolation::Lanczos, out);
}

/// Batches of consecutive steps, in order.
pub struct Feed {
    shelf: Arc<Shelf>,
    painter: Painter,
    batches: Receiver<(u64, Result<Vec<u8>>)>,
    early: BTreeMap<u64, Result<Vec<u8>>>,
}

impl Feed {
    /// Starts `threads` threads that render the batches of `steps` steps; they end with the feed.
    pub fn start(shelf: Arc<Shelf>, steps: u64, threads: usize) -> Self {
        let next = Arc::new(AtomicU64::new(0));
        let (sender, batches) = bounded(AHEAD * threads.max(1));
        for _ in 0..threads.max(1) {
            let (shelf, next, sender) = (shelf.clone(), next.clone(), sender.clone());
            std::thread::spawn(move || {
                let mut painter = Painter::new();
                loop {
                    let step = next.fetch_add(1, Ordering::Relaxed);
                    if step >= steps {
                        return;
                    }
                    let mut out = vec![0; shelf.batch * shelf.image_bytes()];
                    let painted = shelf.paint(&mut painter, Want::Step(step), &mut out).map(|()| out);
                    if sender.send((step, painted)).is_err() {
                        return; // nobody trains any more
                    }
                }
            });
        }
        Self { shelf, painter: Painter::new(), batches, early: BTreeMap::new() }
    }

    /// Fills `out` with the images that are wanted.
    pub fn fill(&mut self, want: Want, out: &mut [u8]) -> Result<()> {
        let Want::Step(step) = want else {
            return self.shelf.paint(&mut self.painter, want, out);
        };
        let batch = loop {
            if let Some(batch) = self.early.remove(&step) {
                break batch?;
            }
            let (step, batch) = self.batches.recv()?;
            self.early.insert(step, batch);
        };
        out.copy_from_slice(&batch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Twelve images of one colour each, and two files that are no images.
    fn shelf(folder: &Path, keep_bytes: u64) -> Shelf {
        for i in 0..12u8 {
            let image = image::RgbImage::from_pixel(20, 16, image::Rgb([i * 20, 255 - i, 7]));
            image.save(folder.join(format!("{i:02}.png"))).unwrap();
        }
        std::fs::write(folder.join("05b.jpg"), "not an image").unwrap();
        std::fs::write(folder.join("notes.txt"), "not listed").unwrap();
        let album = Album::open(&[folder.to_owned()], keep_bytes).unwrap();
        let numbers = (0..album.len() as u32).collect();
        let spec = ViewSpec { token_px: 8, color_jitter: 0.0, ..ViewSpec::default() };
        Shelf { album, numbers, spec, seed: 3, batch: 5 }
    }

    fn batches(shelf: Shelf, threads: usize) -> Vec<Vec<u8>> {
        let bytes = shelf.batch * shelf.image_bytes();
        let mut feed = Feed::start(Arc::new(shelf), 9, threads);
        (0..9)
            .map(|step| {
                let mut out = vec![0; bytes];
                feed.fill(Want::Step(step), &mut out).unwrap();
                out
            })
            .collect()
    }

    #[test]
    fn batches_depend_neither_on_threads_nor_on_what_is_kept_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let one = batches(shelf(folder.path(), 1 << 20), 1);
        assert_eq!(one, batches(shelf(folder.path(), 1 << 20), 3));
        assert_eq!(one, batches(shelf(folder.path(), 0), 2));
        assert_eq!(one, batches(shelf(folder.path(), 2000), 2));
        assert_ne!(one[0], one[1]);
    }

    #[test]
    fn a_bad_image_is_counted_once_and_replaced_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path(), 0);
        assert_eq!((shelf.album.len(), shelf.album.bad()), (13, 0), "text files are not listed");
        let numbers: Vec<u32> = (0..13).collect();
        let page = shelf.album.page_from(&numbers, 6).unwrap(); // 05b.jpg
        assert_eq!(page.image().pixels[..3], [120, 249, 7], "06.png stands in");
        assert!(shelf.album.page(6).is_none());
        assert_eq!(shelf.album.bad(), 1);
    }

    #[test]
    fn every_epoch_has_every_image_once_in_another_order() {
        let numbers: Vec<u32> = (0..100).collect();
        let mut orders: Vec<Vec<u32>> = (0..3).map(|epoch| shuffled(&numbers, 1, epoch)).collect();
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        orders.iter_mut().for_each(|order| order.sort_unstable());
        assert!(orders.iter().all(|order| *order == numbers));
    }
}
