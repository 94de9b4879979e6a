//! Reading weights from wherever they lie: a file of torch or safetensors, or a `transformers` folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use beit_torchfile::{Container, Dtype, TorchFile, Value, read_safetensors};

use super::geometry::{Known, infer};
use super::transformers::Config;
use super::weights::{Architecture, Named, Weights};
use super::{about, names};
use crate::error::{TrainError, io};

/// Under this name our own files remember what tensors do not tell.
pub(super) const GEOMETRY: &str = "beit_geometry";

/// Tensors as found, not checked against a model yet.
pub(super) struct Raw {
    pub path: PathBuf,
    /// What it is, in words.
    pub what: String,
    /// Names, shapes and types as in the file, in its order.
    pub contents: Vec<(String, Vec<usize>, Dtype)>,
    /// In its own names.
    tensors: Named,
    known: Known,
    config: Option<Config>,
}

impl Raw {
    /// Reads a file or a folder; nothing in it is executed.
    ///
    /// # Errors
    /// Something else than weights, or damaged
    pub(super) fn read(path: &Path) -> Result<Raw, TrainError> {
        let found = std::fs::metadata(path).map_err(io("looking for", path))?;
        match found.is_dir() {
            true => folder(path),
            false if is_safetensors(path)? => safetensors(path),
            false => torch(path),
        }
    }

    /// Reads the architecture off the tensors and checks all of them. `flags` tell what they do not.
    ///
    /// # Errors
    /// As [`infer`] and [`Weights::complete`]
    pub(super) fn weights(self, flags: &Known) -> Result<(Weights, Vec<String>), TrainError> {
        let wrong = about(&self.path);
        let known = match &self.config {
            Some(config) => config.known().map_err(&wrong)?,
            None => self.known,
        };
        let known = known.and(flags).map_err(&wrong)?;
        let theirs = names::are_transformers(&self.tensors);
        let tensors = match theirs {
            true => names::from_transformers(self.tensors).map_err(&wrong)?,
            false => without_prefix(self.tensors, "module."),
        };
        let (architecture, notes) = infer(&tensors, &known, !theirs).map_err(&wrong)?;
        if let Some(config) = &self.config {
            config.check(&architecture).map_err(&wrong)?;
        }
        let mut weights = Weights::complete(&self.path, architecture, tensors)?;
        weights.transformers = self.config.map(Config::into_map);
        Ok((weights, notes))
    }

    fn new(path: &Path, what: String, tensors: Named, known: Known, config: Option<Config>) -> Raw {
        let contents = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shape().to_vec(), tensor.dtype()))
            .collect();
        Raw { path: path.into(), what, contents, tensors, known, config }
    }
}

/// A file's first bytes tell: the length of a header that has room in the file, then its first brace.
fn is_safetensors(path: &Path) -> Result<bool, TrainError> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(io("opening", path))?;
    let bytes = file.metadata().map_err(io("looking for", path))?.len();
    file.take(9).read_to_end(&mut head).map_err(io("reading", path))?;
    let fits = head.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) < bytes);
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
    Ok(named || fits && head.get(8) == Some(&b'{'))
}

fn safetensors(path: &Path) -> Result<Raw, TrainError> {
    let file = read_safetensors(path)?;
    let known = match file.metadata.get(GEOMETRY) {
        Some(text) => note(text).map_err(about(path))?,
        None => Known::default(),
    };
    Ok(Raw::new(path, "safetensors file".to_owned(), file.tensors, known, None))
}

fn torch(path: &Path) -> Result<Raw, TrainError> {
    let file = TorchFile::open(path)?;
    let known = match file.root.get(GEOMETRY).and_then(Value::as_str) {
        Some(text) => note(text).map_err(about(path))?,
        None => Known::default(),
    };
    let container = match file.container {
        Container::Zip => "zip",
        Container::Legacy => "legacy",
    };
    let tensors = file.state_dict(&["model", "module", "state_dict"])?;
    Ok(Raw::new(path, format!("torch file, {container} container"), tensors, known, None))
}

/// What a file of ours says about itself.
fn note(text: &str) -> Result<Known, String> {
    let told: Architecture =
        serde_json::from_str(text).map_err(|error| format!("its {GEOMETRY} can't be understood: {error}"))?;
    Ok(Known {
        num_heads: Some(told.model.heads),
        input_size: Some(told.model.image_px),
        layer_norm_eps: Some(told.model.eps),
        drop_path: Some(told.model.drop_path),
        init_values: Some(told.model.init_values),
    })
}

/// A folder of `transformers`: `config.json`, and weights in one file or in several with an index.
fn folder(path: &Path) -> Result<Raw, TrainError> {
    let wrong = about(path);
    let file = path.join("config.json");
    if !file.exists() {
        let ours = path.join("manifest.json").exists() || path.join("checkpoints").exists();
        return Err(wrong(match ours {
            true => {
                "it is a checkpoint of ours already; forward, export and inspect take it as it is".to_owned()
            }
            false => {
                "it has no config.json, so it is no folder of transformers; for other weights give the file"
                    .to_owned()
            }
        }));
    }
    let text = std::fs::read(&file).map_err(io("reading", &file))?;
    let config = Config::parse(&text).map_err(about(&file))?;
    let mut tensors = Named::new();
    for (plain, index) in [
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ] {
        if path.join(plain).exists() {
            tensors = part(&path.join(plain))?;
        } else if path.join(index).exists() {
            for name in parts(&path.join(index))? {
                tensors.extend(part(&path.join(name))?);
            }
        }
        if !tensors.is_empty() {
            return Ok(Raw::new(
                path,
                "transformers folder".to_owned(),
                tensors,
                Known::default(),
                Some(config),
            ));
        }
    }
    Err(wrong("it has neither model.safetensors nor pytorch_model.bin".to_owned()))
}

fn part(path: &Path) -> Result<Named, TrainError> {
    Ok(match path.extension().is_some_and(|ending| ending == "safetensors") {
        true => read_safetensors(path)?.tensors,
        false => TorchFile::open(path)?.state_dict(&["state_dict"])?,
    })
}

/// The files that an index names, each once: plain names only, so that none leads out of the folder.
fn parts(index: &Path) -> Result<Vec<String>, TrainError> {
    let wrong = about(index);
    let text = std::fs::read(index).map_err(io("reading", index))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("can't be understood: {error}")))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| wrong("it has no weight_map".to_owned()))?;
    let mut names: Vec<String> = Vec::new();
    for name in map.values() {
        match name.as_str() {
            Some(name) if !name.is_empty() && !name.contains(['/', '\\']) && name != ".." => {
                names.push(name.to_owned());
            }
            _ => return Err(wrong(format!("{name} is no name of a file beside it"))),
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Takes away what `DistributedDataParallel` puts before every name.
fn without_prefix(tensors: Named, prefix: &str) -> Named {
    match tensors.iter().all(|(name, _)| name.starts_with(prefix)) {
        true => tensors.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect(),
        false => tensors,
    }
}
