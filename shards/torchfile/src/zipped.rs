use std::io::{self, Cursor, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::pickle::Machine;
use crate::tensor::Storage;
use crate::value::Value;
use crate::{Error, Limits, Result};

/// Reads the zip container: entries are stored plainly, so every storage is a slice of the file's own bytes.
pub(crate) fn read(path: &Path, bytes: &Arc<Vec<u8>>, limits: &Limits) -> Result<Value> {
    let mut archive = Archive::open(path, bytes)?;
    let program = archive.pickle()?;
    let program = &bytes[program];
    let (graph, end) = Machine::run(path, limits, program, 0)?;
    if end != program.len() {
        let what = format!("{} bytes follow its end", program.len() - end);
        return Err(Error::Pickle { path: path.to_owned(), at: end, what });
    }
    let whole = Storage::new(bytes.clone());
    let mut storages = Vec::with_capacity(graph.storages.len());
    for entry in &graph.storages {
        let range = archive.entry(&format!("{}data/{}", archive.folder, entry.key))?;
        let wanted = entry.len.checked_mul(entry.dtype.size() as u64);
        if wanted != Some(range.len() as u64) {
            let what = format!("{} elements of {} do not fill {} bytes", entry.len, entry.dtype, range.len());
            return Err(Error::Storage { path: path.to_owned(), key: entry.key.clone(), what });
        }
        storages.push(whole.slice(range).ok_or_else(|| archive.damaged("an entry outside of the file"))?);
    }
    graph.resolve(path, limits, program, &storages)
}

struct Archive<'a> {
    path: &'a Path,
    zip: ZipArchive<Cursor<&'a [u8]>>,
    bytes: &'a [u8],
    /// The folder that holds everything, with its slash.
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Archive<'a>> {
        let damaged = |e: ZipError| Error::Container {
            path: path.to_owned(),
            container: "zip archive",
            what: match e {
                ZipError::Io(e) if e.kind() == ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
                other => other.to_string(),
            },
        };
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        Ok(Archive { path, zip, bytes, folder: String::new() })
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        Error::Container { path: self.path.to_owned(), container: "zip archive", what: what.into() }
    }

    /// Finds `data.pkl`, and learns from what lies beside it.
    fn pickle(&mut self) -> Result<Range<usize>> {
        let not_torch =
            |looks_like: &str| Error::NotTorch { path: self.path.to_owned(), looks_like: looks_like.into() };
        let folder = self.zip.file_names_raw().find_map(|name| {
            let folder = name.strip_suffix(b"data.pkl")?;
            let slash = folder.iter().position(|&byte| byte == b'/');
            (folder.is_empty() || slash == Some(folder.len() - 1)).then(|| folder.to_vec())
        });
        let folder = folder.ok_or_else(|| not_torch("it is a zip archive without data.pkl"))?;
        let folder = String::from_utf8(folder)
            .map_err(|_| not_torch("it is a zip archive with a folder name that is not UTF-8"))?;
        if self.zip.index_for_name(&format!("{folder}constants.pkl")).is_some() {
            return Err(not_torch(
                "it is a TorchScript program; load it with torch.jit.load in Python and save its state_dict()",
            ));
        }
        if self.zip.has_duplicate_names() {
            return Err(self.damaged("it names one entry twice"));
        }
        self.folder = folder;
        if self.zip.index_for_name(&format!("{}byteorder", self.folder)).is_some() {
            let range = self.entry(&format!("{}byteorder", self.folder))?;
            match &self.bytes[range] {
                b"little" => {}
                b"big" => return Err(Error::BigEndian { path: self.path.to_owned() }),
                _ => return Err(self.damaged("its byteorder is neither little nor big")),
            }
        }
        self.entry(&format!("{}data.pkl", self.folder))
    }

    /// Where an entry's bytes lie, once they fit their checksum.
    fn entry(&mut self, name: &str) -> Result<Range<usize>> {
        let index = self
            .zip
            .index_for_name(name)
            .ok_or_else(|| self.damaged(format!("entry {name} is missing; part of the file may be lost")))?;
        let (path, len) = (self.path, self.bytes.len());
        let damaged = |what: String| Error::Container {
            path: path.to_owned(),
            container: "zip archive",
            what: format!("entry {name}: {what}"),
        };
        let not_stored = |how| Error::NotStored { path: path.to_owned(), entry: name.to_owned(), how };
        let data = self.zip.by_index_data(index).map_err(|e| damaged(e.to_string()))?;
        if data.encrypted() {
            return Err(not_stored("encrypted"));
        }
        if data.compression() != CompressionMethod::Stored {
            return Err(not_stored("compressed"));
        }
        if data.size() != data.compressed_size() {
            return Err(damaged("its two sizes differ though it is not compressed".into()));
        }
        let mut entry = self.zip.by_index(index).map_err(|e| damaged(e.to_string()))?;
        let range = entry
            .data_start()
            .and_then(|start| {
                let start = usize::try_from(start).ok()?;
                let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
                (end <= len).then_some(start..end)
            })
            .ok_or_else(|| damaged("it reaches past the end of the file".into()))?;
        io::copy(&mut entry, &mut io::sink()).map_err(|e| damaged(e.to_string()))?;
        Ok(range)
    }
}
