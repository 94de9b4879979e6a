//! Where a view's time goes, stage by stage, on demo photos blown up to 512 px; on one core.
//!
//! `cargo bench -p beit-views --bench stages`; `how_fast_is_a_crop` measures the same on a folder of your own.

use std::path::Path;

use beit_views::inner::{Region, encode_jpeg_444};
use beit_views::{
    Interpolation, Jitter, Limits, MaskSpec, PatchGrid, Payload, PayloadKind, PixelRect, Purpose, Renderer,
    RgbImage, SeedKey, StageTimes, View, ViewSpec, contrast_grey, decode, draw_mask, encode_jpeg,
    pack_payload, shrink_to_short_side,
};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// How a shard keeps a photo.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// 512 px, 4:4:4 of quality 90, as most files of ImageNet are.
    Original444,
    /// 512 px, 4:2:0 of quality 90.
    Original420,
    /// What `--pixels short256` keeps.
    Short256,
    /// What `--pixels raw256` keeps.
    Raw256,
}

const JPEGS: [Kept; 3] = [Kept::Original444, Kept::Original420, Kept::Short256];
const ALL: [Kept; 4] = [Kept::Original444, Kept::Original420, Kept::Short256, Kept::Raw256];

/// A photo as a shard keeps it, and a view of it.
struct Sample {
    image: RgbImage,
    kind: PayloadKind,
    bytes: Vec<u8>,
    view: View,
    grey: u8,
}

impl Sample {
    fn payload(&self) -> Payload<'_> {
        Payload { kind: self.kind, width: self.image.width, height: self.image.height, bytes: &self.bytes }
    }

    fn rect(&self) -> PixelRect {
        self.view.source_rect(self.image.width)
    }
}

/// All demo photos, kept so.
fn samples(kept: Kept) -> Vec<Sample> {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo-photos");
    let entries = std::fs::read_dir(photos).expect("the folder of demo photos");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("its entries").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    paths.sort();
    assert!(paths.len() >= 10, "ten demo photos");
    let sample = |(stream, path): (usize, &std::path::PathBuf)| {
        let source = std::fs::read(path).expect("a demo photo");
        let image = decode(&source, &Limits::default()).expect("a sound photo");
        let image = scale(&image, 512);
        let (image, kind, bytes) = match kept {
            Kept::Original444 => pack(&encode_jpeg_444(&image, 90).expect("a JPEG")),
            Kept::Original420 => pack(&encode_jpeg(&image, 90).expect("a JPEG")),
            Kept::Short256 => pack(&encode_jpeg(&shrink_to_short_side(&image, 256), 90).expect("a JPEG")),
            Kept::Raw256 => {
                let image = shrink_to_short_side(&image, 256);
                let bytes = image.pixels.clone();
                (image, PayloadKind::Rgb, bytes)
            }
        };
        let key = SeedKey { seed: 0, stream: stream as u64, index: 0, purpose: Purpose::View };
        let view = View::draw(&ViewSpec::default(), image.width, image.height, key);
        let grey = contrast_grey(&image, &view.jitter);
        Sample { image, kind, bytes, view, grey }
    };
    paths.iter().enumerate().map(sample).collect()
}

fn pack(jpeg: &[u8]) -> (RgbImage, PayloadKind, Vec<u8>) {
    let image = decode(jpeg, &Limits::default()).expect("a JPEG of our making");
    let (kind, bytes) = pack_payload(jpeg, &image).expect("an image that was decoded");
    assert_eq!(kind, PayloadKind::Jpeg);
    (image, kind, bytes)
}

/// The middle square of an image, `px` pixels a side.
fn scale(image: &RgbImage, px: u32) -> RgbImage {
    let side = image.width.min(image.height);
    let crop = PixelRect {
        left: (image.width - side) / 2,
        top: (image.height - side) / 2,
        width: side,
        height: side,
    };
    let mut pixels = vec![0; 3 * (px * px) as usize];
    let view = View { crop, flip: false, jitter: Jitter::NONE };
    Renderer::new().render_image(image, &view, 0, px, Interpolation::Bicubic, &mut pixels);
    RgbImage { width: px, height: px, pixels }
}

/// Runs one stage on sample after sample.
fn each(bencher: Bencher<'_, '_>, kept: Kept, mut stage: impl FnMut(&Sample)) {
    let samples = samples(kept);
    bencher.counter(ItemsCount::new(samples.len())).bench_local(|| samples.iter().for_each(&mut stage));
}

/// Is the entropy decoding of a crop the bottleneck, and how much does whole chroma cost?
#[divan::bench(args = JPEGS)]
fn entropy_decode_a_crop_444_vs_420(bencher: Bencher<'_, '_>, kept: Kept) {
    let mut region = Region::default();
    each(bencher, kept, |sample| {
        assert!(region.entropy(sample.payload(), sample.rect()).expect("a sound payload"));
    });
}

/// How much does the inverse DCT add to that?
#[divan::bench(args = JPEGS)]
fn entropy_and_idct_of_a_crop(bencher: Bencher<'_, '_>, kept: Kept) {
    let mut region = Region::default();
    each(bencher, kept, |sample| {
        assert!(region.samples(sample.payload(), sample.rect()).expect("a sound payload"));
    });
}

/// What does colour cost alone, and what if chroma must be spread first?
#[divan::bench(args = JPEGS)]
fn colour_of_a_crop_444_vs_420(bencher: Bencher<'_, '_>, kept: Kept) {
    let samples = samples(kept);
    // A decoder keeps the samples of its last crop only, so each photo has its own.
    let mut regions: Vec<_> = samples.iter().map(|_| Region::default()).collect();
    for (region, sample) in regions.iter_mut().zip(&samples) {
        region.samples(sample.payload(), sample.rect()).expect("a sound payload");
    }
    bencher.counter(ItemsCount::new(samples.len())).bench_local(|| {
        regions.iter_mut().zip(&samples).for_each(|(region, sample)| region.pixels(sample.rect()));
    });
}

/// What does jitter add to a view made of plain pixels?
#[divan::bench(args = [false, true])]
fn plain_pixels_to_224_without_vs_with_jitter(bencher: Bencher<'_, '_>, jitter: bool) {
    let (mut renderer, mut out) = (Renderer::new(), vec![0; 224 * 224 * 3]);
    each(bencher, Kept::Raw256, |sample| {
        let jitter = if jitter { sample.view.jitter } else { Jitter::NONE };
        let view = View { jitter, ..sample.view };
        renderer.render_image(&sample.image, &view, sample.grey, 224, Interpolation::Bicubic, &mut out);
        black_box(&out);
    });
}

/// Does a resize to 224 cost more up, level or down?
#[divan::bench(args = [112, 224, 336, 448])]
fn resize_to_224_bicubic_from(bencher: Bencher<'_, '_>, side: u32) {
    let (mut renderer, mut out) = (Renderer::new(), vec![0; 224 * 224 * 3]);
    let view = View {
        crop: PixelRect { left: 9, top: 9, width: side, height: side },
        flip: false,
        jitter: Jitter::NONE,
    };
    each(bencher, Kept::Original444, |sample| {
        renderer.render_image(&sample.image, &view, 0, 224, Interpolation::Bicubic, &mut out);
        black_box(&out);
    });
}

/// What does the tokenizer's view cost per view, when the image is decoded once for many?
#[divan::bench(args = [112, 224, 448])]
fn token_view_112_lanczos_from(bencher: Bencher<'_, '_>, side: u32) {
    let (mut renderer, mut out) = (Renderer::new(), vec![0; 112 * 112 * 3]);
    each(bencher, Kept::Original444, |sample| {
        let crop = PixelRect { left: 9, top: 9, width: side, height: side };
        let view = View { crop, ..sample.view };
        renderer.render_image(&sample.image, &view, sample.grey, 112, Interpolation::Lanczos, &mut out);
        black_box(&out);
    });
}

/// What does the grey of a jitter cost, which needs the whole image but only when packing?
#[divan::bench]
fn contrast_grey_of_512_px(bencher: Bencher<'_, '_>) {
    each(bencher, Kept::Original444, |sample| {
        black_box(contrast_grey(&sample.image, &sample.view.jitter));
    });
}

/// Is a mask of 14 x 14 patches nothing beside a view?
#[divan::bench]
fn mask_of_196_patches(bencher: Bencher<'_, '_>) {
    let grid = PatchGrid { rows: 14, cols: 14 };
    let mut stream = 0;
    let mut mask = vec![0; 196];
    bencher.counter(ItemsCount::new(1u64)).bench_local(|| {
        stream += 1;
        let key = SeedKey { seed: 0, stream, index: 0, purpose: Purpose::Mask };
        draw_mask(grid, &MaskSpec::default(), key, &mut mask)
    });
}

/// How much faster is a set of smaller pixels?
#[divan::bench(args = ALL)]
fn whole_view_by_what_a_shard_keeps(bencher: Bencher<'_, '_>, kept: Kept) {
    let (mut renderer, mut out) = (Renderer::new(), vec![0; 224 * 224 * 3]);
    let mut times = StageTimes::default();
    each(bencher, kept, |sample| {
        renderer
            .render_payload(
                sample.payload(),
                &sample.view,
                sample.grey,
                224,
                Interpolation::Bicubic,
                &mut out,
                &mut times,
            )
            .expect("a sound payload");
        black_box(&out);
    });
}
