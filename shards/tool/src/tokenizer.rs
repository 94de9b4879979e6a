//! `beit-shard tokenizer …`: train one, look at what it sees, ask what a file is.

mod album;
mod feed;
mod info;
mod sheet;
mod show;
mod train;

use anyhow::{Result, bail};

/// Train a tokenizer, look at what it sees, ask what a file is
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    beit-shard tokenizer train photos/ --out my.safetensors         a tokenizer of your own images\n  \
    beit-shard tokenizer show my.safetensors photos/ --out look.png originals beside reconstructions\n  \
    beit-shard tokenizer info dall_e_tokenizer_weight/              name, digest and shape of a file")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Train(train::Args),
    Show(show::Args),
    Info(info::Args),
}

/// Runs one of the tokenizer commands.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Train(args) => train::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Info(args) => info::run(&args),
    }
}

/// `0.4,1` → (0.4, 1.0).
fn parse_range(text: &str) -> Result<(f64, f64)> {
    let parts: Vec<f64> = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
    match parts[..] {
        [least, most] if least > 0.0 && least <= most && most <= 1.0 => Ok((least, most)),
        _ => bail!("{text}: give least,most with 0 < least <= most <= 1, such as 0.4,1"),
    }
}
