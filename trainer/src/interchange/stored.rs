//! Checkpoint directories as weights: those of runs, and those made from files of others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use beit_torchfile::{read_safetensors, safetensors_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::geometry::Known;
use super::source::Raw;
use super::weights::{Architecture, Weights};
use super::{about, must_be_free};
use crate::checkpoint::{self, ABOUT, MODEL, STATE, Shelf};
use crate::error::{TrainError, io};
use crate::model::{Layout, ModelConfig};

/// What `model.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    /// Version of this file.
    format: u32,
    /// `pretrain` or `classify`.
    kind: String,
    /// Sizes and layers.
    architecture: Architecture,
    /// The `config.json` that the weights came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transformers: Option<Map<String, Value>>,
}

const FORMAT: u32 = 1;

/// What became of an import.
#[derive(Debug)]
pub struct Imported {
    /// What was taken in.
    pub architecture: Architecture,
    /// How many numbers training would change.
    pub parameters: u64,
    /// What had to be assumed, in sentences.
    pub notes: Vec<String>,
}

/// Makes a checkpoint directory of ours at `out` from a file of torch or safetensors, or a `transformers` folder.
///
/// It holds `model.safetensors`, `model.json` and a `manifest.json` with their digests; no state, no optimizer.
///
/// # Errors
/// No weights of a BEiT; something they do not tell and `flags` neither; `out` is there already; I/O
pub fn import(source: &Path, out: &Path, flags: &Known) -> Result<Imported, TrainError> {
    must_be_free(out)?;
    let (weights, notes) = Raw::read(source)?.weights(flags)?;
    let parameters = weights.parameter_count();
    let about_it = About {
        format: FORMAT,
        kind: weights.architecture.kind().to_owned(),
        architecture: weights.architecture.clone(),
        transformers: weights.transformers,
    };
    let text = serde_json::to_vec_pretty(&about_it)
        .map_err(|error| TrainError::Broken(format!("writing {ABOUT}: {error}")))?;
    let tensors = weights.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let model = safetensors_bytes(out, tensors, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))?;
    checkpoint::publish_at(
        out,
        &[(MODEL, &|file| file.write_all(&model)), (ABOUT, &|file| file.write_all(&text))],
    )?;
    Ok(Imported { architecture: about_it.architecture, parameters, notes })
}

/// The checkpoint that `path` means: itself, or the newest sound one of a run directory.
///
/// # Errors
/// Neither is there
pub(super) fn locate(path: &Path) -> Result<PathBuf, TrainError> {
    let found = std::fs::metadata(path).map_err(io("looking for", path))?;
    let wrong = about(path);
    if path.join("manifest.json").exists() || path.join(MODEL).exists() && path.join(STATE).exists() {
        return Ok(path.into());
    }
    if path.join("checkpoints").is_dir() {
        let newest = Shelf::newest_of(path)?.found;
        return newest
            .map(|found| found.path)
            .ok_or_else(|| wrong("this run has no sound checkpoint yet".into()));
    }
    let what = if found.is_dir() { "folder" } else { "file" };
    Err(wrong(format!(
        "this {what} is no checkpoint of ours; for weights from elsewhere: beit-train import {} OUT",
        path.display()
    )))
}

/// Reads a checkpoint directory's weights, whose digests are checked.
///
/// # Errors
/// Damaged, or no weights of the model it says
pub(super) fn open(path: &Path) -> Result<Weights, TrainError> {
    let path = &locate(path)?;
    checkpoint::check(path)?;
    let (architecture, transformers) = architecture(path)?;
    let tensors = read_safetensors(path.join(MODEL))?.tensors;
    let mut weights = Weights::complete(path, architecture, tensors)?;
    weights.transformers = transformers;
    Ok(weights)
}

fn architecture(path: &Path) -> Result<(Architecture, Option<Map<String, Value>>), TrainError> {
    let file = path.join(ABOUT);
    if file.exists() {
        let text = std::fs::read(&file).map_err(io("reading", &file))?;
        let told: About = serde_json::from_slice(&text)
            .map_err(|error| about(&file)(format!("can't be understood: {error}")))?;
        if told.format != FORMAT {
            let reason = format!("it has format {}, and this program knows {FORMAT}", told.format);
            return Err(about(&file)(reason));
        }
        return Ok((told.architecture, told.transformers));
    }
    let state = state(path)?;
    let model = state.pointer("/plan/model").cloned().unwrap_or_default();
    let model: ModelConfig = serde_json::from_value(model)
        .map_err(|error| about(&path.join(STATE))(format!("its plan has no model: {error}")))?;
    Ok((Architecture { model, layout: Layout::PRETRAIN }, None))
}

/// The `state.json` of a run's checkpoint, as it is.
///
/// # Errors
/// Not there, or no JSON
pub(super) fn state(path: &Path) -> Result<Value, TrainError> {
    let file = path.join(STATE);
    let text = std::fs::read(&file).map_err(io("reading", &file))?;
    serde_json::from_slice(&text).map_err(|error| about(&file)(format!("can't be understood: {error}")))
}
