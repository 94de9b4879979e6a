//! What can be typed.

pub mod weights;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Pre-trains BEiT on shards that `beit-shard build` made.
#[derive(Debug, Parser)]
#[command(
    name = "beit-train",
    version,
    after_help = "\
Examples:
  beit-train run --shards photos.shards --recipe pretrain-tiny-cpu --ranks 2
  beit-train run --shards photos.shards --recipe pretrain-tiny-cpu --set lr=5e-4 --steps 50
  beit-train plan --shards photos.shards --recipe pretrain-base-22k
  beit-train evaluate --run runs/pretrain-tiny-cpu --shards held-out.shards --shuffle-pixels --json
  beit-train batches --shards photos.shards --recipe pretrain-tiny-cpu --ranks 2 --to 3 --out batches
  beit-train audit runs/pretrain-tiny-cpu
  beit-train recipes --keys
  beit-train import beit_base_patch16_224_pt22k.pth base
  beit-train export runs/pretrain-tiny-cpu --to transformers exported
  torchrun --no-python --nproc-per-node 2 -- beit-train run --shards photos.shards --recipe pretrain-tiny-cpu

Exit codes: 0 finished, or stopped by SIGINT or SIGTERM with a checkpoint; 1 failure; 2 wrong usage.
BEIT_LOG=debug says more."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train, from the newest checkpoint in the run directory if there is one: what the daemon's worker does, in the
    /// foreground, for torchrun, Slurm and Kubeflow.
    #[command(visible_alias = "train")]
    Run {
        #[command(flatten)]
        plan: PlanArgs,
        /// Print a summary as JSON on the last line of stdout.
        #[arg(long)]
        json: bool,
        /// Exit status of a run that was stopped and saved with steps left to do; 75 tells a job queue to start it again.
        #[arg(long, value_name = "STATUS", default_value_t = 0)]
        stopped_status: u8,
    },
    /// Say what `run` would do, and do nothing.
    Plan {
        #[command(flatten)]
        plan: PlanArgs,
        /// As JSON, with every key of the recipe.
        #[arg(long)]
        json: bool,
    },
    /// Write the very batches that ranks would see, to compare implementations: pixels, masks, labels, sample ids.
    Batches {
        #[command(flatten)]
        plan: PlanArgs,
        /// The first step, counted from 0.
        #[arg(long, value_name = "STEP", default_value_t = 0)]
        from: u64,
        /// The step to end before.
        #[arg(long, value_name = "STEP")]
        to: u64,
        /// The folder to write plan.json and one safetensors file per step and rank into.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Measure a checkpoint on held-out shards.
    Evaluate {
        /// A run directory; its newest sound checkpoint is taken.
        #[arg(long, required_unless_present = "checkpoint", conflicts_with = "checkpoint")]
        run: Option<PathBuf>,
        /// One checkpoint directory.
        #[arg(long)]
        checkpoint: Option<PathBuf>,
        /// Shards of images that were not trained on, made with the same tokenizer.
        #[arg(long)]
        shards: PathBuf,
        /// At most so many samples.
        #[arg(long)]
        samples: Option<u64>,
        /// Samples per forward pass.
        #[arg(long, default_value_t = 64)]
        batch_size: u32,
        /// Also measure with another image's pixels under the same masks and targets.
        #[arg(long)]
        shuffle_pixels: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prove that a run has seen every sample of every epoch once, whatever happened to it: goes through its order again and
    /// compares with its log. Exits with 1 if it has not.
    Audit {
        /// A run directory; it is audited up to its newest checkpoint.
        run: PathBuf,
        /// Its shards, if they have moved.
        #[arg(long)]
        shards: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a checkpoint directory from weights of the reference, transformers or timm.
    Import(weights::Import),
    /// Write a checkpoint's weights for the reference, transformers or timm.
    Export(weights::Export),
    /// Say what a checkpoint or a weight file holds.
    Inspect(weights::Inspect),
    /// Run a checkpoint on given pixels, to compare implementations.
    Forward(weights::Forward),
    /// Print a completion script for a shell, such as bash.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// List the recipes inside this program, print one, or list all keys.
    Recipes {
        /// Print this one.
        name: Option<String>,
        /// List all keys with their meaning.
        #[arg(long)]
        keys: bool,
    },
}

/// What a plan is made of.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The folder of shards.
    #[arg(long)]
    pub shards: PathBuf,
    /// A recipe by name, or a file.
    #[arg(long, default_value = "pretrain-base-22k")]
    pub recipe: String,
    /// Change a key of the recipe; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The run directory: checkpoints and log. Default: runs/RECIPE, as beit-daemon's
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Go on from the run directory's weights even if they learned from another data set, tokenizer or order.
    #[arg(long)]
    pub resume_anyway: bool,
    /// Steps in all; the same as --set steps=N
    #[arg(long)]
    pub steps: Option<u64>,
    /// Ranks in this process, a thread each [default: 1]; what torchrun, srun or Kubeflow starts has as many each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), conflicts_with = "gpus")]
    pub ranks: Option<u32>,
    /// Device of the ranks.
    #[arg(long, default_value = "cpu", value_parser = ["cpu"], conflicts_with = "gpus")]
    pub device: String,
    /// One rank on each of so many GPUs; 1 where torchrun or srun starts a process for each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus: Option<u32>,
}
