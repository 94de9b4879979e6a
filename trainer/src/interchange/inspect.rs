//! Saying what a checkpoint or a weight file holds.

use std::path::Path;

use beit_torchfile::{Dtype, Tensor, read_safetensors};
use serde::Serialize;
use serde_json::Value;

use super::geometry::Known;
use super::source::Raw;
use super::stored;
use super::weights::{Architecture, Weights};
use crate::checkpoint::{self, MODEL, STATE};
use crate::error::TrainError;
use crate::optimizer::is_exempt;

/// What a file or folder holds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// As asked for, or the newest checkpoint of a run.
    pub path: std::path::PathBuf,
    /// What it is, in words.
    pub what: String,
    /// `pretrain` or `classify`, where it is a whole BEiT.
    pub kind: Option<&'static str>,
    /// Its sizes and layers.
    pub architecture: Option<Architecture>,
    /// What was assumed of them.
    pub notes: Vec<String>,
    /// Why it is no whole BEiT, if it is none.
    pub problem: Option<String>,
    /// How many numbers training changes: floating-point numbers of all tensors.
    pub parameters: u64,
    /// Every tensor, under the name it has there.
    pub tensors: Vec<Listed>,
    /// How AdamW groups the parameters, in the reference's names.
    pub groups: Vec<Group>,
    /// What the run's checkpoint says of itself: step, epoch, digests, metrics.
    pub state: Option<Value>,
    /// The plan of the run.
    pub plan: Option<Value>,
    /// Tensors of the optimizer's state.
    pub optimizer_tensors: Option<usize>,
}

/// A tensor, without its numbers.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Its name there.
    pub name: String,
    /// Its sides.
    pub shape: Vec<usize>,
    /// Its element type, as torch calls it.
    pub kind: &'static str,
}

/// Parameters that are stepped alike.
#[derive(Debug, Serialize)]
pub struct Group {
    /// `decay` or `no_decay`.
    pub name: &'static str,
    /// How many numbers they are.
    pub numbers: u64,
    /// Their names, in the model's order.
    pub parameters: Vec<String>,
}

/// Looks into a weight file, a `transformers` folder, a checkpoint or a run; damaged ones are an error, strange ones not.
///
/// # Errors
/// No file of torch or safetensors; a checkpoint that is not what was written
pub fn inspect(path: &Path, flags: &Known) -> Result<Report, TrainError> {
    match path.is_dir() && !path.join("config.json").exists() {
        true => checkpoint(path),
        false => elsewhere(path, flags),
    }
}

fn checkpoint(path: &Path) -> Result<Report, TrainError> {
    let path = stored::locate(path)?;
    checkpoint::check(&path)?;
    let listed: Vec<Listed> = read_safetensors(path.join(MODEL))?
        .tensors
        .iter()
        .map(|(name, tensor)| Listed::of(name, tensor))
        .collect();
    let weights = stored::open(&path)?;
    let run = path.join(STATE).exists();
    let mut report =
        Report::of(&path, if run { "checkpoint of a run" } else { "imported checkpoint" }, listed);
    report.take(&weights, Vec::new());
    if run {
        let mut state = stored::state(&path)?;
        report.plan = state.as_object_mut().and_then(|state| state.remove("plan"));
        report.state = Some(state);
        let optimizer = path.join("optimizer.safetensors");
        if optimizer.exists() {
            report.optimizer_tensors = Some(read_safetensors(optimizer)?.tensors.len());
        }
    }
    Ok(report)
}

fn elsewhere(path: &Path, flags: &Known) -> Result<Report, TrainError> {
    let raw = Raw::read(path)?;
    let listed = raw
        .contents
        .iter()
        .map(|(name, shape, dtype)| Listed {
            name: name.clone(),
            shape: shape.clone(),
            kind: dtype.torch_name(),
        })
        .collect();
    let mut report = Report::of(path, &raw.what, listed);
    report.parameters = raw
        .contents
        .iter()
        .filter(|(_, _, dtype): &&(String, Vec<usize>, Dtype)| dtype.is_float())
        .map(|(_, shape, _)| shape.iter().product::<usize>() as u64)
        .sum();
    match raw.weights(flags) {
        Ok((weights, notes)) => report.take(&weights, notes),
        Err(TrainError::Weights { reason, .. }) => report.problem = Some(reason),
        Err(error) => return Err(error),
    }
    Ok(report)
}

impl Listed {
    fn of(name: &str, tensor: &Tensor) -> Listed {
        Listed { name: name.to_owned(), shape: tensor.shape().to_vec(), kind: tensor.dtype().torch_name() }
    }
}

impl Report {
    fn of(path: &Path, what: &str, tensors: Vec<Listed>) -> Report {
        Report {
            path: path.into(),
            what: what.to_owned(),
            kind: None,
            architecture: None,
            notes: Vec::new(),
            problem: None,
            parameters: 0,
            tensors,
            groups: Vec::new(),
            state: None,
            plan: None,
            optimizer_tensors: None,
        }
    }

    fn take(&mut self, weights: &Weights, notes: Vec<String>) {
        self.kind = Some(weights.architecture.kind());
        self.architecture = Some(weights.architecture.clone());
        self.parameters = weights.parameter_count();
        self.notes = notes;
        for (name, tensor) in weights.parameters() {
            let shape: Vec<i64> = tensor.shape().iter().map(|side| *side as i64).collect();
            let group = if is_exempt(name, &shape) { "no_decay" } else { "decay" };
            let at = self.groups.iter().position(|known| known.name == group).unwrap_or_else(|| {
                self.groups.push(Group { name: group, numbers: 0, parameters: Vec::new() });
                self.groups.len() - 1
            });
            self.groups[at].numbers += tensor.numel() as u64;
            self.groups[at].parameters.push(name.to_owned());
        }
    }
}
