//! Verdict: what limits a run, by how much, and what to change, from three measurements and nothing else.

use std::fmt;

use beit_loader::LoaderReport;
use beit_trainer::device::Device;
use beit_trainer::measure::{RunReport, StepReport};
use beit_trainer::plan::Plan;
use serde_json::{Value, json};

/// A run that waits for data for this share of its time is short of data.
const STARVED: f64 = 0.1;

/// Together nearly as fast as the slower of both alone: then neither is in the other's way.
const UNDISTURBED: f64 = 0.85;

/// Below this share of the processor time, loading is too little to slow the step.
const NOTABLE: f64 = 0.1;

/// Of so many of the cores busy, there is none left to want.
const ALL_BUSY: f64 = 0.85;

/// Together so many times as fast as the slower of both alone: that cannot be.
const DOUBTFUL: f64 = 1.25;

/// On a CPU a step computes all the time; below this share of it, it was kept from computing.
const ON_CORE: f64 = 0.7;

/// Below this share of a matrix product's speed, a step spends its time on something else than arithmetic.
const EFFICIENT: f64 = 0.5;

/// Below this one, cheaper arithmetic would not show.
const ARITHMETIC: f64 = 0.2;

/// What was measured, and of what.
pub struct Facts<'a> {
    pub plan: &'a Plan,
    /// The pixels that the set keeps, in the words of its description.
    pub payload: &'a str,
    /// How shards are read here: mmap or pread.
    pub io: &'a str,
    pub cores: u32,
    pub loader: &'a LoaderReport,
    pub step: &'a StepReport,
    pub together: &'a RunReport,
}

/// What holds a run back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Batches do not come fast enough.
    Loader,
    /// Batches lie ready.
    Step,
    /// Both would be fast enough; they want the same cores.
    Cores,
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What to type.
    pub change: String,
    /// Why that.
    pub why: String,
}

/// What follows.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub limit: Limit,
    why: String,
    /// Samples per second if that limit were gone.
    bound: f64,
    /// The bound as a multiple of what was measured; never below 1.
    gain: f64,
    /// Why the measurements should be taken again, if they should.
    doubt: Option<String>,
    advice: Vec<Advice>,
}

impl Limit {
    /// As scripts know it.
    pub fn word(self) -> &'static str {
        match self {
            Limit::Loader => "loader",
            Limit::Step => "step",
            Limit::Cores => "cores",
        }
    }
}

impl Facts<'_> {
    /// The verdict.
    pub fn judge(&self) -> Verdict {
        let limit = self.limit();
        let (loader, step, both) =
            (self.loader.images_per_s, self.step_per_s(), self.together.samples_per_s());
        let waits = 100.0 * self.together.data_wait_ratio;
        let feeds = match self.plan.device {
            Device::Cpu => String::new(),
            Device::Cuda => format!(", enough for {:.1} such GPUs", loader / step.max(1e-9)),
        };
        let more = match self.is_slowed() {
            true => {
                " (in a run a step also takes over its batch, agrees with other ranks and writes the log)"
            }
            false => "",
        };
        let on_cores = format!("{:.2} of {} cores", self.together.cores_busy(), self.cores);
        let (why, bound) = match limit {
            Limit::Loader => (
                format!(
                    "a run waits for data {waits:.1} % of its time: the loader alone makes {loader:.1} images/s, the step alone \
                     takes {step:.1}; if loading were free, a run would do {step:.1} instead of {both:.1}"
                ),
                step,
            ),
            Limit::Step => (
                format!(
                    "a run waits for data {waits:.1} % of its time: the step alone takes {step:.1} images/s, the loader alone \
                     makes {loader:.1}{feeds}; if the step were free, a run would do {loader:.1} instead of {both:.1}{more}"
                ),
                loader,
            ),
            Limit::Cores => {
                let shared = self.shared_bound();
                (
                    format!(
                        "loader and step want the same cores: alone they do {loader:.1} and {step:.1} images/s, together \
                         {both:.1}, with {on_cores} busy, {:.0} % of that with loading; by their processor time, {} cores can do \
                         {shared:.1}",
                        100.0 * self.together.loader_share(),
                        self.cores
                    ),
                    shared,
                )
            }
        };
        let advice = match limit {
            Limit::Loader => [self.more_threads(), self.cheaper_loading()].concat(),
            Limit::Step => self.cheaper_step(),
            Limit::Cores => {
                let mut advice = [self.cheaper_loading(), self.cheaper_step()].concat();
                if self.together.loader_share() < 0.5 {
                    advice = [self.cheaper_step(), self.cheaper_loading()].concat();
                }
                advice
            }
        };
        Verdict { limit, why, bound, gain: (bound / both.max(1e-9)).max(1.0), doubt: self.doubt(), advice }
    }

    fn limit(&self) -> Limit {
        let (loader, step) = (self.loader.images_per_s, self.step_per_s());
        let contended =
            self.plan.device == Device::Cpu && self.together.cores_busy() >= ALL_BUSY * f64::from(self.cores);
        if self.together.data_wait_ratio >= STARVED {
            // A loader that is fast enough alone has lost its cores to the step.
            return if contended && loader > step { Limit::Cores } else { Limit::Loader };
        }
        if contended && self.is_slowed() && self.together.loader_share() >= NOTABLE {
            Limit::Cores
        } else {
            Limit::Step
        }
    }

    /// Whether a run's steps are slower than the same step alone.
    fn is_slowed(&self) -> bool {
        self.together.samples_per_s() < UNDISTURBED * self.step_per_s()
    }

    /// Numbers of a machine that others use as well say little about this run.
    fn doubt(&self) -> Option<String> {
        let on_core = self.step.median_cpu_s() / self.step.median_s().max(1e-9);
        if self.plan.device == Device::Cpu && on_core < ON_CORE {
            return Some(format!(
                "the step had a core for {:.0} % of its time only, so other programs took them",
                100.0 * on_core
            ));
        }
        let (both, slower) = (self.together.samples_per_s(), self.loader.images_per_s.min(self.step_per_s()));
        (both > DOUBTFUL * slower).then(|| {
            format!("these numbers contradict each other: together {both:.1} images/s, alone {slower:.1}")
        })
    }

    fn step_per_s(&self) -> f64 {
        self.step.samples as f64 / self.step.median_s().max(1e-9)
    }

    /// Samples per second if the cores did nothing but load and step, without ever waiting.
    fn shared_bound(&self) -> f64 {
        let step_cpu_s = self.step.median_cpu_s() / self.step.samples.max(1) as f64;
        let loader_cpu_s = 1.0 / self.loader.images_per_s_per_core.max(1e-9);
        f64::from(self.cores) / (step_cpu_s + loader_cpu_s).max(1e-9)
    }

    fn more_threads(&self) -> Vec<Advice> {
        let (workers, cores) = (self.plan.workers, self.cores);
        if workers < cores {
            return vec![Advice {
                change: format!("--set num_workers={cores}"),
                why: format!(
                    "{workers} of {cores} cores load, and a run keeps {:.1} busy",
                    self.together.cores_busy()
                ),
            }];
        }
        if self.loader.core_share < 0.9 {
            return vec![Advice {
                change: "stop other programs, or look at the disk".to_owned(),
                why: format!(
                    "the loader's threads had a core for {:.0} % of the time they needed one, also when alone",
                    100.0 * self.loader.core_share
                ),
            }];
        }
        Vec::new()
    }

    /// Where a loader's time goes says what makes it cheaper.
    fn cheaper_loading(&self) -> Vec<Advice> {
        let us = &self.loader.stages_us;
        let share = |us: f64| us / self.loader.stages_us.total().max(f64::MIN_POSITIVE);
        let (read, decode, resize) =
            (share(us.read), share(us.entropy + us.idct), share(us.jitter + us.resize));
        let mut advice = Vec::new();
        let px = self.plan.model.image_px;
        if decode >= 0.3 {
            let smaller = match self.payload {
                "original" => {
                    Some(("short256", "images of 256 px hold far fewer pixels; views are then made of those"))
                }
                payload if payload.starts_with("short256") => {
                    Some(("raw256", "plain pixels need no decoding, and more room"))
                }
                _ => None,
            };
            advice.extend(smaller.map(|(pixels, why)| Advice {
                change: format!("pack with `beit-shard build --pixels {pixels}`"),
                why: format!("decoding is {:.0} % of loading; {why}", 100.0 * decode),
            }));
        }
        if resize >= 0.3 {
            advice.push(Advice {
                change: format!("a smaller --set input_size (now {px}), or --set train_interpolation=bilinear"),
                why: format!(
                    "jitter and resizing are {:.0} % of loading and grow with the view's area; it changes what is learned",
                    100.0 * resize
                ),
            });
        }
        if read >= 0.3 {
            let other = if self.io == "mmap" { "pread" } else { "mmap" };
            advice.push(Advice {
                change: format!(
                    "--set order=blocks, a larger --set read_ahead, --set io={other}, or a local disk"
                ),
                why: format!("reading is {:.0} % of loading, with {}", 100.0 * read, self.io),
            });
        }
        advice
    }

    fn cheaper_step(&self) -> Vec<Advice> {
        let (plan, recipe, cores) = (self.plan, &self.plan.recipe, self.cores);
        let on_cpu = plan.device == Device::Cpu;
        let mut advice = Vec::new();
        let mut say = |change: String, why: String| advice.push(Advice { change, why });
        if on_cpu && plan.threads_per_rank * plan.world.local < cores {
            let threads = cores / plan.world.local.max(1);
            say(
                format!("--set threads_per_rank={threads}"),
                format!("{} of {cores} cores compute", plan.threads_per_rank * plan.world.local),
            );
        }
        if recipe.checkpoint_activations {
            say(
                "--set checkpoint_activations=false".to_owned(),
                "each block is computed a second time to save memory: about a third of the step".to_owned(),
            );
        }
        let efficiency = self.step.flops_per_s() / self.step.matmul_flops_per_s.max(1e-9);
        let percent = 100.0 * efficiency;
        // GPUs multiply both kinds; of CPUs some do.
        let small = if on_cpu { cpu_kinds() } else { &["bf16", "fp16"] };
        match recipe.amp.as_str() {
            "off" if small.contains(&"bf16") && efficiency >= ARITHMETIC => {
                let why = "its matrix products take half the time of those in f32, or less".to_owned();
                say("--set amp=bf16".to_owned(), why);
            }
            "off" => {}
            amp if small.contains(&amp) => {}
            amp => {
                let other = if small.contains(&"bf16") { "bf16" } else { "off" };
                say(
                    format!("--set amp={other}"),
                    format!(
                        "this CPU has no instructions for products in {amp}: they take longer than those in f32"
                    ),
                );
            }
        }
        if efficiency < EFFICIENT {
            let batch = recipe.batch_size;
            let change = if recipe.update_freq > 1 {
                format!(
                    "a larger --set batch_size (now {batch}) with a smaller update_freq (now {})",
                    recipe.update_freq
                )
            } else {
                format!("a larger --set batch_size (now {batch})")
            };
            say(
                change,
                format!(
                    "a step makes {percent:.0} % of a large matrix product's speed here: its pieces are small for this device; \
                     more samples per step change what is learned, micro-batches joined to one do not"
                ),
            );
        } else {
            let change =
                if on_cpu { "a GPU, or a smaller model" } else { "more GPUs (`beit-daemon start --gpus N`)" };
            say(
                change.to_owned(),
                format!(
                    "a step makes {percent:.0} % of a large matrix product's speed here: the arithmetic itself is what takes time"
                ),
            );
        }
        advice
    }
}

impl Verdict {
    /// For scripts: the key `verdict`.
    pub fn as_json(&self) -> Value {
        let advice: Vec<Value> =
            self.advice.iter().map(|advice| json!({ "change": advice.change, "why": advice.why })).collect();
        json!({
            "verdict": {
                "limit": self.limit.word(),
                "why": self.why,
                "bound_samples_per_s": self.bound,
                "gain_ratio": self.gain,
                "doubt": self.doubt,
                "advice": advice,
            }
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "what limits it: the {}; without that, at most {:.2} times as fast\n  {}",
            self.limit.word(),
            self.gain,
            self.why
        )?;
        if let Some(doubt) = &self.doubt {
            write!(f, "\n  but {doubt}: measure again when the machine is quiet, or for longer (--seconds)")?;
        }
        write!(f, "\nwhat to change:")?;
        for Advice { change, why } in &self.advice {
            write!(f, "\n  {change}\n    {why}")?;
        }
        if self.advice.is_empty() {
            write!(f, " nothing that these numbers show; a faster machine")?;
        }
        Ok(())
    }
}

/// The small kinds that this CPU multiplies with instructions of their own.
fn cpu_kinds() -> &'static [&'static str] {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flags: &[&str]| text.split_ascii_whitespace().any(|flag| flags.contains(&flag));
    match (has(&["avx512_bf16", "amx_bf16", "bf16"]), has(&["avx512_fp16", "amx_fp16", "fphp"])) {
        (true, true) => &["bf16", "fp16"],
        (true, false) => &["bf16"],
        (false, true) => &["fp16"],
        (false, false) => &[],
    }
}

#[cfg(test)]
mod tests;
