//! Weights in and out: the reference's `.pth`, `transformers` folders, `timm` and safetensors files.
//!
//! [`import()`] turns a file or folder into a checkpoint directory of ours, [`export()`] does the reverse, [`forward()`] runs a
//! checkpoint on given pixels, [`inspect()`] says what a file or folder holds. Numbers are carried as bytes: no conversion
//! rounds, and a round trip gives the bytes back. What a file does not tell is asked for, never guessed in silence.

mod names;
mod weights;

mod geometry;
mod source;
mod transformers;

mod stored;

mod export;
mod forward;
mod inspect;

pub use export::{Format, export};
pub use forward::{Answer, forward};
pub use geometry::Known;
pub use inspect::{Group, Listed, Report, inspect};
pub use stored::{Imported, import};
pub use weights::Architecture;

use std::path::Path;

use crate::error::TrainError;

/// For `map_err`: puts a path before a complaint.
fn about(path: &Path) -> impl Fn(String) -> TrainError + '_ {
    move |reason| TrainError::Weights { path: path.into(), reason }
}

/// Refuses to write over something.
fn must_be_free(out: &Path) -> Result<(), TrainError> {
    let taken = match std::fs::symlink_metadata(out) {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => {
            std::fs::read_dir(out).map_or(true, |mut inside| inside.next().is_some())
        }
        Ok(found) => !found.is_file() || found.len() > 0,
    };
    match taken {
        true => Err(about(out)("is there already; remove it, or give another name".to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
