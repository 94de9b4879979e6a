//! `beit-shard verify`: every byte of a set against its checksums, and tokens against the tokenizer.

use crate::shards;
use anyhow::{Context, Result, anyhow, ensure};
use beit_shards::{Io, Manifest, ReadBuf};
use beit_views::{Purpose, Renderer, SeedKey, StageTimes, View, ViewSpec};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Check every byte of a set; exit code 0 only for a sound one
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard verify imagenet22k.shards\n  \
    beit-shard verify imagenet22k.shards --retokenize 1000      also compute the tokens of 1000 random views again\n  \
    beit-shard verify imagenet22k.shards --json | jq .faults")]
pub struct Args {
    /// The shards [default: the only *.shards directory here]
    #[arg(value_name = "DIR")]
    shards: Option<PathBuf>,
    /// Compute the tokens of N random views again and compare them with those that are stored
    #[arg(long, value_name = "N")]
    retokenize: Option<u64>,
    /// Which views: the same seed chooses the same ones
    #[arg(long, default_value_t = 0, requires = "retokenize")]
    seed: u64,
    /// Least share of equal tokens; the machine that built the set gives 100%, another kind may round differently
    #[arg(long, default_value = "99.5%", value_parser = parse_share, requires = "retokenize")]
    min_match: f64,
    /// The tokenizer that made the tokens [default: as for build]
    #[arg(long, value_name = "embedded|FILE|DIR", requires = "retokenize")]
    tokenizer: Option<String>,
    /// Print the findings as one object on stdout
    #[arg(long)]
    json: bool,
}

/// Verifies and reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    let dir = shards::directory(args.shards.as_deref())?;
    let manifest = Manifest::read(&dir)?;
    let bar = bar(manifest.bytes());
    let (progress, found) = manifest.verify(&dir, Io::Auto, &mut |progress| bar.set_position(progress.bytes));
    bar.finish_and_clear();
    let faults: Vec<String> = found.iter().map(|(_, damage)| damage.error.to_string()).collect();
    let sound = faults.is_empty();
    // Of a damaged set nobody needs to know more.
    let again = match args.retokenize.filter(|_| sound) {
        Some(views) => Some(retokenize(args, &dir, views)?),
        None => None,
    };
    if args.json {
        let report = serde_json::json!({
            "sound": sound,
            "samples": manifest.samples(),
            "shards": manifest.shards.len(),
            "bytes": progress.bytes,
            "faults": faults,
            "retokenized": again,
        });
        println!("{report}");
    }
    if !sound {
        for fault in &faults {
            eprintln!("beit-shard: {fault}");
        }
        eprintln!(
            "beit-shard: {dir} is damaged ({} faults); run beit-shard repair SRC --shards {dir} with the source it was built from",
            faults.len(),
            dir = dir.display(),
        );
        return Ok(ExitCode::FAILURE);
    }
    if !args.json {
        let (samples, shards) = (manifest.samples(), manifest.shards.len());
        println!(
            "{}: sound: {samples} samples in {shards} shards, {} bytes checked",
            dir.display(),
            progress.bytes
        );
    }
    let Some(again) = again else { return Ok(ExitCode::SUCCESS) };
    if !args.json {
        println!(
            "{} views tokenized again: {} of {} tokens are equal ({:.3}%)",
            again.views,
            again.equal,
            again.tokens,
            again.share * 100.0
        );
    }
    if again.share >= args.min_match {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "beit-shard: only {:.3}% of the tokens are equal, --min-match wants {:.3}%; the least equal view is {} of {}: {} of \
         its tokens differ. The shards are as they were written, so they were built by another kind of machine, or wrongly: \
         see what beit-shard cat shows",
        again.share * 100.0,
        args.min_match * 100.0,
        again.worst.view,
        again.worst.path,
        again.worst.differ
    );
    Ok(ExitCode::FAILURE)
}

/// What tokenizing again came to.
#[derive(Debug, Default, Serialize)]
struct Retokenized {
    views: u64,
    tokens: u64,
    equal: u64,
    share: f64,
    worst: Worst,
}

/// The view with the most differing tokens.
#[derive(Debug, Default, Serialize)]
struct Worst {
    path: String,
    view: u32,
    differ: u64,
}

fn retokenize(args: &Args, dir: &Path, views: u64) -> Result<Retokenized> {
    let set = shards::open(dir)?;
    ensure!(!set.is_empty() && views > 0, "there is nothing to tokenize again");
    let spec: ViewSpec = set.spec().view_spec.parse().context("reading the set's view specification")?;
    let tokenizer = shards::tokenizer_of(set.spec(), args.tokenizer.as_deref())?;
    let (px, mut renderer, mut buf) = (spec.token_px, Renderer::new(), ReadBuf::new());
    let mut found = Retokenized::default();
    // Several at once, as the tokenizer likes it; a token does not depend on its neighbours.
    for some in (0..views).collect::<Vec<_>>().chunks(64) {
        let (mut stored, mut pixels) = (Vec::new(), Vec::new());
        for &draw in some {
            let key = SeedKey { seed: args.seed, stream: draw, index: 0, purpose: Purpose::Batch };
            let mut draws = key.draws();
            let (index, k) = (draws.u64() % set.len(), draws.below(set.spec().views));
            let sample = set.read(index, k, &mut buf)?;
            let key = SeedKey::view(set.spec().seed, sample.id.0, k);
            let view = View::draw(&spec, sample.width, sample.height, key);
            let start = pixels.len();
            pixels.resize(start + (px * px * 3) as usize, 0);
            let (payload, mut times) = (shards::payload(&sample)?, StageTimes::default());
            renderer
                .render_payload(
                    payload,
                    &view,
                    sample.grey,
                    px,
                    spec.token_interpolation,
                    &mut pixels[start..],
                    &mut times,
                )
                .with_context(|| format!("decoding {}", sample.path))?;
            stored.push((sample.path.to_owned(), k, sample.tokens.to_vec()));
        }
        let mut again = Vec::new();
        tokenizer.encode(&pixels, stored.len(), px, &mut again).context("tokenizing")?;
        for ((path, view, stored), again) in stored.into_iter().zip(again.chunks_exact(set.spec().tokens())) {
            let differ = again.iter().zip(&stored).filter(|(now, stored)| now != stored).count() as u64;
            found.tokens += again.len() as u64;
            found.equal += again.len() as u64 - differ;
            if found.views == 0 || differ > found.worst.differ {
                found.worst = Worst { path, view, differ };
            }
            found.views += 1;
        }
    }
    found.share = found.equal as f64 / found.tokens as f64;
    Ok(found)
}

/// `99.5%` or `0.995`.
fn parse_share(text: &str) -> Result<f64> {
    let share = match text.strip_suffix('%') {
        Some(number) => number.trim().parse::<f64>().map(|number| number / 100.0),
        None => text.parse(),
    };
    share
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| anyhow!("expected a share such as 99.5% or 0.995"))
}

fn bar(bytes: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}");
    ProgressBar::with_draw_target(Some(bytes), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
