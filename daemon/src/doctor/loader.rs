//! The loader alone: how fast it is, where its time goes, and how well each order would mix the set.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result};
use beit_loader::{LoaderReport, Options, Order, Shuffle, ShuffleQuality, measure};
use beit_shards::{Io, Shard, ShardSet};
use beit_views::{MaskSpec, PatchGrid};
use serde_json::{Map, Value, json};

/// What was measured, and of what.
pub struct Alone {
    pub report: LoaderReport,
    setup: Setup,
    orders: [Mixed; 2],
}

impl Alone {
    /// Runs a loader for about `seconds`, throwing its batches away.
    ///
    /// # Errors
    /// the loader's
    pub fn measure(options: Options, seconds: f64) -> Result<Alone> {
        let set = options.shards.clone();
        let setup = Setup::of(&set, options.shuffle, options.workers as u32);
        let threads = options.workers;
        let report = measure(options, threads, seconds).context("measuring the loader")?;
        let orders = [Shuffle::Full, Shuffle::BLOCKS].map(|shuffle| Mixed::of(&set, shuffle));
        Ok(Alone { report, setup, orders })
    }

    /// How shards are read here: mmap or pread.
    pub fn io(&self) -> &str {
        &self.setup.io
    }

    /// For scripts: the keys `loader` and `orders`.
    pub fn as_json(&self) -> Value {
        as_json(&self.report, &self.setup, &self.orders)
    }

    /// For people.
    pub fn as_table(&self) -> String {
        as_table(&self.report, &self.setup, &self.orders)
    }
}

/// What a loader without a recipe does.
pub fn options(set: ShardSet, shuffle: Shuffle, read_ahead: u32, threads: u32) -> Options {
    let workers = threads as usize;
    let mut options = Options { shuffle, read_ahead, workers, ..Options::new(Arc::new(set)) };
    options.mask = mask_for(options.grid);
    options
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
