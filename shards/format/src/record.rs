//! Record: header, path, payload and K view frames of one sample, and the checks between them.

use crate::codec::{MAX_PLAIN, pack_tokens, packed_len};
use crate::sample::{Record, SampleId, ViewTokens};
use crate::spec::SetSpec;
use crate::wire::{Put, Take};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// First bytes of every record.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"SREC";
/// Records start at multiples of this.
pub(crate) const RECORD_ALIGN: u64 = 64;
/// Bytes of a header before its path.
const FIXED: usize = 72;
/// Bytes of a checksum.
const CHECK: usize = 8;
/// Longest path, in bytes.
pub(crate) const MAX_PATH: usize = u16::MAX as usize;
/// Shortest possible header.
pub(crate) const MIN_HEADER: usize = FIXED + CHECK;

/// Codec of a payload stored as it is.
pub(crate) const CODEC_NONE: u8 = 0;
/// Codec of a payload stored as one zstd frame.
pub(crate) const CODEC_ZSTD: u8 = 1;

/// Bytes of one view frame: grey level, packed tokens, checksum.
pub(crate) fn frame_len(spec: &SetSpec) -> usize {
    1 + packed_len(spec.tokens(), spec.bits()) + CHECK
}

/// Bytes of all view frames of a record. Fits: at most 2^20 views of at most 2^21 + 9 bytes.
pub(crate) fn frames_len(spec: &SetSpec) -> u64 {
    u64::from(spec.views) * frame_len(spec) as u64
}

/// What the header of a record says, once verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub id: SampleId,
    /// Number of the record within its shard.
    pub number: u64,
    pub stored_len: u64,
    pub plain_len: u64,
    pub payload_check: u64,
    pub label: u32,
    pub width: u32,
    pub height: u32,
    pub payload_kind: u8,
    pub codec: u8,
    pub path: &'a str,
}

/// Bytes of a header with a path of `path_len` bytes.
fn header_len(path_len: usize) -> usize {
    (FIXED + path_len).next_multiple_of(8) + CHECK
}

impl<'a> Header<'a> {
    pub fn of(record: &Record<'a>, number: u64, stored: &[u8], codec: u8) -> Self {
        Self {
            id: record.id,
            number,
            stored_len: stored.len() as u64,
            plain_len: record.payload.len() as u64,
            payload_check: xxh3_64(stored),
            label: record.label,
            width: record.width,
            height: record.height,
            payload_kind: record.payload_kind,
            codec,
            path: record.path,
        }
    }

    pub fn put(&self, put: &mut Put) {
        let start = put.0.len();
        put.bytes(&RECORD_MAGIC);
        put.u32(header_len(self.path.len()) as u32);
        put.u64(self.id.0);
        put.u64(self.number);
        put.u64(self.stored_len);
        put.u64(self.plain_len);
        put.u64(self.payload_check);
        put.u32(self.label);
        put.u32(self.width);
        put.u32(self.height);
        put.u8(self.payload_kind);
        put.u8(self.codec);
        put.u16(0);
        put.u32(self.path.len() as u32);
        put.u32(0);
        put.bytes(self.path.as_bytes());
        put.0.resize(start + (FIXED + self.path.len()).next_multiple_of(8), 0);
        put.u64(xxh3_64(&put.0[start..]));
    }

    /// Reads the header at the start of `bytes` and checks its own checksum; also says how long it is.
    pub fn take(bytes: &'a [u8]) -> Result<(Self, usize), Flaw> {
        let mut take = Take(bytes);
        if take.bytes(4)? != RECORD_MAGIC {
            return Err(Flaw::Malformed("no record starts here"));
        }
        let len = take.u32()? as usize;
        if len < MIN_HEADER || len > header_len(MAX_PATH) || len > bytes.len() || !len.is_multiple_of(8) {
            return Err(Flaw::Malformed("the header's length is impossible"));
        }
        let (summed, check) = bytes[..len].split_at(len - CHECK);
        let expected = Take(check).u64()?;
        let found = xxh3_64(summed);
        if expected != found {
            return Err(Flaw::Checksum { expected, found });
        }
        let mut take = Take(&summed[8..]);
        let id = SampleId(take.u64()?);
        let number = take.u64()?;
        let stored_len = take.u64()?;
        let plain_len = take.u64()?;
        let payload_check = take.u64()?;
        let label = take.u32()?;
        let width = take.u32()?;
        let height = take.u32()?;
        let payload_kind = take.u8()?;
        let codec = take.u8()?;
        if take.u16()? != 0 {
            return Err(Flaw::Malformed("reserved bytes are not zero"));
        }
        let path_len = take.u32()? as usize;
        if take.u32()? != 0 {
            return Err(Flaw::Malformed("reserved bytes are not zero"));
        }
        if path_len > MAX_PATH || header_len(path_len) != len {
            return Err(Flaw::Malformed("the header's length is impossible"));
        }
        let path =
            std::str::from_utf8(take.bytes(path_len)?).map_err(|_| Flaw::Malformed("path is not UTF-8"))?;
        take.padding(8)?;
        let known = match codec {
            CODEC_NONE => stored_len == plain_len,
            CODEC_ZSTD => plain_len <= MAX_PLAIN,
            _ => false,
        };
        if !known {
            return Err(Flaw::Malformed("the payload's codec or length is impossible"));
        }
        let header = Self {
            id,
            number,
            stored_len,
            plain_len,
            payload_check,
            label,
            width,
            height,
            payload_kind,
            codec,
            path,
        };
        Ok((header, len))
    }
}

/// What is wrong with a stretch, before anyone has said where it lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Checksum { expected: u64, found: u64 },
    Malformed(&'static str),
}

impl From<&'static str> for Flaw {
    fn from(why: &'static str) -> Self {
        Self::Malformed(why)
    }
}

/// Seed of a frame's checksum, so that a frame in another's place is found out.
fn frame_seed(id: SampleId, view: u32) -> u64 {
    id.0.wrapping_add(u64::from(view))
}

/// Appends the frame of one view.
pub(crate) fn put_frame(put: &mut Put, view: &ViewTokens<'_>, bits: u32, id: SampleId, number: u32) {
    let start = put.0.len();
    put.u8(view.grey);
    pack_tokens(view.tokens, bits, &mut put.0);
    put.u64(xxh3_64_with_seed(&put.0[start..], frame_seed(id, number)));
}

/// Verifies a frame and unpacks it into `tokens`; returns its grey level.
pub(crate) fn take_frame(
    frame: &[u8],
    spec: &SetSpec,
    id: SampleId,
    view: u32,
    tokens: &mut [u16],
) -> Result<u8, Flaw> {
    let summed = frame.len().checked_sub(CHECK).ok_or("frame is too short")?;
    let expected = Take(&frame[summed..]).u64()?;
    let found = xxh3_64_with_seed(&frame[..summed], frame_seed(id, view));
    if expected != found {
        return Err(Flaw::Checksum { expected, found });
    }
    let (&grey, packed) = frame.split_first().ok_or("frame is too short")?;
    crate::codec::unpack_tokens(packed, spec.bits(), tokens).ok_or("tokens do not unpack")?;
    let largest = tokens.iter().fold(0, |largest, &token| largest.max(token));
    if u32::from(largest) >= spec.tokenizer.vocab {
        return Err(Flaw::Malformed("a token is outside the vocabulary"));
    }
    Ok(grey)
}
