//! `beit-shard stats`: what a set is made of.

use crate::shards;
use anyhow::{Context, Result};
use beit_shards::{PAYLOAD_JPEG, ReadBuf, ShardSet};
use beit_tokenizer::CodeUse;
use beit_views::{Purpose, SeedKey};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Classes, image sizes, bytes, token usage and quarantine of a set
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard stats imagenet22k.shards\n  \
    beit-shard stats imagenet22k.shards --sample 50000      look at more records for sizes and tokens\n  \
    beit-shard stats imagenet22k.shards --json | jq .tokens.perplexity")]
pub struct Args {
    /// The shards [default: the only *.shards directory here]
    #[arg(value_name = "DIR")]
    shards: Option<PathBuf>,
    /// Records looked at for image sizes, payload kinds and token usage: random ones, or all in a smaller set
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Which records: the same seed chooses the same ones
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One object with everything
    #[arg(long)]
    json: bool,
}

/// Least, middle and most of some numbers.
#[derive(Debug, Default, Serialize)]
struct Spread {
    min: u64,
    median: u64,
    max: u64,
}

impl Spread {
    fn of(mut numbers: Vec<u64>) -> Self {
        numbers.sort_unstable();
        let at = |place: usize| numbers.get(place).copied().unwrap_or(0);
        Self { min: at(0), median: at(numbers.len() / 2), max: at(numbers.len().saturating_sub(1)) }
    }
}

#[derive(Debug, Serialize)]
struct Classes {
    count: usize,
    empty: usize,
    samples_per_class: Spread,
}

/// Bytes of all shard files by what they are for; the catalog and the manifest are not counted.
#[derive(Debug, Serialize)]
struct Bytes {
    total: u64,
    payload: u64,
    views: u64,
    overhead: u64,
    per_sample: PerSample,
}

#[derive(Debug, Serialize)]
struct PerSample {
    payload: f64,
    views: f64,
    overhead: f64,
}

/// What was seen of the images that were looked at.
#[derive(Debug, Serialize)]
struct Images {
    looked_at: u64,
    width: Spread,
    height: Spread,
    payload_bytes: Spread,
    kinds: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Tokens {
    looked_at: u64,
    vocab: u32,
    used_codes: usize,
    perplexity: f64,
    top_code_share: f64,
}

#[derive(Debug, Serialize)]
struct Quarantine {
    total: u64,
    by_reason: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Stats {
    digest: String,
    samples: u64,
    shards: usize,
    views: u32,
    classes: Classes,
    bytes: Bytes,
    images: Images,
    tokens: Tokens,
    quarantine: Quarantine,
}

/// Counts and reports.
pub fn run(args: &Args) -> Result<()> {
    let dir = shards::directory(args.shards.as_deref())?;
    let set = shards::open(&dir)?;
    let (images, tokens) = look(&set, args)?;
    let stats = Stats {
        digest: set.digest().to_string(),
        samples: set.len(),
        shards: set.shards().len(),
        views: set.spec().views,
        classes: classes(&set)?,
        bytes: bytes(&set),
        images,
        tokens,
        quarantine: quarantine(&set),
    };
    if args.json {
        println!("{}", serde_json::to_string(&stats)?);
    } else {
        stats.print(&set);
    }
    Ok(())
}

fn classes(set: &ShardSet) -> Result<Classes> {
    let mut counts = vec![0_u64; set.classes().len()];
    for shard in set.shards() {
        shard.for_each_name(|_, _, label, _| {
            if let Some(count) = counts.get_mut(label as usize) {
                *count += 1;
            }
            Ok(())
        })?;
    }
    let empty = counts.iter().filter(|&&count| count == 0).count();
    Ok(Classes { count: counts.len(), empty, samples_per_class: Spread::of(counts) })
}

fn bytes(set: &ShardSet) -> Bytes {
    let total = set.shards().iter().map(beit_shards::Shard::bytes).sum();
    let payload = set.shards().iter().map(|shard| shard.footer().payload_bytes).sum();
    let views = set.len() * u64::from(set.spec().views) * set.spec().view_bytes();
    let overhead = u64::saturating_sub(total, payload + views);
    let per_sample = |bytes: u64| bytes as f64 / set.len().max(1) as f64;
    let per_sample =
        PerSample { payload: per_sample(payload), views: per_sample(views), overhead: per_sample(overhead) };
    Bytes { total, payload, views, overhead, per_sample }
}

/// Reads a sample of the records, each with one view; of a small set all records with all views.
fn look(set: &ShardSet, args: &Args) -> Result<(Images, Tokens)> {
    let views = set.spec().views;
    let all = set.len() <= args.sample;
    let (mut widths, mut heights, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
    let mut kinds = BTreeMap::new();
    let mut codes = CodeUse::new(set.spec().tokenizer.vocab);
    let mut buf = ReadBuf::new();
    for number in 0..args.sample.min(set.len()) {
        let key = SeedKey { seed: args.seed, stream: number, index: 1, purpose: Purpose::Batch };
        let mut draws = key.draws();
        let (index, drawn) = (draws.u64() % set.len().max(1), draws.below(views));
        let (index, which) = if all { (number, 0..views) } else { (index, drawn..drawn + 1) };
        for (place, view) in which.enumerate() {
            let read = set
                .read(index, view, &mut buf)
                .context("the set is damaged; beit-shard verify says where")?;
            codes.add(read.tokens);
            if place == 0 {
                widths.push(read.width.into());
                heights.push(read.height.into());
                payloads.push(read.payload.len() as u64);
                let kind = if read.payload_kind == PAYLOAD_JPEG { "jpeg" } else { "rgb" };
                *kinds.entry(kind).or_default() += 1;
            }
        }
    }
    let images = Images {
        looked_at: widths.len() as u64,
        width: Spread::of(widths),
        height: Spread::of(heights),
        payload_bytes: Spread::of(payloads),
        kinds,
    };
    let tokens = Tokens {
        looked_at: codes.tokens(),
        vocab: set.spec().tokenizer.vocab,
        used_codes: codes.used(),
        perplexity: codes.perplexity(),
        top_code_share: codes.top_share(),
    };
    Ok((images, tokens))
}

/// By the word before the colon.
fn quarantine(set: &ShardSet) -> Quarantine {
    let mut by_reason = BTreeMap::new();
    for (_, reason) in set.shards().iter().flat_map(|shard| &shard.footer().quarantine) {
        let word = reason.split(':').next().unwrap_or_default().to_owned();
        *by_reason.entry(word).or_default() += 1;
    }
    Quarantine { total: by_reason.values().sum(), by_reason }
}

impl Stats {
    fn print(&self, set: &ShardSet) {
        let Self { classes, bytes, images, tokens, quarantine, .. } = self;
        let spread = |Spread { min, median, max }: &Spread| format!("{min} / {median} / {max}");
        let spec = set.spec();
        println!("set         {}", self.digest);
        println!(
            "samples     {} in {} shards, {} views of {}x{} tokens by {}, payload {}",
            self.samples,
            self.shards,
            self.views,
            spec.grid.0,
            spec.grid.1,
            spec.tokenizer.name,
            spec.payload
        );
        println!(
            "classes     {}, {} empty; samples per class {} (min / median / max)",
            classes.count,
            classes.empty,
            spread(&classes.samples_per_class)
        );
        println!(
            "bytes       {} in all; per sample {:.0} payload + {:.0} views + {:.0} overhead",
            bytes.total, bytes.per_sample.payload, bytes.per_sample.views, bytes.per_sample.overhead
        );
        let kinds: Vec<_> = images.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        println!(
            "images      {} looked at: {}; width {} px, height {} px, payload {} bytes",
            images.looked_at,
            kinds.join(", "),
            spread(&images.width),
            spread(&images.height),
            spread(&images.payload_bytes)
        );
        println!(
            "tokens      {} looked at: {} of {} codes used, perplexity {:.1}, most frequent code {:.2}%",
            tokens.looked_at,
            tokens.used_codes,
            tokens.vocab,
            tokens.perplexity,
            tokens.top_code_share * 100.0
        );
        let reasons: Vec<_> =
            quarantine.by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        println!(
            "quarantined {}{}{}",
            quarantine.total,
            if reasons.is_empty() { "" } else { ": " },
            reasons.join(", ")
        );
    }
}
