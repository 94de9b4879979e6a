//! What will happen: a recipe, a data set, ranks and a device, checked against each other.
//!
//! A plan is complete and never changes. It is printed at the start, saved in every checkpoint, and compared with the
//! one in the checkpoint that a run resumes from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use beit_loader::Shuffle;
use beit_shards::{Io, ShardSet};
use beit_views::{Interpolation, MaskSpec, PatchGrid, ViewSpec};
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::device::{self, Device};
use crate::error::TrainError;
use crate::generation::Generations;
use crate::model::ModelConfig;
use crate::ranks::World;
use crate::recipe::Recipe;
use crate::schedule::{Schedule, warmup_length};

/// What someone asks for; [`Plan::new`] says whether it can be done.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How logs call the recipe.
    pub recipe_name: String,
    /// Its keys.
    pub recipe: Recipe,
    /// The folder of shards.
    pub shards: PathBuf,
    /// The run directory.
    pub run: PathBuf,
    /// The ranks.
    pub world: World,
    /// What they run on.
    pub device: Device,
    /// Whether to take over the weights of a checkpoint that belongs to another data set, tokenizer or order too.
    pub resume_anyway: bool,
}

/// The facts about a data set that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    /// Digest of the set, in hex.
    pub digest: String,
    /// Samples.
    pub samples: u64,
    /// Views of each.
    pub views: u32,
    /// Side of the token view in pixels.
    pub token_px: u32,
    /// Tokens of a view: rows, columns.
    pub grid: [u32; 2],
    /// Human name of the tokenizer.
    pub tokenizer: String,
    /// Digest of its weights, in hex.
    pub tokenizer_digest: String,
    /// Its number of tokens: the width of the model's head.
    pub vocab: u32,
    /// How its shards are read here: mmap or pread.
    #[serde(default)]
    pub io: String,
}

impl DataFacts {
    /// The facts of an opened set.
    ///
    /// # Errors
    /// A view specification that this version can't read.
    pub fn of(set: &ShardSet) -> Result<DataFacts, TrainError> {
        let spec = set.spec();
        let view: ViewSpec = spec.view_spec.parse().map_err(|error| {
            TrainError::Plan(format!(
                "the shards' view specification {:?} can't be read: {error}",
                spec.view_spec
            ))
        })?;
        Ok(DataFacts {
            digest: set.digest().to_string(),
            samples: set.len(),
            views: spec.views,
            token_px: view.token_px,
            grid: [u32::from(spec.grid.0), u32::from(spec.grid.1)],
            tokenizer: spec.tokenizer.name.clone(),
            tokenizer_digest: hex(&spec.tokenizer.digest),
            vocab: spec.tokenizer.vocab,
            io: set.shards().first().map(|shard| shard.io().to_string()).unwrap_or_default(),
        })
    }
}

/// A run, decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// How logs call the recipe.
    pub recipe_name: String,
    /// Every key with its value.
    pub recipe: Recipe,
    /// The folder of shards.
    pub shards: PathBuf,
    /// The run directory.
    pub run: PathBuf,
    /// The data set.
    pub data: DataFacts,
    /// The ranks.
    pub world: World,
    /// What they run on.
    pub device: Device,
    /// The model.
    pub model: ModelConfig,
    /// Samples per step, over all ranks.
    pub global_batch: u64,
    /// Whole steps in an epoch; 0 for a data set smaller than a global batch.
    pub steps_per_epoch: u64,
    /// Steps in all.
    pub steps: u64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Steps between two checkpoints.
    pub save_every_steps: u64,
    /// Loader threads of this process.
    pub workers: u32,
    /// Threads of one tensor operation in a rank.
    pub threads_per_rank: u32,
    /// Whether a checkpoint may differ in all but the shapes of its weights.
    #[serde(default)]
    pub resume_anyway: bool,
}

/// A thing in which a checkpoint's plan and another one differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whether the weights don't fit because of it; otherwise they fit and mean something else.
    pub weights: bool,
    text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Plan {
    /// Opens the data set and decides.
    ///
    /// # Errors
    /// The data set can't be opened; whatever [`Plan::decide`] refuses.
    pub fn new(ask: Ask) -> Result<Plan, TrainError> {
        let set = open_set(&ask.shards, ask.recipe.io())?;
        let data = DataFacts::of(&set)?;
        let data = begun_with(&ask.run, &set, &data).unwrap_or(data);
        Plan::decide(ask, data)
    }

    /// Checks an ask against a data set.
    ///
    /// # Errors
    /// Things that do not go together, each with the numbers and with what to change.
    pub fn decide(ask: Ask, data: DataFacts) -> Result<Plan, TrainError> {
        let Ask { recipe_name, recipe, shards, run, world, device, resume_anyway } = ask;
        device.check(world.first_device + world.local)?;
        let model = model(&recipe, &data)?;
        let grid = PatchGrid { rows: data.grid[0], cols: data.grid[1] };
        check_masks(&recipe, grid)?;

        if data.samples == 0 {
            return refuse(format!(
                "{} has no samples; build it again from a folder with images",
                shards.display()
            ));
        }
        let global_batch = u64::from(recipe.rank_batch()) * u64::from(world.size);
        let steps_per_epoch = data.samples / global_batch;
        let steps = recipe.steps.unwrap_or(u64::from(recipe.epochs) * steps_per_epoch);
        if steps == 0 {
            return refuse(format!(
                "an epoch has no whole step: {} samples, but batch_size {} x {} ranks{} = {global_batch}; lower batch_size, \
                 or set steps",
                data.samples,
                recipe.batch_size,
                world.size,
                micro_batches(&recipe)
            ));
        }
        let warmup_steps = warmup_length(recipe.warmup_epochs.into(), recipe.warmup_steps, steps_per_epoch);
        Schedule::learning_rate(recipe.lr, recipe.min_lr, warmup_steps, steps)
            .map_err(|error| TrainError::Plan(error.to_string()))?;
        let save_every_steps = recipe
            .save_every_steps
            .unwrap_or(u64::from(recipe.save_ckpt_freq) * steps_per_epoch)
            .clamp(1, steps);
        let cores = device::cores();
        let workers = recipe.num_workers.unwrap_or(cores);
        let share = if device == Device::Cpu { (cores / world.local.max(1)).max(1) } else { 1 };
        let threads_per_rank = recipe.threads_per_rank.unwrap_or(share);
        Ok(Plan {
            recipe_name,
            recipe,
            shards,
            run,
            data,
            world,
            device,
            model,
            global_batch,
            steps_per_epoch,
            steps,
            warmup_steps,
            save_every_steps,
            workers,
            threads_per_rank,
            resume_anyway,
        })
    }

    /// The learning rate of every step.
    ///
    /// # Errors
    /// None for a plan that [`Plan::decide`] made.
    pub fn learning_rate(&self) -> Result<Schedule, TrainError> {
        Schedule::learning_rate(self.recipe.lr, self.recipe.min_lr, self.warmup_steps, self.steps)
            .map_err(|error| TrainError::Plan(error.to_string()))
    }

    /// The weight decay of every step.
    ///
    /// # Errors
    /// None for a plan that [`Plan::decide`] made.
    pub fn weight_decay(&self) -> Result<Schedule, TrainError> {
        Schedule::weight_decay(self.recipe.weight_decay, self.recipe.weight_decay_end, self.steps)
            .map_err(|error| TrainError::Plan(error.to_string()))
    }

    /// Grid of patches, which is that of tokens.
    pub fn grid(&self) -> PatchGrid {
        PatchGrid { rows: self.data.grid[0], cols: self.data.grid[1] }
    }

    /// What the loader needs to know to start at `first_step`.
    pub fn loader_options(&self, shards: Arc<ShardSet>, first_step: u64) -> beit_loader::Options {
        beit_loader::Options {
            view_px: self.model.image_px,
            interpolation: self.interpolation(),
            grid: self.grid(),
            mask: self.mask(),
            seed: self.recipe.seed,
            world_size: self.world.size,
            ranks: self.world.ranks(),
            batch_size: self.recipe.rank_batch(),
            workers: self.workers as usize,
            slots: self.recipe.queue_batches as usize,
            first_step,
            max_corrupt: self.recipe.max_corrupt_samples,
            shuffle: self.recipe.shuffle(),
            read_ahead: self.recipe.read_ahead,
            fresh_views: self.recipe.online(),
            on_corrupt: Some(Arc::new(|record| tracing::warn!(%record, "A corrupt record is replaced."))),
            ..beit_loader::Options::new(shards)
        }
    }

    /// How patches are hidden.
    pub fn mask(&self) -> MaskSpec {
        mask_spec(&self.recipe)
    }

    /// Filter of the patch view.
    pub fn interpolation(&self) -> Interpolation {
        match self.recipe.train_interpolation.as_str() {
            "bilinear" => Interpolation::Bilinear,
            "lanczos" => Interpolation::Lanczos,
            _ => Interpolation::Bicubic,
        }
    }

    /// What keeps this plan from continuing a run that was planned as `saved`; empty when nothing does.
    ///
    /// Length, learning rate and the like may change from start to start: only what would make the weights, the order
    /// or the targets meaningless is compared.
    pub fn differences(&self, saved: &serde_json::Value) -> Vec<Difference> {
        /// Place in the plan, name, whether weights of another value don't fit.
        const KEPT: &[(&str, &str, bool)] = &[
            ("/data/digest", "data set", false),
            ("/data/tokenizer_digest", "tokenizer", false),
            ("/data/vocab", "vocabulary", true),
            ("/model/image_px", "input_size", true),
            ("/model/patch_px", "patch_size", true),
            ("/model/width", "embed_dim", true),
            ("/model/depth", "depth", true),
            ("/model/heads", "num_heads", true),
            ("/model/mlp_ratio", "mlp_ratio", true),
            ("/model/rel_pos_bias", "rel_pos_bias", true),
            ("/model/abs_pos_emb", "abs_pos_emb", true),
            ("/recipe/layer_scale_init_value", "layer_scale_init_value", false),
            ("/recipe/seed", "seed", false),
            ("/global_batch", "batch_size x update_freq x ranks", false),
        ];
        let Ok(now) = serde_json::to_value(self) else {
            return vec![Difference { weights: true, text: "this plan can't be written".to_owned() }];
        };
        let has_gains = |plan: &serde_json::Value| {
            plan.pointer("/recipe/layer_scale_init_value").and_then(serde_json::Value::as_f64) > Some(0.0)
        };
        let other_gains = has_gains(saved) != has_gains(&now);
        // A run that was saved before there were two orders has the one there was: that is the key's default.
        let saved_order = saved
            .get("recipe")
            .and_then(|recipe| serde_json::from_value::<Recipe>(recipe.clone()).ok())
            .map_or(Shuffle::Full, |recipe| recipe.shuffle());
        let saved_tokens =
            saved.pointer("/recipe/tokens").and_then(|tokens| tokens.as_str()).unwrap_or("shard");
        let tokens = (saved_tokens != self.recipe.tokens)
            .then(|| format!("tokens was {saved_tokens}, now {}", self.recipe.tokens))
            .map(|text| Difference { weights: false, text });
        let order = (saved_order != self.recipe.shuffle())
            .then(|| format!("order was {saved_order}, now {}", self.recipe.shuffle()))
            .map(|text| Difference { weights: false, text });
        KEPT.iter()
            .filter_map(|(place, name, weights)| match (saved.pointer(place), now.pointer(place)) {
                (Some(then), Some(now)) if then != now => Some(Difference {
                    weights: *weights || (*name == "layer_scale_init_value" && other_gains),
                    text: format!("{name} was {}, now {}", short(then), short(now)),
                }),
                _ => None,
            })
            .chain(order)
            .chain(tokens)
            .collect()
    }

    /// Whether a checkpoint is due once `step` steps are done.
    pub fn saves_after(&self, step: u64) -> bool {
        let kept = self.recipe.keep_every_steps;
        step.is_multiple_of(self.save_every_steps) || kept.is_some_and(|every| step.is_multiple_of(every))
    }

    /// How shards are read, and why so.
    fn reading(&self) -> String {
        let DataFacts { io, .. } = &self.data;
        match (self.recipe.io(), io.as_str()) {
            (Io::Auto, "pread") => "pread, as a network file system is best read (io auto)".to_owned(),
            (Io::Auto, io) => format!("{io}, as a local file system is best read (io auto)"),
            (_, io) => io.to_owned(),
        }
    }
}

/// The facts that a run in `run` began with, if the set has grown since: its epochs and schedules stay as they were planned.
fn begun_with(run: &Path, set: &ShardSet, now: &DataFacts) -> Option<DataFacts> {
    let saved = checkpoint::peek(run)?;
    Generations::resumed(&saved.generations, set)?;
    let data: DataFacts = serde_json::from_value(saved.plan.get("data")?.clone()).ok()?;
    Some(DataFacts { io: now.io.clone(), ..data })
}

/// Opens the shards of `folder`.
///
/// # Errors
/// No sound data set there.
pub fn open_set(folder: &Path, io: Io) -> Result<ShardSet, TrainError> {
    ShardSet::open(folder, io).map_err(|error| TrainError::Data(Box::new(error)))
}

fn refuse<T>(why: String) -> Result<T, TrainError> {
    Err(TrainError::Plan(why))
}

fn model(recipe: &Recipe, data: &DataFacts) -> Result<ModelConfig, TrainError> {
    let model = recipe.model_config(data.vocab);
    model.check().map_err(|error| TrainError::Plan(error.to_string()))?;
    if let Some(px) = recipe.second_input_size
        && px != data.token_px
    {
        return refuse(format!(
            "second_input_size is {px}, but these shards' tokens were made from views of {} px; build shards with the \
             other size, or drop the key",
            data.token_px
        ));
    }
    let [rows, cols] = data.grid;
    let side = model.patches_per_side();
    if [side, side] != [rows, cols] {
        return refuse(format!(
            "{side}x{side} patches (input_size {} / patch_size {}) but {rows}x{cols} tokens (the shards' {} px view, \
             tokenizer {}); each patch needs one: change input_size or patch_size, or build shards with a tokenizer of \
             another stride",
            model.image_px, model.patch_px, data.token_px, data.tokenizer
        ));
    }
    Ok(model)
}

fn mask_spec(recipe: &Recipe) -> MaskSpec {
    MaskSpec {
        num_mask_patches: recipe.num_mask_patches,
        min_mask_patches_per_block: recipe.min_mask_patches_per_block,
        max_mask_patches_per_block: recipe.max_mask_patches_per_block,
        ..MaskSpec::default()
    }
}

fn check_masks(recipe: &Recipe, grid: PatchGrid) -> Result<(), TrainError> {
    let patches = grid.rows * grid.cols;
    if recipe.num_mask_patches >= patches {
        return refuse(format!(
            "num_mask_patches {} hides all of {}x{} = {patches} patches; some must stay visible",
            recipe.num_mask_patches, grid.rows, grid.cols
        ));
    }
    mask_spec(recipe).check(grid).map_err(|error| TrainError::Plan(error.to_string()))
}

/// Nothing, or by how much micro-batches multiply a batch.
fn micro_batches(recipe: &Recipe) -> String {
    match recipe.update_freq {
        1 => String::new(),
        micro => format!(" x {micro} micro-batches"),
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first digits of a digest, other values as they are.
fn short(value: &serde_json::Value) -> String {
    match value.as_str() {
        Some(text) => text.chars().take(12).collect(),
        None => value.to_string(),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { recipe, data, model, world, .. } = self;
        let [rows, cols] = data.grid;
        let epochs = self.steps as f64 * self.global_batch as f64 / data.samples as f64;
        let clip = recipe.clip_grad.map_or("no clipping".to_owned(), |norm| format!("clip {norm}"));
        writeln!(f, "recipe       {}", self.recipe_name)?;
        writeln!(
            f,
            "data         {} samples x {} views in {} (digest {})",
            data.samples,
            data.views,
            self.shards.display(),
            &data.digest[..data.digest.len().min(12)]
        )?;
        writeln!(f, "order        {}", recipe.shuffle())?;
        writeln!(f, "reading      {}; {} samples ahead", self.reading(), recipe.read_ahead)?;
        writeln!(
            f,
            "tokens       {}, {rows}x{cols} of {} from {} px views, tokenizer {} (digest {})",
            if recipe.online() { "made in the step from fresh views" } else { "from the shards" },
            data.vocab,
            data.token_px,
            data.tokenizer,
            &data.tokenizer_digest[..data.tokenizer_digest.len().min(12)]
        )?;
        writeln!(
            f,
            "model        {} layers, width {}, {} heads; {} px / {} px patches",
            model.depth, model.width, model.heads, model.image_px, model.patch_px
        )?;
        writeln!(
            f,
            "masks        {} of {} patches, in blocks of {} or more; drop path {}",
            recipe.num_mask_patches,
            rows * cols,
            recipe.min_mask_patches_per_block,
            recipe.drop_path
        )?;
        writeln!(
            f,
            "batch        {} per rank x {} ranks{} = {} per step, {} steps per epoch; loss mean {}; amp {}{}",
            recipe.batch_size,
            world.size,
            micro_batches(recipe),
            self.global_batch,
            self.steps_per_epoch,
            recipe.loss_mean,
            recipe.amp,
            if recipe.checkpoint_activations { ", activations computed again" } else { "" }
        )?;
        writeln!(
            f,
            "length       {} steps = {epochs:.1} epochs, {} of them warm-up",
            self.steps, self.warmup_steps
        )?;
        writeln!(
            f,
            "optimizer    {}, lr {} to {}, betas {} {}, weight decay {}, {clip}",
            recipe.opt, recipe.lr, recipe.min_lr, recipe.opt_betas.0, recipe.opt_betas.1, recipe.weight_decay
        )?;
        writeln!(f, "arithmetic   {}", self.arithmetic())?;
        writeln!(
            f,
            "checkpoints  every {} steps, the last {} kept{}, in {}",
            self.save_every_steps,
            recipe.keep_last,
            recipe.keep_every_steps.map(|every| format!(" and one every {every} steps")).unwrap_or_default(),
            self.run.display()
        )?;
        write!(
            f,
            "device       {}: ranks {}..{} of {} here, {} threads each; {} loader threads, {} batches queued per rank",
            self.device.name(),
            world.first,
            world.first + world.local,
            world.size,
            self.threads_per_rank,
            self.workers,
            recipe.queue_batches
        )
    }
}

#[cfg(test)]
mod tests;
