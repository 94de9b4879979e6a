//! What can go wrong between a model, its weights, its gradients and libtorch.

use beit_torch::TorchError;

/// An error of the model, its initialisation, its loss or its optimizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A parameter found no room.
    #[error("can't allocate memory for parameter {name}: {bytes} bytes")]
    NoRoom {
        /// Its name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// Sizes that do not go together.
    #[error("{key} = {value}: {rule}")]
    Config {
        /// The field of [`super::ModelConfig`].
        key: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: String,
    },
    /// A state dict of another model.
    #[error("these weights do not fit the model: {differences}; use the recipe they were made with")]
    Weights {
        /// What is missing, unknown or of another shape.
        differences: String,
    },
    /// An optimizer state of another model.
    #[error(
        "this optimizer state does not fit the model: {differences}; start without it, or use its own model"
    )]
    OptimizerState {
        /// What is missing, unknown or of another shape.
        differences: String,
    },
    /// An input of another shape than the model's.
    #[error("{what} has shape {found:?}, the model needs {expected}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// What the model takes.
        expected: String,
        /// What it got.
        found: Vec<i64>,
    },
    /// A classifier was asked to hide patches.
    #[error("this model has no mask_token, so it can hide no patch; call it without a mask")]
    NoMaskToken,
    /// A batch without a hidden patch has no loss.
    #[error("no patch of this batch is hidden, so there is nothing to guess; check num_mask_patches")]
    NothingHidden,
    /// A parameter that backward did not reach.
    #[error("parameter {name} has no gradient; run backward from a loss that depends on it first")]
    NoGradient {
        /// Its name.
        name: String,
    },
    /// libtorch.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// For `map_err`: names what a tch call was doing.
pub(crate) fn tensor(doing: &'static str) -> impl FnOnce(tch::TchError) -> ModelError {
    move |source| ModelError::Torch(TorchError::tch(doing)(source))
}
