//! `doctor`: measures what limits a run: the loader alone, the step alone, and both together, as they are in a run.

mod loader;
mod step;
mod together;
mod verdict;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use beit_loader::Shuffle;
use beit_shards::{Io, ShardSet};
use beit_trainer::device::cores;
use beit_trainer::plan::open_set;
use beit_trainer::recipe::Recipe;
use clap::Args;
use serde_json::json;

use crate::discover;

use self::loader::Alone;

const EXAMPLES: &str = "\
Examples:
  beit-daemon doctor --shards photos.shards --recipe pretrain-tiny-cpu        what limits this run, and what to change
  beit-daemon doctor --shards imagenet22k.shards --gpu --json                 for one GPU, as JSON
  beit-daemon doctor --shards photos.shards --loader-only --threads 1 --seconds 4
  beit-daemon doctor --step-only --recipe pretrain-base-22k --set batch_size=8";

/// Options of `beit-daemon doctor`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Directory of shards [default: the only *.shards directory here]
    #[arg(long, value_name = "DIR")]
    pub shards: Option<PathBuf>,
    /// Loader threads, as --set num_workers=N [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// How shards are read, as --set io=HOW [default: auto: mmap, but pread on network file systems]
    #[arg(long, value_name = "HOW", value_parser = ["auto", "mmap", "pread"])]
    pub io: Option<String>,
    /// How epochs are shuffled, as --set order=ORDER [default: shuffle]
    #[arg(long, value_name = "ORDER", value_parser = ["shuffle", "blocks"])]
    pub order: Option<String>,
    /// Samples that the kernel is asked to fetch ahead of their turn, as --set read_ahead=N [default: 64]
    #[arg(long, value_name = "N")]
    pub read_ahead: Option<u32>,
    /// How long to measure the loader, and at least how long the step and both together
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// Measure the loader alone: no model, no device
    #[arg(long)]
    pub loader_only: bool,
    /// Measure the step alone, on one batch that is used again and again: no loader
    #[arg(long, conflicts_with = "loader_only")]
    pub step_only: bool,
    #[command(flatten)]
    pub step: step::StepArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
///
/// # Errors
/// The shards cannot be read or do not fit the recipe; the time is no time; the run fails.
pub fn run(args: &DoctorArgs) -> Result<()> {
    ensure!(
        args.seconds > 0.0 && args.seconds <= 3600.0,
        "--seconds {} is no useful time; between 1 and 3600 is",
        args.seconds
    );
    let text = if args.step_only {
        step::run(&args.step, args.shards.as_deref(), args.json)?
    } else if args.loader_only {
        loader_alone(args)?
    } else {
        all(args)?
    };
    writeln!(std::io::stdout(), "{text}").context("writing to stdout")
}

fn shards(args: &DoctorArgs) -> Result<PathBuf> {
    match &args.shards {
        Some(shards) => Ok(shards.clone()),
        None => discover::only_shards(Path::new(".")),
    }
}

fn loader_alone(args: &DoctorArgs) -> Result<String> {
    let folder = shards(args)?;
    let io: Io = args.io.as_deref().unwrap_or("auto").parse().map_err(anyhow::Error::msg)?;
    let set = ShardSet::open(&folder, io).with_context(|| format!("opening {}", folder.display()))?;
    let threads = args.threads.unwrap_or_else(cores);
    let shuffle = if args.order.as_deref() == Some("blocks") { Shuffle::BLOCKS } else { Shuffle::Full };
    let options = loader::options(set, shuffle, args.read_ahead.unwrap_or(64), threads);
    let alone = Alone::measure(options, args.seconds)?;
    Ok(if args.json { alone.as_json().to_string() } else { alone.as_table() })
}

/// All three measurements of the same plan, and what follows from them.
fn all(args: &DoctorArgs) -> Result<String> {
    let folder = shards(args)?;
    let scratch = tempfile::Builder::new().prefix("beit-doctor-").tempdir();
    let scratch = scratch.context("making a folder for the run that is measured")?;
    let (recipe_name, mut recipe) = args.step.recipe()?;
    override_loading(args, &mut recipe)?;
    let plan = args.step.plan(recipe_name, recipe, Some(&folder), &scratch.path().join("run"))?;
    ensure!(
        !plan.recipe.online(),
        "a step alone is measured without the tokenizer: add --set tokens=shard, or --loader-only"
    );
    let say = |what: &str| eprintln!("doctor: {what}");

    say(&format!("1 of 3, the loader alone, for {} s", args.seconds));
    let set = Arc::new(open_set(&folder, plan.recipe.io())?);
    let payload = set.spec().payload.clone();
    let alone = Alone::measure(plan.loader_options(set, 0), args.seconds)?;

    let (warmup, steps) = (args.step.warmup, args.step.steps);
    let enough =
        format!("for at least {} s and {steps} steps of {} samples", args.seconds, plan.recipe.rank_batch());
    say(&format!("2 of 3, the step alone, {enough}"));
    let step = step::cached(&plan, &scratch.path().join("batch"), warmup, (steps, args.seconds))?;

    say(&format!("3 of 3, both together, {enough}"));
    let together = together::measure(&plan, warmup, steps, args.seconds)?;

    let facts = verdict::Facts {
        plan: &plan,
        payload: &payload,
        io: alone.io(),
        cores: cores(),
        loader: &alone.report,
        step: &step,
        together: &together,
    };
    let verdict = facts.judge();
    if args.json {
        let mut report = alone.as_json();
        for part in [step::as_json(&step, &plan), together::as_json(&together, cores()), verdict.as_json()] {
            if let (Some(report), serde_json::Value::Object(part)) = (report.as_object_mut(), part) {
                report.extend(part);
            }
        }
        report["device"] = json!(plan.device.name());
        return Ok(report.to_string());
    }
    Ok([
        alone.as_table(),
        step::as_table(&step, &plan),
        together::as_table(&together, cores()),
        verdict.to_string(),
    ]
    .join("\n"))
}

/// What the command line says of loading wins over the recipe.
fn override_loading(args: &DoctorArgs, recipe: &mut Recipe) -> Result<()> {
    let settings = [
        args.threads.map(|threads| format!("num_workers={threads}")),
        args.io.as_ref().map(|io| format!("io={io}")),
        args.order.as_ref().map(|order| format!("order={order}")),
        args.read_ahead.map(|samples| format!("read_ahead={samples}")),
    ];
    for setting in settings.into_iter().flatten() {
        recipe.apply(&setting)?;
    }
    Ok(())
}
