//! Shard: one published file, opened; every read is verified.

use crate::FORMAT_VERSION;
use crate::digest::Digest;
use crate::error::ShardError;
use crate::footer::{Footer, HEAD_LEN, TRAILER_LEN, Trailer, encode_head};
use crate::index::{ENTRY_LEN, IndexEntry, Name};
use crate::manifest::ShardInfo;
use crate::record::{CODEC_ZSTD, Flaw, Header, MIN_HEADER, RECORD_ALIGN, frame_len, frames_len, take_frame};
use crate::sample::{ReadBuf, SampleRef};
use crate::source::{Faults, Io, Source};
use crate::spec::SetSpec;
use crate::wire::Take;
use std::fmt;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that are fetched though nobody needs them, rather than asking twice.
const SHORT: u64 = 16 << 10;

/// One published shard, open for reading from any number of threads.
pub struct Shard {
    pub(crate) source: Source,
    footer: Footer,
    footer_offset: u64,
    digest: Digest,
    frame_len: usize,
    frames_len: u64,
}

impl Shard {
    /// Opens a shard: checks its first and last bytes, its version and its footer; records are checked as they are read.
    ///
    /// # Errors
    /// [`ShardError::NotAShard`], [`ShardError::ForeignVersion`], or damage to what was read
    pub fn open(path: &Path, io: Io) -> Result<Self, ShardError> {
        let source = Source::open(path)?;
        let not_whole = |why: String| ShardError::NotAShard { path: path.to_owned(), why };
        let smallest = (HEAD_LEN + TRAILER_LEN) as u64;
        let Some(trailer_offset) =
            source.len().checked_sub(TRAILER_LEN as u64).filter(|_| source.len() >= smallest)
        else {
            return Err(not_whole(format!("it has {} bytes, the smallest has {smallest}", source.len())));
        };
        let mut buf = Vec::new();
        let trailer = match Trailer::decode(source.bytes(trailer_offset, TRAILER_LEN as u64, &mut buf)?) {
            Ok(trailer) => trailer,
            Err(Flaw::Malformed(why)) => return Err(not_whole(format!("{why} ({} bytes)", source.len()))),
            Err(flaw) => return Err(flaw.at(path, || "trailer".to_owned())),
        };
        if trailer.version != FORMAT_VERSION {
            let (found, known) = (trailer.version, FORMAT_VERSION);
            return Err(ShardError::ForeignVersion { path: path.to_owned(), found, known });
        }
        let in_footer = |why| Flaw::Malformed(why).at(path, || "footer".to_owned());
        if trailer.footer_offset.checked_add(trailer.footer_len) != Some(trailer_offset) {
            return Err(in_footer("it does not end where the trailer starts"));
        }
        let tail_len = source.len() - trailer.footer_offset;
        let tail = source.bytes(trailer.footer_offset, tail_len, &mut buf)?;
        let bytes = &tail[..tail.len() - TRAILER_LEN];
        let found = xxh3_64(bytes);
        if found != trailer.footer_check {
            return Err(
                Flaw::Checksum { expected: trailer.footer_check, found }.at(path, || "footer".to_owned())
            );
        }
        let footer = Footer::decode(bytes, trailer.footer_offset).map_err(in_footer)?;
        let digest = Digest::of(tail);
        if source.bytes(0, HEAD_LEN as u64, &mut buf)? != encode_head(footer.number) {
            return Err(Flaw::Malformed("it is not that of this shard").at(path, || "file header".to_owned()));
        }
        let (frame_len, frames_len) = (frame_len(&footer.spec), frames_len(&footer.spec));
        let source = source.settle(io)?;
        Ok(Self { source, footer_offset: trailer.footer_offset, footer, digest, frame_len, frames_len })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// How it is read: never [`Io::Auto`].
    #[must_use]
    pub fn io(&self) -> Io {
        self.source.io()
    }

    /// Records in this shard.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.footer.samples
    }

    /// Whether it has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.footer.samples == 0
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.source.len()
    }

    /// What the shard says about itself: spec, coverage, quarantine, counts.
    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// What all samples of the set have in common.
    #[must_use]
    pub fn spec(&self) -> &SetSpec {
        &self.footer.spec
    }

    /// BLAKE3 of footer and trailer; as the footer holds the body's digest, it stands for the whole file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The shard's line of a manifest.
    #[must_use]
    pub fn info(&self) -> ShardInfo {
        let file = self.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        ShardInfo { file, samples: self.len(), bytes: self.bytes(), digest: self.digest }
    }

    /// Byte at which the footer starts.
    pub(crate) fn body_len(&self) -> u64 {
        self.footer_offset
    }

    /// Where record `index` lies; verified.
    ///
    /// # Errors
    /// [`ShardError::OutOfRange`], or damage to the entry
    pub fn entry(&self, index: u64) -> Result<IndexEntry, ShardError> {
        self.in_range("records", index, self.footer.samples)?;
        let part = || format!("index entry {index}");
        // Cannot overflow: the whole index lies before the footer.
        let bytes: [u8; ENTRY_LEN] =
            self.source.array(self.footer.index_offset + index * ENTRY_LEN as u64)?;
        let entry = IndexEntry::take(&bytes, index).map_err(|flaw| flaw.at(self.path(), part))?;
        let possible = entry.offset >= HEAD_LEN as u64
            && entry.offset.is_multiple_of(RECORD_ALIGN)
            && entry.length >= MIN_HEADER as u64 + self.frames_len
            && entry.offset.checked_add(entry.length).is_some_and(|end| end <= self.footer.index_offset);
        if possible {
            Ok(entry)
        } else {
            Err(Flaw::Malformed("it points where no record can lie").at(self.path(), part))
        }
    }

    fn in_range(&self, what: &'static str, asked: u64, count: u64) -> Result<(), ShardError> {
        if asked < count {
            return Ok(());
        }
        Err(ShardError::OutOfRange { path: self.path().to_owned(), what, asked, count })
    }

    /// Reads record `index` with its view `view`, touching header, payload and that one frame, and verifying all three.
    ///
    /// Everything that [`SampleRef`] shows was checked by this very call. With grown buffers nothing is allocated;
    /// from a map, uncompressed payloads are not even copied.
    ///
    /// # Errors
    /// [`ShardError::OutOfRange`], I/O errors, or damage, naming record and part
    pub fn read<'a>(
        &'a self,
        index: u64,
        view: u32,
        buf: &'a mut ReadBuf,
    ) -> Result<SampleRef<'a>, ShardError> {
        let faults = self.source.faults();
        self.read_checked(index, view, buf, faults).map_err(|error| self.source.blame(error, faults))
    }

    fn read_checked<'a>(
        &'a self,
        index: u64,
        view: u32,
        buf: &'a mut ReadBuf,
        faults: Faults<'a>,
    ) -> Result<SampleRef<'a>, ShardError> {
        self.in_range("views", u64::from(view), u64::from(self.footer.spec.views))?;
        let ReadBuf { head, frame, plain, tokens, unpacker } = buf;
        let entry = self.entry(index)?;
        let head = self.source.bytes(entry.offset, entry.length - self.frames_len, head)?;
        let (header, stored) = self.check_head(head, index, &entry)?;

        let payload = if header.codec == CODEC_ZSTD {
            unpacker
                .unpack(stored, header.plain_len, plain)
                .map_err(|why| Flaw::Malformed(why).at(self.path(), || part(index, "payload")))?
        } else {
            stored
        };
        let offset = entry.offset + entry.length - self.frames_len + u64::from(view) * self.frame_len as u64;
        let frame = self.source.bytes(offset, self.frame_len as u64, frame)?;
        tokens.resize(self.footer.spec.tokens(), 0);
        let grey = self.check_frame(frame, index, view, &header, tokens)?;
        Ok(SampleRef {
            id: header.id,
            label: header.label,
            path: header.path,
            width: header.width,
            height: header.height,
            payload_kind: header.payload_kind,
            payload,
            grey,
            tokens,
            faults,
        })
    }

    /// Verifies header and payload of a record, given all its bytes up to its frames.
    pub(crate) fn check_head<'h>(
        &self,
        head: &'h [u8],
        index: u64,
        entry: &IndexEntry,
    ) -> Result<(Header<'h>, &'h [u8]), ShardError> {
        let in_header = |flaw: Flaw| flaw.at(self.path(), || part(index, "header"));
        let (header, header_len) = Header::take(head).map_err(in_header)?;
        let stored = &head[header_len..];
        if header.number != index || header.id != entry.id {
            return Err(in_header(Flaw::Malformed("another record lies here")));
        }
        if header.stored_len != stored.len() as u64 {
            return Err(in_header(Flaw::Malformed("header and index disagree about the payload's length")));
        }
        if header.label >= self.footer.classes {
            return Err(in_header(Flaw::Malformed("the label is outside the classes")));
        }
        let found = xxh3_64(stored);
        if found != header.payload_check {
            let flaw = Flaw::Checksum { expected: header.payload_check, found };
            return Err(flaw.at(self.path(), || part(index, "payload")));
        }
        Ok((header, stored))
    }

    /// Verifies one frame and unpacks it.
    pub(crate) fn check_frame(
        &self,
        frame: &[u8],
        index: u64,
        view: u32,
        header: &Header<'_>,
        tokens: &mut [u16],
    ) -> Result<u8, ShardError> {
        take_frame(frame, &self.footer.spec, header.id, view, tokens)
            .map_err(|flaw| flaw.at(self.path(), || part(index, &format!("view {view}"))))
    }

    pub(crate) fn index_offset(&self) -> u64 {
        self.footer.index_offset
    }

    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len
    }

    pub(crate) fn frames_len(&self) -> u64 {
        self.frames_len
    }

    /// Asks the kernel to fetch record `index` with its view `view` soon; a hint that never fails.
    pub fn will_need(&self, index: u64, view: u32) {
        if let Ok(entry) = self.entry(index) {
            self.stretches(&entry, view).for_each(|(offset, len)| self.source.will_need(offset, len));
        }
    }

    /// Where header, payload and one frame of a record lie: in two stretches if its other frames are long.
    fn stretches(&self, entry: &IndexEntry, view: u32) -> impl Iterator<Item = (u64, u64)> + use<> {
        let head = entry.length - self.frames_len;
        let before = u64::from(view).saturating_mul(self.frame_len as u64);
        let (first, second) = match before + self.frame_len as u64 <= SHORT {
            true => (head + before + self.frame_len as u64, None),
            false => (head, Some((entry.offset + head + before, self.frame_len as u64))),
        };
        [Some((entry.offset, first)), second].into_iter().flatten()
    }

    /// Hands index entry, label and path of every record to `each`, in order, without touching the records.
    ///
    /// # Errors
    /// damage to index or names, or whatever `each` returns
    pub fn for_each_name(
        &self,
        mut each: impl FnMut(u64, IndexEntry, u32, &str) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let mut buf = Vec::new();
        let names = self.names(&mut buf)?;
        self.for_each_name_in(names, |index, entry, _, name| each(index, entry, name.label, name.path))
    }

    /// The names section, its checksum verified.
    pub(crate) fn names<'a>(&'a self, buf: &'a mut Vec<u8>) -> Result<&'a [u8], ShardError> {
        let faults = self.source.faults();
        let names = self.source.bytes(self.footer.names_offset, self.footer.names_len, buf)?;
        let (expected, found) = (self.footer.names_check, xxh3_64(names));
        if expected == found {
            Ok(names)
        } else {
            let error = Flaw::Checksum { expected, found }.at(self.path(), || "names".to_owned());
            Err(self.source.blame(error, faults))
        }
    }

    /// Hands index entry and name of every record to `each`, and where in `names` the name starts.
    pub(crate) fn for_each_name_in<'n>(
        &self,
        names: &'n [u8],
        mut each: impl FnMut(u64, IndexEntry, u64, Name<'n>) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let malformed = |why| Flaw::Malformed(why).at(self.path(), || "names".to_owned());
        let mut take = Take(names);
        for index in 0..self.footer.samples {
            let at = (names.len() - take.0.len()) as u64;
            let name = Name::take(&mut take).map_err(malformed)?;
            each(index, self.entry(index)?, at, name)?;
        }
        take.end().map_err(malformed)
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("path", &self.path())
            .field("samples", &self.len())
            .finish_non_exhaustive()
    }
}

fn part(index: u64, what: &str) -> String {
    format!("record {index}, {what}")
}

impl Flaw {
    /// The error this flaw is, once it is known where it lies.
    pub(crate) fn at(self, path: &Path, part: impl FnOnce() -> String) -> ShardError {
        let path = path.to_owned();
        match self {
            Self::Checksum { expected, found } => {
                ShardError::Checksum { path, part: part(), expected, found }
            }
            Self::Malformed(why) => ShardError::Malformed { path, part: part(), why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shard of one record; its `views` frames have 196 tokens each.
    fn shard(dir: &Path, views: u32) -> Shard {
        let spec = SetSpec {
            seed: 1,
            views,
            view_spec: "any".to_owned(),
            tokenizer: crate::TokenizerRef { digest: [1; 32], name: "any".to_owned(), vocab: 8192 },
            grid: (14, 14),
            payload: "original".to_owned(),
        };
        let tokens = [5; 196];
        let views: Vec<_> = (0..views).map(|_| crate::ViewTokens { grey: 0, tokens: &tokens }).collect();
        let mut writer = crate::ShardWriter::create(dir, 0, &spec, &["a".to_owned()]).unwrap();
        let record = crate::Record {
            id: crate::SampleId(7),
            label: 0,
            path: "a/b.jpg",
            width: 8,
            height: 8,
            payload_kind: crate::PAYLOAD_JPEG,
            payload: &[9; 1000],
            views: &views,
        };
        writer.push(&record).unwrap();
        writer.finish().unwrap();
        Shard::open(&dir.join(crate::shard_file_name(0)), Io::Pread).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "zstd is foreign code")]
    fn only_the_frame_that_is_shown_is_asked_for_when_there_are_many() {
        let dir = tempfile::tempdir().unwrap();
        let shard = shard(dir.path(), 150);
        let entry = shard.entry(0).unwrap();
        let head = entry.length - shard.frames_len;
        let frame = shard.frame_len as u64;
        let asked = |view| shard.stretches(&entry, view).collect::<Vec<_>>();
        assert_eq!(asked(3), [(entry.offset, head + 4 * frame)], "near enough for one request");
        assert_eq!(asked(149), [(entry.offset, head), (entry.offset + entry.length - frame, frame)]);
        shard.will_need(0, u32::MAX); // no such view: nothing outside the file is asked for
    }
}
