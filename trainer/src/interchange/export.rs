//! Writing weights for others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;

use beit_torchfile::{Value, save_pth, write_safetensors};

use super::source::GEOMETRY;
use super::transformers::config_of;
use super::weights::{Architecture, Named, Weights};
use super::{about, must_be_free, names, stored};
use crate::error::{TrainError, io};
use crate::model::Head;

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The reference's checkpoints: `{"model": state dict}` as `torch.save` writes it.
    Unilm,
    /// A folder with `config.json` and `model.safetensors`.
    Transformers,
    /// The bare state dict of `timm`'s `Beit`; `.safetensors` if OUT ends so, else as `torch.save` writes it.
    Timm,
    /// The reference's names in one safetensors file.
    Safetensors,
}

impl Format {
    /// What can be typed.
    pub const NAMES: [&str; 4] = ["unilm", "transformers", "timm", "safetensors"];
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Format, String> {
        match name {
            "unilm" => Ok(Format::Unilm),
            "transformers" => Ok(Format::Transformers),
            "timm" => Ok(Format::Timm),
            "safetensors" => Ok(Format::Safetensors),
            _ => Err(format!("{name} is no format; there are {}", Format::NAMES.join(", "))),
        }
    }
}

/// Writes a checkpoint's weights to `out` and gives sentences on how to load them, and what they lack.
///
/// # Errors
/// No sound checkpoint; layers that the format does not have; `out` is there already; I/O
pub fn export(checkpoint: &Path, format: Format, out: &Path) -> Result<Vec<String>, TrainError> {
    must_be_free(out)?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        return Err(about(out)(format!("{} is no folder to write into; make it first", parent.display())));
    }
    if out.is_dir() && format != Format::Transformers {
        return Err(about(out)("is a folder; give the name of a file".to_owned()));
    }
    let weights = stored::open(checkpoint)?;
    match format {
        Format::Unilm => unilm(&weights, out),
        Format::Transformers => transformers(&weights, out),
        Format::Timm => timm(&weights, out),
        Format::Safetensors => {
            let tensors = weights.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
            write_safetensors(out, tensors, &metadata(&weights.architecture)?)?;
            Ok(Vec::new())
        }
    }
}

fn note(architecture: &Architecture) -> Result<String, TrainError> {
    serde_json::to_string(architecture).map_err(|error| TrainError::Broken(format!("noting sizes: {error}")))
}

fn metadata(architecture: &Architecture) -> Result<BTreeMap<String, String>, TrainError> {
    Ok(BTreeMap::from([("format".to_owned(), "pt".to_owned()), (GEOMETRY.to_owned(), note(architecture)?)]))
}

/// The state dict as the reference's classes have it, and what had to stay behind.
fn reference(weights: &Weights, whose: &str) -> Result<(Named, Vec<String>), TrainError> {
    if weights.architecture.layout.encoder_norm {
        return Err(about(&weights.path)(format!(
            "this model has a second layer norm before its head (use_mean_pooling = false in transformers), which \
             {whose} has not; export it --to transformers or safetensors"
        )));
    }
    let mut notes = Vec::new();
    let unused = weights.architecture.layout.head != Head::Tokens && weights.architecture.layout.mask_token;
    if unused {
        notes.push(format!("mask_token stays behind: a classifier of {whose} has none, and uses none"));
    }
    let kept = weights.tensors.iter().filter(|(name, _)| !(unused && name == "mask_token"));
    Ok((kept.cloned().collect(), notes))
}

fn unilm(weights: &Weights, out: &Path) -> Result<Vec<String>, TrainError> {
    let (tensors, notes) = reference(weights, "the reference")?;
    let root = Value::dict([
        ("model", Value::state_dict(tensors)),
        (GEOMETRY, Value::from(note(&weights.architecture)?)),
    ]);
    save_pth(out, &root)?;
    Ok(notes)
}

fn timm(weights: &Weights, out: &Path) -> Result<Vec<String>, TrainError> {
    let (mut tensors, mut notes) = reference(weights, "timm")?;
    tensors.retain(|(name, _)| !name.ends_with("relative_position_index")); // timm computes them
    if weights.architecture.layout.head == Head::Tokens {
        tensors.retain(|(name, _)| name != "mask_token" && !name.starts_with("lm_head."));
        notes.push(
            "mask_token and lm_head stay behind: timm has no BEiT that guesses tokens, so this is the encoder alone \
             and can't be imported again; --to unilm, transformers or safetensors keeps all"
                .to_owned(),
        );
    }
    if out.extension().is_some_and(|ending| ending == "safetensors") {
        let all = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        write_safetensors(out, all, &metadata(&weights.architecture)?)?;
    } else {
        save_pth(out, &Value::state_dict(tensors))?;
    }
    notes.push(format!("timm: {}", timm_call(&weights.architecture, out)));
    Ok(notes)
}

/// The Python that makes the model in `timm`.
fn timm_call(architecture: &Architecture, out: &Path) -> String {
    let (model, layout) = (&architecture.model, &architecture.layout);
    let python = |flag: bool| if flag { "True" } else { "False" };
    let (classes, pool) = match layout.head {
        Head::Tokens => (0, "token"),
        Head::MeanPool => (model.vocab, "avg"),
        Head::Cls => (model.vocab, "token"),
    };
    let scale = if model.layer_scale() { format!("{:?}", model.init_values) } else { "None".to_owned() };
    let eps = match model.eps == 1e-6 {
        true => String::new(),
        false => format!(", norm_layer=partial(torch.nn.LayerNorm, eps={:?})", model.eps),
    };
    format!(
        "model = timm.models.beit.Beit(img_size={}, patch_size={}, num_classes={classes}, global_pool=\"{pool}\", \
         embed_dim={}, depth={}, num_heads={}, mlp_ratio={:?}, init_values={scale}, use_abs_pos_emb={}, \
         use_rel_pos_bias={}, use_shared_rel_pos_bias={}{eps}); timm.models.load_checkpoint(model, \"{}\")",
        model.image_px,
        model.patch_px,
        model.width,
        model.depth,
        model.heads,
        model.mlp_ratio,
        python(model.abs_pos_emb),
        python(layout.block_rel_pos_bias),
        python(model.rel_pos_bias),
        out.display(),
    )
}

fn transformers(weights: &Weights, out: &Path) -> Result<Vec<String>, TrainError> {
    let tensors = names::to_transformers(&weights.tensors).map_err(about(&weights.path))?;
    let config = config_of(&weights.architecture, weights.transformers.as_ref());
    let text = serde_json::to_string_pretty(&config)
        .map_err(|error| TrainError::Broken(format!("writing config.json: {error}")))?;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = parent.join(format!(".tmp-{name}-{}", std::process::id()));
    let all = || {
        fs::create_dir(&private).map_err(io("creating", &private))?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = private.join("model.safetensors");
        write_safetensors(file, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), &metadata)?;
        let file = private.join("config.json");
        fs::write(&file, text + "\n").map_err(io("writing", &file))?;
        for synced in [&file, &private] {
            File::open(synced).and_then(|open| open.sync_all()).map_err(io("syncing", synced))?;
        }
        // Over nothing, or over an empty folder.
        fs::rename(&private, out).map_err(io("publishing", out))?;
        File::open(parent).and_then(|open| open.sync_all()).map_err(io("syncing", parent))
    };
    let done = all();
    if done.is_err() {
        let _ = fs::remove_dir_all(&private); // The error at hand matters more.
    }
    done.map(|()| Vec::new())
}
