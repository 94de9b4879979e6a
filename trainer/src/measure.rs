//! How fast a step is on its own: one rank, no loader, the same batch again and again; and how fast it is in a run.

mod run;

use std::path::Path;
use std::time::Instant;

use beit_views::{Purpose, SeedKey, draw_mask};
use rustix::time::{ClockId, clock_gettime};
use tch::{Kind, Tensor};

use crate::amp::Amp;
use crate::error::{TrainError, torch};
use crate::feed::Input;
use crate::memory::peak_resident_bytes;
use crate::model::Hidden;
use crate::plan::{DataFacts, Plan};
use crate::ranks::{Comm, open};
use crate::recipe::Recipe;
use crate::step::Replica;

pub use self::run::{RunReport, measure_run};

/// What [`measure_step`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Of each measured step, by the clock.
    pub seconds: Vec<f64>,
    /// Processor time of each, over all threads of this process.
    pub cpu_seconds: Vec<f64>,
    /// Samples of a step.
    pub samples: u64,
    /// Patches that are hidden in a step's batch.
    pub hidden: u64,
    /// Floating-point operations of such a step's model.
    pub flops: f64,
    /// FLOP/s of a large matrix product in the kind that the step uses: what can be hoped for.
    pub matmul_flops_per_s: f64,
    /// Most memory that this process has had.
    pub peak_rss_bytes: u64,
    /// Loss of the last step in nats.
    pub loss: f64,
}

impl StepReport {
    /// Seconds of the middle step, by the clock.
    pub fn median_s(&self) -> f64 {
        median(&self.seconds)
    }

    /// Processor seconds of the middle step.
    pub fn median_cpu_s(&self) -> f64 {
        median(&self.cpu_seconds)
    }

    /// FLOP/s of the middle step.
    pub fn flops_per_s(&self) -> f64 {
        self.flops / self.median_s().max(1e-9)
    }
}

/// Data for a plan of which only the step is of interest.
pub fn no_data(recipe: &Recipe, vocab: u32) -> DataFacts {
    let side = recipe.model_config(vocab).patches_per_side();
    DataFacts {
        digest: String::new(),
        samples: 1 << 32,
        views: 1,
        token_px: recipe.second_input_size.unwrap_or(0),
        grid: [side, side],
        tokenizer: "none".to_owned(),
        tokenizer_digest: String::new(),
        vocab,
        io: String::new(),
    }
}

/// Takes `warmup` steps and then measures `steps`, or more until `seconds` are over: forward, backward, clipping, update, and the reading of loss and norm.
///
/// The batch is that of the file `batch`, as [`crate::batches::write()`] writes them, or one of random pixels and tokens under masks as
/// the recipe has them.
///
/// # Errors
/// a plan of several ranks; a batch of other shapes than the plan's; libtorch's
pub fn measure_step(
    plan: &Plan,
    batch: Option<&Path>,
    warmup: u32,
    (steps, seconds): (u32, f64),
) -> Result<StepReport, TrainError> {
    if plan.world.size != 1 {
        let ranks = plan.world.size;
        return Err(TrainError::Plan(format!("a step alone is measured on one rank, not on {ranks}")));
    }
    if plan.recipe.online() {
        let why = "a step alone is measured without the tokenizer: set tokens = \"shard\"";
        return Err(TrainError::Plan(why.to_owned()));
    }
    plan.device.open(1)?;
    beit_torch::set_threads(plan.threads_per_rank).map_err(torch("setting threads"))?;
    let timeout = std::time::Duration::from_secs(plan.recipe.collective_timeout_s);
    let (_server, address) = open(&plan.world, timeout)?;
    let comm = Comm::join(&address, 0, &plan.world, None, timeout)?;
    let parts: Vec<Input> = match batch {
        Some(path) => read(plan, path)?,
        None => (0..plan.recipe.update_freq).map(|part| random(plan, part)).collect::<Result<_, _>>()?,
    };
    let counts: Vec<u64> = parts.iter().map(|part| part.labels.numel() as u64).collect();
    let hidden = counts.iter().sum();
    let mut replica = Replica::new(plan, &comm, None, None)?;
    let mut report = StepReport {
        samples: plan.recipe.rank_batch().into(),
        hidden,
        flops: plan.model.step_flops(plan.recipe.rank_batch().into(), hidden),
        ..StepReport::default()
    };
    let least = u64::from(warmup) + u64::from(steps);
    let mut measuring = None;
    for step in 0.. {
        if step >= warmup.into() {
            let since = *measuring.get_or_insert_with(Instant::now);
            if step >= least && since.elapsed().as_secs_f64() >= seconds {
                break;
            }
        }
        let (began, cpu) = (Instant::now(), cpu_s());
        let seen = replica.learn_parts(step, &comm, &counts, parts.iter().map(Ok))?.read()?;
        let (gradients, _) = replica.clip()?;
        replica.update(step, &gradients)?;
        if step >= warmup.into() {
            report.seconds.push(began.elapsed().as_secs_f64());
            report.cpu_seconds.push(cpu_s() - cpu);
        }
        report.loss = seen.loss;
    }
    report.peak_rss_bytes = peak_resident_bytes().unwrap_or(0);
    drop(replica);
    report.matmul_flops_per_s = matmul(plan)?;
    Ok(report)
}

/// One micro-batch of noise.
fn random(plan: &Plan, part: u32) -> Result<Input, TrainError> {
    let (samples, px) = (plan.recipe.batch_size as usize, plan.model.image_px as usize);
    let key = |stream, purpose| SeedKey { seed: plan.recipe.seed, stream, index: part, purpose };
    let mut draws = key(0, Purpose::Batch).draws();
    let pixels: Vec<f32> = (0..samples * 3 * px * px).map(|_| draws.uniform(-1.0, 1.0) as f32).collect();
    let patches = plan.grid().len();
    let mut mask = vec![0; samples * patches];
    for (stream, mask) in (0..).zip(mask.chunks_exact_mut(patches)) {
        draw_mask(plan.grid(), &plan.mask(), key(stream, Purpose::Mask), mask);
    }
    let hidden = mask.iter().filter(|flag| **flag != 0).count();
    let labels: Vec<i64> = (0..hidden).map(|_| draws.uniform(0.0, plan.model.vocab.into()) as i64).collect();
    let sizes = [samples, 3, px, px].map(|side| side as i64);
    let pixels = Tensor::f_from_slice(&pixels).and_then(|pixels| pixels.f_view(sizes));
    let mask = Tensor::f_from_data_size(&mask, &[samples as i64, patches as i64], Kind::Uint8);
    let making = "making a batch";
    input(
        plan,
        &pixels.map_err(torch(making))?,
        &mask.map_err(torch(making))?,
        &Tensor::f_from_slice(&labels).map_err(torch(making))?,
    )
}

/// The micro-batches of a file.
fn read(plan: &Plan, path: &Path) -> Result<Vec<Input>, TrainError> {
    let tensors = Tensor::read_safetensors(path).map_err(torch("reading the batch"))?;
    let find = |name: &str| {
        let found = tensors.iter().find(|(known, _)| known == name);
        found
            .map(|(_, tensor)| tensor.shallow_clone())
            .ok_or_else(|| wrong(path, &format!("it has no {name}")))
    };
    let (pixels, mask, labels) = (find("pixels")?, find("mask")?, find("labels")?);
    let (samples, px) = (i64::from(plan.recipe.rank_batch()), i64::from(plan.model.image_px));
    if pixels.size() != [samples, 3, px, px] || pixels.kind() != Kind::Float {
        let expected = format!("pixels should be f32 [{samples}, 3, {px}, {px}] as the recipe says, not");
        return Err(wrong(path, &format!("{expected} {:?} {:?}", pixels.kind(), pixels.size())));
    }
    let patches = plan.grid().len() as i64;
    if mask.size() != [samples, patches] || labels.dim() != 1 || labels.kind() != Kind::Int64 {
        return Err(wrong(path, &format!("mask should be u8 [{samples}, {patches}], labels i64 [M]")));
    }
    let counts = Vec::<i64>::try_from(
        mask.f_ne(0)
            .and_then(|mask| mask.f_sum_dim_intlist(1i64, false, Kind::Int64))
            .map_err(torch("counting"))?,
    )
    .map_err(torch("counting hidden patches"))?;
    let vocab = i64::from(plan.model.vocab);
    let largest = if labels.numel() > 0 { labels.max().int64_value(&[]) } else { vocab };
    if counts.iter().sum::<i64>() != labels.numel() as i64 || !(0..vocab).contains(&largest) {
        let found = labels.numel();
        return Err(wrong(
            path,
            &format!("{found} labels up to {largest} for these masks and {vocab} tokens"),
        ));
    }
    let part = i64::from(plan.recipe.batch_size);
    let mut first_label = 0;
    counts
        .chunks_exact(part as usize)
        .zip(0..)
        .map(|(counts, number)| {
            let hidden = counts.iter().sum();
            first_label += hidden;
            let slice =
                |tensor: &Tensor, from, length| tensor.f_narrow(0, from, length).map_err(torch("splitting"));
            input(
                plan,
                &slice(&pixels, number * part, part)?,
                &slice(&mask, number * part, part)?,
                &slice(&labels, first_label - hidden, hidden)?,
            )
        })
        .collect()
}

fn wrong(path: &Path, why: &str) -> TrainError {
    TrainError::Plan(format!("{} is no batch for this: {why}", path.display()))
}

fn input(plan: &Plan, pixels: &Tensor, mask: &Tensor, labels: &Tensor) -> Result<Input, TrainError> {
    let send = |tensor: &Tensor| tensor.f_to_device(plan.device.of(0)).map_err(torch("sending the batch"));
    let mask = mask.f_ne(0).map_err(torch("reading the mask"))?;
    let hidden = Hidden::from_mask(&send(&mask)?).map_err(torch("taking over the mask"))?;
    Ok(Input { pixels: send(pixels)?, hidden, labels: send(labels)? })
}

/// The best of a few products of square matrices.
fn matmul(plan: &Plan) -> Result<f64, TrainError> {
    const SIDE: i64 = 1536;
    let kind = match plan.recipe.amp() {
        Amp::Off => Kind::Float,
        Amp::Bf16 => Kind::BFloat16,
        Amp::Fp16 => Kind::Half,
    };
    let doing = "measuring a matrix product";
    let a = Tensor::f_ones([SIDE, SIDE], (kind, plan.device.of(0))).map_err(torch(doing))?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        let product = a.f_mm(&a).map_err(torch(doing))?;
        product.f_double_value(&[0, 0]).map_err(torch(doing))?; // Waits for the device.
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best)
}

/// Processor time of this process so far, in seconds.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests;
