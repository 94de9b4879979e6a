//! The shard file: pack, map, footer, catalog, checksums.
//!
//! What comes in: image payloads, their token grids and labels, one [`Record`] at a time. What goes out: immutable
//! `.shard` files, a manifest and a catalog in one directory, and verified [`SampleRef`]s read back from them.
//! This room knows neither pixels nor tensors: a payload is bytes with a kind, a token is a number below a vocabulary.
//!
//! Where to start: [`ShardWriter`] packs, [`publish_manifest`] turns finished shards into a set, [`ShardSet`] reads it,
//! [`Catalog`] finds a sample by id or path. Every byte is described in `FORMAT.md` beside this crate.
//!
//! Three promises hold everywhere:
//! a published file is never written again (it is replaced by a rename or unlinked, never truncated);
//! readers follow no offset they have not checked; whatever a read returns was verified by that same read.

mod catalog;
mod codec;
mod digest;
mod disk;
mod error;
mod footer;
mod index;
mod manifest;
mod publish;
mod record;
mod salvage;
mod sample;
mod set;
mod shard;
mod sigbus;
mod source;
mod spec;
mod text;
mod verify;
mod wire;
mod writer;

pub use catalog::{CATALOG_FILE, Catalog, CatalogEntry};
pub use digest::Digest;
pub use error::ShardError;
pub use footer::{Covered, Footer};
pub use index::IndexEntry;
pub use manifest::{MANIFEST_FILE, Manifest, ShardInfo, publish_manifest, publish_shards, retract_manifest};
pub use salvage::{Salvage, Salvaged};
pub use sample::{ReadBuf, Record, SampleId, SampleRef, ViewTokens};
pub use set::ShardSet;
pub use shard::Shard;
pub use source::Io;
pub use spec::{PAYLOAD_JPEG, PAYLOAD_RGB, SetSpec, TokenizerRef};
pub use verify::{Damage, Progress, Verification};
pub use writer::{ShardWriter, shard_file_name};

/// Version of the shard file this crate writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Parsers of single pieces, for the fuzz targets and the mutation tests; not part of the public promise.
#[doc(hidden)]
pub mod inner {
    pub use crate::codec::{pack_tokens, packed_len, token_bits, unpack_tokens};

    /// A footer that starts at byte `offset` of its file, written again; `None` when it is refused.
    #[must_use]
    pub fn footer_again(bytes: &[u8], offset: u64) -> Option<Vec<u8>> {
        crate::footer::Footer::decode(bytes, offset).ok().map(|footer| footer.encode())
    }

    /// A trailer, written again; `None` when it is refused.
    #[must_use]
    pub fn trailer_again(bytes: &[u8]) -> Option<Vec<u8>> {
        crate::footer::Trailer::decode(bytes).ok().map(|trailer| trailer.encode())
    }
}
