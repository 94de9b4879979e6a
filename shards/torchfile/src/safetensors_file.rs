use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype as Stored, SafeTensorError, SafeTensors};

use crate::dtype::Dtype;
use crate::file::read_file;
use crate::publish::publish;
use crate::tensor::{Storage, Tensor, contiguous_strides};
use crate::{Error, Limits, Result};

/// A safetensors file's tensors and its text metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Safetensors {
    /// In order of name.
    pub tensors: Vec<(String, Tensor)>,
    /// Free text beside the tensors, such as a model's card.
    pub metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let found = self.tensors.binary_search_by(|(other, _)| other.as_str().cmp(name));
        found.ok().map(|i| &self.tensors[i].1)
    }
}

/// Reads a safetensors file; its tensors look into one copy of it in memory.
///
/// # Errors
/// [`Error::Io`], [`Error::Safetensors`], [`Error::UnknownDtype`], [`Error::TooLarge`]
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<Safetensors> {
    let path = path.as_ref();
    let bytes = read_file(path, &Limits::default(), |_, _| Ok(()))?;
    parse_safetensors(path, bytes)
}

/// Reads a safetensors file's bytes; `path` is only for messages.
///
/// # Errors
/// [`Error::Safetensors`], [`Error::UnknownDtype`]
pub fn parse_safetensors(path: impl Into<PathBuf>, bytes: impl Into<Arc<Vec<u8>>>) -> Result<Safetensors> {
    let (path, bytes) = (path.into(), bytes.into());
    let sound = |source| Error::Safetensors { path: path.clone(), source };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(sound)?;
    let whole = Storage::new(bytes.clone());
    let start = 8 + header;
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let dtype = known(info.dtype).ok_or_else(|| Error::UnknownDtype {
            path: path.clone(),
            name: name.clone(),
            dtype: format!("{:?}", info.dtype),
        })?;
        let (from, to) = info.data_offsets;
        let strides = contiguous_strides(&info.shape);
        let tensor = whole
            .slice(start + from..start + to)
            .zip(strides)
            .and_then(|(storage, strides)| Tensor::view(dtype, &info.shape, &strides, 0, storage).ok())
            .ok_or_else(|| sound(SafeTensorError::InvalidOffset(name.clone())))?;
        tensors.push((name, tensor));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Safetensors { tensors, metadata })
}

/// Writes a safetensors file, atomically; the same tensors and metadata give the same bytes.
///
/// # Errors
/// [`Error::Io`], [`Error::Unwritable`] when a name comes twice
pub fn write_safetensors<'t>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let tensors: Vec<_> = tensors.into_iter().collect();
    publish(path, |out| write(path, out, &tensors, metadata))
}

/// The bytes that [`write_safetensors`] writes.
///
/// # Errors
/// [`Error::Unwritable`] when a name comes twice; `path` is only for that message
pub fn safetensors_bytes<'t>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let mut out = Vec::new();
    write(path, &mut out, &tensors.into_iter().collect::<Vec<_>>(), metadata)?;
    Ok(out)
}

/// What a safetensors file says before the first tensor's bytes, and the order in which the tensors' bytes follow, as
/// indices into `tensors`: for whoever writes them piece by piece, without a second copy in memory.
///
/// They follow by falling element size, so that every tensor is aligned, then by name.
///
/// # Errors
/// [`Error::Unwritable`] when a name comes twice, [`Error::Safetensors`] for a shape too large to count; `path` is only
/// for messages
pub fn safetensors_header(
    path: impl AsRef<Path>,
    tensors: &[(&str, Dtype, &[usize])],
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Vec<usize>)> {
    let path = path.as_ref();
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| {
        let ((a, a_type, _), (b, b_type, _)) = (tensors[*a], tensors[*b]);
        (b_type.size(), a).cmp(&(a_type.size(), b))
    });
    let mut seen = HashSet::new();
    for (name, ..) in tensors {
        if !seen.insert(*name) || *name == "__metadata__" {
            let (place, what) = (name.to_string(), "a tensor name that is taken".to_owned());
            return Err(Error::Unwritable { path: path.to_owned(), place, what });
        }
    }
    let mut end = 0usize;
    let infos = order
        .iter()
        .map(|at| {
            let (name, dtype, shape) = tensors[*at];
            let start = end;
            end += shape.iter().product::<usize>() * dtype.size();
            let info = TensorInfo { dtype: stored(dtype), shape: shape.to_vec(), data_offsets: (start, end) };
            (name.to_owned(), info)
        })
        .collect();
    let sound = |source| Error::Safetensors { path: path.to_owned(), source };
    // The crate keeps metadata in a hash map, whose order differs between runs, so it is spliced in here.
    let header = Metadata::new(None, infos).map_err(sound)?;
    let json = |e| sound(SafeTensorError::JsonError(e));
    let mut header = serde_json::to_string(&header).map_err(json)?;
    if !metadata.is_empty() {
        let text = serde_json::to_string(metadata).map_err(json)?;
        let comma = if tensors.is_empty() { "" } else { "," };
        header.insert_str(1, &format!("\"__metadata__\":{text}{comma}"));
    }
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    Ok((bytes, order))
}

fn write(
    path: &Path,
    out: &mut impl Write,
    tensors: &[(&str, &Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let outline: Vec<_> =
        tensors.iter().map(|(name, tensor)| (*name, tensor.dtype(), tensor.shape())).collect();
    let (header, order) = safetensors_header(path, &outline, metadata)?;
    let io = || Error::io(path, "writing");
    out.write_all(&header).map_err(io())?;
    for at in order {
        out.write_all(&tensors[at].1.to_contiguous()).map_err(io())?;
    }
    Ok(())
}

fn known(dtype: Stored) -> Option<Dtype> {
    Dtype::ALL.into_iter().find(|&ours| stored(ours) == dtype)
}

fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::Bool => Stored::BOOL,
        Dtype::U8 => Stored::U8,
        Dtype::I8 => Stored::I8,
        Dtype::I16 => Stored::I16,
        Dtype::U16 => Stored::U16,
        Dtype::I32 => Stored::I32,
        Dtype::U32 => Stored::U32,
        Dtype::I64 => Stored::I64,
        Dtype::U64 => Stored::U64,
        Dtype::F16 => Stored::F16,
        Dtype::BF16 => Stored::BF16,
        Dtype::F32 => Stored::F32,
        Dtype::F64 => Stored::F64,
    }
}
