//! Writer: packs records one after the other into a shard and publishes it.

use crate::FORMAT_VERSION;
use crate::codec::{MAX_PLAIN, Packer};
use crate::digest::Digest;
use crate::error::ShardError;
use crate::footer::{Covered, Footer, HEAD_LEN, Trailer, encode_head};
use crate::index::{IndexEntry, Name};
use crate::manifest::ShardInfo;
use crate::publish::Staged;
use crate::record::{CODEC_NONE, CODEC_ZSTD, Header, MAX_PATH, RECORD_ALIGN, put_frame};
use crate::salvage::{Salvage, Salvaged};
use crate::sample::{Record, SampleId};
use crate::spec::{PAYLOAD_JPEG, PAYLOAD_RGB, SetSpec};
use crate::wire::Put;
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes gathered before they go to the file.
const FLUSH: usize = 1 << 20;
const ZEROS: [u8; RECORD_ALIGN as usize] = [0; RECORD_ALIGN as usize];

/// File name of shard `number`: `shard-000042.shard`.
#[must_use]
pub fn shard_file_name(number: u64) -> String {
    format!("shard-{number:06}.shard")
}

/// Writes one shard; dropped before [`finish`](Self::finish), it leaves nothing behind.
///
/// The bytes depend on nothing but what is pushed, in its order: no times, no names of machines.
pub struct ShardWriter {
    staged: Staged,
    pending: Vec<u8>,
    body: blake3::Hasher,
    written: u64,
    failed: bool,
    number: u64,
    spec: SetSpec,
    classes: u32,
    entries: Put,
    names: Put,
    samples: u64,
    payload_bytes: u64,
    covered: Covered,
    quarantine: Vec<(String, String)>,
    packer: Packer,
    rgb_plain: bool,
    scratch: Put,
}

impl ShardWriter {
    /// Starts shard `number` in `dir`, which must exist; temporaries of dead writers there are removed.
    ///
    /// # Errors
    /// [`ShardError::Refused`] for a spec no shard can have, [`ShardError::Write`] when the file cannot be created
    pub fn create(dir: &Path, number: u64, spec: &SetSpec, classes: &[String]) -> Result<Self, ShardError> {
        let target = dir.join(shard_file_name(number));
        let refuse = |why: &str| ShardError::Refused {
            shard: target.clone(),
            path: "any sample".to_owned(),
            why: why.to_owned(),
        };
        spec.check().map_err(refuse)?;
        let classes = u32::try_from(classes.len()).map_err(|_| refuse("there are more than 2^32 classes"))?;
        let mut writer = Self {
            staged: Staged::create(&target)?,
            pending: Vec::with_capacity(2 * FLUSH),
            body: blake3::Hasher::new(),
            written: 0,
            failed: false,
            number,
            spec: spec.clone(),
            classes,
            entries: Put::default(),
            names: Put::default(),
            samples: 0,
            payload_bytes: 0,
            covered: Covered::default(),
            quarantine: Vec::new(),
            packer: Packer::default(),
            rgb_plain: false,
            scratch: Put::default(),
        };
        writer.append(&encode_head(number))?;
        Ok(writer)
    }

    /// Whether RGB payloads stay uncompressed: more bytes on disk, but a reader has nothing to unpack.
    pub fn keep_rgb_plain(&mut self, plain: bool) {
        self.rgb_plain = plain;
    }

    /// Packs one sample.
    ///
    /// # Errors
    /// [`ShardError::Refused`] when the record does not fit the spec (the shard is as before and may go on),
    /// [`ShardError::Write`] when the disk fails (the shard is lost, whatever is called next)
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), ShardError> {
        if let Err(why) = self.check(record) {
            let shard = self.staged.target().to_owned();
            return Err(ShardError::Refused { shard, path: record.path.to_owned(), why });
        }
        let packed = match record.payload_kind {
            PAYLOAD_RGB if !self.rgb_plain => {
                self.packer.compress(record.payload).map_err(crate::error::write_at(self.staged.target()))?
            }
            _ => None,
        };
        let (stored, codec) = match &packed {
            Some(packed) => (packed.as_slice(), CODEC_ZSTD),
            None => (record.payload, CODEC_NONE),
        };

        let start = self.position();
        let mut put = std::mem::take(&mut self.scratch);
        put.0.clear();
        Header::of(record, self.samples, stored, codec).put(&mut put);
        self.append(&put.0)?;
        self.append(stored)?;
        put.0.clear();
        for (number, view) in (0..).zip(record.views) {
            put_frame(&mut put, view, self.spec.bits(), record.id, number);
        }
        self.append(&put.0)?;
        self.scratch = put;

        self.end_record(start, record.id, record.label, record.path, stored.len() as u64)
    }

    /// Copies a whole record of a damaged shard, byte for byte, as record number [`len`](Self::len) of this one.
    ///
    /// # Errors
    /// [`ShardError::Refused`] when the record was another one of its shard or is not whole, [`ShardError::Write`]
    pub fn copy(&mut self, from: &Salvage, record: &Salvaged) -> Result<(), ShardError> {
        if !record.is_whole() || record.number != self.samples || record.label >= self.classes {
            let (shard, path) = (self.staged.target().to_owned(), record.path.clone());
            return Err(ShardError::Refused { shard, path, why: "it cannot be copied as it is".to_owned() });
        }
        let start = self.position();
        let bytes = from.bytes(record)?;
        self.append(bytes)?;
        self.end_record(start, record.id, record.label, &record.path, record.stored_len)
    }

    fn end_record(
        &mut self,
        start: u64,
        id: SampleId,
        label: u32,
        path: &str,
        stored: u64,
    ) -> Result<(), ShardError> {
        let entry = IndexEntry { offset: start, length: self.position() - start, id };
        self.align()?;
        entry.put(&mut self.entries, self.samples);
        Name { label, path }.put(&mut self.names);
        self.samples += 1;
        self.payload_bytes += stored;
        Ok(())
    }

    /// Notes an entry of the listing that could not be packed.
    pub fn quarantine(&mut self, path: &str, reason: &str) {
        self.quarantine.push((path.to_owned(), reason.to_owned()));
    }

    /// Notes which stretch of the source listing this shard is made from: where it starts and a digest of it.
    pub fn cover(&mut self, first_entry: u64, digest: [u8; 32]) {
        self.covered.first_entry = first_entry;
        self.covered.digest = Digest(digest);
    }

    /// Records packed so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// Whether nothing was packed so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Bytes of the shard so far, index and footer not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.position()
    }

    /// Writes index and footer, syncs, and publishes the shard under its final name, in place of any older one.
    ///
    /// # Errors
    /// [`ShardError::Write`]; then nothing was published
    pub fn finish(self) -> Result<ShardInfo, ShardError> {
        self.finish_if(|_| Ok(()))
    }

    /// As [`finish`](Self::finish), but only if the shard came out as `expected`, byte for byte.
    ///
    /// # Errors
    /// [`ShardError::Digest`] when it did not; then, as after [`ShardError::Write`], nothing was published
    pub fn finish_as(self, expected: &ShardInfo) -> Result<ShardInfo, ShardError> {
        let path = self.staged.target().to_owned();
        self.finish_if(|found| {
            if found == expected {
                return Ok(());
            }
            Err(ShardError::Digest { path, expected: expected.digest, found: found.digest })
        })
    }

    fn finish_if(
        mut self,
        check: impl FnOnce(&ShardInfo) -> Result<(), ShardError>,
    ) -> Result<ShardInfo, ShardError> {
        let index_offset = self.position();
        let entries = std::mem::take(&mut self.entries).0;
        self.append(&entries)?;
        let names_offset = self.position();
        let names = std::mem::take(&mut self.names).0;
        self.append(&names)?;
        self.align()?;
        self.flush()?;

        let footer_offset = self.position();
        let quarantine = std::mem::take(&mut self.quarantine);
        self.covered.entries = self.samples + quarantine.len() as u64;
        let footer = Footer {
            spec: self.spec.clone(),
            number: self.number,
            samples: self.samples,
            classes: self.classes,
            covered: self.covered,
            payload_bytes: self.payload_bytes,
            body: Digest(*self.body.finalize().as_bytes()),
            quarantine,
            index_offset,
            names_offset,
            names_len: names.len() as u64,
            names_check: xxh3_64(&names),
        }
        .encode();
        let trailer = Trailer {
            footer_offset,
            footer_len: footer.len() as u64,
            footer_check: xxh3_64(&footer),
            version: FORMAT_VERSION,
        }
        .encode();
        let tail = [footer, trailer].concat();
        self.append(&tail)?;
        self.flush()?;
        let info = ShardInfo {
            file: shard_file_name(self.number),
            samples: self.samples,
            bytes: self.position(),
            digest: Digest::of(&tail),
        };
        check(&info)?;
        self.staged.publish()?;
        Ok(info)
    }

    fn check(&self, record: &Record<'_>) -> Result<(), String> {
        let spec = &self.spec;
        if record.path.is_empty() || record.path.len() > MAX_PATH {
            return Err(format!("its path has {} bytes, 1 to {MAX_PATH} fit", record.path.len()));
        }
        if record.label >= self.classes {
            return Err(format!("its label is {}, but there are {} classes", record.label, self.classes));
        }
        if ![PAYLOAD_JPEG, PAYLOAD_RGB].contains(&record.payload_kind) {
            return Err(format!("payload kind {} is unknown", record.payload_kind));
        }
        if record.payload.len() as u64 > MAX_PLAIN {
            return Err(format!("its payload has {} bytes, at most {MAX_PLAIN} fit", record.payload.len()));
        }
        if record.views.len() != spec.views as usize {
            return Err(format!("it has {} views, the set has {}", record.views.len(), spec.views));
        }
        for (view, number) in record.views.iter().zip(0..) {
            check_view(number, view.tokens, spec)?;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    fn align(&mut self) -> Result<(), ShardError> {
        let short = (self.position().next_multiple_of(RECORD_ALIGN) - self.position()) as usize;
        self.append(&ZEROS[..short])
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ShardError> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= FLUSH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ShardError> {
        if self.failed {
            let cause = io::Error::other("an earlier write failed");
            return Err(ShardError::Write { path: self.staged.target().to_owned(), cause });
        }
        self.failed = true;
        self.body.update(&self.pending);
        self.staged.write(&self.pending)?;
        self.failed = false;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target: PathBuf = self.staged.target().to_owned();
        f.debug_struct("ShardWriter")
            .field("target", &target)
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}

fn check_view(number: u32, tokens: &[u16], spec: &SetSpec) -> Result<(), String> {
    if tokens.len() != spec.tokens() {
        return Err(format!("view {number} has {} tokens, the grid has {}", tokens.len(), spec.tokens()));
    }
    match tokens.iter().find(|&&token| u32::from(token) >= spec.tokenizer.vocab) {
        Some(token) => {
            Err(format!("view {number} has token {token}, the vocabulary ends at {}", spec.tokenizer.vocab))
        }
        None => Ok(()),
    }
}

const _: () = assert!(HEAD_LEN as u64 == RECORD_ALIGN);
