//! `doctor`: measures what limits a run. For now the loader alone, or the step alone; both together come with it.

mod step;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use beit_loader::{LoaderReport, Options, Order, Shuffle, ShuffleQuality, measure};
use beit_shards::{Io, Shard, ShardSet};
use beit_trainer::device::cores;
use beit_views::{MaskSpec, PatchGrid};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::discover;

/// Options of `beit-daemon doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Directory of shards [default: the only *.shards directory here]
    #[arg(long, value_name = "DIR")]
    pub shards: Option<PathBuf>,
    /// Loader threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// How shards are read; auto: mmap, but pread on network file systems
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = ["auto", "mmap", "pread"])]
    pub io: String,
    /// How epochs are shuffled, as the recipe's key order
    #[arg(long, value_name = "ORDER", default_value = "shuffle", value_parser = ["shuffle", "blocks"])]
    pub order: String,
    /// Samples that the kernel is asked to fetch ahead of their turn
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub read_ahead: u32,
    /// How long to measure
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
/// The shards cannot be read; the time is no time.
pub fn run(args: &DoctorArgs) -> Result<()> {
    if args.step_only {
        return step::run(&args.step, args.shards.as_deref(), args.json);
    }
    ensure!(
        args.loader_only,
        "doctor measures the loader alone or the step alone in this version: add --loader-only or --step-only"
    );
    ensure!(
        args.seconds > 0.0 && args.seconds <= 3600.0,
        "--seconds {} is no useful time; between 1 and 3600 is",
        args.seconds
    );
    let folder = match &args.shards {
        Some(shards) => shards.clone(),
        None => discover::only_shards(Path::new("."))?,
    };
    let io: Io = args.io.parse().map_err(anyhow::Error::msg)?;
    let set = ShardSet::open(&folder, io).with_context(|| format!("opening {}", folder.display()))?;
    let threads = args.threads.unwrap_or_else(cores);
    let shuffle = if args.order == "blocks" { Shuffle::BLOCKS } else { Shuffle::Full };
    let set = Arc::new(set);
    let mut options = Options { shuffle, read_ahead: args.read_ahead, ..Options::new(set.clone()) };
    options.mask = mask_for(options.grid);
    let setup = Setup::of(&set, shuffle, threads);
    let report = measure(options, threads as usize, args.seconds).context("measuring the loader")?;
    let orders = [Shuffle::Full, Shuffle::BLOCKS].map(|shuffle| Mixed::of(&set, shuffle));
    let text = if args.json {
        as_json(&report, &setup, &orders).to_string()
    } else {
        as_table(&report, &setup, &orders)
    };
    writeln!(std::io::stdout(), "{text}").context("writing to stdout")
}

/// The reference's masks, scaled to grids that are not its 14x14.
fn mask_for(grid: PatchGrid) -> MaskSpec {
    let reference = MaskSpec::default();
    if reference.check(grid).is_ok() {
        return reference;
    }
    // Blocks need two rows and two columns; a grid without has no mask.
    let hidden = if grid.rows.min(grid.cols) < 2 { 0 } else { grid.rows * grid.cols * 2 / 5 };
    MaskSpec {
        num_mask_patches: hidden,
        min_mask_patches_per_block: reference.min_mask_patches_per_block.min(hidden),
        ..reference
    }
}

/// What was measured.
struct Setup {
    threads: u32,
    /// mmap or pread, whatever was asked for.
    io: String,
    shuffle: Shuffle,
}

impl Setup {
    fn of(set: &ShardSet, shuffle: Shuffle, threads: u32) -> Setup {
        let io = set.shards().first().map_or(Io::Auto, Shard::io).to_string();
        Setup { threads, io, shuffle }
    }
}

/// How well an order would mix this set, and what it takes.
struct Mixed {
    name: &'static str,
    shuffle: Shuffle,
    quality: ShuffleQuality,
    /// Bytes of the page cache that keep disks from reading a record twice; 0: none are needed.
    cache_bytes: u64,
}

impl Mixed {
    fn of(set: &ShardSet, shuffle: Shuffle) -> Mixed {
        let order = Order::shuffled(0, set.len(), set.spec().views, shuffle);
        let bytes: u64 = set.shards().iter().map(Shard::bytes).sum();
        let (name, cache_bytes) = match shuffle {
            Shuffle::Full => ("shuffle", 0),
            Shuffle::Blocks { block_samples, window_blocks } => {
                // The window that is shown and the one that is fetched.
                let samples = (2 * block_samples * window_blocks).min(set.len());
                ("blocks", (u128::from(bytes) * u128::from(samples) / u128::from(set.len().max(1))) as u64)
            }
        };
        let quality = ShuffleQuality::of(&order, set.classes().len() as u64);
        Mixed { name, shuffle, quality, cache_bytes }
    }
}

fn as_json(report: &LoaderReport, setup: &Setup, orders: &[Mixed]) -> Value {
    let stages: Map<String, Value> =
        report.stages_us.named().into_iter().map(|(stage, us)| (stage.to_owned(), json!(us))).collect();
    let orders: Map<String, Value> = orders
        .iter()
        .map(|order| {
            let quality = &order.quality;
            let value = json!({
                "displacement_ratio": quality.displacement,
                "neighbour_correlation": quality.neighbour_correlation,
                "same_class_run_samples": quality.same_class_run.map(|run| run.mean),
                "same_class_run_by_chance_samples": quality.same_class_run.map(|run| run.by_chance),
                "batch_drift_ratio": quality.batch_drift,
                "page_cache_bytes": order.cache_bytes,
            });
            (order.name.to_owned(), value)
        })
        .collect();
    json!({
        "loader": {
            "images_per_s_per_core": report.images_per_s_per_core,
            "images_per_s": report.images_per_s,
            "bytes_per_s": report.bytes_per_s,
            "images": report.images,
            "seconds": report.seconds,
            "threads": setup.threads,
            "io": setup.io,
            "order": setup.shuffle.to_string(),
            "corrupt": report.corrupt,
            "stages_us": stages,
            "core_share_ratio": report.core_share,
            "checksum_us": report.checksum_us,
            "handoff_ratio": report.handoff_share(),
        },
        "orders": orders,
    })
}

fn as_table(report: &LoaderReport, setup: &Setup, orders: &[Mixed]) -> String {
    let mut text = format!(
        "loader alone: {:.0} images/s with {} threads, {:.0} images/s per core, {:.1} MB/s of payload\n\
         read by {}, in order {}\n",
        report.images_per_s,
        setup.threads,
        report.images_per_s_per_core,
        report.bytes_per_s / 1e6,
        setup.io,
        setup.shuffle,
    );
    let total = report.stages_us.total().max(f64::MIN_POSITIVE);
    for (stage, us) in report.stages_us.named() {
        let _ = write!(text, "  {stage:<8} {us:>8.1} us per image  {:>5.1} %", 100.0 * us / total);
        if stage == "read" {
            let _ = write!(text, ", of which checksums {:.1} us", report.checksum_us);
        }
        if stage == "handoff" {
            let _ = write!(text, ", {:.2} % of processor time", 100.0 * report.handoff_share());
        }
        text.push('\n');
    }
    if report.core_share < 0.9 {
        let _ = writeln!(
            text,
            "  by the clock, but the machine is busy: the workers had a core for {:.0} % of that time",
            100.0 * report.core_share
        );
    }
    let _ = writeln!(
        text,
        "  {} images in {:.1} s, {} corrupt records",
        report.images, report.seconds, report.corrupt
    );
    // Of a set of one class there is nothing to say about classes.
    let by_chance = orders.first().and_then(|order| order.quality.same_class_run).map(|run| run.by_chance);
    let by_chance = by_chance.map_or_else(String::new, |run| format!(" {run:.4},"));
    let _ = write!(text, "how orders would mix this set (a perfect shuffle: 1, 0,{by_chance} 1):");
    for Mixed { name, shuffle, quality, cache_bytes } in orders {
        let run = quality.same_class_run.map(|run| format!(" same class in a row {:.4},", run.mean));
        let _ = write!(
            text,
            "\n  {name:<8} displacement {:.3}, neighbours' correlation {:.4},{} batch drift {:.2}",
            quality.displacement,
            quality.neighbour_correlation,
            run.unwrap_or_default(),
            quality.batch_drift
        );
        if *cache_bytes > 0 {
            let gb = *cache_bytes as f64 / 1e9;
            let _ = write!(text, "\n           {shuffle}; {gb:.2} GB of page cache hold two windows");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_made_to_fit_small_grids() {
        for side in 1..=20 {
            let grid = PatchGrid { rows: side, cols: side };
            let mask = mask_for(grid);
            assert!(mask.check(grid).is_ok(), "{side}");
            assert_eq!(mask == MaskSpec::default(), MaskSpec::default().check(grid).is_ok());
        }
    }

    #[test]
    fn the_report_has_the_names_that_scripts_rely_on() {
        let mut report = LoaderReport { images_per_s_per_core: 1234.5, ..LoaderReport::default() };
        (report.stages_us.read, report.checksum_us) = (20.0, 12.5);
        (report.stages_us.entropy, report.stages_us.idct, report.stages_us.handoff) = (280.0, 99.0, 1.0);
        report.core_share = 0.5;
        let setup = Setup { threads: 2, io: "pread".into(), shuffle: Shuffle::BLOCKS };
        let orders = [Shuffle::Full, Shuffle::BLOCKS].map(|shuffle| Mixed {
            name: if shuffle == Shuffle::Full { "shuffle" } else { "blocks" },
            shuffle,
            quality: ShuffleQuality::of(&Order::shuffled(0, 100_000, 1, shuffle), 10),
            cache_bytes: if shuffle == Shuffle::Full { 0 } else { 1_500_000_000 },
        });
        let value = as_json(&report, &setup, &orders);
        assert_eq!(value["loader"]["images_per_s_per_core"], 1234.5);
        let stages = value["loader"]["stages_us"].as_object().unwrap();
        let names: Vec<&str> = stages.keys().map(String::as_str).collect();
        assert_eq!(names, ["entropy", "handoff", "idct", "jitter", "mask", "read", "resize"]);
        assert_eq!((&stages["entropy"], &value["loader"]["checksum_us"]), (&json!(280.0), &json!(12.5)));
        assert_eq!(value["loader"]["handoff_ratio"], 1234.5 / 1e6);
        assert!(value["orders"]["blocks"]["neighbour_correlation"].as_f64().unwrap() > 0.001);
        let text = as_table(&report, &setup, &orders);
        for words in [
            "entropy     280.0 us per image   70.0 %",
            "the machine is busy: the workers had a core for 50 %",
            "5.0 %, of which checksums 12.5 us",
            "handoff       1.0 us per image    0.2 %, 0.12 % of processor time",
            "read by pread, in order blocks of 128 samples",
            "1.50 GB of page cache hold two windows",
            ", same class in a row",
        ] {
            assert!(text.contains(words), "{words} is missing from\n{text}");
        }
        let one_class = orders.map(|order| Mixed {
            quality: ShuffleQuality::of(&Order::shuffled(0, 100_000, 1, order.shuffle), 1),
            ..order
        });
        assert!(
            as_json(&report, &setup, &one_class)["orders"]["shuffle"]["same_class_run_samples"].is_null()
        );
        let text = as_table(&report, &setup, &one_class);
        assert!(!text.contains("same class") && text.contains("(a perfect shuffle: 1, 0, 1)"), "{text}");
    }
}
