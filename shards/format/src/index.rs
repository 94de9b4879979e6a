//! Index: where each record lies, and the names section that `ls` and the catalog are derived from.

use crate::record::Flaw;
use crate::sample::SampleId;
use crate::wire::{Put, Take};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of one index entry.
pub(crate) const ENTRY_LEN: usize = 32;

/// Where one record lies in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// First byte of the record, from the start of the file.
    pub offset: u64,
    /// Bytes of the record, without the padding behind it.
    pub length: u64,
    /// The record's sample.
    pub id: SampleId,
}

impl IndexEntry {
    /// The checksum is seeded with the entry's number, so that an entry in another's place is found out.
    pub(crate) fn put(&self, put: &mut Put, number: u64) {
        let start = put.0.len();
        put.u64(self.offset);
        put.u64(self.length);
        put.u64(self.id.0);
        put.u64(xxh3_64_with_seed(&put.0[start..], number));
    }

    pub(crate) fn take(bytes: &[u8], number: u64) -> Result<Self, Flaw> {
        let mut take = Take(bytes);
        let entry = Self { offset: take.u64()?, length: take.u64()?, id: SampleId(take.u64()?) };
        let expected = take.u64()?;
        let found = xxh3_64_with_seed(&bytes[..ENTRY_LEN - 8], number);
        if expected != found {
            return Err(Flaw::Checksum { expected, found });
        }
        Ok(entry)
    }
}

/// Label and path of one record, as the names section holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    pub label: u32,
    pub path: &'a str,
}

impl<'a> Name<'a> {
    pub fn put(&self, put: &mut Put) {
        put.u32(self.label);
        put.text(self.path);
    }

    pub fn take(take: &mut Take<'a>) -> Result<Self, &'static str> {
        Ok(Self { label: take.u32()?, path: take.text()? })
    }
}
