//! Checkpoints: a folder with the model, the optimizer and the state of a run, published whole or not at all.
//!
//! `checkpoints/step-00000040/` holds `model.safetensors` (the reference's state-dict names), `optimizer.safetensors`,
//! `state.json` and `manifest.json`, which has the BLAKE3 of each and is written last. Step 40 means 40 updates done.
//! `docs/checkpoints.md` says what is promised.

mod manifest;
mod shelf;
mod snapshot;
pub(crate) mod tensors;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use shelf::{Found, Keep, Published, Search, Shelf};
pub(crate) use shelf::{check, publish_at};

pub(crate) use self::snapshot::Snapshot;
use self::tensors::unpack;
use crate::amp::ScalerState;
use crate::error::{TrainError, io};
use crate::generation::Generation;
use crate::meter::EpochSums;
use crate::step::Tensors;

pub(crate) const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
pub(crate) const STATE: &str = "state.json";
/// What imported weights are; they have no state and no optimizer.
pub(crate) const ABOUT: &str = "model.json";

/// What `state.json` holds: where the run stands, and what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Updates done; the next step's number, counted from 0.
    pub step: u64,
    /// Samples taken from the order so far; all that the order, the masks and the drop paths need to go on.
    pub position: u64,
    /// Epoch of that position.
    pub epoch: u64,
    /// Seed of the run.
    pub seed: u64,
    /// When it was written, in ms since 1970.
    pub unix_ms: u64,
    /// Digest of the data set, in hex.
    pub data_digest: String,
    /// Digest of the tokenizer's weights, in hex.
    pub tokenizer_digest: String,
    /// How the data set has grown since the run began, from its first generation on.
    #[serde(default)]
    pub generations: Vec<Generation>,
    /// Of a run with `amp = "fp16"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaler: Option<ScalerState>,
    /// Of the newest step whose loss was a number.
    pub metrics: Metrics,
    /// What the epoch under way adds to its line of `log.txt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_sums: Option<EpochSums>,
    /// The plan of the start that wrote it.
    pub plan: serde_json::Value,
}

/// Mean over ranks, before the newest update; 0 before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Masked-token loss in nats.
    pub loss: f64,
    /// Share of masked tokens guessed right.
    pub mlm_acc: f64,
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it lies.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: State,
    /// Parameters and buffers by the reference's names.
    pub model: Tensors,
    /// The optimizer's state, as [`crate::optimizer::Optimizer::state`] names it.
    pub optimizer: Tensors,
}

/// Publishes a checkpoint.
///
/// # Errors
/// Any I/O error, a full disk among them; what was there before stays untouched.
pub(crate) fn write(
    shelf: &Shelf,
    state: &State,
    model: &Tensors,
    optimizer: &Tensors,
) -> Result<Published, TrainError> {
    let state_text = serde_json::to_vec_pretty(state)
        .map_err(|error| TrainError::Broken(format!("writing {STATE}: {error}")))?;
    shelf.publish(
        state.step,
        &[
            (MODEL, &|file| tensors::write(model, file)),
            (OPTIMIZER, &|file| tensors::write(optimizer, file)),
            (STATE, &|file| file.write_all(&state_text)),
        ],
    )
}

/// The state of the newest checkpoint in a run directory that can be read at all, unchecked: a look ahead, for planning.
pub(crate) fn peek(run: &Path) -> Option<State> {
    let folders = std::fs::read_dir(run.join("checkpoints")).ok()?;
    let mut paths: Vec<PathBuf> = folders.flatten().map(|entry| entry.path().join(STATE)).collect();
    paths.sort_unstable();
    paths.iter().rev().find_map(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok())
}

/// Reads a checkpoint whose files have been checked, or are checked now.
///
/// # Errors
/// [`TrainError::Damaged`] when a file is not what was written; a file that can't be read.
pub fn read(path: &Path) -> Result<Checkpoint, TrainError> {
    shelf::check(path)?;
    let file = path.join(STATE);
    if path.join(ABOUT).exists() && !file.exists() {
        let reason = "these are imported weights, with no run to go on with".to_owned();
        return Err(TrainError::Weights { path: path.into(), reason });
    }
    let text = std::fs::read(&file).map_err(io("reading", &file))?;
    let state = serde_json::from_slice(&text).map_err(|error| TrainError::Damaged {
        checkpoint: path.into(),
        reason: format!("{STATE}: {error}"),
    })?;
    Ok(Checkpoint {
        path: path.into(),
        state,
        model: unpack(&path.join(MODEL))?,
        optimizer: unpack(&path.join(OPTIMIZER))?,
    })
}
