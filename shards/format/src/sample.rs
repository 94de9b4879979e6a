//! Samples: their ids, what a writer is given and what a reader hands out.

use crate::codec::Unpacker;
use crate::source::Faults;
use std::fmt;

/// Names one source image for ever: it follows from the image's path within its source, never from scan order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId(pub u64);

impl SampleId {
    /// The first 8 bytes, little-endian, of BLAKE3 of the `/`-separated path within the source.
    #[must_use]
    pub fn of_path(relative: &str) -> Self {
        let hash = blake3::hash(relative.as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        Self(u64::from_le_bytes(head))
    }
}

impl fmt::Display for SampleId {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for SampleId {
    type Err = &'static str;

    /// Reads the 16 hexadecimal digits that [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 16 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err("a sample id is 16 hexadecimal digits");
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| "a sample id is 16 hexadecimal digits")
    }
}

/// One sample to pack.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its name; unique within a set.
    pub id: SampleId,
    /// Index into the set's classes.
    pub label: u32,
    /// `/`-separated path within the source; 1 to 65,535 bytes.
    pub path: &'a str,
    /// Width of the whole image in px.
    pub width: u32,
    /// Height of the whole image in px.
    pub height: u32,
    /// What the payload is: [`crate::PAYLOAD_JPEG`] or [`crate::PAYLOAD_RGB`].
    pub payload_kind: u8,
    /// The image's bytes as the reader will get them back; RGB payloads are compressed inside the shard.
    pub payload: &'a [u8],
    /// Views 0 to K-1.
    pub views: &'a [ViewTokens<'a>],
}

/// One view's tokens, and the one number of the whole image that its jitter needs.
#[derive(Clone, Copy, Debug)]
pub struct ViewTokens<'a> {
    /// Grey level of the contrast step, computed on the whole image.
    pub grey: u8,
    /// Token grid, row-major, rows × columns of the set's grid, each below the vocabulary.
    pub tokens: &'a [u16],
}

/// One verified sample with one of its views; lives as long as its shard and its [`ReadBuf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRef<'a> {
    /// Its name.
    pub id: SampleId,
    /// Index into the set's classes.
    pub label: u32,
    /// `/`-separated path within the source.
    pub path: &'a str,
    /// Width of the whole image in px.
    pub width: u32,
    /// Height of the whole image in px.
    pub height: u32,
    /// What the payload is: [`crate::PAYLOAD_JPEG`] or [`crate::PAYLOAD_RGB`].
    pub payload_kind: u8,
    /// The image's bytes as they were packed.
    pub payload: &'a [u8],
    /// The view's grey level.
    pub grey: u8,
    /// The view's token grid, row-major.
    pub tokens: &'a [u16],
    pub(crate) faults: Faults<'a>,
}

impl SampleRef<'_> {
    /// Whether the payload is still what was verified: false once its mapped file has lost bytes since.
    ///
    /// To be asked after the last look at a payload: what was made of one that is not intact must be dropped, and the
    /// record be read again.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.faults.none_since()
    }
}

/// Buffers that one thread reuses for all its reads: once they have grown, reading allocates nothing.
#[derive(Default)]
pub struct ReadBuf {
    pub(crate) head: Vec<u8>,
    pub(crate) frame: Vec<u8>,
    pub(crate) plain: Vec<u8>,
    pub(crate) tokens: Vec<u16>,
    pub(crate) unpacker: Unpacker,
}

impl ReadBuf {
    /// Empty buffers; they grow with the first reads.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for ReadBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBuf")
            .field("head", &self.head.len())
            .field("plain", &self.plain.len())
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}
