//! `beit-train`: plan, train and evaluate without a daemon.

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use beit_trainer::audit::{AuditAsk, audit};
use beit_trainer::batches;
use beit_trainer::control::Control;
use beit_trainer::device::Device;
use beit_trainer::error::TrainError;
use beit_trainer::evaluate::{EvaluateAsk, evaluate};
use beit_trainer::plan::{Ask, Plan};
use beit_trainer::ranks::World;
use beit_trainer::recipe::{EMBEDDED, KEYS, Recipe};
use beit_trainer::run::run;
use beit_trainer::stats::TrainStats;
use clap::{CommandFactory, Parser};
use serde_json::json;

use cli::{Cli, Command, PlanArgs};

fn main() -> ExitCode {
    let cli = Cli::parse(); // Exits with 2 on wrong usage.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BEIT_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let done = match cli.command {
        Command::Run { plan, json, stopped_status } => match train(plan, json) {
            Ok(false) => return ExitCode::from(stopped_status),
            done => done.map(drop),
        },
        Command::Plan { plan, json } => show(plan, json),
        Command::Batches { plan, from, to, out } => write_batches(plan, from..to, &out),
        Command::Evaluate { run, checkpoint, shards, samples, batch_size, shuffle_pixels, json } => {
            let checkpoint = checkpoint.or(run).unwrap_or_default(); // clap sees to it that one is given
            report(&EvaluateAsk { checkpoint, shards, samples, batch_size, shuffle_pixels }, json)
        }
        Command::Audit { run, shards, json } => audit_run(&AuditAsk { run, shards }, json),
        Command::Import(args) => cli::weights::import(args),
        Command::Export(args) => cli::weights::export(args),
        Command::Inspect(args) => cli::weights::inspect(args),
        Command::Forward(args) => cli::weights::forward(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "beit-train", &mut std::io::stdout());
            Ok(())
        }
        Command::Recipes { keys, name } => recipes(keys, name.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beit-train: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Resolves the command line into a plan; the only place that reads the environment.
fn resolve(args: PlanArgs) -> Result<Plan, TrainError> {
    let (recipe_name, mut recipe) = Recipe::find(&args.recipe)?;
    for setting in &args.set {
        recipe.apply(setting)?;
    }
    if let Some(steps) = args.steps {
        recipe.steps = Some(steps);
    }
    // cpu is the only device that is asked for by name
    let device = if args.gpus.is_some() { Device::Cuda } else { Device::Cpu };
    let world = World::from_env(|name| std::env::var(name).ok(), args.gpus.or(args.ranks))?;
    let run = args.run.unwrap_or_else(|| std::path::Path::new("runs").join(&recipe_name));
    let PlanArgs { shards, resume_anyway, .. } = args;
    Plan::new(Ask { recipe_name, recipe, shards, run, world, device, resume_anyway })
}

/// Trains; returns whether all steps are done.
fn train(args: PlanArgs, json: bool) -> anyhow::Result<bool> {
    let plan = resolve(args)?;
    eprintln!("{plan}");
    let control = Arc::new(Control::new());
    watch_signals(&control)?;
    let stats = TrainStats::new(plan.world.ranks());
    let begun = Instant::now();
    stats.print_with(|line| eprintln!("{line}"));
    let outcome = std::thread::scope(|scope| {
        let (sender, over) = std::sync::mpsc::channel::<()>();
        let (watched, asked) = (&stats, &control);
        scope.spawn(move || watch_failure(watched, asked, &over));
        let outcome = run(&plan, &control, &stats);
        drop(sender);
        outcome
    })?;
    let state = if outcome.finished { "finished" } else { "stopped as asked" };
    eprintln!(
        "{state} at step {} of {} after {:.1} s; checkpoint {}",
        outcome.step,
        plan.steps,
        begun.elapsed().as_secs_f64(),
        outcome.checkpoint.as_ref().map_or("none".into(), |path| path.display().to_string())
    );
    let data_wait = stats.data_wait_ratio();
    let mfu = Some(stats.mfu.get()).filter(|mfu| mfu.is_finite());
    if let Some(waited) = data_wait {
        let first = stats.first_wait_ns.load(Relaxed) as f64 / 1e9 / stats.ranks.len().max(1) as f64;
        let share =
            mfu.map_or(String::new(), |mfu| format!(", {:.1} % of what the devices can", 100.0 * mfu));
        let rate = stats.flops_per_step.get() * stats.samples_per_s.get() / plan.global_batch as f64;
        eprintln!(
            "waited for data {:.2} % of the time, {first:.2} s for the first batch; {:.4} TFLOP/s{share}",
            100.0 * waited,
            rate / 1e12
        );
    }
    if json {
        println!(
            "{}",
            json!({
                "step": outcome.step,
                "steps": plan.steps,
                "finished": outcome.finished,
                "resumed_from": outcome.resumed_from,
                "checkpoint": outcome.checkpoint,
                "loss": stats.loss.get(),
                "mlm_acc": stats.mlm_acc.get(),
                "samples_per_s": stats.samples_per_s.get(),
                "data_wait_ratio": data_wait,
                "flops_per_step": stats.flops_per_step.get(),
                "mfu": mfu,
                "seconds": begun.elapsed().as_secs_f64(),
                "checkpoint_blocked_s": stats.checkpoint.blocked_ns.load(Relaxed) as f64 / 1e9,
                "peak_memory_bytes": stats.peak_memory_bytes.load(Relaxed),
            })
        );
    }
    Ok(outcome.finished)
}

/// SIGINT and SIGTERM ask for a checkpoint and an end; a second one ends at once.
fn watch_signals(control: &Arc<Control>) -> anyhow::Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    let control = control.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(128 + signal);
            }
            eprintln!("beit-train: finishing the step and writing a checkpoint; once more to end at once");
            control.stop();
        }
    })?;
    Ok(())
}

/// Ends the process when a failed run does not, until `over` closes.
fn watch_failure(stats: &TrainStats, control: &Control, over: &std::sync::mpsc::Receiver<()>) {
    use std::sync::mpsc::RecvTimeoutError;
    while over.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
        if let Some(why) = control.overdue(stats) {
            eprintln!("beit-train: {why}");
            std::process::exit(1);
        }
    }
}

fn show(args: PlanArgs, json: bool) -> anyhow::Result<()> {
    let plan = resolve(args)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        println!("{plan}");
    }
    Ok(())
}

fn write_batches(args: PlanArgs, steps: std::ops::Range<u64>, out: &std::path::Path) -> anyhow::Result<()> {
    let written = batches::write(&resolve(args)?, steps, out)?;
    println!("{} batches in {}, {:.1} MB", written.files, out.display(), written.bytes as f64 / 1e6);
    Ok(())
}

fn report(ask: &EvaluateAsk, json: bool) -> anyhow::Result<()> {
    let report = evaluate(ask)?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!(
        "checkpoint of step {}, {} samples, {} masked tokens",
        report.step, report.samples, report.masked_tokens
    );
    println!("loss              {:.4} nats, accuracy {:.4}", report.loss, report.accuracy);
    println!(
        "knowing no image  {:.4} nats (entropy of the same {} tokens), accuracy {:.4}",
        report.marginal_entropy, report.distinct_tokens, report.majority_share
    );
    println!("gain              {:.4} nats", report.gain);
    if let (Some(loss), Some(accuracy)) = (report.other_image_loss, report.other_image_accuracy) {
        println!("another image     {loss:.4} nats, accuracy {accuracy:.4}");
    }
    Ok(())
}

fn audit_run(ask: &AuditAsk, json: bool) -> anyhow::Result<()> {
    let found = audit(ask)?;
    if json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        println!(
            "{} steps: {} computed again, {} missing in the log, {} with other samples than the order says",
            found.steps, found.computed_again, found.missing, found.different
        );
        println!(
            "{} samples in {} whole epochs: {} lost, {} repeated, {} places taken by stand-ins for {} corrupt samples",
            found.samples, found.whole_epochs, found.lost, found.repeated, found.replaced, found.corrupt
        );
    }
    anyhow::ensure!(
        found.passed(),
        "the run did not see what it should have: steps {:?}, samples {:?}",
        found.wrong_steps,
        found.lost_samples
    );
    Ok(())
}

fn recipes(keys: bool, name: Option<&str>) -> anyhow::Result<()> {
    if keys {
        for key in KEYS {
            println!("{:<28} {:<34}{}", key.name, key.kind, key.doc);
        }
        return Ok(());
    }
    for (known, text) in EMBEDDED {
        match name {
            Some(name) if name == *known => print!("{text}"),
            Some(_) => {}
            None => println!("{known}"),
        }
    }
    if let Some(name) = name {
        Recipe::find(name)?;
    }
    Ok(())
}
