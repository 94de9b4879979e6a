//! `doctor`: measures what limits a run. For now the loader alone; the step, and both together, come with it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use beit_loader::{LoaderReport, Options, measure};
use beit_shards::{Io, ShardSet};
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
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// Measure the loader alone: no model, no device
    #[arg(long)]
    pub loader_only: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
///
/// # Errors
/// The shards cannot be read; the time is no time.
pub fn run(args: &DoctorArgs) -> Result<()> {
    ensure!(args.loader_only, "doctor measures the loader alone in this version: add --loader-only");
    ensure!(
        args.seconds > 0.0 && args.seconds <= 3600.0,
        "--seconds {} is no useful time; between 1 and 3600 is",
        args.seconds
    );
    let folder = match &args.shards {
        Some(shards) => shards.clone(),
        None => discover::only_shards(Path::new("."))?,
    };
    let set = ShardSet::open(&folder, Io::Auto).with_context(|| format!("opening {}", folder.display()))?;
    let threads = args.threads.unwrap_or_else(cores);
    let mut options = Options::new(Arc::new(set));
    options.mask = mask_for(options.grid);
    let report = measure(options, threads as usize, args.seconds).context("measuring the loader")?;
    let text = if args.json { as_json(&report, threads).to_string() } else { as_table(&report, threads) };
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

fn as_json(report: &LoaderReport, threads: u32) -> Value {
    let stages: Map<String, Value> =
        report.stages_us.named().into_iter().map(|(stage, us)| (stage.to_owned(), json!(us))).collect();
    json!({"loader": {
        "images_per_s_per_core": report.images_per_s_per_core,
        "images_per_s": report.images_per_s,
        "bytes_per_s": report.bytes_per_s,
        "images": report.images,
        "seconds": report.seconds,
        "threads": threads,
        "corrupt": report.corrupt,
        "stages_us": stages,
    }})
}

fn as_table(report: &LoaderReport, threads: u32) -> String {
    let stages = report.stages_us.named();
    let total: f64 = stages.iter().map(|(_, us)| us).sum();
    let mut text = format!(
        "loader alone: {:.0} images/s with {threads} threads, {:.0} images/s per core, {:.1} MB/s of payload\n",
        report.images_per_s,
        report.images_per_s_per_core,
        report.bytes_per_s / 1e6
    );
    for (stage, us) in stages {
        let _ = writeln!(
            text,
            "  {stage:<8} {us:>8.1} us per image  {:>3.0} %",
            100.0 * us / total.max(f64::MIN_POSITIVE)
        );
    }
    let _ = write!(
        text,
        "  {} images in {:.1} s, {} corrupt records",
        report.images, report.seconds, report.corrupt
    );
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
        report.stages_us.decode = 300.0;
        report.stages_us.resize = 100.0;
        let value = as_json(&report, 2);
        assert_eq!(value["loader"]["images_per_s_per_core"], 1234.5);
        assert_eq!(value["loader"]["stages_us"]["decode"], 300.0);
        assert!(
            as_table(&report, 2).contains("decode      300.0 us per image   75 %"),
            "{}",
            as_table(&report, 2)
        );
    }
}
