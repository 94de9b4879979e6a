use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tensor::Tensor;
use crate::value::Value;
use crate::{Error, Limits, Result, legacy, zipped};

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A zip archive with `data.pkl` and a record per storage, since torch 1.6.
    Zip,
    /// Pickles one after another, then the storages.
    Legacy,
}

/// One file of `torch.save`, read and checked.
#[derive(Clone, Debug)]
pub struct TorchFile {
    /// Where it came from, for messages.
    pub path: PathBuf,
    /// How it was laid out.
    pub container: Container,
    /// What was saved.
    pub root: Value,
}

impl TorchFile {
    /// Reads a file with the default [`Limits`].
    ///
    /// # Errors
    /// any of [`Error`] but the ones about writing
    pub fn open(path: impl AsRef<Path>) -> Result<TorchFile> {
        TorchFile::open_with(path, &Limits::default())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// any of [`Error`] but the ones about writing
    pub fn open_with(path: impl AsRef<Path>, limits: &Limits) -> Result<TorchFile> {
        let path = path.as_ref();
        let bytes = read_file(path, limits, container_of)?;
        TorchFile::parse(path, bytes, limits)
    }

    /// Reads a file's bytes; `path` is only for messages.
    ///
    /// # Errors
    /// any of [`Error`] but the ones about writing
    pub fn parse(
        path: impl Into<PathBuf>,
        bytes: impl Into<Arc<Vec<u8>>>,
        limits: &Limits,
    ) -> Result<TorchFile> {
        let (path, bytes) = (path.into(), bytes.into());
        let container = container_of(&path, &bytes[..bytes.len().min(HEAD_BYTES)])?;
        let root = match container {
            Container::Zip => zipped::read(&path, &bytes, limits)?,
            Container::Legacy => legacy::read(&path, &bytes, limits)?,
        };
        Ok(TorchFile { path, container, root })
    }

    /// The state dict of a checkpoint, in its own order.
    ///
    /// The first of `keys` that names a dict or module at the top is taken, otherwise the top itself. A module gives
    /// its parameters and persistent buffers under dotted names. In a dict, entries that are no tensors are left out,
    /// but a dict that holds further dicts or instances is not taken for a state dict.
    ///
    /// # Errors
    /// [`Error::NoTensors`] names what the file has instead
    pub fn state_dict(&self, keys: &[&str]) -> Result<Vec<(String, Tensor)>> {
        let found = keys.iter().filter_map(|key| self.root.get(key)).find(|value| is_nest(value));
        let tensors = match found.unwrap_or(&self.root) {
            // A dict of dicts is no state dict, even where a tensor lies among them.
            Value::Dict(dict) if dict.iter().any(|(_, value)| is_nest(value)) => Vec::new(),
            Value::Dict(dict) => dict
                .iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value.as_tensor()?.clone())))
                .collect(),
            Value::Object(module) => module.named_tensors(&self.path)?,
            _ => Vec::new(),
        };
        if tensors.is_empty() {
            let wanted = match keys {
                [] => "the top level".to_owned(),
                keys => format!("the top level or its keys {}", keys.join(", ")),
            };
            return Err(Error::NoTensors { path: self.path.clone(), wanted, found: contents(&self.root) });
        }
        Ok(tensors)
    }
}

/// The state dict of the checkpoint at `path`; see [`TorchFile::state_dict`].
///
/// # Errors
/// any of [`Error`] but the ones about writing
pub fn state_dict(path: impl AsRef<Path>, keys: &[&str]) -> Result<Vec<(String, Tensor)>> {
    TorchFile::open(path)?.state_dict(keys)
}

/// Bytes that tell what a file is.
const HEAD_BYTES: usize = 512;

/// Reads all of a regular file once `accept` liked how it begins.
pub(crate) fn read_file<T>(
    path: &Path,
    limits: &Limits,
    accept: impl FnOnce(&Path, &[u8]) -> Result<T>,
) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io(path, "opening"))?;
    let metadata = file.metadata().map_err(Error::io(path, "asking for the size"))?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::NotTorch { path: path.to_owned(), looks_like: format!("it is {kind}") });
    }
    let (found, limit) = (metadata.len(), limits.max_file_bytes);
    if found > limit {
        let (what, option) = ("bytes of the file", "max_file_bytes");
        return Err(Error::TooLarge { path: path.to_owned(), what, found, limit, option });
    }
    let mut bytes = Vec::new();
    (&mut file)
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path, "reading the first bytes"))?;
    accept(path, &bytes)?;
    let rest = usize::try_from(found).unwrap_or(usize::MAX).saturating_sub(bytes.len());
    bytes
        .try_reserve_exact(rest)
        .map_err(|e| Error::io(path, "making room in memory")(std::io::Error::other(e)))?;
    // A file that grows meanwhile is read up to the length it had.
    file.take(rest as u64).read_to_end(&mut bytes).map_err(Error::io(path, "reading"))?;
    Ok(bytes)
}

fn container_of(path: &Path, head: &[u8]) -> Result<Container> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    let looks_like = if starts(b"PK\x03\x04") {
        return Ok(Container::Zip);
    } else if starts(b"\x80") {
        return Ok(Container::Legacy);
    } else if head.is_empty() {
        "it is empty"
    } else if starts(b"version https://git-lfs") {
        "it is a Git LFS pointer; run `git lfs pull` to get the file itself"
    } else if head.trim_ascii_start().starts_with(b"<") {
        "it is a web page; the download gave an error page instead of the file"
    } else if head.get(8) == Some(&b'{') {
        "it looks like safetensors; give it the ending .safetensors"
    } else if starts(b"\x1f\x8b") || starts(b"BZh") || starts(b"\xfd7zXZ") || starts(b"\x28\xb5\x2f\xfd") {
        "it is compressed; unpack it first"
    } else if head.get(257..262) == Some(b"ustar") {
        "it is a tar archive; unpack it, or if torch wrote it before 2017, save it again with a newer one"
    } else if starts(b"\x89HDF") {
        "it is an HDF5 file"
    } else {
        "it begins like no container of torch"
    };
    Err(Error::NotTorch { path: path.to_owned(), looks_like: looks_like.to_owned() })
}

fn is_nest(value: &Value) -> bool {
    matches!(value, Value::Dict(_) | Value::Object(_))
}

/// What a root holds, in words, at most a dozen keys of it.
fn contents(root: &Value) -> String {
    let Value::Dict(dict) = root else { return root.describe() };
    let mut names: Vec<String> =
        dict.iter().take(12).map(|(name, value)| format!("{name:.60} ({})", value.describe())).collect();
    if dict.entries.len() > names.len() {
        names.push("…".into());
    }
    if names.is_empty() { "an empty dict".into() } else { names.join(", ") }
}
