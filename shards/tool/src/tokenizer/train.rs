//! `beit-shard tokenizer train`.

use super::album::Album;
use super::feed::{Feed, Painter, Shelf, render_centre, shuffled};
use super::parse_range;
use anyhow::{Context, Result, ensure};
use beit_tokenizer::Card;
use beit_tokenizer::train::{Measured, Options, Progress, Trained, Verdict, Want};
use beit_views::{Interpolation, Renderer, ViewSpec};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Sets with fewer images hold none out: they are measured over other crops of the same images.
const FEW_IMAGES: usize = 50;
/// Most images that are held out.
const MOST_HELD_OUT: usize = 1000;
/// Bytes of decoded images that are kept in memory.
const KEEP_BYTES: u64 = 2 << 30;
/// Crops to measure on where no images are held out.
const CROPS: usize = 128;
/// Epoch number of the order in which held-out images are chosen.
const HOLD_OUT: u64 = u64::MAX;

/// Train a discrete VAE on your images, as the DALL-E paper does, without its collapse
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard tokenizer train photos/ --out my.safetensors                 512 codes, stride 8, 112 px\n  \
    beit-shard tokenizer train cifar10/train --px 32 --groups 3 --steps 2028 --out cifar.safetensors\n  \
    beit-shard tokenizer train photos/ --vocab 8192 --hidden 64 --steps 50000 --batch 64 --crop-scale 0.08,1\n  \
    beit-shard tokenizer train photos/ --usage-weight 0 --no-data-init --kl-weight 6.6      the paper's plain recipe\n\n\
    Then: beit-shard tokenizer show my.safetensors photos/ --out look.png\n      \
          beit-shard build photos/ --tokenizer my.safetensors")]
pub struct Args {
    /// Image files, and folders that are searched for images
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    /// Where the tokenizer goes
    #[arg(long, default_value = "tokenizer.safetensors", value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Replace the file at --out
    #[arg(long)]
    force: bool,
    /// Its human name [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// A sentence for its card: what it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    about: String,
    /// Number of codes
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    vocab: u32,
    /// Channels after the first convolution (DALL-E: 256); a multiple of 4
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(4..=4096))]
    hidden: u32,
    /// The decoder's channels before its last convolution [default: as --hidden]
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=4096))]
    decoder_hidden: Option<u32>,
    /// Channels after the decoder's first convolution (DALL-E: 128)
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    decoder_init: u32,
    /// Groups of residual blocks; a token covers 2^(groups-1) pixels (DALL-E: 4, 8 pixels)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    groups: u32,
    /// Residual blocks per group
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    blocks: u32,
    /// Side of the training images in pixels
    #[arg(long, default_value_t = 112, value_parser = clap::value_parser!(u32).range(1..=4096))]
    px: u32,
    /// Number of updates
    #[arg(long, default_value_t = 2028, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Images per update
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Highest learning rate
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// Steps of warm-up
    #[arg(long, default_value_t = 100)]
    warmup: u64,
    /// Weight of the usage term, which keeps many codes in use; 0 = as the paper
    #[arg(long, default_value_t = 0.1)]
    usage_weight: f64,
    /// Weight of the paper's KL term per pixel (the paper's own: 6.6)
    #[arg(long, default_value_t = 0.0)]
    kl_weight: f64,
    /// Don't rescale the last encoder layer over real images before the first step; as the paper
    #[arg(long)]
    no_data_init: bool,
    /// Last temperature of the Gumbel-softmax
    #[arg(long, default_value_t = 0.0625)]
    tau: f64,
    /// Share of the run over which the temperature falls from 1
    #[arg(long, default_value_t = 0.5)]
    tau_share: f64,
    /// Share of an image's area that a crop may have: least,most
    #[arg(long, default_value = "0.4,1", value_parser = parse_range)]
    crop_scale: (f64, f64),
    /// Brightness, contrast and saturation are scaled by 1 ± this
    #[arg(long, default_value_t = 0.0)]
    color_jitter: f64,
    /// Share of the images that is held out and measured on (at most 1000 images)
    #[arg(long, default_value_t = 0.02)]
    holdout: f64,
    /// Names every random draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads of the network [default: all cores]; the same number gives the same bytes
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Arithmetic of the convolutions; auto = bf16 where the processor has it (1.6 times as fast), else f32
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,
    /// Measure on the held-out images every so many steps [default: 20 times in all]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    measure_every: Option<u64>,
    /// Print a summary object as the last line of stdout
    #[arg(long)]
    json: bool,
}

/// Arithmetic of the convolutions; weights, softmax and losses are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    Auto,
    F32,
    Bf16,
}

impl Precision {
    fn is_bf16(self) -> bool {
        match self {
            Precision::F32 => false,
            Precision::Bf16 => true,
            #[cfg(target_arch = "x86_64")]
            Precision::Auto => std::arch::is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Auto => false,
        }
    }
}

impl Args {
    fn options(&self) -> Options {
        Options {
            vocab: self.vocab,
            hidden: self.hidden,
            decoder_hidden: self.decoder_hidden,
            decoder_init: self.decoder_init,
            groups: self.groups,
            blocks: self.blocks,
            px: self.px,
            steps: self.steps,
            batch: self.batch,
            lr: self.lr,
            warmup: self.warmup,
            usage_weight: self.usage_weight,
            kl_weight: self.kl_weight,
            data_init: !self.no_data_init,
            tau_last: self.tau,
            tau_share: self.tau_share,
            bf16: self.precision.is_bf16(),
            seed: self.seed,
            measure_every: self.measure_every.unwrap_or(self.steps.div_ceil(20)),
            ..Options::default()
        }
    }

    /// The card's account of how the file was made.
    fn account(&self, images: usize) -> serde_json::Value {
        json!({
            "images": images, "px": self.px, "vocab": self.vocab, "hidden": self.hidden, "groups": self.groups,
            "blocks": self.blocks, "steps": self.steps, "batch": self.batch, "lr": self.lr, "warmup": self.warmup,
            "usage_weight": self.usage_weight, "kl_weight": self.kl_weight, "data_init": !self.no_data_init,
            "tau": self.tau, "tau_share": self.tau_share, "bf16": self.precision.is_bf16(), "seed": self.seed,
            "crop_scale": [self.crop_scale.0, self.crop_scale.1], "color_jitter": self.color_jitter,
            "decoder_init": self.decoder_init, "decoder_hidden": self.decoder_hidden.unwrap_or(self.hidden),
        })
    }
}

/// Trains, saves, and says what came of it.
pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    ensure!(
        args.force || !args.out.exists(),
        "{} exists; give another --out, or --force to replace it",
        args.out.display()
    );
    ensure!((0.0..1.0).contains(&args.holdout), "--holdout {}: a share from 0 to below 1", args.holdout);
    let options = args.options();
    options.check()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    beit_tokenizer::set_threads(threads);

    let album = Album::open(&args.images, KEEP_BYTES)?;
    let (numbers, held_out_numbers) = split(album.len(), args);
    decode_ahead(&album, threads);
    let spec = ViewSpec {
        token_px: args.px,
        token_interpolation: Interpolation::Lanczos,
        crop_scale: args.crop_scale,
        color_jitter: args.color_jitter,
        ..ViewSpec::default()
    };
    spec.check()?;
    let shelf = Arc::new(Shelf { album, numbers, spec, seed: args.seed, batch: args.batch as usize });
    let (held_out, kind) = held_out(&shelf, &held_out_numbers)?;
    let count = held_out.len() / shelf.image_bytes();
    eprintln!("Training on {} images; measured on {count} held-out {kind}.", shelf.numbers.len());

    let stem = args.out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let card = Card {
        name: args.name.clone().unwrap_or(stem),
        about: args.about.clone(),
        training: Some(args.account(shelf.numbers.len())),
        ..Card::default()
    };
    let mut feed = Feed::start(shelf.clone(), args.steps, threads.min(4));
    let mut log = Log::new(args.steps, args.vocab);
    let mut images = |want: Want, out: &mut [u8]| feed.fill(want, out).map_err(Into::into);
    let training = Instant::now();
    let trained = beit_tokenizer::train::train(&options, card, &mut images, &held_out, &mut |progress| {
        log.step(progress)
    })?;
    let seconds = training.elapsed().as_secs_f64();
    log.bar.finish_and_clear();

    let tokenizer = trained
        .tokenizer
        .with_measured(json!({ "held_out": trained.measured, "kind": kind, "verdict": trained.verdict }));
    tokenizer.save(&args.out).with_context(|| format!("saving {}", args.out.display()))?;
    let rate = (args.steps * u64::from(args.batch)) as f64 / seconds;
    let trained = Trained { tokenizer, ..trained };
    report(args, &trained, rate, start.elapsed().as_secs_f64(), shelf.album.bad());
    Ok(())
}

/// Numbers of the images to train on, and of those to hold out.
fn split(count: usize, args: &Args) -> (Vec<u32>, Vec<u32>) {
    let all: Vec<u32> = (0..count as u32).collect();
    if count < FEW_IMAGES {
        return (all, Vec::new());
    }
    let held = ((count as f64 * args.holdout).round() as usize).clamp(1, MOST_HELD_OUT);
    let mut order = shuffled(&all, args.seed, HOLD_OUT);
    let mut train = order.split_off(held);
    train.sort_unstable();
    (train, order)
}

fn decode_ahead(album: &Album, threads: usize) {
    let bar = bar(album.len() as u64, "{bar:30} {human_pos}/{human_len} images decoded  {per_sec}");
    album.decode_ahead(threads, &|| bar.inc(1));
    bar.finish_and_clear();
}

/// The pixels to measure on, and what they are.
fn held_out(shelf: &Shelf, numbers: &[u32]) -> Result<(Vec<u8>, &'static str)> {
    let px = shelf.spec.token_px;
    if numbers.is_empty() {
        // Too few images to spare one: other crops of the same images, from positions that training never reaches.
        let mut out = vec![0; CROPS * shelf.image_bytes()];
        shelf.paint(&mut Painter::new(), Want::Init(u32::MAX), &mut out)?;
        return Ok((out, "crops of the same images"));
    }
    let mut out = Vec::new();
    let mut renderer = Renderer::new();
    for &number in numbers {
        if let Some(page) = shelf.album.page(number as usize) {
            let start = out.len();
            out.resize(start + shelf.image_bytes(), 0);
            render_centre(&mut renderer, page.image(), px, &mut out[start..]);
        }
    }
    ensure!(!out.is_empty(), "none of the held-out images can be decoded");
    Ok((out, "images"))
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr_with_hz(5),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style)
}

/// What is said while training: a bar on a terminal, a line at every measurement.
struct Log {
    bar: ProgressBar,
    vocab: u32,
    rate: f64,
    start: Instant,
}

impl Log {
    fn new(steps: u64, vocab: u32) -> Self {
        let bar = bar(steps, "{bar:30} step {pos}/{len}  {msg}  ETA {eta}");
        eprintln!("   step    loss    tau  perplexity  used codes  top code    PSNR  images/s  seconds");
        Self { bar, vocab, rate: 0.0, start: Instant::now() }
    }

    fn step(&mut self, progress: &Progress) {
        self.rate = match self.rate {
            0.0 => progress.images_per_s,
            rate => 0.95 * rate + 0.05 * progress.images_per_s,
        };
        self.bar.set_position(progress.step + 1);
        self.bar.set_message(format!(
            "loss {:.3}  batch perplexity {:.0}  {:.0} images/s",
            progress.loss, progress.batch_perplexity, self.rate
        ));
        if let Some(m) = &progress.held_out {
            self.say(&format!(
                "{:7} {:7.3} {:6.3} {:7.1}/{} {:11} {:7.1} % {:7.2} {:9.0} {:8.0}",
                progress.step + 1,
                progress.loss,
                progress.tau,
                m.perplexity,
                self.vocab,
                m.used_codes,
                100.0 * m.top_share,
                m.psnr_db,
                self.rate,
                self.start.elapsed().as_secs_f64()
            ));
        }
        if let Some(warning) = &progress.warning {
            self.say(&format!("warning: {warning}"));
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

fn report(args: &Args, trained: &Trained, rate: f64, seconds: f64, bad: usize) {
    let Measured { perplexity, used_codes, top_share, psnr_db, .. } = trained.measured;
    let bytes = std::fs::metadata(&args.out).map_or(0, |metadata| metadata.len());
    eprintln!(
        "Saved {} ({:.1} MB, {} weights), digest {}. Perplexity {perplexity:.1} of {}, {used_codes} codes used, top code {:.1} %, \
         PSNR {psnr_db:.2} dB; {rate:.0} images/s, {seconds:.0} s in all.",
        args.out.display(),
        bytes as f64 / 1e6,
        trained.weights,
        &trained.tokenizer.digest_hex()[..16],
        args.vocab,
        100.0 * top_share,
    );
    if bad > 0 {
        eprintln!("{bad} images could not be decoded and were skipped (named above).");
    }
    let verdict = trained.verdict;
    let word = if verdict == Verdict::Healthy { "Verdict" } else { "Warning" };
    eprintln!("{word}: {}.", verdict.advice());
    if args.json {
        println!(
            "{}",
            json!({
                "out": args.out.display().to_string(), "name": trained.tokenizer.name(), "digest": trained.tokenizer.digest_hex(),
                "bytes": bytes, "weights": trained.weights, "vocab": args.vocab, "steps": args.steps,
                "perplexity": perplexity, "used_codes": used_codes, "top_share": top_share, "psnr_db": psnr_db,
                "held_out": trained.measured.images, "verdict": verdict, "skipped_images": bad,
                "images_per_s": rate, "seconds": seconds,
            })
        );
    }
}
