//! `beit-shard`: packs images into shards together with their dVAE tokens, and looks after the shards.
//!
//! Comes in: images in folders, tars or Parquet files, and a tokenizer. Goes out: `*.shard` files, a manifest and a catalog.
//! Start at [`build`], which is the picture of the packing line; [`source`] lists the images.

mod build;
mod cat;
mod devices;
mod fetch;
mod listen;
mod listing;
mod merge;
mod metrics;
mod pack;
mod part;
mod pixels;
mod prepare;
mod progress;
mod repair;
mod room;
mod shards;
mod source;
mod stages;
mod stats;
mod tally;
mod tokenizer;
mod verify;
mod watch;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Pack images into shards together with their dVAE tokens.
#[derive(Parser)]
#[command(
    name = "beit-shard",
    version,
    after_help = "Examples:\n  \
        beit-shard build imagenet22k/                              pack beside the source, into imagenet22k.shards/\n  \
        beit-shard build photos/ --tokenizer embedded --views 4    a trial with the small built-in tokenizer\n  \
        beit-shard watch photos/ --listen 127.0.0.1:9778           pack what arrives, with /metrics for Prometheus\n  \
        beit-shard verify imagenet22k.shards                       check every byte; exit 0 only for a sound set\n  \
        beit-shard repair imagenet22k/ --shards imagenet22k.shards make damaged records again from the source\n  \
        beit-shard stats imagenet22k.shards                        classes, sizes, bytes, token usage, quarantine\n  \
        beit-shard cat 0 --shards photos.shards --view 3 --out view.png\n  \
        beit-shard tokenizer train photos/ --out my.safetensors\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (the same command goes on where it stopped)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(build::Args),
    Ls(listing::Args),
    Cat(cat::Args),
    Merge(merge::Args),
    Watch(watch::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Stats(stats::Args),
    Tokenizer(tokenizer::Args),
    /// Print a completion script for a shell (for example: beit-shard completions bash)
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("beit-shard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Build(args) => build::run(&args),
        Command::Ls(args) => listing::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Cat(args) => cat::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Merge(args) => merge::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Stats(args) => stats::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Tokenizer(args) => tokenizer::run(args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "beit-shard", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn start_logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("BEIT_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}
