//! What can go wrong with shards, and what to do about it.

use crate::sample::SampleId;
use std::io;
use std::path::{Path, PathBuf};

/// Everything this room reports; each message says what happened, where, and what to do now.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The operating system refused a read, an open or a look at a file.
    #[error("{verb} {} failed: {cause}", path.display())]
    Io {
        /// What we were doing, as a gerund.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said; the message has its words, so it is no source to be printed again.
        cause: io::Error,
    },
    /// Writing failed; nothing was published under the final name.
    #[error("writing {} failed: {cause}; {}, then run the same command again: nothing half-written was published and \
             finished shards are kept", path.display(), write_advice(cause))]
    Write {
        /// The file that would have been published.
        path: PathBuf,
        /// What the operating system said; the message has its words, so it is no source to be printed again.
        cause: io::Error,
    },
    /// The file is not a shard at all, or its end is missing.
    #[error("{} is not a whole shard: {why}; restore it, or: {}", path.display(), repair(path))]
    NotAShard {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A sound file of a format version this program does not know.
    #[error("{} has format version {found}, this program reads version {known}; use the beit-shard that wrote it, or \
             build the set again with this one (`beit-shard build SRC --out DIR`)", path.display())]
    ForeignVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Bytes changed since they were written.
    #[error("shard {}: {part} has checksum {found:#018x}, expected {expected:#018x}; {}",
            path.display(), repair(path))]
    Checksum {
        /// The shard.
        path: PathBuf,
        /// The damaged stretch, for example `record 12, payload`.
        part: String,
        /// What the shard says the checksum is.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// Bytes that cannot be what the format says they are.
    #[error("shard {}: {part}: {why}; {}", path.display(), repair(path))]
    Malformed {
        /// The shard.
        path: PathBuf,
        /// The damaged stretch.
        part: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file lost bytes while it was open.
    #[error("{} was truncated while it was open: it had {expected} bytes then and has {found} now; restore it, or: {}",
            path.display(), repair(path))]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened.
        expected: u64,
        /// Its length now.
        found: u64,
    },
    /// A shard's footer or body is not the one its set was published with.
    #[error("{} has digest {found}, expected {expected}; it was damaged or exchanged after the set was published: \
             restore it, or: {}", path.display(), repair(path))]
    Digest {
        /// The file.
        path: PathBuf,
        /// The published digest.
        expected: crate::Digest,
        /// What it is.
        found: crate::Digest,
    },
    /// Two shards of one set were built with different options.
    #[error("{} and {} do not belong together: {difference}; build them with the same options into one directory, \
             or keep them in two", first.display(), second.display())]
    MixedSpecs {
        /// A shard or manifest.
        first: PathBuf,
        /// The one that differs from it.
        second: PathBuf,
        /// The first difference, in words.
        difference: String,
    },
    /// The shards of a set do not cover the listing one after the other.
    #[error("{} starts at listing entry {found}, but the shards before it end at {expected}; run `beit-shard build` \
             again to fill the gap", path.display())]
    Gap {
        /// The shard after the gap.
        path: PathBuf,
        /// Where it should start.
        expected: u64,
        /// Where it starts.
        found: u64,
    },
    /// A directory without a manifest.
    #[error("{} has no {}: {state}", dir.display(), crate::MANIFEST_FILE)]
    Unfinished {
        /// The directory.
        dir: PathBuf,
        /// What is there instead and what to do.
        state: &'static str,
    },
    /// A manifest that is damaged or was edited.
    #[error("{}: {why}; run `beit-shard build` again to publish it afresh", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// The catalog could not be written, opened or asked.
    #[error("catalog {}: {why}; run `beit-shard build` again to derive it afresh from the shards", path.display())]
    Catalog {
        /// The catalog.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// Two different samples have one id.
    #[error(
        "samples {first} and {second} have the same id {id}; if they are two copies of one entry, remove one; \
             otherwise rename one of them"
    )]
    IdCollision {
        /// The id both have.
        id: SampleId,
        /// `path (shard)` of one.
        first: String,
        /// `path (shard)` of the other.
        second: String,
    },
    /// The writer was given something that no shard can hold.
    #[error("cannot pack {path} into {}: {why}", shard.display())]
    Refused {
        /// The shard being written.
        shard: PathBuf,
        /// The sample's path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A question about a record or view that does not exist.
    #[error("{} has {count} {what}, number {asked} was asked for", path.display())]
    OutOfRange {
        /// The shard or set.
        path: PathBuf,
        /// `records` or `views`.
        what: &'static str,
        /// The number asked for, from 0.
        asked: u64,
        /// How many there are.
        count: u64,
    },
}

impl ShardError {
    /// The kind of trouble, from a small closed set, for counters: `io`, `checksum`, `malformed`, `truncated`, `foreign`,
    /// `mixed`, `unfinished`, `manifest`, `catalog`, `collision`, `refused`, `range`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::Write { .. } => "io",
            Self::Checksum { .. } | Self::Digest { .. } => "checksum",
            Self::Malformed { .. } | Self::NotAShard { .. } => "malformed",
            Self::Shrunk { .. } => "truncated",
            Self::ForeignVersion { .. } => "foreign",
            Self::MixedSpecs { .. } | Self::Gap { .. } => "mixed",
            Self::Unfinished { .. } => "unfinished",
            Self::Manifest { .. } => "manifest",
            Self::Catalog { .. } => "catalog",
            Self::IdCollision { .. } => "collision",
            Self::Refused { .. } => "refused",
            Self::OutOfRange { .. } => "range",
        }
    }

    /// Whether the bytes on disk are at fault, so that skipping the sample and repairing the shard is the remedy.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Checksum { .. }
                | Self::Malformed { .. }
                | Self::NotAShard { .. }
                | Self::Digest { .. }
                | Self::Shrunk { .. }
        )
    }
}

/// Makes a [`ShardError::Io`] of an I/O error, for `map_err`.
pub(crate) fn io_at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShardError {
    move |cause| ShardError::Io { verb, path: path.to_owned(), cause }
}

/// Makes a [`ShardError::Write`] of an I/O error, for `map_err`.
pub(crate) fn write_at(path: &Path) -> impl FnOnce(io::Error) -> ShardError {
    move |cause| ShardError::Write { path: path.to_owned(), cause }
}

/// What mends a damaged shard.
fn repair(path: &Path) -> String {
    let set = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("`beit-shard repair SRC --shards {}` makes it again from its source", set.display())
}

fn write_advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => "free some space on that disk or choose another output directory",
        io::ErrorKind::QuotaExceeded => "raise the disk quota or choose another output directory",
        io::ErrorKind::FileTooLarge => "raise the file size limit (ulimit -f) or choose a smaller shard size",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make that directory writable or choose another output directory"
        }
        io::ErrorKind::NotFound => "create the output directory",
        _ => "check that disk (dmesg names failing ones) or choose another output directory",
    }
}
