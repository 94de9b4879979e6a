//! Salvage: what is still sound of a damaged shard, found without its index, names and footer.
//!
//! Records start at multiples of 64 with a checksummed header that says how long they are, whose they are and which
//! number they have. So they can be found by looking at those places, whatever else of the file is gone.

use crate::codec::Unpacker;
use crate::error::ShardError;
use crate::footer::HEAD_LEN;
use crate::record::{CODEC_ZSTD, Flaw, Header, RECORD_ALIGN, frame_len, frames_len, take_frame};
use crate::sample::SampleId;
use crate::source::{Io, Source};
use crate::spec::SetSpec;
use std::collections::BTreeMap;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// A damaged shard's sound pieces.
pub struct Salvage {
    source: Source,
    spec: SetSpec,
    records: BTreeMap<u64, Salvaged>,
}

/// One record whose header is sound.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// Its sample.
    pub id: SampleId,
    /// Its number within the shard.
    pub number: u64,
    /// Index into the set's classes.
    pub label: u32,
    /// `/`-separated path within the source.
    pub path: String,
    /// Width of the whole image in px.
    pub width: u32,
    /// Height of the whole image in px.
    pub height: u32,
    /// What the payload is.
    pub payload_kind: u8,
    /// Whether the payload is sound.
    pub payload: bool,
    /// Which views are sound.
    pub views: Vec<bool>,
    pub(crate) stored_len: u64,
    plain_len: u64,
    codec: u8,
    offset: u64,
    header_len: u64,
}

impl Salvaged {
    /// Whether every byte of it is sound, so that it can be copied as it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.payload && self.views.iter().all(|&sound| sound)
    }
}

impl Salvage {
    /// Looks through the file at `path` for records of a set with `spec`, checking all of each; errors are only those of
    /// opening it, as what cannot be read is no more lost than what is wrong.
    ///
    /// # Errors
    /// [`ShardError::Io`] when it cannot be opened
    pub fn open(path: &Path, spec: &SetSpec) -> Result<Self, ShardError> {
        // Mapped, so that a stretch the disk does not deliver reads as zeros and is stepped over.
        let source = Source::open(path)?.settle(Io::Mmap)?;
        let mut salvage = Self { source, spec: spec.clone(), records: BTreeMap::new() };
        let mut tokens = vec![0; spec.tokens()];
        let mut at = HEAD_LEN as u64;
        while at < salvage.source.len() {
            at = match salvage.look(at, &mut tokens) {
                Some(record) => {
                    let end = record.offset + record.header_len + record.stored_len + frames_len(spec);
                    salvage.records.entry(record.number).or_insert(record);
                    end.next_multiple_of(RECORD_ALIGN)
                }
                None => at + RECORD_ALIGN,
            };
        }
        Ok(salvage)
    }

    /// The records that were found, by their number.
    #[must_use]
    pub fn records(&self) -> &BTreeMap<u64, Salvaged> {
        &self.records
    }

    /// A record's payload, unpacked; `None` when it is not sound.
    ///
    /// # Errors
    /// [`ShardError::Malformed`] when it has vanished since it was found
    pub fn payload(&self, record: &Salvaged) -> Result<Option<Vec<u8>>, ShardError> {
        if !record.payload {
            return Ok(None);
        }
        let stored = self.stretch(record.offset + record.header_len, record.stored_len)?;
        if record.codec != CODEC_ZSTD {
            return Ok(Some(stored.to_vec()));
        }
        let mut plain = Vec::new();
        let in_payload = |why| {
            let part = || format!("record {}, payload", record.number);
            Flaw::Malformed(why).at(self.source.path(), part)
        };
        Unpacker::default().unpack(stored, record.plain_len, &mut plain).map_err(in_payload)?;
        Ok(Some(plain))
    }

    /// Grey level and tokens of a view; `None` when they are not sound.
    ///
    /// # Errors
    /// [`ShardError::Malformed`] when they have vanished since they were found
    pub fn view(&self, record: &Salvaged, view: u32) -> Result<Option<(u8, Vec<u16>)>, ShardError> {
        let mut tokens = vec![0; self.spec.tokens()];
        let len = frame_len(&self.spec) as u64;
        let at = record.offset + record.header_len + record.stored_len + u64::from(view) * len;
        if record.views.get(view as usize) != Some(&true) {
            return Ok(None);
        }
        let frame = self.stretch(at, len)?;
        Ok(take_frame(frame, &self.spec, record.id, view, &mut tokens).ok().map(|grey| (grey, tokens)))
    }

    /// All bytes of a record.
    pub(crate) fn bytes(&self, record: &Salvaged) -> Result<&[u8], ShardError> {
        self.stretch(record.offset, record.header_len + record.stored_len + frames_len(&self.spec))
    }

    fn stretch(&self, at: u64, len: u64) -> Result<&[u8], ShardError> {
        self.source.mapped(at, len)
    }

    /// The record whose header stands at `at`, if one does and it ends within the file or is cut off by its end.
    fn look(&self, at: u64, tokens: &mut [u16]) -> Option<Salvaged> {
        let rest = self.source.len() - at;
        let bytes = self.source.mapped(at, rest).ok()?;
        let (header, header_len) = Header::take(bytes).ok()?;
        let known = header.id == SampleId::of_path(header.path) && header.payload_kind <= 1;
        let len = (header_len as u64).checked_add(header.stored_len)?.checked_add(frames_len(&self.spec))?;
        at.checked_add(len)?;
        if !known {
            return None;
        }
        let stored_len = usize::try_from(header.stored_len).ok()?;
        let stored = bytes.get(header_len..header_len + stored_len);
        let payload = stored.is_some_and(|stored| xxh3_64(stored) == header.payload_check);
        let frames = bytes.get(header_len + stored_len..).unwrap_or_default();
        let len = frame_len(&self.spec);
        let sound = |view: u32| {
            let frame = frames.get(view as usize * len..).and_then(|frames| frames.get(..len));
            frame.map(|frame| take_frame(frame, &self.spec, header.id, view, tokens).is_ok()) == Some(true)
        };
        let views: Vec<bool> = (0..self.spec.views).map(sound).collect();
        Some(Salvaged {
            id: header.id,
            number: header.number,
            label: header.label,
            path: header.path.to_owned(),
            width: header.width,
            height: header.height,
            payload_kind: header.payload_kind,
            payload,
            views,
            stored_len: header.stored_len,
            plain_len: header.plain_len,
            codec: header.codec,
            offset: at,
            header_len: header_len as u64,
        })
    }
}

impl std::fmt::Debug for Salvage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Salvage")
            .field("path", &self.source.path())
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}
