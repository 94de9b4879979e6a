//! What someone asks for on the command line, and the settings that come of it.
//!
//! The trainer makes the plan out of them, in the worker; what can be refused without opening the data is refused here,
//! before a port is bound or a process started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use beit_trainer::device::{Device, cores, gpu_nodes};
use beit_trainer::plan::Ask;
use beit_trainer::ranks::World;
use beit_trainer::recipe::{EMBEDDED, Recipe};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::board::READY_SECONDS;
use crate::discover;
use crate::live::{Live, LiveArgs, LiveSource};
use crate::rundir::RunDir;

/// The recipe of `beit-daemon start` without `--recipe`: the README command of the reference.
pub const DEFAULT_RECIPE: &str = "pretrain-base-22k";

/// What works on any machine.
pub const TRIAL: &str = "beit-daemon start --device cpu --ranks 2 --recipe pretrain-tiny-cpu";

/// Options of `beit-daemon start`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  beit-daemon start --gpus 16                                   the reference's recipe, one rank on each GPU
  beit-daemon start --device cpu --ranks 2 --recipe pretrain-tiny-cpu --set lr=5e-4
  beit-daemon start --run runs/long --steps 100000 --detach     in the background; beit-daemon status, logs, stop
  beit-daemon start --config daemon.toml --hang-timeout 300     replace a worker that makes no step for 5 minutes

Exit status: 0 all steps are done, or it was stopped and saved; 1 it could not go on; 2 wrong usage;
3 stopped, but the last steps are not saved. Signals: SIGTERM and SIGINT save and stop, a second one stops at
the last checkpoint; SIGHUP reads --config and opens daemon.log again.")]
pub struct StartArgs {
    /// Train on this many GPUs of this machine, one rank each
    #[arg(long, value_name = "N", conflicts_with_all = ["device", "ranks"],
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus: Option<u32>,
    /// Train on this kind of device
    #[arg(long, value_name = "KIND")]
    pub device: Option<Kind>,
    /// Ranks, each a replica of the model [default: 1 on the CPU, every GPU on cuda]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub ranks: Option<u32>,
    /// Directory of shards made by `beit-shard build` [default: the only *.shards directory here]
    #[arg(long, value_name = "DIR")]
    pub shards: Option<PathBuf>,
    /// What to train: a recipe's name or file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_RECIPE)]
    pub recipe: String,
    /// Change one key of the recipe; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Run directory: checkpoints, logs, token; a run goes on from the newest checkpoint in it
    /// [default: runs/RECIPE]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Go on from the run directory's weights even if they learned from another data set, tokenizer or order
    #[arg(long)]
    pub resume_anyway: bool,
    /// Address of the page, /metrics and the API; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9777")]
    pub listen: SocketAddr,
    /// Steps of the whole run, as --set steps=N
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Loader threads, as --set num_workers=N
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// How shards are read, as --set io=HOW; auto: mmap, but pread on network file systems
    #[arg(long, value_name = "HOW", value_parser = ["auto", "mmap", "pread"])]
    pub io: Option<String>,
    /// Unreadable samples that are replaced before the run gives up, as --set max_corrupt_samples=N
    #[arg(long, value_name = "N")]
    pub max_corrupt: Option<u64>,
    /// Without a step for this long, or for twenty mean steps if that is longer, /readyz says `stalled`
    #[arg(long, value_name = "SECONDS", default_value_t = READY_SECONDS)]
    pub stall_after: u64,
    /// Settings file: --log, --stop-timeout, --hang-timeout, --start-timeout and --restarts as keys with _ for -; SIGHUP has
    /// it read again
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What may be a key of the settings file too.
    #[command(flatten)]
    pub live: LiveArgs,
    /// Go on in the background once training starts; its output is daemon.log in the run directory
    #[arg(long)]
    pub detach: bool,
    /// This is the background half of --detach
    #[arg(long, hide = true)]
    pub in_background: bool,
}

/// A kind of device on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Cores of this machine
    Cpu,
    /// GPUs of this machine
    Cuda,
}

/// What a worker trains, as it travels to it. Recipes travel as text, so that numbers arrive bit for bit and a file
/// changed in the meantime changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The recipe's name.
    pub recipe_name: String,
    /// Its text.
    pub recipe_text: String,
    /// Changes to it, `key=value`, in order.
    pub set: Vec<String>,
    /// The shards.
    pub shards: PathBuf,
    /// The run directory.
    pub run: PathBuf,
    /// What ranks run on.
    pub device: Device,
    /// How many.
    pub ranks: u32,
    /// Whether to go on from weights of another data set, tokenizer or order too.
    #[serde(default)]
    pub resume_anyway: bool,
}

/// Everything a supervisor needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What to train.
    pub job: Job,
    /// Where.
    pub run: RunDir,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How long a run may do no step and still count as making progress.
    pub stall_after: Duration,
    /// What may change while it goes on.
    pub live: Live,
    /// Where that is written.
    pub source: LiveSource,
}

impl Job {
    /// What the trainer is asked to plan.
    ///
    /// # Errors
    /// The recipe's: a key, a type or a value that is not allowed.
    pub fn ask(&self) -> Result<Ask> {
        let mut recipe = Recipe::parse(&self.recipe_name, &self.recipe_text)?;
        for setting in &self.set {
            recipe.apply(setting).with_context(|| format!("applying --set {setting}"))?;
        }
        Ok(Ask {
            recipe_name: self.recipe_name.clone(),
            recipe,
            shards: self.shards.clone(),
            run: self.run.clone(),
            world: World::inside(self.ranks),
            device: self.device,
            resume_anyway: self.resume_anyway,
        })
    }
}

impl Settings {
    /// Resolves what was asked for, looking around in `here` for what was not.
    ///
    /// # Errors
    /// No such recipe or key; not that many GPUs; shards that are not there or not clear. Each says what to type.
    pub fn resolve(args: &StartArgs, here: &Path) -> Result<Settings> {
        let source = LiveSource { given: args.live.clone(), file: args.config.clone() };
        let live = source.read()?;
        let (device, ranks) = devices(args)?;
        let (recipe_name, _) = Recipe::find(&args.recipe)?;
        let recipe_text = match EMBEDDED.iter().find(|(name, _)| *name == args.recipe) {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(&args.recipe)
                .with_context(|| format!("reading the recipe {}", args.recipe))?,
        };
        let mut set = args.set.clone();
        set.extend(args.steps.map(|steps| format!("steps={steps}")));
        set.extend(args.threads.map(|threads| format!("num_workers={threads}")));
        set.extend(args.io.as_ref().map(|io| format!("io={io}")));
        set.extend(args.max_corrupt.map(|samples| format!("max_corrupt_samples={samples}")));
        let shards = match &args.shards {
            Some(shards) if shards.is_dir() => shards.clone(),
            Some(shards) if shards.exists() => {
                bail!("{} is no directory; --shards wants one made by `beit-shard build`", shards.display())
            }
            Some(shards) => {
                bail!(
                    "there is no directory {}; make it with `beit-shard build IMAGES/ --out {0}`",
                    shards.display()
                )
            }
            None => discover::only_shards(here)?,
        };
        let run = args.run.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe_name));
        let job = Job {
            recipe_name,
            recipe_text,
            set,
            shards,
            run: run.clone(),
            device,
            ranks,
            resume_anyway: args.resume_anyway,
        };
        job.ask()?;
        let stall_after = Duration::from_secs(args.stall_after);
        Ok(Settings { job, run: RunDir::new(run), listen: args.listen, stall_after, live, source })
    }
}

/// Device and ranks; nothing is chosen silently where no GPU is.
fn devices(args: &StartArgs) -> Result<(Device, u32)> {
    let (device, ranks) = match (args.gpus, args.device, args.ranks) {
        (Some(gpus), ..) => (Device::Cuda, gpus),
        (None, Some(Kind::Cpu), ranks) => (Device::Cpu, ranks.unwrap_or(1)),
        (None, Some(Kind::Cuda), Some(ranks)) => (Device::Cuda, ranks),
        (None, None, ranks) | (None, Some(Kind::Cuda), ranks) => match gpu_nodes() {
            0 => bail!(
                "this machine has no GPU, and {} cores; say --gpus N on a machine with N, or try it here with \
                 `{TRIAL}`",
                cores()
            ),
            gpus => (Device::Cuda, ranks.unwrap_or(gpus)),
        },
    };
    device.check(ranks).map_err(|error| anyhow!("{error}; type `{TRIAL}` to try it here"))?;
    Ok((device, ranks))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        start: StartArgs,
    }

    /// Resolves a command line in a directory that holds the folders named.
    fn resolve(line: &str, folders: &[&str]) -> Result<Settings> {
        let here = tempfile::tempdir().unwrap();
        for name in folders {
            std::fs::create_dir_all(here.path().join(name)).unwrap();
        }
        let line = Line::try_parse_from(std::iter::once("start").chain(line.split_ascii_whitespace()))?;
        Settings::resolve(&line.start, here.path())
    }

    #[track_caller]
    fn refused(line: &str, folders: &[&str], words: &[&str]) {
        let message = format!("{:#}", resolve(line, folders).unwrap_err());
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }

    const CPU: &str = "--device cpu --ranks 2 --recipe pretrain-tiny-cpu";

    #[test]
    fn a_plain_start_finds_its_shards_and_names_its_run() {
        let settings = resolve(CPU, &["photos.shards"]).unwrap();
        assert_eq!(settings.run.path(), Path::new("runs/pretrain-tiny-cpu"));
        assert!(settings.job.shards.ends_with("photos.shards"));
        assert_eq!((settings.job.device, settings.job.ranks), (Device::Cpu, 2));
        assert_eq!(settings.listen.to_string(), "127.0.0.1:9777");
    }

    #[test]
    fn steps_and_threads_are_keys_of_the_recipe_too() {
        let settings = resolve(&format!("{CPU} --steps 7 --threads 3 --set seed=5"), &["a.shards"]).unwrap();
        let recipe = settings.job.ask().unwrap().recipe;
        assert_eq!((recipe.steps, recipe.num_workers, recipe.seed), (Some(7), Some(3), 5));
    }

    #[test]
    fn going_on_from_another_runs_weights_is_asked_for() {
        for (more, expected) in [("", false), (" --resume-anyway", true)] {
            let settings = resolve(&format!("{CPU}{more}"), &["a.shards"]).unwrap();
            assert_eq!(settings.job.ask().unwrap().resume_anyway, expected);
        }
    }

    #[test]
    fn the_ways_of_reading_and_the_budget_of_corrupt_samples_are_keys_too() {
        let line = format!("{CPU} --io pread --max-corrupt 3 --set order=blocks");
        let recipe = resolve(&line, &["a.shards"]).unwrap().job.ask().unwrap().recipe;
        assert_eq!((recipe.io.as_str(), recipe.max_corrupt_samples), ("pread", 3));
        assert_eq!(recipe.shuffle(), beit_loader::Shuffle::BLOCKS);
        refused(&format!("{CPU} --io nmap"), &["a.shards"], &["nmap", "auto, mmap, pread"]);
    }

    #[test]
    fn more_gpus_than_there_are_is_refused_with_a_way_out() {
        refused("--gpus 1000", &["a.shards"], &["1000 GPUs", TRIAL]);
        refused("--gpus 2 --ranks 3", &[], &["cannot be used with"]);
    }

    #[test]
    fn a_misspelt_key_is_refused_before_anything_starts() {
        refused(&format!("{CPU} --set sedd=1"), &["a.shards"], &["sedd", "seed"]);
        refused(&format!("{CPU} --set steps=many"), &["a.shards"], &["steps", "number"]);
    }

    #[test]
    fn recipes_and_shards_that_are_not_there_are_named() {
        refused(
            "--device cpu --recipe pretrain-tiny",
            &["a.shards"],
            &["pretrain-tiny", "pretrain-tiny-cpu"],
        );
        refused(&format!("{CPU} --shards nowhere"), &[], &["nowhere", "beit-shard build"]);
        refused(CPU, &["a.shards", "b.shards"], &["a.shards, ", "--shards"]);
        refused(CPU, &[], &["beit-shard build"]);
    }
}
