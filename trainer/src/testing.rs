//! A tiny data set whose tokens follow from its pixels: real shards, real views. The tests in `tests/` use it too.

use std::path::Path;

use beit_shards::{
    PAYLOAD_RGB, Record, SampleId, SetSpec, ShardWriter, TokenizerRef, ViewTokens, publish_manifest,
};
use beit_views::{Interpolation, Purpose, Renderer, RgbImage, SeedKey, View, ViewSpec, contrast_grey};

/// Tokens along a side.
const SIDE: usize = 4;
/// Token view and patch view, px.
const PX: u32 = 32;
/// Different tokens.
const VOCAB: u32 = 16;

/// What to train on such shards: width 32, two layers, drop path on.
pub(crate) const RECIPE: &[&str] = &[
    "batch_size=4",
    "steps=8",
    "warmup_steps=2",
    "input_size=32",
    "patch_size=8",
    "embed_dim=32",
    "depth=2",
    "num_heads=2",
    "drop_path=0.3",
    "num_mask_patches=6",
    "min_mask_patches_per_block=2",
    "lr=2e-3",
    "clip_grad=3",
    "num_workers=2",
    "threads_per_rank=1", // small tensors only lose by more, and on a busy machine they lose minutes
    "collective_timeout_s=30",
    "pictures=0", // but where they are what is tested
];

/// Writes `samples` images of soft gradients; the token of a cell is its brightness in the view, in 16 steps.
pub(crate) fn write_shards(folder: &Path, samples: u32, seed: u64, tokenizer: &str) {
    write_shard(folder, 0, 0..samples, seed, tokenizer);
}

/// Adds shard `shard` with those images to the set, and publishes it anew.
pub(crate) fn write_shard(
    folder: &Path,
    shard: u64,
    samples: std::ops::Range<u32>,
    seed: u64,
    tokenizer: &str,
) {
    std::fs::create_dir_all(folder).unwrap();
    let view_spec =
        ViewSpec { token_px: PX, crop_scale: (0.4, 1.0), color_jitter: 0.2, ..ViewSpec::default() };
    let spec = SetSpec {
        seed,
        views: 2,
        view_spec: view_spec.to_string(),
        tokenizer: TokenizerRef {
            digest: *blake3::hash(tokenizer.as_bytes()).as_bytes(),
            name: tokenizer.to_owned(),
            vocab: VOCAB,
        },
        grid: (SIDE as u16, SIDE as u16),
        payload: "original".to_owned(),
    };
    let classes = ["only".to_owned()];
    let mut writer = ShardWriter::create(folder, shard, &spec, &classes).unwrap();
    let mut renderer = Renderer::new();
    for number in samples {
        let path = format!("only/{seed}-{number}.png");
        let image = image(seed, number);
        let id = SampleId::of_path(&path);
        let views: Vec<(u8, Vec<u16>)> = (0..2)
            .map(|k| {
                let key = SeedKey { seed, stream: id.0, index: k, purpose: Purpose::View };
                let view = View::draw(&view_spec, image.width, image.height, key);
                let grey = contrast_grey(&image, &view.jitter);
                let mut pixels = vec![0; (PX * PX * 3) as usize];
                renderer.render_image(&image, &view, grey, PX, Interpolation::Lanczos, &mut pixels);
                (grey, tokens(&pixels))
            })
            .collect();
        let views: Vec<ViewTokens<'_>> =
            views.iter().map(|(grey, tokens)| ViewTokens { grey: *grey, tokens }).collect();
        writer
            .push(&Record {
                id,
                label: 0,
                path: &path,
                width: image.width,
                height: image.height,
                payload_kind: PAYLOAD_RGB,
                payload: &image.pixels,
                views: &views,
            })
            .unwrap();
    }
    writer.finish().unwrap();
    publish_manifest(folder, &spec, &classes, shard + 1).unwrap();
}

fn image(seed: u64, number: u32) -> RgbImage {
    let (width, height) = (40 + number % 5, 36 + number % 7);
    let mut draws = SeedKey { seed, stream: 0, index: number, purpose: Purpose::Init }.draws();
    let (base, across, down) =
        (draws.uniform(40.0, 215.0), draws.uniform(-150.0, 150.0), draws.uniform(-150.0, 150.0));
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (f64::from(x) / f64::from(width) - 0.5, f64::from(y) / f64::from(height) - 0.5);
            let value = (base + across * x + down * y).clamp(0.0, 255.0);
            pixels.extend([value as u8, (value * 0.8) as u8, (value * 0.9) as u8]);
        }
    }
    RgbImage { width, height, pixels }
}

fn tokens(pixels: &[u8]) -> Vec<u16> {
    let cell = PX as usize / SIDE;
    (0..SIDE * SIDE)
        .map(|token| {
            let (row, column) = (token / SIDE, token % SIDE);
            let sum: usize = (0..cell * cell)
                .map(|at| {
                    let (y, x) = (row * cell + at / cell, column * cell + at % cell);
                    usize::from(pixels[(y * PX as usize + x) * 3])
                })
                .sum();
            (sum / (cell * cell) * VOCAB as usize / 256) as u16
        })
        .collect()
}
