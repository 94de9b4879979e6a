//! Small sets of real shards for the tests of this room.

use beit_shards::{Io, PAYLOAD_JPEG, PAYLOAD_RGB, Record, SampleId, SetSpec, ShardSet, ShardWriter};
use beit_shards::{TokenizerRef, ViewTokens, publish_manifest};
use beit_views::{Limits, PayloadKind, Purpose, RgbImage, SeedKey, View, ViewSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Seed of the views of every set made here.
pub const SEED: u64 = 42;

/// One source image, packed.
pub struct Image {
    pub name: String,
    pub kind: u8,
    pub payload: Vec<u8>,
    pub pixels: RgbImage,
}

/// The demo photos and as many noisy RGB images of odd sizes, in turn.
pub fn images() -> Vec<Image> {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-photos");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&photos).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jpg"));
    files.sort();
    let photo = |file: &PathBuf| {
        let bytes = std::fs::read(file).unwrap();
        let pixels = beit_views::decode(&bytes, &Limits::default()).unwrap();
        image(file.file_name().unwrap().to_string_lossy().into_owned(), &bytes, pixels)
    };
    let noise = |number: u32| {
        let (width, height) = (20 + number * 7, 61 - number * 5);
        image(format!("noise-{number}.png"), b"", noise(width, height, number))
    };
    files.iter().take(6).map(photo).chain((0..6).map(noise)).collect()
}

/// An image of random pixels.
pub fn noise(width: u32, height: u32, number: u32) -> RgbImage {
    let mut draws = SeedKey { seed: SEED, stream: 0, index: number, purpose: Purpose::Batch }.draws();
    let pixels = (0..width * height * 3).map(|_| draws.u32() as u8).collect();
    RgbImage { width, height, pixels }
}

/// Packs an image as the shard tool does.
pub fn image(name: String, source: &[u8], pixels: RgbImage) -> Image {
    let (kind, payload) = beit_views::pack_payload(source, &pixels).unwrap();
    let kind = match kind {
        PayloadKind::Jpeg => PAYLOAD_JPEG,
        PayloadKind::Rgb => PAYLOAD_RGB,
    };
    Image { name, kind, payload, pixels }
}

/// A set of 4×4 tokens in its own directory.
pub struct TestSet {
    pub dir: TempDir,
    pub spec: SetSpec,
    views: ViewSpec,
    shards: u64,
}

impl TestSet {
    /// A directory for sets with so many views, drawn like this.
    pub fn new(count: u32, views: &ViewSpec) -> TestSet {
        let tokenizer = TokenizerRef { digest: [7; 32], name: "test".into(), vocab: 512 };
        let (view_spec, payload) = (views.to_string(), "original".into());
        let spec = SetSpec { seed: SEED, views: count, view_spec, tokenizer, grid: (4, 4), payload };
        TestSet { dir: TempDir::new().unwrap(), spec, views: *views, shards: 0 }
    }

    /// `samples` samples in shards of at most ten; the images come again and again, under different names.
    pub fn of(samples: usize, views: u32) -> TestSet {
        let images = images();
        let mut set = TestSet::new(views, &ViewSpec::default());
        let names: Vec<usize> = (0..samples).collect();
        for names in names.chunks(10) {
            set.push(names.iter().map(|&number| (number, &images[number % images.len()])));
        }
        set.publish();
        set
    }

    /// Adds one shard.
    pub fn push<'a>(&mut self, images: impl Iterator<Item = (usize, &'a Image)>) {
        let mut writer = ShardWriter::create(self.dir.path(), self.shards, &self.spec, &classes()).unwrap();
        for (number, image) in images {
            let path = format!("class/{number}-{}", image.name);
            let id = SampleId::of_path(&path);
            let (width, height) = (image.pixels.width, image.pixels.height);
            let views: Vec<(u8, Vec<u16>)> = (0..self.spec.views)
                .map(|k| {
                    let key = SeedKey::view(SEED, id.0, k);
                    let view = View::draw(&self.views, width, height, key);
                    let tokens = (0..16).map(|place| (number as u32 * 31 + k * 17 + place) as u16 % 512);
                    (beit_views::contrast_grey(&image.pixels, &view.jitter), tokens.collect())
                })
                .collect();
            let views: Vec<ViewTokens<'_>> =
                views.iter().map(|(grey, tokens)| ViewTokens { grey: *grey, tokens }).collect();
            let (payload_kind, payload) = (image.kind, image.payload.as_slice());
            let record =
                Record { id, label: 0, path: &path, width, height, payload_kind, payload, views: &views };
            writer.push(&record).unwrap();
        }
        writer.finish().unwrap();
        self.shards += 1;
    }

    /// Makes a set of the shards.
    pub fn publish(&self) {
        publish_manifest(self.dir.path(), &self.spec, &classes(), self.shards).unwrap();
    }

    /// Opens the set.
    pub fn open(&self) -> Arc<ShardSet> {
        Arc::new(ShardSet::open(self.dir.path(), Io::Auto).unwrap())
    }
}

fn classes() -> Vec<String> {
    vec!["class".to_owned()]
}
