use std::path::{Path, PathBuf};

use crate::tensor::LayoutError;

/// Everything that can go wrong with a weights file, with the file and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum Error {
    #[error("{}: {doing} failed", path.display())]
    Io { path: PathBuf, doing: &'static str, source: std::io::Error },

    #[error("{}: not a file that torch.save wrote: {looks_like}", path.display())]
    NotTorch { path: PathBuf, looks_like: String },

    #[error("{}: damaged or unusual {container}: {what}; fetch or export the file again", path.display())]
    Container { path: PathBuf, container: &'static str, what: String },

    #[error(
        "{}: entry {entry} is {how}, torch.save only ever stores entries plainly; \
         it was re-packed by another program: save it again with torch.save", path.display()
    )]
    NotStored { path: PathBuf, entry: String, how: &'static str },

    #[error(
        "{}: written on a big-endian machine, this reader knows little-endian numbers only; \
         load it in Python on that machine and save it with safetensors", path.display()
    )]
    BigEndian { path: PathBuf },

    #[error(
        "{}: the file asks for the global `{global}`, which is on no list of harmless names, and nothing was run; \
         if you trust the file, load it in Python and save its state dict: \
         torch.save(model.state_dict(), \"weights.pth\")", path.display()
    )]
    UnknownGlobal { path: PathBuf, global: String },

    #[error("{}: pickle, byte {at}: {what}; fetch the file again or save its state dict instead", path.display())]
    Pickle { path: PathBuf, at: usize, what: String },

    #[error("{}: {what}: {found} is over the limit of {limit}; if the file is sound, raise `Limits::{option}`", path.display())]
    TooLarge { path: PathBuf, what: &'static str, found: u64, limit: u64, option: &'static str },

    #[error("{}: storage {key}: {what}; fetch or export the file again", path.display())]
    Storage { path: PathBuf, key: String, what: String },

    #[error("{}: a tensor in storage {key} does not fit: {cause}; the file is damaged or forged", path.display())]
    Tensor { path: PathBuf, key: String, cause: LayoutError },

    #[error("{}: no tensors under {wanted}; the file holds {found}", path.display())]
    NoTensors { path: PathBuf, wanted: String, found: String },

    #[error(
        "{}: its modules contain each other so often that they stand for more than {modules}; \
         the file is forged, or needs its state dict saved instead", path.display()
    )]
    Endless { path: PathBuf, modules: usize },

    #[error("{}: not a sound safetensors file; fetch or export it again", path.display())]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },

    #[error("{}: tensor {name} has element type {dtype}, which this reader does not know; convert it in Python", path.display())]
    UnknownDtype { path: PathBuf, name: String, dtype: String },

    #[error("{}: cannot write {what} at {place}; only what torch.load(weights_only=True) accepts is written", path.display())]
    Unwritable { path: PathBuf, place: String, what: String },
}

impl Error {
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, doing, source }
    }
}
