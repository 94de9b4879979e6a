//! Footer and trailer: what a shard holds and where, written last.

use crate::FORMAT_VERSION;
use crate::digest::Digest;
use crate::index::ENTRY_LEN;
use crate::record::{Flaw, RECORD_ALIGN};
use crate::spec::SetSpec;
use crate::wire::{Put, Take};
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of a shard.
pub(crate) const HEAD_MAGIC: [u8; 8] = *b"BEITSHRD";
/// Last bytes of a shard.
pub(crate) const TAIL_MAGIC: [u8; 8] = *b"BEITTAIL";
/// Bytes of the file header.
pub(crate) const HEAD_LEN: usize = 64;
/// Bytes of the trailer.
pub(crate) const TRAILER_LEN: usize = 48;

/// The stretch of the sorted source listing that a shard was made from.
///
/// Each entry of the stretch was either packed or quarantined, so `entries` is the sum of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// First entry, counted from 0 over the whole listing.
    pub first_entry: u64,
    /// How many entries.
    pub entries: u64,
    /// BLAKE3 of the stretch in whatever form the builder lists it; all zero when there is no listing.
    pub digest: Digest,
}

/// What a shard says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// What all samples of the set have in common.
    pub spec: SetSpec,
    /// Number of the shard within its set, from 0.
    pub number: u64,
    /// Records in this shard.
    pub samples: u64,
    /// Classes of the set when it was packed; labels are below it.
    pub classes: u32,
    /// Which part of the source listing this shard holds.
    pub covered: Covered,
    /// Payload bytes as they are stored, over all records.
    pub payload_bytes: u64,
    /// BLAKE3 of all bytes before the footer.
    pub body: Digest,
    /// Path and reason of each entry that could not be packed, in listing order.
    pub quarantine: Vec<(String, String)>,
    pub(crate) index_offset: u64,
    pub(crate) names_offset: u64,
    pub(crate) names_len: u64,
    pub(crate) names_check: u64,
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut put = Put::default();
        put.u64(self.number);
        put.u64(self.samples);
        put.u64(self.payload_bytes);
        put.u64(self.index_offset);
        put.u64(self.names_offset);
        put.u64(self.names_len);
        put.u64(self.names_check);
        put.u64(self.covered.first_entry);
        put.u64(self.covered.entries);
        put.bytes(&self.covered.digest.0);
        put.bytes(&self.body.0);
        put.u32(self.classes);
        self.spec.put(&mut put);
        put.u32(self.quarantine.len() as u32);
        for (path, reason) in &self.quarantine {
            put.text(path);
            put.text(reason);
        }
        put.0
    }

    /// Reads the footer that starts at byte `offset` of its file, and checks that its parts lie where they can.
    pub(crate) fn decode(bytes: &[u8], offset: u64) -> Result<Self, &'static str> {
        let mut take = Take(bytes);
        let number = take.u64()?;
        let samples = take.u64()?;
        let payload_bytes = take.u64()?;
        let index_offset = take.u64()?;
        let names_offset = take.u64()?;
        let names_len = take.u64()?;
        let names_check = take.u64()?;
        let covered =
            Covered { first_entry: take.u64()?, entries: take.u64()?, digest: Digest(take.digest()?) };
        let body = Digest(take.digest()?);
        let classes = take.u32()?;
        let spec = SetSpec::take(&mut take)?;
        let refused = take.u32()?;
        let mut quarantine = Vec::new();
        for _ in 0..refused {
            quarantine.push((take.text()?.to_owned(), take.text()?.to_owned()));
        }
        take.end()?;

        let index_len = samples.checked_mul(ENTRY_LEN as u64).ok_or("its index is impossibly long")?;
        let index_end = index_offset.checked_add(index_len).ok_or("its index is impossibly long")?;
        let names_end = names_offset.checked_add(names_len).ok_or("its names are impossibly long")?;
        if index_offset < HEAD_LEN as u64
            || !index_offset.is_multiple_of(RECORD_ALIGN)
            || index_end != names_offset
        {
            return Err("its index lies where it cannot");
        }
        if names_end.checked_next_multiple_of(RECORD_ALIGN) != Some(offset) {
            return Err("its names lie where they cannot");
        }
        if samples.checked_add(u64::from(refused)) != Some(covered.entries)
            || covered.first_entry.checked_add(covered.entries).is_none()
        {
            return Err("it does not cover as many entries as it holds");
        }
        Ok(Self {
            spec,
            number,
            samples,
            classes,
            covered,
            payload_bytes,
            body,
            quarantine,
            index_offset,
            names_offset,
            names_len,
            names_check,
        })
    }
}

/// The 64 bytes every shard starts with.
pub(crate) fn encode_head(number: u64) -> [u8; HEAD_LEN] {
    let mut put = Put::default();
    put.bytes(&HEAD_MAGIC);
    put.u32(FORMAT_VERSION);
    put.u32(0);
    put.u64(number);
    put.0.resize(HEAD_LEN - 8, 0);
    put.u64(xxh3_64(&put.0));
    let mut head = [0; HEAD_LEN];
    head.copy_from_slice(&put.0);
    head
}

/// Where the footer lies; the one structure that keeps its form in every version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub footer_offset: u64,
    pub footer_len: u64,
    pub footer_check: u64,
    pub version: u32,
}

impl Trailer {
    pub fn encode(&self) -> Vec<u8> {
        let mut put = Put::default();
        put.u64(self.footer_offset);
        put.u64(self.footer_len);
        put.u64(self.footer_check);
        put.u32(self.version);
        put.u32(0);
        put.u64(xxh3_64(&put.0));
        put.bytes(&TAIL_MAGIC);
        put.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let mut take = Take(bytes);
        let footer_offset = take.u64()?;
        let footer_len = take.u64()?;
        let footer_check = take.u64()?;
        let version = take.u32()?;
        let reserved = take.u32()?;
        let expected = take.u64()?;
        if take.bytes(8)? != TAIL_MAGIC {
            return Err(Flaw::Malformed("it does not end as a shard does"));
        }
        let found = xxh3_64(&bytes[..TRAILER_LEN - 16]);
        if expected != found {
            return Err(Flaw::Checksum { expected, found });
        }
        if reserved != 0 {
            return Err(Flaw::Malformed("reserved bytes are not zero"));
        }
        Ok(Self { footer_offset, footer_len, footer_check, version })
    }
}
