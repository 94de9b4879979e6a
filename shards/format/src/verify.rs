//! Verify: reads every byte of a shard or a set and lists what is damaged.

use crate::catalog::{Catalog, CatalogInfo};
use crate::codec::Unpacker;
use crate::digest::Digest;
use crate::error::{ShardError, io_at};
use crate::footer::HEAD_LEN;
use crate::index::{IndexEntry, Name};
use crate::manifest::Manifest;
use crate::record::{CODEC_ZSTD, Flaw, RECORD_ALIGN};
use crate::set::ShardSet;
use crate::shard::Shard;
use crate::source::Io;
use crate::wire::Take;
use std::fs;
use std::path::Path;

/// Bytes hashed at a time.
const CHUNK: u64 = 1 << 20;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read so far.
    pub bytes: u64,
    /// Records checked so far.
    pub records: u64,
}

/// One damaged place.
#[derive(Debug)]
pub struct Damage {
    /// The record it belongs to, if it belongs to one; of the shard that `error` names.
    pub record: Option<u64>,
    /// What is wrong.
    pub error: ShardError,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Verification {
    /// What was looked at.
    pub progress: Progress,
    /// Every damaged place; empty for a sound shard or set.
    pub damaged: Vec<Damage>,
}

impl Verification {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }

    fn note(&mut self, record: Option<u64>, result: Result<(), ShardError>) {
        if let Err(error) = result {
            self.damaged.push(Damage { record, error });
        }
    }
}

impl Manifest {
    /// Checks every byte of the set in `dir` that this manifest is of, also where shards are missing or beyond opening;
    /// `each` hears after every record. Each damage comes with the position of its shard, or none for the catalog's.
    ///
    /// The catalog must not be open elsewhere in this process ([`Catalog::open`]).
    pub fn verify(
        &self,
        dir: &Path,
        io: Io,
        each: &mut dyn FnMut(Progress),
    ) -> (Progress, Vec<(Option<usize>, Damage)>) {
        let (mut total, mut damaged) = (Progress::default(), Vec::new());
        for (number, info) in self.shards.iter().enumerate() {
            let before = total;
            let mut note = |record, error| damaged.push((Some(number), Damage { record, error }));
            match self.open_shard(dir, info, io) {
                Err(error) => note(None, error),
                Ok(shard) => {
                    let found = shard.verify_all(&mut |now| {
                        let (bytes, records) = (before.bytes + now.bytes, before.records + now.records);
                        each(Progress { bytes, records });
                    });
                    found.damaged.into_iter().for_each(|damage| note(damage.record, damage.error));
                }
            }
            total.bytes += info.bytes;
            total.records += info.samples;
            each(total);
        }
        if let Err(error) = verify_catalog(dir, &self.catalog) {
            damaged.push((None, Damage { record: None, error }));
        }
        (total, damaged)
    }
}

impl ShardSet {
    /// Checks every byte of all shards and of the catalog; `each` hears after every record.
    ///
    /// The catalog must not be open elsewhere in this process ([`Catalog::open`]).
    pub fn verify_all(&self, each: &mut dyn FnMut(Progress)) -> Verification {
        let mut total = Verification::default();
        for shard in self.shards() {
            let before = total.progress;
            let mut found = shard.verify_all(&mut |now| {
                each(Progress { bytes: before.bytes + now.bytes, records: before.records + now.records });
            });
            total.progress.bytes += found.progress.bytes;
            total.progress.records += found.progress.records;
            total.damaged.append(&mut found.damaged);
        }
        total.note(None, verify_catalog(self.dir(), &self.manifest().catalog));
        each(total.progress);
        total
    }
}

/// The catalog is the published one and says what the shards say.
fn verify_catalog(dir: &Path, info: &CatalogInfo) -> Result<(), ShardError> {
    let catalog = Catalog::open_checked(dir, info)?;
    if catalog.content()? == info.content {
        return Ok(());
    }
    let path = dir.join(crate::CATALOG_FILE);
    Err(ShardError::Catalog { path, why: "its content is not what the manifest says".to_owned() })
}

impl Shard {
    /// Checks every byte of the shard; `each` hears after every record.
    ///
    /// Unlike [`read`](Self::read) it also looks at all views, the names, the padding and the digest of the whole body.
    pub fn verify_all(&self, each: &mut dyn FnMut(Progress)) -> Verification {
        let mut found = Verification::default();
        found.note(None, self.verify_length());
        let mut body = Body { shard: self, hasher: blake3::Hasher::new(), at: 0, buf: Vec::new() };
        let mut check = RecordCheck {
            shard: self,
            names: &[],
            next: HEAD_LEN as u64,
            payload_bytes: 0,
            room: Room::default(),
        };
        let mut buf = Vec::new();
        match self.names(&mut buf) {
            Ok(names) => check.names = names,
            Err(error) => found.note(None, Err(error)),
        }
        let names_are_sound = found.is_sound();
        for index in 0..self.len() {
            let faults = self.source.faults();
            let result =
                check.record(index, names_are_sound).map_err(|error| self.source.blame(error, faults));
            found.note(Some(index), result);
            found.note(None, body.hash_to(check.next));
            found.progress = Progress { bytes: body.at, records: index + 1 };
            each(found.progress);
        }
        // What does not add up because of damage already listed is no news.
        if found.is_sound() {
            found.note(None, check.end());
        }
        if found.is_sound() {
            found.note(None, body.finish());
        }
        found.progress.bytes = self.bytes();
        each(found.progress);
        found
    }

    /// The file is still as long as it was when it was opened.
    fn verify_length(&self) -> Result<(), ShardError> {
        let now = fs::metadata(self.path()).map_err(io_at("looking at", self.path()))?.len();
        if now == self.bytes() {
            return Ok(());
        }
        let why = format!("it had {} bytes when it was opened and has {now} now", self.bytes());
        Err(ShardError::NotAShard { path: self.path().to_owned(), why })
    }
}

/// Hashes everything before the footer, in step with the records.
struct Body<'a> {
    shard: &'a Shard,
    hasher: blake3::Hasher,
    at: u64,
    buf: Vec<u8>,
}

impl Body<'_> {
    fn hash_to(&mut self, end: u64) -> Result<(), ShardError> {
        let end = end.min(self.shard.body_len());
        while self.at < end {
            let len = CHUNK.min(end - self.at);
            self.hasher.update(self.shard.source.bytes(self.at, len, &mut self.buf)?);
            self.at += len;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ShardError> {
        self.hash_to(self.shard.body_len())?;
        let (expected, found) = (self.shard.footer().body, Digest(*self.hasher.finalize().as_bytes()));
        if expected == found {
            return Ok(());
        }
        Err(ShardError::Digest { path: self.shard.path().to_owned(), expected, found })
    }
}

#[derive(Default)]
struct Room {
    record: Vec<u8>,
    plain: Vec<u8>,
    tokens: Vec<u16>,
    unpacker: Unpacker,
}

/// Goes through the records in order.
struct RecordCheck<'a> {
    shard: &'a Shard,
    /// Names not yet compared.
    names: &'a [u8],
    /// Where the next record must start.
    next: u64,
    payload_bytes: u64,
    room: Room,
}

impl RecordCheck<'_> {
    fn record(&mut self, index: u64, compare_names: bool) -> Result<(), ShardError> {
        let shard = self.shard;
        let at =
            |part: &str, why| Flaw::Malformed(why).at(shard.path(), || format!("record {index}, {part}"));
        let mut take = Take(self.names);
        let name = if compare_names {
            let name = Name::take(&mut take).map_err(|why| at("name", why))?;
            self.names = take.0;
            Some(name)
        } else {
            None
        };
        let entry = shard.entry(index)?;
        let expected = self.next;
        self.next = (entry.offset + entry.length).next_multiple_of(RECORD_ALIGN);
        if entry.offset != expected {
            return Err(at("place", "it does not lie right behind the record before it"));
        }
        self.payload_bytes += self.content(index, &entry, name)?;
        Ok(())
    }

    /// Checks header, payload and every frame; returns the payload's stored length.
    fn content(&mut self, index: u64, entry: &IndexEntry, name: Option<Name<'_>>) -> Result<u64, ShardError> {
        let shard = self.shard;
        let at =
            |part: &str, why| Flaw::Malformed(why).at(shard.path(), || format!("record {index}, {part}"));
        let Room { record, plain, tokens, unpacker } = &mut self.room;
        let bytes = shard.source.bytes(entry.offset, entry.length, record)?;
        let (head, frames) = bytes.split_at((entry.length - shard.frames_len()) as usize);
        let (header, stored) = shard.check_head(head, index, entry)?;
        if name.is_some_and(|name| (name.label, name.path) != (header.label, header.path)) {
            return Err(at("name", "header and names section disagree"));
        }
        if header.codec == CODEC_ZSTD {
            unpacker.unpack(stored, header.plain_len, plain).map_err(|why| at("payload", why))?;
        }
        tokens.resize(shard.spec().tokens(), 0);
        for (view, frame) in (0..).zip(frames.chunks_exact(shard.frame_len())) {
            shard.check_frame(frame, index, view, &header, tokens)?;
        }
        Ok(header.stored_len)
    }

    /// What holds over all records.
    fn end(&self) -> Result<(), ShardError> {
        let at = |part: &str, why| Flaw::Malformed(why).at(self.shard.path(), || part.to_owned());
        if !self.names.is_empty() {
            return Err(at("names", "there are more than records"));
        }
        if self.next != self.shard.index_offset() {
            return Err(at("index", "it does not lie right behind the last record"));
        }
        if self.payload_bytes != self.shard.footer().payload_bytes {
            return Err(at("footer", "it counts other payload bytes than the records have"));
        }
        Ok(())
    }
}
