//! The list of a checkpoint's files with their sizes and digests, written last: no manifest, no checkpoint.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Its own file name.
pub(super) const NAME: &str = "manifest.json";

/// Every file of a checkpoint but the manifest itself.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Version of the layout of the folder.
    pub format: u32,
    /// By file name.
    pub files: BTreeMap<String, Entry>,
}

/// What a file must be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Length.
    pub bytes: u64,
    /// Digest, in hex.
    pub blake3: String,
}

/// The layout this program writes, and the only one it reads.
pub(super) const FORMAT: u32 = 1;

/// A file that is digested as it is written.
pub(super) struct Digesting {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Digesting {
    pub(super) fn create(path: &Path) -> std::io::Result<Digesting> {
        let file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        Ok(Digesting { file, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Puts the file on the disk for good.
    pub(super) fn finish(self) -> std::io::Result<Entry> {
        let file = self.file.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        Ok(Entry { bytes: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Manifest {
    /// Checks every file of `folder` against its manifest.
    ///
    /// # Errors
    /// What is wrong, in words: no manifest, a missing file, another size, another digest.
    pub(super) fn check(folder: &Path) -> Result<Manifest, String> {
        let text = match std::fs::read(folder.join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!("it has no {NAME}, so its writing never ended"));
            }
            Err(error) => return Err(format!("{NAME} can't be read: {error}")),
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| format!("{NAME} can't be understood: {error}"))?;
        if manifest.format != FORMAT {
            return Err(format!("it has format {}, and this program knows {FORMAT}", manifest.format));
        }
        for (name, entry) in &manifest.files {
            let found =
                digest(&folder.join(name)).map_err(|error| format!("{name} can't be read: {error}"))?;
            if found.bytes != entry.bytes {
                return Err(format!("{name} has {} bytes, the manifest says {}", found.bytes, entry.bytes));
            }
            if found != *entry {
                return Err(format!("{name} is not what was written (blake3 differs)"));
            }
        }
        Ok(manifest)
    }
}

fn digest(path: &Path) -> std::io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Entry { bytes, blake3: hasher.finalize().to_hex().to_string() });
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}
