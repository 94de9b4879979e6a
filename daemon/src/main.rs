//! `beit-daemon`: trains a BEiT from shards, watches over it, and shows how it goes.
//!
//! Settings come in on the command line, a recipe says what to train; out come checkpoints in a run directory, and
//! numbers over HTTP. Start reading at [`topology`]: it shows who runs and how they are wired.

mod topology;

mod discover;
mod live;
mod rundir;
mod settings;

mod budget;
mod cause;
mod child;
mod notify;
mod oom;
mod supervisor;
mod watchdog;
mod wire;
mod worker;

mod board;
mod feed;
mod history;
mod http;
mod logfile;
mod metrics;
mod page;
mod screen;

mod client;
mod detach;
mod doctor;
mod exit;
mod logs;
mod orders;
mod runs;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::settings::StartArgs;

const EXAMPLES: &str = "\
Examples:
  beit-daemon start --gpus 16                       the reference's recipe on the only *.shards directory here
  beit-daemon start --device cpu --ranks 2 --recipe pretrain-tiny-cpu --steps 300
  beit-daemon start --recipe my.toml --set lr=1e-3 --run runs/lr1e-3 --listen 127.0.0.1:0 --detach
  beit-daemon status --json
  beit-daemon pause && beit-daemon checkpoint && beit-daemon resume
  beit-daemon stop
  beit-daemon doctor --shards photos.shards --recipe pretrain-tiny-cpu    what limits it, and what to change";

/// Trains a BEiT from shards, watches over it, and shows how it goes.
#[derive(Parser)]
#[command(name = "beit-daemon", version, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train until all steps are done; a run goes on from the newest checkpoint in its directory
    ///
    /// SIGTERM or Ctrl-C saves a checkpoint and exits 0; a second one stops at the last checkpoint and exits 3.
    Start(Box<StartArgs>),
    /// Say how a run is
    #[command(
        after_help = "Exit status: 0 a daemon lives there; 4 none does, and the text says what became of it."
    )]
    Status {
        /// Run directory [default: the only live run under runs/]
        #[arg(long, value_name = "DIR")]
        run: Option<PathBuf>,
        /// Print everything as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Save a checkpoint, end the run, and wait until it is gone
    #[command(
        after_help = "Exit status: 0 saved and gone; 3 gone, but the last steps are not saved; 5 still there after --timeout."
    )]
    Stop(orders::OrderArgs),
    /// Let training stand still after the step under way; status, metrics and checkpoints go on
    #[command(
        after_help = "A pause outlives the worker, not the daemon. `beit-daemon resume` ends it; stop and checkpoint work meanwhile."
    )]
    Pause(orders::OrderArgs),
    /// Let a paused run go on
    Resume(orders::OrderArgs),
    /// Save a checkpoint now, and wait until it is published
    #[command(
        after_help = "Exit status: 0 a checkpoint of now is published; 1 it could not be; 5 it is not there after --timeout."
    )]
    Checkpoint(orders::OrderArgs),
    /// Print what a run has said
    Logs(logs::LogsArgs),
    /// List the runs here
    Runs {
        /// Where their directories lie [default: runs]
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
        /// Print them as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what limits a run
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// The process that trains; `start` starts it
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        supervisor: u32,
    },
}

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit::Fault::status_of(&error))
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Start(args) if args.in_background => {
            detach::leave_session()?;
            topology::start(&args)
        }
        Command::Start(args) if args.detach => detach::start(&args),
        Command::Start(args) => topology::start(&args),
        Command::Status { run, json } => status::status(run.as_deref(), json),
        Command::Stop(args) => orders::stop(&args),
        Command::Pause(args) => orders::pause(&args),
        Command::Resume(args) => orders::resume(&args),
        Command::Checkpoint(args) => orders::checkpoint(&args),
        Command::Logs(args) => logs::logs(&args),
        Command::Runs { folder, json } => runs::runs(folder, json),
        Command::Doctor(args) => doctor::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut CommandLine::command(),
                "beit-daemon",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Worker { supervisor } => {
            let screen = screen::Screen::new();
            screen.log_here();
            worker::main(supervisor, screen)
        }
    }
}
