//! `beit-shard verify`: every byte of a set against its checksums.

use crate::shards;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check every byte of a set; exit code 0 only for a sound one
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard verify imagenet22k.shards\n  \
    beit-shard verify imagenet22k.shards --json | jq .faults")]
pub struct Args {
    /// The shards [default: the only *.shards directory here]
    #[arg(value_name = "DIR")]
    shards: Option<PathBuf>,
    /// Print the findings as one object on stdout
    #[arg(long)]
    json: bool,
}

/// Verifies and reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    let dir = shards::directory(args.shards.as_deref())?;
    let set = shards::open(&dir)?;
    let bytes = set.shards().iter().map(beit_shards::Shard::bytes).sum();
    let bar = bar(bytes);
    let found = set.verify_all(&mut |progress| bar.set_position(progress.bytes));
    bar.finish_and_clear();
    let faults: Vec<String> = found.damaged.iter().map(|damage| damage.error.to_string()).collect();
    if args.json {
        let report = serde_json::json!({
            "sound": found.is_sound(),
            "samples": set.len(),
            "shards": set.shards().len(),
            "bytes": found.progress.bytes,
            "faults": faults,
        });
        println!("{report}");
    }
    if found.is_sound() {
        if !args.json {
            let (samples, shards) = (set.len(), set.shards().len());
            println!("{}: sound: {samples} samples in {shards} shards, {bytes} bytes checked", dir.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    for fault in &faults {
        eprintln!("beit-shard: {fault}");
    }
    eprintln!(
        "beit-shard: {} is damaged ({} faults); delete the damaged shards and the manifest and build again: what is sound is kept",
        dir.display(),
        faults.len()
    );
    Ok(ExitCode::FAILURE)
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
