//! What someone asks for: the keys of a recipe file, checked one by one.
//!
//! Keys are the reference's pre-training options (unilm/beit, `run_beit_pretraining.py`) under the reference's
//! names and defaults, plus ours. A misspelt key is an error that names the likely one; a key of the reference
//! that has no place here is an error that says where its meaning went. [`crate::plan::Plan`] is what comes of it.

use std::path::Path;

use beit_loader::Shuffle;
use beit_shards::Io;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::amp::Amp;
use crate::error::TrainError;
use crate::loss::LossMean;
use crate::model::ModelConfig;

/// The recipes that travel inside the binary, by name.
pub const EMBEDDED: &[(&str, &str)] = &[
    ("pretrain-base-1k", include_str!("../../recipes/pretrain-base-1k.toml")),
    ("pretrain-base-22k", include_str!("../../recipes/pretrain-base-22k.toml")),
    ("pretrain-large-1k", include_str!("../../recipes/pretrain-large-1k.toml")),
    ("pretrain-large-22k", include_str!("../../recipes/pretrain-large-22k.toml")),
    ("pretrain-cifar-cpu", include_str!("../../recipes/pretrain-cifar-cpu.toml")),
    ("pretrain-tiny-cpu", include_str!("../../recipes/pretrain-tiny-cpu.toml")),
];

/// Options of the reference that are no keys here, and what stands in their place.
const ELSEWHERE: &[(&str, &str)] = &[
    ("auto_resume", "a run always resumes from its newest valid checkpoint"),
    ("data_path", "the data set is a folder of shards: --shards DIR"),
    ("device", "the device is asked for on the command line: --device cpu, --gpus N"),
    ("disable_rel_pos_bias", "write rel_pos_bias = false"),
    ("discrete_vae_type", "tokens are made when shards are built: beit-shard build --tokenizer"),
    ("dist_on_itp", "ranks come from RANK and WORLD_SIZE, or from --ranks and --gpus"),
    ("dist_url", "ranks come from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"),
    ("local_rank", "ranks come from RANK and WORLD_SIZE, or from --ranks and --gpus"),
    ("momentum", "it is for optimizers of the SGD kind; only adamw is here"),
    ("no_auto_resume", "give a fresh run directory instead"),
    ("no_pin_mem", "pixels travel as bytes and are normalised on the device"),
    ("output_dir", "the run directory is given on the command line: --run DIR"),
    ("pin_mem", "pixels travel as bytes and are normalised on the device"),
    ("resume", "a run resumes from the newest valid checkpoint in its directory"),
    ("second_interpolation", "the token view is fixed when shards are built"),
    ("start_epoch", "a run resumes at the step of its checkpoint"),
    ("warmup_lr", "the reference never reads it: the warm-up starts at 0"),
    ("world_size", "ranks come from WORLD_SIZE, or from --ranks and --gpus"),
];

/// A key of a recipe, for lists and help.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written in the file.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: &'static str,
    /// What it means.
    pub doc: &'static str,
}

macro_rules! keys {
    ($( $(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr, $rule:literal, $holds:expr; )+) => {
        /// Every key with a value: what a recipe says, and defaults for the rest.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)] // a plan saved before a key existed has its default
        pub struct Recipe { $( $(#[doc = $doc])+ pub $name: $kind, )+ }

        impl Default for Recipe {
            fn default() -> Recipe { Recipe { $( $name: $default, )+ } }
        }

        /// All keys, in the order of the documentation.
        pub const KEYS: &[Key] = &[ $( Key {
            name: stringify!($name), kind: <$kind as Setting>::KIND, doc: concat!($($doc),+),
        }, )+ ];

        impl Recipe {
            /// Sets one key from a TOML value.
            ///
            /// # Errors
            /// An unknown key, a value of another type, a value out of its range.
            pub fn set(&mut self, key: &str, value: &Value) -> Result<(), TrainError> {
                match key {
                    $( stringify!($name) => {
                        let holds: fn(&$kind) -> bool = $holds;
                        self.$name = read(key, value, $rule, holds)?;
                    } )+
                    _ => return Err(unknown(key)),
                }
                Ok(())
            }
        }
    };
}

keys! {
    /// Samples per rank that go through the model at once: a micro-batch.
    batch_size: u32 = 64, "at least 1", |v| *v >= 1;
    /// Micro-batches per rank and optimizer step, whose gradients add up.
    update_freq: u32 = 1, "at least 1", |v| *v >= 1;
    /// Epochs to train, unless `steps` says otherwise.
    epochs: u32 = 300, "at least 1", |v| *v >= 1;
    /// Optimizer steps to train, in all; wins over `epochs`.
    steps: Option<u64> = None, "at least 1", |v| v.is_none_or(|v| v >= 1);
    /// Epochs between two checkpoints; the last step is always saved.
    save_ckpt_freq: u32 = 20, "at least 1", |v| *v >= 1;
    /// Optimizer steps between two checkpoints; wins over `save_ckpt_freq`.
    save_every_steps: Option<u64> = None, "at least 1", |v| v.is_none_or(|v| v >= 1);
    /// Checkpoints kept on disk, newest first.
    keep_last: u32 = 3, "at least 1", |v| *v >= 1;
    /// Optimizer steps between two checkpoints that stay for good; they are written at these steps too. none: `keep_last` alone.
    keep_every_steps: Option<u64> = None, "at least 1", |v| v.is_none_or(|v| v >= 1);
    /// Folder of TensorBoard's event files; none: no TensorBoard.
    log_dir: Option<String> = None, "a folder, or none", |v| v.as_ref().is_none_or(|v| !v.is_empty());
    /// Steps between two lines on the console.
    print_freq: u32 = 10, "at least 1", |v| *v >= 1;
    /// The size of the model by the reference's name; the five keys below change it.
    model: String = "beit_base_patch16_224_8k_vocab".into(), "beit_base_patch16_224_8k_vocab or \
        beit_large_patch16_224_8k_vocab", |v| ModelConfig::named(v).is_some();
    /// Side of a patch in pixels.
    patch_size: Option<u32> = None, "1 to 256", |v| v.is_none_or(|v| (1..=256).contains(&v));
    /// Width of the residual stream.
    embed_dim: Option<u32> = None, "1 to 65536", |v| v.is_none_or(|v| (1..=65536).contains(&v));
    /// Transformer layers.
    depth: Option<u32> = None, "1 to 1024", |v| v.is_none_or(|v| (1..=1024).contains(&v));
    /// Attention heads of a layer.
    num_heads: Option<u32> = None, "1 to 1024", |v| v.is_none_or(|v| (1..=1024).contains(&v));
    /// Hidden width of the MLP, as a multiple of the width.
    mlp_ratio: f64 = 4.0, "above 0, at most 64", |v| *v > 0.0 && *v <= 64.0;
    /// One relative position bias, shared by all layers.
    rel_pos_bias: bool = true, "", |_| true;
    /// A learned absolute position embedding.
    abs_pos_emb: bool = false, "", |_| true;
    /// Start value of the layer-scale gains; 0 or less: no layer scale.
    layer_scale_init_value: f64 = 0.1, "finite", |v| v.is_finite();
    /// Patches to hide per image; fewer can end up hidden, never more.
    num_mask_patches: u32 = 75, "at least 1", |v| *v >= 1;
    /// Most patches in one mask block; none: as many as `num_mask_patches`.
    max_mask_patches_per_block: Option<u32> = None, "at least 1", |v| v.is_none_or(|v| v >= 1);
    /// Fewest patches in one mask block.
    min_mask_patches_per_block: u32 = 16, "at least 1", |v| *v >= 1;
    /// Side of the patch view in pixels.
    input_size: u32 = 224, "1 to 4096", |v| (1..=4096).contains(v);
    /// Side of the token view in pixels, which the shards fix; none: whatever they have.
    second_input_size: Option<u32> = None, "1 to 4096", |v| v.is_none_or(|v| (1..=4096).contains(&v));
    /// Where tokens come from: shard, or online: fresh views every epoch and the tokenizer in the step, as in the reference.
    tokens: String = "shard".into(), "shard or online", |v| ["shard", "online"].contains(&v.as_str());
    /// Tokenizer of tokens online and of pictures: a file, a folder, or embedded; none: as `beit-shard build` looks for one.
    discrete_vae_weight_path: Option<String> = None, "", |_| true;
    /// Largest drop-path rate; it rises from 0 with depth.
    drop_path: f64 = 0.1, "0 or more, below 1", |v| (0.0..1.0).contains(v);
    /// The optimizer.
    opt: String = "adamw".into(), "adamw, the only one the reference's recipes use", |v| v == "adamw";
    /// Added to the root of the second moment.
    opt_eps: f64 = 1e-8, "above 0", |v| *v > 0.0 && v.is_finite();
    /// Decay rates of the two moments.
    opt_betas: (f64, f64) = (0.9, 0.999), "two numbers of 0 or more, below 1",
        |v| (0.0..1.0).contains(&v.0) && (0.0..1.0).contains(&v.1);
    /// Largest global gradient norm; none: no clipping.
    clip_grad: Option<f64> = None, "above 0", |v| v.is_none_or(|v| v > 0.0 && v.is_finite());
    /// Decoupled weight decay of matrices.
    weight_decay: f64 = 0.05, "0 or more", |v| *v >= 0.0 && v.is_finite();
    /// Where the cosine of the weight decay ends; none: it stays.
    weight_decay_end: Option<f64> = None, "0 or more", |v| v.is_none_or(|v| v >= 0.0 && v.is_finite());
    /// Peak learning rate; never scaled by the batch.
    lr: f64 = 5e-4, "above 0", |v| *v > 0.0 && v.is_finite();
    /// Where the cosine of the learning rate ends.
    min_lr: f64 = 1e-5, "0 or more", |v| *v >= 0.0 && v.is_finite();
    /// Epochs of linear warm-up, unless `warmup_steps` says otherwise.
    warmup_epochs: u32 = 5, "0 or more", |_| true;
    /// Optimizer steps of linear warm-up if above 0.
    warmup_steps: i64 = -1, "-1 or more", |v| *v >= -1;
    /// Kind of matrix products: off (f32), bf16, or fp16 with a scaled loss as in the reference.
    amp: String = "off".into(), "off, bf16 or fp16", |v| Amp::named(v).is_some();
    /// Whether a block's activations are computed again in backward instead of kept: less memory, a third more work.
    checkpoint_activations: bool = false, "", |_| true;
    /// Steps in a row whose loss or gradient is not finite that are skipped before the run gives up.
    max_skipped_steps: u32 = 10, "0 or more", |_| true;
    /// How often the run may then return to the weights of its newest checkpoint, and go on with the next data.
    max_rollbacks: u32 = 0, "0 or more", |_| true;
    /// Filter of the patch view: bicubic, bilinear or lanczos.
    train_interpolation: String = "bicubic".into(), "bicubic, bilinear or lanczos",
        |v| ["bicubic", "bilinear", "lanczos"].contains(&v.as_str());
    /// Normalise by ImageNet's mean and deviation; otherwise by 0.5 and 0.5.
    imagenet_default_mean_and_std: bool = false, "", |_| true;
    /// Seed of the initial weights, the order, the masks and the drop paths.
    seed: u64 = 0, "0 or more", |_| true;
    /// Loader threads, for all ranks of this process; none: one per core.
    num_workers: Option<u32> = None, "at least 1", |v| v.is_none_or(|v| v >= 1);
    /// Threads of one tensor operation in a CPU rank; none: the cores, shared out among the ranks of this process.
    threads_per_rank: Option<u32> = None, "1 to 1024", |v| v.is_none_or(|v| (1..=1024).contains(&v));
    /// How epochs are shuffled: shuffle, over the whole set, or blocks, for cold disks and network file systems.
    order: String = "shuffle".into(), "shuffle or blocks", |v| ["shuffle", "blocks"].contains(&v.as_str());
    /// Stored neighbours that make a block in order blocks.
    shuffle_block_samples: u64 = 128, "1 to 1048576", |v| (1..=1 << 20).contains(v);
    /// Blocks whose samples are mixed in order blocks; the page cache should hold two such windows.
    shuffle_window_blocks: u64 = 128, "1 to 1048576", |v| (1..=1 << 20).contains(v);
    /// How shards are read: mmap, pread, or auto: mmap, but pread on network file systems.
    io: String = "auto".into(), "auto, mmap or pread", |v| v.parse::<Io>().is_ok();
    /// Samples, over all ranks of this process, that the kernel is asked to fetch ahead of their turn; 0: none.
    read_ahead: u32 = 64, "0 to 65536", |v| *v <= 65536;
    /// Batches that may wait for each rank.
    queue_batches: u32 = 3, "2 to 64", |v| (2..=64).contains(v);
    /// Unreadable records that are replaced before the run gives up.
    max_corrupt_samples: u64 = 1000, "0 or more", |_| true;
    /// TFLOP/s that the device of a rank can do at most, for the MFU; none: what is known of the GPU here, nothing on CPUs.
    peak_tflops: Option<f64> = None, "above 0", |v| v.is_none_or(|v| v > 0.0 && v.is_finite());
    /// How unequal numbers of hidden patches are averaged: rank, each rank's own mean first, as the reference does, or
    /// global, over all hidden patches of the global batch, which any number of ranks computes alike.
    loss_mean: String = "rank".into(), "rank or global", |v| ["rank", "global"].contains(&v.as_str());
    /// Fixed samples of which the run directory has pictures: view, mask, and what the tokens and the model's guesses look like; 0: none.
    pictures: u32 = 4, "0 to 64", |v| *v <= 64;
    /// Seconds between two pictures; more where they would take over a hundredth of the time. The first and the last step always have some.
    pictures_every_s: u64 = 60, "0 to 86400", |v| *v <= 86400;
    /// Seconds a rank waits for the others in a collective before it calls the run off.
    collective_timeout_s: u64 = 600, "1 to 86400", |v| (1..=86400).contains(v);
}

impl Recipe {
    /// Reads a recipe by embedded name or by path, returning the name it goes by in logs.
    ///
    /// # Errors
    /// Neither a recipe of ours nor a readable file; anything [`Recipe::parse`] refuses.
    pub fn find(name_or_path: &str) -> Result<(String, Recipe), TrainError> {
        if let Some((name, text)) = EMBEDDED.iter().find(|(name, _)| *name == name_or_path) {
            return Ok(((*name).to_owned(), Recipe::parse(name, text)?));
        }
        let path = Path::new(name_or_path);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(TrainError::NoSuchRecipe {
                    asked: name_or_path.to_owned(),
                    known: EMBEDDED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
                    hint: did_you_mean(name_or_path, EMBEDDED.iter().map(|(name, _)| *name)),
                });
            }
            Err(cause) => {
                return Err(TrainError::Io { doing: "reading the recipe", path: path.into(), cause });
            }
        };
        let name = path.file_stem().map_or_else(|| name_or_path.into(), |stem| stem.to_string_lossy());
        Ok((name.into_owned(), Recipe::parse(name_or_path, &text)?))
    }

    /// Reads the text of a recipe; `origin` names it in messages.
    ///
    /// # Errors
    /// No TOML; an unknown key; a value of the wrong type or out of range.
    pub fn parse(origin: &str, text: &str) -> Result<Recipe, TrainError> {
        let table: toml::Table = text.parse().map_err(|cause: toml::de::Error| TrainError::RecipeSyntax {
            recipe: origin.to_owned(),
            cause: Box::new(cause),
        })?;
        let mut recipe = Recipe::default();
        for (key, value) in &table {
            recipe.set(key, value)?;
        }
        Ok(recipe)
    }

    /// Applies one `key=value` from the command line; `none` empties a key that may be empty.
    ///
    /// # Errors
    /// No `=`; whatever [`Recipe::set`] refuses.
    pub fn apply(&mut self, setting: &str) -> Result<(), TrainError> {
        let Some((key, text)) = setting.split_once('=') else {
            return Err(TrainError::BadSetting { setting: setting.to_owned() });
        };
        let (key, text) = (key.trim(), text.trim());
        let value = format!("v = {text}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(text.to_owned()));
        self.set(key, &value)
    }
}

impl Recipe {
    /// How epochs are shuffled.
    pub fn shuffle(&self) -> Shuffle {
        match self.order.as_str() {
            "blocks" => Shuffle::Blocks {
                block_samples: self.shuffle_block_samples,
                window_blocks: self.shuffle_window_blocks,
            },
            _ => Shuffle::Full,
        }
    }

    /// In which kind matrix products run.
    pub fn amp(&self) -> Amp {
        Amp::named(&self.amp).unwrap_or(Amp::Off)
    }

    /// How unequal numbers of hidden patches are averaged.
    pub fn loss_mean(&self) -> LossMean {
        if self.loss_mean == "global" { LossMean::Global } else { LossMean::Rank }
    }

    /// Whether tokens are made in the step.
    pub fn online(&self) -> bool {
        self.tokens == "online"
    }

    /// Samples per rank and optimizer step.
    pub fn rank_batch(&self) -> u32 {
        self.batch_size.saturating_mul(self.update_freq)
    }

    /// How shards are read.
    pub fn io(&self) -> Io {
        self.io.parse().unwrap_or_default()
    }

    /// The model it describes, with a head for `vocab` tokens: the named one, but for what other keys say.
    pub fn model_config(&self, vocab: u32) -> ModelConfig {
        let named = ModelConfig::named(&self.model).unwrap_or_else(ModelConfig::base);
        ModelConfig {
            image_px: self.input_size,
            patch_px: self.patch_size.unwrap_or(named.patch_px),
            width: self.embed_dim.unwrap_or(named.width),
            depth: self.depth.unwrap_or(named.depth),
            heads: self.num_heads.unwrap_or(named.heads),
            mlp_ratio: self.mlp_ratio,
            vocab,
            rel_pos_bias: self.rel_pos_bias,
            abs_pos_emb: self.abs_pos_emb,
            init_values: self.layer_scale_init_value,
            drop_path: self.drop_path,
            eps: named.eps,
        }
    }
}

/// A type that a key can have.
trait Setting: Sized {
    /// What to write, for people.
    const KIND: &'static str;
    /// `None`: the value is of another type.
    fn read(value: &Value) -> Option<Self>;
}

impl Setting for bool {
    const KIND: &'static str = "true or false";
    fn read(value: &Value) -> Option<bool> {
        value.as_bool()
    }
}

impl Setting for f64 {
    const KIND: &'static str = "a number";
    fn read(value: &Value) -> Option<f64> {
        value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
    }
}

impl Setting for String {
    const KIND: &'static str = "a text";
    fn read(value: &Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }
}

impl Setting for (f64, f64) {
    const KIND: &'static str = "two numbers, as in [0.9, 0.999]";
    fn read(value: &Value) -> Option<(f64, f64)> {
        match value.as_array()?.as_slice() {
            [first, second] => Some((f64::read(first)?, f64::read(second)?)),
            _ => None,
        }
    }
}

macro_rules! whole {
    ($($kind:ty),+) => { $(
        impl Setting for $kind {
            const KIND: &'static str = "a whole number";
            fn read(value: &Value) -> Option<$kind> {
                value.as_integer().and_then(|whole| <$kind>::try_from(whole).ok())
            }
        }
    )+ };
}
whole!(u32, u64, i64);

impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;
    fn read(value: &Value) -> Option<Option<T>> {
        match value.as_str() {
            Some("none") => Some(None),
            _ => T::read(value).map(Some),
        }
    }
}

fn read<T: Setting>(
    key: &str,
    value: &Value,
    rule: &'static str,
    holds: fn(&T) -> bool,
) -> Result<T, TrainError> {
    let Some(setting) = T::read(value) else {
        // A negative number for a count is of the right type to its author, so name the range instead.
        return Err(match value {
            Value::Integer(_) if T::KIND == "a whole number" && !rule.is_empty() => {
                TrainError::OutOfRange { key: key.to_owned(), value: value.to_string(), rule }
            }
            _ => TrainError::WrongType { key: key.to_owned(), value: value.to_string(), expected: T::KIND },
        });
    };
    if holds(&setting) {
        Ok(setting)
    } else {
        Err(TrainError::OutOfRange { key: key.to_owned(), value: value.to_string(), rule })
    }
}

fn unknown(key: &str) -> TrainError {
    if let Some((_, place)) = ELSEWHERE.iter().find(|(name, _)| *name == key) {
        return TrainError::KeyElsewhere { key: key.to_owned(), place };
    }
    let hint = did_you_mean(key, KEYS.iter().map(|known| known.name));
    TrainError::UnknownKey { key: key.to_owned(), hint }
}

/// `; did you mean …?` for the nearest of `known`, or nothing when none is near.
fn did_you_mean<'a>(asked: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (edits(asked, name), name))
        .min()
        .filter(|(distance, _)| *distance <= (asked.len() / 3).max(2))
        .map(|(_, name)| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// Levenshtein's distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(setting: &str, words: &str) {
        let message = Recipe::default().apply(setting).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn every_embedded_recipe_reads() {
        for (name, _) in EMBEDDED {
            Recipe::find(name).unwrap();
        }
    }

    #[test]
    fn the_22k_recipe_is_the_references_command() {
        let (_, recipe) = Recipe::find("pretrain-base-22k").unwrap();
        assert_eq!(recipe.batch_size * 16, 2048);
        assert_eq!((recipe.lr, recipe.clip_grad, recipe.drop_path), (1.5e-3, Some(3.0), 0.1));
        assert_eq!((recipe.warmup_steps, recipe.epochs, recipe.layer_scale_init_value), (10000, 150, 0.1));
        assert_eq!((recipe.min_lr, recipe.weight_decay, recipe.opt_betas), (1e-5, 0.05, (0.9, 0.999)));
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_likely_one() {
        refused("num_mask_patch=3", "did you mean num_mask_patches?");
        refused("warm_up_steps=3", "did you mean warmup_steps?");
        refused("zzzzzzzz=3", "unknown key zzzzzzzz");
    }

    #[test]
    fn a_key_of_the_reference_that_moved_says_where() {
        refused("data_path=/images", "--shards");
        refused("disable_rel_pos_bias=true", "rel_pos_bias = false");
    }

    #[test]
    fn wrong_types_and_ranges_name_their_key() {
        refused("lr=fast", "lr");
        refused("lr=fast", "a number");
        refused("batch_size=-4", "at least 1");
        refused("batch_size=0", "at least 1");
        refused("batch_size=2.5", "a whole number");
        refused("drop_path=1.0", "below 1");
        refused("lr=nan", "above 0");
        refused("opt_betas=[0.9]", "two numbers");
        refused("order=random", "shuffle or blocks");
        refused("io=nmap", "auto, mmap or pread");
        refused("loss_mean=batch", "rank or global");
        refused("shuffle_window_blocks=0", "1 to 1048576");
        refused("model=beit_huge", "beit_large_patch16_224_8k_vocab");
        refused("steps", "key=value");
    }

    #[test]
    fn settings_from_the_command_line_win() {
        let mut recipe = Recipe::default();
        recipe.apply("clip_grad = 3").unwrap();
        assert_eq!(recipe.clip_grad, Some(3.0));
        recipe.apply("clip_grad=none").unwrap();
        assert_eq!(recipe.clip_grad, None);
        recipe.apply("opt_betas=[0.9, 0.98]").unwrap();
        assert_eq!(recipe.opt_betas, (0.9, 0.98));
        recipe.apply("train_interpolation=lanczos").unwrap();
        assert_eq!(recipe.train_interpolation, "lanczos");
    }

    #[test]
    fn a_recipe_that_is_not_there_lists_those_that_are() {
        let message = Recipe::find("pretrain-base-22").unwrap_err().to_string();
        assert!(message.contains("did you mean pretrain-base-22k?"), "{message}");
        assert!(message.contains("pretrain-tiny-cpu"), "{message}");
    }
}
