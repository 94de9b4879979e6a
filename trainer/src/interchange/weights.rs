//! The weights of one model, complete and in order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use beit_torchfile::{LayoutError, Tensor};
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::about;
use crate::error::TrainError;
use crate::model::weights::listed;
use crate::model::{Head, Layout, Model, ModelConfig};

/// Tensors by name.
pub(super) type Named = Vec<(String, Tensor)>;

/// All that weights themselves do not tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Sizes; `vocab` is the width of the head.
    pub model: ModelConfig,
    /// Layers.
    pub layout: Layout,
}

impl Architecture {
    /// `pretrain` or `classify`.
    pub fn kind(&self) -> &'static str {
        match self.layout.head {
            Head::Tokens => "pretrain",
            Head::MeanPool | Head::Cls => "classify",
        }
    }
}

/// Weights that a model of their architecture takes: every parameter and buffer, nothing else, in state-dict order.
#[derive(Debug)]
pub(super) struct Weights {
    /// Where they came from, for messages.
    pub path: PathBuf,
    pub architecture: Architecture,
    pub tensors: Named,
    /// The `config.json` they came with.
    pub transformers: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Weights {
    /// Puts `given` in order and adds the position indices, which follow from the sizes.
    ///
    /// # Errors
    /// What is missing, unknown, of another shape, no floating-point number, or an index of another layout
    pub(super) fn complete(
        path: &Path,
        architecture: Architecture,
        given: Named,
    ) -> Result<Weights, TrainError> {
        let wrong = about(path);
        let skeleton = Model::skeleton(&architecture.model, architecture.layout)
            .map_err(|error| wrong(format!("no model can be made of these sizes: {error}")))?;
        let mut differences = Vec::new();
        let mut found: HashMap<&str, &Tensor> = HashMap::new();
        for (name, tensor) in &given {
            if found.insert(name, tensor).is_some() {
                differences.push(format!("{name} comes twice"));
            }
        }
        let mut index: Option<Tensor> = None;
        let mut tensors = Named::new();
        for (name, like) in &skeleton {
            let shape: Vec<usize> = like.size().into_iter().map(|side| side as usize).collect();
            let given = found.remove(name.as_str());
            if like.kind() == Kind::Int64 {
                let own = match &index {
                    Some(index) => index.clone(),
                    None => index.insert(index_of(like, &shape).map_err(&wrong)?).clone(),
                };
                if given.is_some_and(|given| given.shape() != shape || given.to_i64_vec() != own.to_i64_vec())
                {
                    differences.push(format!("{name} is not the index of {}", grid(&architecture.model)));
                }
                tensors.push((name.clone(), own));
                continue;
            }
            match given {
                None => differences.push(format!("{name} is missing")),
                Some(given) if given.shape() != shape => {
                    differences.push(format!("{name} has shape {:?}, not {shape:?}", given.shape()));
                }
                Some(given) if !given.dtype().is_float() => {
                    differences.push(format!("{name} holds {}", given.dtype()));
                }
                Some(given) => {
                    let tensor = compact(given).map_err(|error| wrong(format!("{name}: {error}")))?;
                    tensors.push((name.clone(), tensor));
                }
            }
        }
        let mut unknown: Vec<&str> = found.into_keys().collect();
        unknown.sort_unstable();
        differences.extend(unknown.iter().map(|name| format!("{name:.80} is unknown")));
        if !differences.is_empty() {
            let kind = architecture.kind();
            return Err(wrong(format!("these are no weights of a BEiT to {kind}: {}", listed(&differences))));
        }
        Ok(Weights { path: path.into(), architecture, tensors, transformers: None })
    }

    /// How many numbers training would change.
    pub(super) fn parameter_count(&self) -> u64 {
        self.parameters().map(|(_, tensor)| tensor.numel() as u64).sum()
    }

    /// Without the position indices.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let all = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        all.filter(|(_, tensor)| tensor.dtype().is_float())
    }
}

fn grid(model: &ModelConfig) -> String {
    format!("{0} × {0} patches", model.patches_per_side())
}

fn index_of(like: &tch::Tensor, shape: &[usize]) -> Result<Tensor, String> {
    let numbers: Vec<i64> = like
        .f_flatten(0, -1)
        .and_then(|flat| flat.try_into())
        .map_err(|error| format!("making a position index: {error}"))?;
    Tensor::from_i64(shape, &numbers).map_err(|error| error.to_string())
}

/// The same numbers row-major, in a storage that holds nothing else; copied only where they lie otherwise.
pub(super) fn compact(tensor: &Tensor) -> Result<Tensor, LayoutError> {
    if tensor.is_contiguous() {
        let start = tensor.offset() * tensor.dtype().size();
        if let Some(storage) = tensor.storage().slice(start..start + tensor.byte_len()) {
            let mut strides = vec![1; tensor.shape().len()];
            for dim in (1..strides.len()).rev() {
                strides[dim - 1] = strides[dim] * tensor.shape()[dim].max(1);
            }
            return Tensor::view(tensor.dtype(), tensor.shape(), &strides, 0, storage);
        }
    }
    Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.to_contiguous().into_owned())
}
