//! Where a tokenizer is looked for, and the one that is always there.

use crate::error::TokenizerError;
use crate::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use tch::Device;

/// The folder that the reference's README downloads into.
const FOLDER: &str = "dall_e_tokenizer_weight";

/// Trained by `scripts/train-embedded-tokenizer.sh`; its card is `embedded/CARD.md`.
const EMBEDDED: &[u8] = include_bytes!("../embedded/demo.safetensors");

impl Tokenizer {
    /// The small tokenizer inside this program: for trials, demos and tests, not for training a real BEiT.
    ///
    /// # Errors
    /// what libtorch says
    pub fn embedded() -> Result<Self, TokenizerError> {
        Self::embedded_on(Device::Cpu)
    }

    fn embedded_on(device: Device) -> Result<Self, TokenizerError> {
        let path = Path::new("embedded");
        Self::from_safetensors(path, beit_torchfile::parse_safetensors(path, EMBEDDED.to_vec())?, device)
    }

    /// The tokenizer that someone named, or DALL-E's where it is usually put; never the embedded one unasked.
    ///
    /// `explicit` is `embedded`, a file or a folder. Without it: `$BEIT_TOKENIZER` (the same three),
    /// `./dall_e_tokenizer_weight/`, `dall_e_tokenizer_weight/` in the user's data directory.
    ///
    /// # Errors
    /// [`TokenizerError::NoneFound`] tells the three ways out
    pub fn find(explicit: Option<&str>) -> Result<Self, TokenizerError> {
        Self::find_on(explicit, Device::Cpu)
    }

    /// As [`find`](Self::find), on GPU `gpu`; libtorch's CUDA half must have been loaded.
    ///
    /// # Errors
    /// those of [`find`](Self::find), and what CUDA says
    pub fn find_on_gpu(explicit: Option<&str>, gpu: usize) -> Result<Self, TokenizerError> {
        Self::find_on(explicit, Device::Cuda(gpu))
    }

    fn find_on(explicit: Option<&str>, device: Device) -> Result<Self, TokenizerError> {
        let variable = std::env::var("BEIT_TOKENIZER").ok().filter(|value| !value.is_empty());
        if let Some(name) = explicit.or(variable.as_deref()) {
            return match name {
                "embedded" => Self::embedded_on(device),
                path => Self::open(Path::new(path), device),
            };
        }
        let mut places = vec![PathBuf::from(".").join(FOLDER)];
        places.extend(data_dir().map(|dir| dir.join("beit").join(FOLDER)));
        match places.iter().find(|place| place.is_dir()) {
            Some(place) => Self::open(place, device),
            None => {
                let mut looked = vec!["$BEIT_TOKENIZER (not set)".to_owned()];
                looked.extend(places.iter().map(|place| place.display().to_string()));
                Err(TokenizerError::NoneFound { looked: looked.join(", ") })
            }
        }
    }
}

/// `$XDG_DATA_HOME`, or `~/.local/share`.
fn data_dir() -> Option<PathBuf> {
    let absolute = |value: std::ffi::OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    std::env::var_os("XDG_DATA_HOME")
        .and_then(absolute)
        .or_else(|| Some(absolute(std::env::var_os("HOME")?)?.join(".local/share")))
}
