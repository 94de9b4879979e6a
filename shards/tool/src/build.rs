//! `beit-shard build`: the packing line.
//!
//! ```text
//! scan ─▶ groups ─▶ prepare × jobs ─▶ tokenize × devices ─▶ pack, in listing order ─▶ shards ─▶ manifest, catalog
//! ```
//! Every channel is bounded and a group needs a permit to enter the line, so memory does not grow with the data set.
//! A killed build leaves whole shards or none: the same command goes on behind the last whole one and the result is
//! byte-identical to an uninterrupted build.

mod line;

use crate::devices;
use crate::listen;
use crate::pack::Packer;
use crate::part::{Part, PartFile, Stretch};
use crate::pixels::Pixels;
use crate::prepare::{Batching, Making};
use crate::progress::Progress;
use crate::source::{Listing, Source};
use crate::tally::Tally;
use anyhow::{Context, Result, anyhow, ensure};
use beit_shards::{SetSpec, TokenizerRef};
use beit_tokenizer::{Precision, Tokenizer};
use beit_views::{Interpolation, PatchGrid, ViewSpec};
use line::Line;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pack images into shards together with their dVAE tokens
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard build imagenet22k/                                      into imagenet22k.shards/, OpenAI's tokenizer\n  \
    beit-shard build photos/ --tokenizer embedded --views 4            a trial\n  \
    beit-shard build train.tar extra/ data.parquet --out all.shards  tars, folders and Parquet files together\n  \
    beit-shard build imagenet22k/ --part auto --pixels short256        one task of a Slurm array or indexed job\n  \
    beit-shard build imagenet22k/ --listen 127.0.0.1:9778            numbers for Prometheus at /metrics meanwhile\n  \
    beit-shard build cifar10/train --tokenizer my.safetensors --second-input-size 32 \\\n      \
        --second-interpolation bicubic --crop-scale 0.4,1 --color-jitter 0 --views 8\n\n\
    Interrupted or killed, the same command goes on where it stopped and ends with the same bytes.")]
pub struct Args {
    /// Folders of class folders, images, tars or Parquet files; or such tars (per class, of class tars, of class folders,
    /// WebDataset) and Parquet files themselves
    #[arg(required = true, value_name = "SRC")]
    pub sources: Vec<PathBuf>,
    /// Where the shards go [default: SRC.shards beside the source]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// embedded, a file or a folder [default: $BEIT_TOKENIZER, ./dall_e_tokenizer_weight/, the user's data directory]
    #[arg(long, value_name = "embedded|FILE|DIR")]
    pub tokenizer: Option<String>,
    /// K: views per image, each with its own crop, flip, jitter and tokens; epoch e trains on view e mod K
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub views: u32,
    /// Seed of the views
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Pixels that are kept: original, or scaled to 256 px on the shorter side; views and tokens are then made of the scaled image
    #[arg(long, value_enum, default_value_t = Pixels::Original)]
    pub pixels: Pixels,
    /// Build one part of n, for `beit-shard merge`: i/n with i from 1; auto takes both from a Slurm array (or indexed job), auto/n only i
    #[arg(long, value_name = "i/n|auto|auto/n")]
    pub part: Option<String>,
    /// Tokenize on this many GPUs, one replica on each [default: on the CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub gpus: Option<u16>,
    /// What the tokenizer's inner layers compute in: fp32 or bf16; the set says which, as a few tokens differ
    #[arg(long, default_value_t = Precision::Fp32)]
    pub precision: Precision,
    /// Threads that decode and render [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Shards end when they reach this size; K, M and G are understood
    #[arg(long, default_value = "1G", value_parser = parse_bytes)]
    pub shard_size: u64,
    /// Share of images that may be quarantined before the build counts as failed, such as 1% or 0.01
    #[arg(long, default_value = "1%", value_parser = parse_share)]
    pub max_bad: f64,
    /// Side of the token view in pixels
    #[arg(long, default_value_t = 112, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub second_input_size: u32,
    /// Resampling of the token view: lanczos, bicubic or bilinear
    #[arg(long, default_value = "lanczos")]
    pub second_interpolation: Interpolation,
    /// Share of the image's area that a crop may have: least,most
    #[arg(long, default_value = "0.08,1", value_parser = parse_range)]
    pub crop_scale: (f64, f64),
    /// Brightness, contrast and saturation are scaled by 1 ± this; 0 = no jitter
    #[arg(long, default_value_t = 0.4)]
    pub color_jitter: f64,
    /// Serve /metrics for Prometheus and /healthz here while it works; port 0 picks a free one, which is printed
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Print a summary object as the last line of stdout
    #[arg(long)]
    pub json: bool,
}

/// What follows from the options and the tokenizer, whatever the source holds.
pub struct Job {
    tokenizers: Vec<Tokenizer>,
    view_spec: ViewSpec,
    spec: SetSpec,
    batching: Batching,
    jobs: usize,
    pixels: Pixels,
}

impl Job {
    /// Finds the tokenizer and checks that the options go together.
    pub fn of(args: &Args) -> Result<Self> {
        devices::prepare(args.gpus)?;
        let tokenizers = devices::tokenizers(args.tokenizer.as_deref(), args.gpus, args.precision)?;
        let tokenizer = tokenizers.first().context("there is at least one device")?;
        let view_spec = ViewSpec {
            token_px: args.second_input_size,
            token_interpolation: args.second_interpolation,
            crop_scale: args.crop_scale,
            color_jitter: args.color_jitter,
            ..ViewSpec::default()
        };
        let spec = set_spec(args, &view_spec, tokenizer)?;
        let batching = Batching::of(args.views, view_spec.token_px);
        let jobs = args.jobs.map_or_else(cores, usize::from);
        Ok(Self { tokenizers, view_spec, spec, batching, jobs, pixels: args.pixels })
    }

    /// What all samples of the set have in common.
    pub fn spec(&self) -> &SetSpec {
        &self.spec
    }

    /// The packing line for a source.
    pub fn line<'a>(&'a self, source: Listing<'a>, tally: &'a Tally, stop: &'a AtomicBool) -> Line<'a> {
        let SetSpec { seed, views, .. } = self.spec;
        Line {
            source,
            making: Making { spec: &self.view_spec, seed, views, pixels: self.pixels },
            batching: self.batching,
            tokenizers: &self.tokenizers,
            jobs: self.jobs,
            tally,
            stop,
        }
    }
}

/// Packs, then says what was packed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let part = args.part.as_deref().map(|text| Part::read(text, &|name| std::env::var(name).ok()));
    let part = part.transpose().context("reading --part")?;
    let tally = tally(args)?;
    // What is wrong with the source is said before the tokenizer is looked for.
    let source = Source::open(&args.sources)?;
    let out = output(args)?;
    let job = Job::of(args)?;
    let stop = stop_on_signals()?;
    match pack(args, part, &source, (&job, &out), &tally, &stop)? {
        Some(()) => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::from(130)),
    }
}

/// What this process counts, and shows where `--listen` says.
pub fn tally(args: &Args) -> Result<Arc<Tally>> {
    let tally = Arc::new(Tally::start());
    if let Some(address) = args.listen {
        listen::open(address, &tally, &output(args)?)?;
    }
    Ok(tally)
}

/// Packs a whole source, or one part of it; `None` when the user stopped it.
pub fn pack(
    args: &Args,
    part: Option<Part>,
    source: &Source,
    (job, out): (&Job, &Path),
    tally: &Tally,
    stop: &AtomicBool,
) -> Result<Option<()>> {
    let out = part.map_or_else(|| out.to_owned(), |part| part.beside(out));
    let part = part.map(|part| PartFile::cut(source, part, job.batching.images as u64)).transpose()?;
    let stretch = part.as_ref().map_or_else(Stretch::whole, PartFile::stretch);
    let sizes = (args.shard_size, args.pixels);
    let mut packer = Packer::open(&out, job.spec.clone(), source.classes().to_vec(), sizes, stretch)?;
    if let Some(part) = &part {
        part.publish(&out)?;
    }
    if !args.json {
        eprintln!(
            "Packing {} into {} with tokenizer {}, {} views of each image{}.",
            args.sources.iter().map(|s| s.display().to_string()).collect::<Vec<_>>().join(", "),
            out.display(),
            job.spec.tokenizer.name,
            args.views,
            part.map_or_else(String::new, |part| format!(
                ", part {}: entries {} to {} of {}",
                part.part, part.entries.start, part.entries.end, part.total
            ))
        );
    }
    let mut progress = Progress::new(args.views, packer.entries_done(), tally);
    let ended = job.line(source.listing(), tally, stop).run(&mut packer, &mut progress);
    progress.finish();
    ended?;
    if stop.load(Ordering::SeqCst) {
        packer.abandon();
        eprintln!(
            "beit-shard: interrupted; {} shards are whole in {}, the same command goes on from there",
            packer.shards_done(),
            out.display()
        );
        return Ok(None);
    }
    let summary = packer.finish(args.max_bad, &progress)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        summary.print();
    }
    Ok(Some(()))
}

/// Where the shards go.
pub fn output(args: &Args) -> Result<PathBuf> {
    match (&args.out, args.sources.as_slice()) {
        (Some(out), _) => Ok(out.clone()),
        (None, [source]) => beside(source),
        (None, _) => Err(anyhow!("several sources have no common place beside them; say --out DIR")),
    }
}

fn beside(source: &Path) -> Result<PathBuf> {
    let full =
        source.canonicalize().with_context(|| format!("looking for the source {}", source.display()))?;
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    let name = name.context("the root folder has no place beside it; say --out DIR")?;
    Ok(full.with_file_name(format!("{}.shards", name.to_string_lossy())))
}

fn set_spec(args: &Args, view_spec: &ViewSpec, tokenizer: &Tokenizer) -> Result<SetSpec> {
    let grid = PatchGrid::tiling(view_spec.token_px, tokenizer.stride()).with_context(|| {
        format!(
            "the tokenizer {} makes one token of {stride}x{stride} pixels, and {} is not a multiple of {stride}; \
             say --second-input-size with one",
            tokenizer.name(),
            view_spec.token_px,
            stride = tokenizer.stride()
        )
    })?;
    view_spec.check()?;
    Ok(SetSpec {
        seed: args.seed,
        views: args.views,
        view_spec: view_spec.to_string(),
        tokenizer: TokenizerRef {
            digest: tokenizer.digest(),
            name: tokenizer.name_in_sets(),
            vocab: tokenizer.vocab(),
        },
        grid: (grid.rows as u16, grid.cols as u16),
        payload: args.pixels.to_string(),
    })
}

/// The first Ctrl-C or SIGTERM asks the line to stop between groups; the second ends the process at once.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn parse_bytes(text: &str) -> Result<u64> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let scale: u64 = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(anyhow!("expected a number of bytes such as 268435456, 256M or 1G")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).unwrap_or(0);
    ensure!(bytes > 0, "expected a number of bytes such as 268435456, 256M or 1G");
    Ok(bytes)
}

fn parse_share(text: &str) -> Result<f64> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.trim().parse::<f64>().map_or(f64::NAN, |n| n * scale);
    ensure!((0.0..=1.0).contains(&share), "expected a share such as 1% or 0.01");
    Ok(share)
}

fn parse_range(text: &str) -> Result<(f64, f64)> {
    let (least, most) = text.split_once(',').context("expected two numbers such as 0.08,1")?;
    Ok((least.trim().parse()?, most.trim().parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("123").unwrap(), 123);
        assert_eq!(parse_bytes("4K").unwrap(), 4096);
        assert_eq!(parse_bytes("2MiB").unwrap(), 2 << 20);
        assert_eq!(parse_bytes("1g").unwrap(), 1 << 30);
        for wrong in ["", "0", "G", "1T", "-1", "99999999999G"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percent_or_plain() {
        assert!((parse_share("1%").unwrap() - 0.01).abs() < 1e-12);
        assert!((parse_share("0.5").unwrap() - 0.5).abs() < 1e-12);
        for wrong in ["2", "-1%", "101%", "much", "NaN"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
