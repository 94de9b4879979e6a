//! A run from start to end: one thread per local rank, all fed by one loader, all stopping together.

mod pictures;
mod rank;
mod reporter;
mod saver;
mod streak;
mod supply;
pub(crate) mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use beit_shards::ShardSet;
use serde_json::json;

use crate::checkpoint::{self, Checkpoint, Shelf};
use crate::control::Control;
use crate::device::Device;
use crate::error::{TrainError, io, torch};
use crate::generation::Generations;
use crate::lock::RunLock;
use crate::log::Log;
use crate::model::Model;
use crate::plan::{DataFacts, Plan, open_set};
use crate::ranks::{Comm, Inquest, Pulse, open, plugin};
use crate::stats::{Stage, TrainStats};

use self::saver::saver;
use self::supply::Supply;

/// How a run ended, if it ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Steps done, over all starts of the run.
    pub step: u64,
    /// Whether that is all of them; otherwise somebody asked to stop.
    pub finished: bool,
    /// The step this start began at, if not at the beginning.
    pub resumed_from: Option<u64>,
    /// The newest checkpoint, in the process that leads.
    pub checkpoint: Option<PathBuf>,
}

/// Trains as planned, from the newest sound checkpoint if there is one, until the last step or [`Control::stop`].
///
/// Blocks. The same plan on the same kind of machine gives the same weights, however often it was stopped between.
///
/// # Errors
/// Anything that keeps the run from going on; weights up to the newest checkpoint are safe. A rank that fails or
/// panics stops the others and is named.
pub fn run(plan: &Plan, control: &Control, stats: &TrainStats) -> Result<Outcome, TrainError> {
    until_the_end(plan, control, stats, true)
}

/// The same, but it leaves no checkpoint: for a look at how fast a run is. [`Plan::run`] still gets its log.
pub(crate) fn rehearse(plan: &Plan, control: &Control, stats: &TrainStats) -> Result<Outcome, TrainError> {
    until_the_end(plan, control, stats, false)
}

fn until_the_end(
    plan: &Plan,
    control: &Control,
    stats: &TrainStats,
    saves: bool,
) -> Result<Outcome, TrainError> {
    let outcome = supervise(plan, control, stats, saves);
    for local in 0..stats.ranks.len() {
        stats.enter(local, Stage::Done);
    }
    outcome
}

/// What all local ranks share.
struct Shared<'a> {
    plan: &'a Plan,
    control: &'a Control,
    stats: &'a TrainStats,
    log: Log,
    supply: Supply,
    shelf: Option<Shelf>,
    first_step: u64,
    /// [`Plan::peak_flops_per_s`], found out once.
    peak: Option<f64>,
    /// The first failure; those after it are its echoes.
    failure: Mutex<Option<TrainError>>,
    pulse: Pulse,
}

fn supervise(plan: &Plan, control: &Control, stats: &TrainStats, saves: bool) -> Result<Outcome, TrainError> {
    plan.device.open(plan.world.first_device + plan.world.local)?;
    let timeout = Duration::from_secs(plan.recipe.collective_timeout_s);
    let leads = plan.world.leads();
    std::fs::create_dir_all(&plan.run).map_err(io("creating", &plan.run))?;
    let _lock = if leads { Some(RunLock::take(&plan.run)?) } else { None };

    let set = open_set(&plan.shards, plan.recipe.io())?;
    let shelf = if leads { Some(Shelf::open(&plan.run)?) } else { None };
    let saved = match &shelf {
        Some(shelf) => resume(plan, shelf, stats)?,
        None => None,
    };
    let generations = generations(plan, &set, saved.as_ref().map(|(saved, _)| saved))?;
    let log = if leads { Log::open(&plan.run)? } else { Log::none() };
    let saved = saved.map(|(saved, differences)| {
        if !differences.is_empty() {
            log.event("resumed_anyway", json!({ "step": saved.state.step, "differences": differences }));
        }
        saved
    });

    let (server, address) = open(&plan.world, timeout)?;
    let pulse = Pulse::begin(&address, &plan.world, server, timeout)?;
    let store = address.connect(plan.world.size, timeout)?;
    let first_step = match leads {
        true => {
            let step = saved.as_ref().map_or(0, |saved| saved.state.step);
            store.set("first_step", step.to_string().as_bytes()).map_err(torch("telling the first step"))?;
            step
        }
        false => {
            let text = store.get("first_step").map_err(torch("asking rank 0 for the first step"))?;
            String::from_utf8_lossy(&text)
                .parse()
                .map_err(|_| TrainError::Broken("the first step is no number".into()))?
        }
    };
    stats.steps.store(plan.steps, Relaxed);
    stats.step.store(first_step, Relaxed);
    stats.samples.store(first_step * plan.global_batch, Relaxed);
    let resumed_from = (first_step > 0).then_some(first_step);
    let flops_per_step = plan.flops_per_step();
    log.event("start", json!({ "step": first_step, "flops_per_step": flops_per_step, "plan": plan }));
    if first_step >= plan.steps {
        let checkpoint = saved.map(|saved| saved.path);
        return Ok(Outcome { step: first_step, finished: true, resumed_from, checkpoint });
    }

    let supply = Supply::start(plan, set, generations, first_step)
        .inspect_err(|error| pulse.failed(plan.world.first, &error.to_string()))?;
    if let Some(loader) = supply.stats() {
        stats.set_loader(loader);
    }
    let failure = Mutex::new(None);
    let peak = plan.peak_flops_per_s();
    let inquest = (!plan.world.alone()).then(|| Inquest::prepare(&address, &plan.world, &store));
    let nccl = nccl(plan);
    let shared = Shared { plan, control, stats, log, supply, shelf, first_step, peak, failure, pulse };
    let (saver, writer) = saver(saved.as_ref().map(|saved| saved.path.clone()));
    let mut saver = (leads && saves).then_some(saver);
    let mut saved = saved; // For rank 0, which shares it with the others.
    let ends: Vec<Option<rank::End>> = std::thread::scope(|scope| {
        scope.spawn(|| shared.pulse.beat(stats));
        let writer = leads
            .then(|| {
                let name = std::thread::Builder::new().name("checkpoints".to_owned());
                name.spawn_scoped(scope, || writer.work(&shared))
            })
            .transpose()
            .map_err(|error| shared.fail(0, io("starting to write checkpoints in", &plan.run)(error)));
        let ranks: Vec<_> = plan
            .world
            .ranks()
            .map(|rank| {
                let (shared, address, saved, saver) = (&shared, address.clone(), saved.take(), saver.take());
                let nccl = nccl.as_deref();
                std::thread::Builder::new()
                    .name(format!("rank {rank}"))
                    .spawn_scoped(scope, move || {
                        // The group outlives the failure's record: others notice when it goes.
                        let comm = match Comm::join(&address, rank, &shared.plan.world, nccl, timeout) {
                            Ok(comm) => comm,
                            Err(error) => return shared.fail(rank, error),
                        };
                        match catch_unwind(AssertUnwindSafe(|| rank::train(shared, &comm, saved, saver))) {
                            Ok(Ok(end)) => Some(end),
                            Ok(Err(error)) => shared.fail(rank, error),
                            Err(panic) => shared.fail(rank, TrainError::Broken(words(panic.as_ref()))),
                        }
                    })
                    .map_err(|error| shared.fail(rank, io("starting a rank in", &plan.run)(error)))
            })
            .collect();
        let ends =
            ranks.into_iter().map(|rank| rank.ok().and_then(|rank| rank.join().ok().flatten())).collect();
        shared.pulse.rest();
        if let Ok(Some(writer)) = writer {
            let _ = writer.join(); // Its panic is rank 0's failure, if it was still needed.
        }
        ends
    });
    shared.supply.stop();
    if let Some(mut error) = shared.failure.into_inner().unwrap_or_else(|held| held.into_inner()) {
        if let (TrainError::Lost { blame, .. }, Some(inquest)) = (&mut error, inquest) {
            *blame = inquest.who();
        }
        shared.log.event("failed", json!({ "error": error.to_string() }));
        return Err(error);
    }
    let Some(end) = ends.into_iter().flatten().next() else {
        return Err(TrainError::Broken("no rank came to an end".into()));
    };
    shared.log.event("end", json!({ "step": end.step, "finished": end.step >= plan.steps }));
    Ok(Outcome { step: end.step, finished: end.step >= plan.steps, resumed_from, checkpoint: end.checkpoint })
}

impl Shared<'_> {
    /// Records the failure of a rank, if it is the first.
    fn fail(&self, rank: u32, error: TrainError) -> Option<rank::End> {
        tracing::error!(rank, %error, "A rank failed.");
        self.control.note_failure(&format!("rank {rank}: {error}"));
        let mut failure = self.failure.lock().unwrap_or_else(|held| held.into_inner());
        if failure.is_none() && !error.is_echo() {
            self.pulse.failed(rank, &error.to_string());
        }
        failure.get_or_insert(match error {
            error if error.is_echo() && !self.plan.world.alone() => {
                TrainError::Lost { blame: String::new(), rank, reason: brief(&error.to_string()) }
            }
            error @ (TrainError::NotFinite { .. } | TrainError::Io { .. }) => error,
            error => match error.to_string() {
                reason if no_room(&reason) => {
                    TrainError::OutOfMemory { rank, reason, sizes: sizes(self.plan) }
                }
                reason => TrainError::Rank { rank, reason },
            },
        });
        None
    }
}

/// Finds and reads what to go on from, and makes sure that it belongs to this plan.
///
/// What differs all the same, because somebody said so, comes with it.
fn resume(
    plan: &Plan,
    shelf: &Shelf,
    stats: &TrainStats,
) -> Result<Option<(Checkpoint, Vec<String>)>, TrainError> {
    let search = shelf.newest()?;
    for (path, reason) in &search.skipped {
        stats.checkpoint.skipped.fetch_add(1, Relaxed);
        tracing::warn!(checkpoint = %path.display(), reason, "A checkpoint is damaged; passing it over.");
    }
    let Some(found) = search.found else { return Ok(None) };
    let saved = checkpoint::read(&found.path)?;
    let differences = plan.differences(&saved.state.plan);
    if differences.iter().any(|difference| difference.weights) {
        let differences = differences.iter().filter(|difference| difference.weights);
        let differences = differences.map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(TrainError::OtherModel { checkpoint: found.path, differences });
    }
    let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
    if !differences.is_empty() {
        let differences = differences.join("; ");
        if !plan.resume_anyway {
            return Err(TrainError::OtherRun { checkpoint: found.path, differences });
        }
        tracing::warn!(differences, "Resuming another run, as asked.");
    }
    stats.checkpoint.step.store(saved.state.step, Relaxed);
    stats.checkpoint.published_unix_ms.store(saved.state.unix_ms, Relaxed);
    tracing::info!(step = saved.state.step, checkpoint = %found.path.display(), "Resuming.");
    Ok(Some((saved, differences)))
}

/// What the order of the run is made of: one generation of the set, or those that a checkpoint remembers.
fn generations(plan: &Plan, set: &ShardSet, saved: Option<&Checkpoint>) -> Result<Generations, TrainError> {
    let remembered = saved.map_or(&[][..], |saved| &saved.state.generations);
    let generations = match Generations::resumed(remembered, set) {
        Some(generations) => generations,
        None if DataFacts::of(set)? == plan.data => Generations::first(set),
        None => {
            let shards = plan.shards.display();
            return Err(TrainError::Plan(format!(
                "{shards} has changed since the plan was made; start again"
            )));
        }
    };
    let alone = plan.world.local == plan.world.size;
    if !alone && (generations.list().len() > 1 || generations.lack(set)) {
        return Err(TrainError::Plan(format!(
            "{} has grown since this run began; only a run with all ranks in one process can take that up: go on with such              a one, or begin a new --run",
            plan.shards.display()
        )));
    }
    Ok(generations)
}

/// Whether libtorch says that there is no memory left, on the host or on a GPU.
fn no_room(reason: &str) -> bool {
    ["can't allocate memory", "not enough memory", "out of memory"].iter().any(|words| reason.contains(words))
}

/// What a rank has to hold.
fn sizes(plan: &Plan) -> String {
    let parameters: i64 = Model::outline(&plan.model)
        .map(|parameters| parameters.iter().map(|(_, shape)| shape.iter().product::<i64>()).sum())
        .unwrap_or_default();
    // Weights, gradients and AdamW's two moments, in f32.
    let bytes = parameters as f64 * 16.0;
    format!(
        "a rank holds {:.1} M parameters, {:.2} GB with gradients and moments, and the activations of a micro-batch of {} \
         views of {} px in {} layers",
        parameters as f64 / 1e6,
        bytes / 1e9,
        plan.recipe.batch_size,
        plan.model.image_px,
        plan.model.depth
    )
}

/// The plug-in that carries gradients between GPUs, if this is a run on GPUs and it is there.
fn nccl(plan: &Plan) -> Option<String> {
    if plan.device == Device::Cpu || plan.world.size == 1 {
        return None;
    }
    let found = plugin().map(|path| path.display().to_string());
    match &found {
        Some(plugin) => {
            tracing::info!(plugin, "Gradients go through NCCL, which was never run on a GPU here.")
        }
        None => tracing::warn!(
            "libbeit_nccl.so is neither beside this program nor in BEIT_NCCL, so gradients go through the host's memory, \
             slowly; make nccl builds it."
        ),
    }
    found
}

/// Gloo's words without its guesses at what may have happened, for we know better.
fn brief(words: &str) -> String {
    words.split(" This is typically caused").next().unwrap_or(words).to_owned()
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", said.unwrap_or_else(|| "without words".into()))
}

#[cfg(test)]
mod tests;
