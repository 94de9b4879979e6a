//! The step alone: the plan's model, one rank, one batch.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beit_trainer::batches;
use beit_trainer::device::Device;
use beit_trainer::measure::{StepReport, measure_step, no_data};
use beit_trainer::plan::{Ask, DataFacts, Plan, open_set};
use beit_trainer::ranks::World;
use beit_trainer::recipe::Recipe;
use clap::Args;
use serde_json::{Value, json};

/// Options of `beit-daemon doctor` about the step.
#[derive(Args, Debug)]
pub struct StepArgs {
    /// A recipe by name, or a file
    #[arg(long, value_name = "RECIPE", default_value = "pretrain-base-22k")]
    pub recipe: String,
    /// Change a key of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "loader_only")]
    pub set: Vec<String>,
    /// A batch as `beit-train batches` writes them, with --step-only [default: noise]
    #[arg(long, value_name = "FILE", requires = "step_only")]
    pub batch: Option<PathBuf>,
    /// Width of the head where no shards say it, with --step-only
    #[arg(long, value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub vocab: u32,
    /// Measure on the first GPU [default: on the CPU]
    #[arg(long, conflicts_with = "loader_only")]
    pub gpu: bool,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub steps: u32,
    /// Steps before those
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmup: u32,
}

impl StepArgs {
    /// The recipe as the command line changes it, and its name.
    ///
    /// # Errors
    /// no such recipe, key or value
    pub fn recipe(&self) -> Result<(String, Recipe)> {
        let (name, mut recipe) = Recipe::find(&self.recipe)?;
        for setting in &self.set {
            recipe.apply(setting)?;
        }
        Ok((name, recipe))
    }

    /// The plan of one rank.
    ///
    /// # Errors
    /// shards that do not fit the recipe
    pub fn plan(
        &self,
        recipe_name: String,
        recipe: Recipe,
        shards: Option<&Path>,
        run: &Path,
    ) -> Result<Plan> {
        let data = match shards {
            Some(shards) => DataFacts::of(&open_set(shards, recipe.io())?)?,
            None => no_data(&recipe, self.vocab),
        };
        let ask = Ask {
            recipe_name,
            recipe,
            shards: shards.unwrap_or(Path::new("")).into(),
            run: run.into(),
            world: World::inside(1),
            device: if self.gpu { Device::Cuda } else { Device::Cpu },
            resume_anyway: false,
        };
        Ok(Plan::decide(ask, data)?)
    }
}

/// Measures the step alone, on a batch from a file or on noise.
///
/// # Errors
/// no such recipe; shards that do not fit it; libtorch's
pub fn run(args: &StepArgs, shards: Option<&Path>, json: bool) -> Result<String> {
    let (recipe_name, recipe) = args.recipe()?;
    let plan = args.plan(recipe_name, recipe, shards, Path::new(""))?;
    let report = measure_step(&plan, args.batch.as_deref(), args.warmup, (args.steps, 0.0))
        .context("measuring the step")?;
    Ok(if json { as_json(&report, &plan).to_string() } else { as_table(&report, &plan) })
}

/// Measures the step alone on the run's first batch, which is kept in `folder`: so many steps, for at least so many seconds.
///
/// # Errors
/// shards that cannot be read; libtorch's
pub fn cached(plan: &Plan, folder: &Path, warmup: u32, enough: (u32, f64)) -> Result<StepReport> {
    batches::write(plan, 0..1, folder).context("making a batch for the step")?;
    let batch = folder.join("step-00000000.rank-0000.safetensors");
    measure_step(plan, Some(&batch), warmup, enough).context("measuring the step")
}

/// For scripts: the key `step`.
pub fn as_json(report: &StepReport, plan: &Plan) -> Value {
    json!({
        "step": {
            "seconds": report.median_s(),
            "cpu_seconds": report.median_cpu_s(),
            "each_seconds": report.seconds,
            "each_cpu_seconds": report.cpu_seconds,
            "samples": report.samples,
            "samples_per_s": report.samples as f64 / report.median_s(),
            "hidden": report.hidden,
            "threads": plan.threads_per_rank,
            "amp": plan.recipe.amp,
            "flops": report.flops,
            "flops_per_s": report.flops_per_s(),
            "matmul_flops_per_s": report.matmul_flops_per_s,
            "mfu": plan.peak_flops_per_s().map(|peak| report.flops_per_s() / peak),
            "peak_rss_bytes": report.peak_rss_bytes,
            "loss": report.loss,
        }
    })
}

/// For people.
pub fn as_table(report: &StepReport, plan: &Plan) -> String {
    let model = &plan.model;
    let mfu = match plan.peak_flops_per_s() {
        Some(peak) => format!("MFU {:.1} %", 100.0 * report.flops_per_s() / peak),
        None => "no MFU, as peak_tflops is not known".to_owned(),
    };
    format!(
        "step alone: {:.3} s for {} samples, {:.2} samples/s; {:.3} s of processor time on {} threads\n\
         \x20 model    {} layers, width {}, {} tokens; {} patches hidden; amp {}\n\
         \x20 work     {:.3} TFLOP per step, {:.4} TFLOP/s; a large matrix product makes {:.4} here; {mfu}\n\
         \x20 memory   {:.2} GB at most",
        report.median_s(),
        report.samples,
        report.samples as f64 / report.median_s(),
        report.median_cpu_s(),
        plan.threads_per_rank,
        model.depth,
        model.width,
        model.vocab,
        report.hidden,
        plan.recipe.amp,
        report.flops / 1e12,
        report.flops_per_s() / 1e12,
        report.matmul_flops_per_s / 1e12,
        report.peak_rss_bytes as f64 / 1e9,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_names_that_scripts_rely_on() {
        let (recipe_name, recipe) = Recipe::find("pretrain-base-22k").unwrap();
        let data = no_data(&recipe, 8192);
        let (shards, run, world) = (PathBuf::new(), PathBuf::new(), World::inside(1));
        let mut plan = Plan::decide(
            Ask { recipe_name, recipe, shards, run, world, device: Device::Cpu, resume_anyway: false },
            data,
        )
        .unwrap();
        plan.threads_per_rank = 2;
        let report = StepReport {
            seconds: vec![4.0, 2.0, 3.0],
            cpu_seconds: vec![5.0, 6.0, 7.0],
            samples: 8,
            hidden: 600,
            flops: plan.model.step_flops(8, 600),
            matmul_flops_per_s: 4e11,
            peak_rss_bytes: 5_000_000_000,
            loss: 9.1,
        };
        let step = &as_json(&report, &plan)["step"];
        assert_eq!((step["seconds"].as_f64(), step["cpu_seconds"].as_f64()), (Some(3.0), Some(6.0)));
        assert_eq!((step["flops"].as_f64(), &step["mfu"]), (Some(863_826_444_288.0), &Value::Null));
        plan.recipe.peak_tflops = Some(0.5);
        let text = as_table(&report, &plan);
        for words in [
            "step alone: 3.000 s for 8 samples, 2.67 samples/s; 6.000 s of processor time on 2 threads",
            "12 layers, width 768, 8192 tokens; 600 patches hidden; amp fp16",
            "0.864 TFLOP per step, 0.2879 TFLOP/s; a large matrix product makes 0.4000 here; MFU 57.6 %",
            "5.00 GB at most",
        ] {
            assert!(text.contains(words), "{words} is missing from\n{text}");
        }
    }
}
