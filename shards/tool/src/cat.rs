//! `beit-shard cat`: one view exactly as a trainer will see it, and what the decoder makes of its tokens.

use crate::shards;
use anyhow::{Context, Result, ensure};
use beit_shards::{ReadBuf, SampleRef, ShardSet};
use beit_views::{Interpolation, Renderer, SeedKey, StageTimes, View, ViewSpec};
use std::path::PathBuf;

/// Draw one view of one sample, with its tokens decoded beside it
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard cat 0 --view 3 --out view.png                                   the first sample of the only *.shards here\n  \
    beit-shard cat n01440764/a.JPEG --shards imagenet.shards --out view.png    by its path within the source\n  \
    beit-shard cat 1f0c5d2e9a7b6c44 --shards imagenet.shards --out view.png    by its id (beit-shard ls prints them)")]
pub struct Args {
    /// A sample: its id (16 hexadecimal digits), its path within the source, or its position in the set
    #[arg(value_name = "ID")]
    sample: String,
    /// The shards [default: the only *.shards directory here]
    #[arg(long, value_name = "DIR")]
    shards: Option<PathBuf>,
    /// Which of the K views
    #[arg(long, default_value_t = 0)]
    view: u32,
    /// Where the picture goes (PNG)
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
    /// Side of the view in pixels
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..=4096))]
    input_size: u32,
    /// Resampling of the view: bicubic, bilinear or lanczos
    #[arg(long, default_value = "bicubic")]
    train_interpolation: Interpolation,
    /// The tokenizer that made the tokens, with its decoder [default: as for build]
    #[arg(long, value_name = "embedded|FILE|DIR")]
    tokenizer: Option<String>,
}

/// Draws and saves the picture.
pub fn run(args: &Args) -> Result<()> {
    let dir = shards::directory(args.shards.as_deref())?;
    let set = shards::open(&dir)?;
    let index = shards::find(&dir, &set, &args.sample)?;
    let views = set.spec().views;
    ensure!(args.view < views, "{} has {views} views of each image, 0 to {}", dir.display(), views - 1);
    let mut buf = ReadBuf::new();
    let sample = set.read(index, args.view, &mut buf)?;
    let view = draw(&set, &sample, args)?;
    let px = args.input_size;
    let mut picture =
        image::RgbImage::from_raw(px, px, view).context("the view has the wrong size; this is a bug")?;
    match decoded(&set, &sample, args) {
        Ok(decoded) => picture = side_by_side(&picture, &decoded),
        Err(error) => eprintln!("beit-shard: drawing the view alone: {error:#}"),
    }
    picture.save(&args.out).with_context(|| format!("writing {}", args.out.display()))?;
    println!("{} view {} of {}: {}", sample.id, args.view, sample.path, args.out.display());
    Ok(())
}

fn draw(set: &ShardSet, sample: &SampleRef<'_>, args: &Args) -> Result<Vec<u8>> {
    let spec: ViewSpec = set.spec().view_spec.parse().context("reading the set's view specification")?;
    let view = View::draw(
        &spec,
        sample.width,
        sample.height,
        SeedKey::view(set.spec().seed, sample.id.0, args.view),
    );
    let px = args.input_size;
    let mut out = vec![0; (px * px * 3) as usize];
    let payload = shards::payload(sample)?;
    Renderer::new()
        .render_payload(
            payload,
            &view,
            sample.grey,
            px,
            args.train_interpolation,
            &mut out,
            &mut StageTimes::default(),
        )
        .with_context(|| format!("decoding {}", sample.path))?;
    Ok(out)
}

/// The view as the tokens tell it.
fn decoded(set: &ShardSet, sample: &SampleRef<'_>, args: &Args) -> Result<image::RgbImage> {
    let tokenizer = shards::tokenizer_of(set.spec(), args.tokenizer.as_deref())?;
    let (rows, cols) = set.spec().grid;
    let (rows, cols) = (u32::from(rows), u32::from(cols));
    let pixels = tokenizer.decode(sample.tokens, 1, (rows, cols))?;
    let stride = tokenizer.stride();
    image::RgbImage::from_raw(cols * stride, rows * stride, pixels)
        .context("the decoder gave another size; this is a bug")
}

/// Left the view; right the decoded tokens, as high as the view.
fn side_by_side(view: &image::RgbImage, decoded: &image::RgbImage) -> image::RgbImage {
    use image::imageops;
    const GAP: u32 = 4;
    let height = view.height();
    let width = decoded.width() * height / decoded.height();
    let decoded = imageops::resize(decoded, width, height, imageops::FilterType::Nearest);
    let mut picture = image::RgbImage::from_pixel(view.width() + GAP + width, height, image::Rgb([255; 3]));
    imageops::replace(&mut picture, view, 0, 0);
    imageops::replace(&mut picture, &decoded, i64::from(view.width() + GAP), 0);
    picture
}
