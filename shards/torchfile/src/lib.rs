//! Reads and writes what `torch.save` writes, and safetensors, in pure Rust.
//!
//! In come files that strangers made: state dicts, `{"model": …}` checkpoints with their argparse settings, whole
//! modules such as OpenAI's `encoder.pkl`. Out come inert trees of [`Value`]s. Nothing in a file is ever executed: a
//! class becomes an [`Object`] that remembers its name and attributes, and a global that is on no list is an error
//! that names it. Every length, depth and count in a file is checked against [`Limits`] before memory is spent on it.
//!
//! Start with [`TorchFile::open`], [`state_dict`] and [`Object::named_tensors`] for reading, [`save_pth`] for writing,
//! [`read_safetensors`] and [`write_safetensors`] for the other format. All of them speak [`Tensor`].
//!
//! A file is read into memory once, and its tensors are views of that memory; one tensor kept alive keeps all of it.
//! Numbers are little-endian throughout, as torch writes them on every machine in use.

mod dtype;
mod error;
mod limits;
mod tensor;

mod value;

mod pickle;

mod legacy;
mod zipped;

mod file;
mod module;

mod publish;
mod safetensors_file;
mod save;

pub use dtype::Dtype;
pub use error::Error;
pub use file::{Container, TorchFile, state_dict};
pub use limits::Limits;
pub use safetensors_file::{
    Safetensors, parse_safetensors, read_safetensors, safetensors_bytes, safetensors_header,
    write_safetensors,
};
pub use save::{pth_bytes, save_pth};
pub use tensor::{LayoutError, Storage, Tensor};
pub use value::{Dict, Global, Object, Value};

/// What every fallible call of this room returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
