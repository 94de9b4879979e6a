//! Source: the bytes of a published file, mapped or read at offsets.
#![expect(
    unsafe_code,
    reason = "memory maps; with sigbus.rs the unsafe modules of this room, LMDB's open aside"
)]

use crate::error::{ShardError, io_at};
use crate::sigbus::Watch;
use memmap2::{Advice, Mmap};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// How shards are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Io {
    /// Mapped on local file systems, read at offsets on network ones.
    #[default]
    Auto,
    /// Mapped: the fastest. A file that someone truncates while it is mapped is an error of the reads that miss its bytes.
    Mmap,
    /// Read at offsets into the caller's buffer: a truncated file is an error like any other.
    Pread,
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Mmap => "mmap",
            Self::Pread => "pread",
        })
    }
}

impl FromStr for Io {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Mmap, Self::Pread]
            .into_iter()
            .find(|io| io.to_string() == text)
            .ok_or_else(|| format!("{text} is none of auto, mmap, pread"))
    }
}

/// File systems whose files live on another machine, by the magic number `statfs` reports (Linux `magic.h` and theirs).
const REMOTE: [(u32, &str); 14] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0bd0_0bd0, "lustre"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "kafs"),
    (0x4750_4653, "gpfs"),
    (0x0102_1997, "9p"),
    (0x1983_0326, "beegfs"),
    (0x7461_636f, "ocfs2"),
    (0x0116_1970, "gfs2"),
];

/// The name of the network file system that `magic` stands for.
fn remote(magic: u32) -> Option<&'static str> {
    REMOTE.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

/// A look at the faults of a map; all looks are equal to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults<'a>(Option<(&'a AtomicU64, u64)>);

impl Faults<'_> {
    /// Whether no page was missed since this look.
    pub fn none_since(self) -> bool {
        self.0.is_none_or(|(faults, before)| faults.load(Ordering::SeqCst) == before)
    }
}

impl PartialEq for Faults<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Faults<'_> {}

enum Kind {
    /// The watch goes before the map it is over.
    Map(Watch, Mmap),
    File(File),
}

/// The bytes of one published file; its length is that at the time of opening.
pub(crate) struct Source {
    path: PathBuf,
    len: u64,
    /// Device and inode: tells the opened file from one that has taken its name.
    identity: (u64, u64),
    kind: Kind,
}

impl Source {
    /// Opens a file, to be read at offsets until it is [settled](Self::settle).
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        let file = open_file(path).map_err(io_at("opening", path))?;
        let metadata = file.metadata().map_err(io_at("looking at", path))?;
        if !metadata.is_file() {
            return Err(ShardError::NotAShard {
                path: path.to_owned(),
                why: "it is not a regular file".into(),
            });
        }
        let len = metadata.len();
        Ok(Self { path: path.to_owned(), len, identity: identity(&metadata), kind: Kind::File(file) })
    }

    /// Maps the file, if that is how it is to be read. What an opening looks at is read before: a page touched in a map may
    /// bring its neighbours into the process, a megabyte for each of a thousand shards.
    pub fn settle(self, io: Io) -> Result<Self, ShardError> {
        let Self { path, len, identity, kind } = self;
        let kind = match kind {
            Kind::File(file) if len > 0 && wants_map(&file, &path, io)? => map(&file, &path, len)?,
            kind => kind,
        };
        Ok(Self { path, len, identity, kind })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// How it is read: never [`Io::Auto`].
    pub fn io(&self) -> Io {
        match self.kind {
            Kind::Map(..) => Io::Mmap,
            Kind::File(_) => Io::Pread,
        }
    }

    /// Bytes `offset..offset + len`: from the map, or read into `buf`, which only ever grows.
    ///
    /// A stretch outside the file is refused, whatever the numbers are.
    pub fn bytes<'a>(&'a self, offset: u64, len: u64, buf: &'a mut Vec<u8>) -> Result<&'a [u8], ShardError> {
        let outside = || ShardError::Malformed {
            path: self.path.clone(),
            part: format!("bytes from {offset}"),
            why: "they lie outside the file",
        };
        let end = offset.checked_add(len).filter(|&end| end <= self.len).ok_or_else(outside)?;
        let len = usize::try_from(len).map_err(|_| outside())?;
        match &self.kind {
            Kind::Map(_, map) => map.get(offset as usize..end as usize).ok_or_else(outside),
            Kind::File(file) => {
                if buf.len() < len {
                    buf.resize(len, 0);
                }
                self.read_at(file, &mut buf[..len], offset)?;
                Ok(&buf[..len])
            }
        }
    }

    /// Bytes `offset..offset + len` of a mapped file; an error for one that is not mapped.
    pub fn mapped(&self, offset: u64, len: u64) -> Result<&[u8], ShardError> {
        let outside = || ShardError::Malformed {
            path: self.path.clone(),
            part: format!("bytes from {offset}"),
            why: "they lie outside the map",
        };
        match &self.kind {
            Kind::Map(_, map) => {
                let end = offset.checked_add(len).filter(|&end| end <= self.len).ok_or_else(outside)?;
                map.get(offset as usize..end as usize).ok_or_else(outside)
            }
            Kind::File(_) => Err(outside()),
        }
    }

    /// `N` bytes from `offset`, copied.
    pub fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], ShardError> {
        let mut array = [0; N];
        match &self.kind {
            Kind::Map(..) => array.copy_from_slice(self.bytes(offset, N as u64, &mut Vec::new())?),
            Kind::File(file) => self.read_at(file, &mut array, offset)?,
        }
        Ok(array)
    }

    fn read_at(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<(), ShardError> {
        file.read_exact_at(buf, offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.shrunk().unwrap_or_else(|| io_at("reading", &self.path)(error)),
            _ => io_at("reading", &self.path)(error),
        })
    }

    /// How often a mapped page could not be had, so far.
    pub fn faults(&self) -> Faults<'_> {
        match &self.kind {
            Kind::Map(watch, _) => Faults(Some((watch.faults(), watch.faults().load(Ordering::SeqCst)))),
            Kind::File(_) => Faults(None),
        }
    }

    /// What `error` really is, if bytes have vanished from under the map; `before` is a look from before the read.
    pub fn blame(&self, error: ShardError, before: Faults<'_>) -> ShardError {
        match self.kind {
            Kind::Map(..) if error.is_damage() => match self.shrunk() {
                Some(shrunk) => shrunk,
                // All there, but the disk did not deliver it.
                None if !before.none_since() => io_at("reading", &self.path)(rustix::io::Errno::IO.into()),
                None => error,
            },
            _ => error,
        }
    }

    /// The error that says so, if the opened file is shorter now.
    fn shrunk(&self) -> Option<ShardError> {
        let now = std::fs::metadata(&self.path).ok()?;
        let shrunk = identity(&now) == self.identity && now.len() < self.len;
        shrunk.then(|| ShardError::Shrunk { path: self.path.clone(), expected: self.len, found: now.len() })
    }

    /// Asks the kernel to fetch a stretch soon; a hint, so nothing is reported.
    pub fn will_need(&self, offset: u64, len: u64) {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return;
        }
        match &self.kind {
            Kind::Map(_, map) => {
                let _ = map.advise_range(Advice::WillNeed, offset as usize, len as usize);
            }
            Kind::File(file) => {
                let len = std::num::NonZeroU64::new(len);
                let _ = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::WillNeed);
            }
        }
    }
}

fn wants_map(file: &File, path: &Path, io: Io) -> Result<bool, ShardError> {
    match io {
        Io::Mmap => Ok(true),
        Io::Pread => Ok(false),
        Io::Auto => {
            let stat = rustix::fs::fstatfs(file)
                .map_err(|errno| io_at("asking for the file system of", path)(errno.into()))?;
            Ok(remote(stat.f_type as u32).is_none())
        }
    }
}

fn map(file: &File, path: &Path, len: u64) -> Result<Kind, ShardError> {
    // SAFETY: a published shard is never written again: `publish::Staged` fills and syncs a private temporary,
    // then renames it; replacing or retiring a shard renames over it or unlinks it, never truncates it. Whoever
    // breaks that from outside gets zeros on truncation (`sigbus`) and so a checksum error, as on other changes;
    // nothing here relies on the bytes staying the same for its own safety.
    let map = unsafe { Mmap::map(file) }.map_err(io_at("mapping", path))?;
    if map.len() as u64 != len {
        let why = "its length changed while it was opened".into();
        return Err(ShardError::NotAShard { path: path.to_owned(), why });
    }
    Ok(Kind::Map(Watch::over(path, map.as_ptr(), map.len()), map))
}

/// Opens a file; at the limit of open files, after raising that as far as this process may: a large set read at offsets has
/// more shards than the usual 1024, and what would be hurt by more (`select`) is not used here.
fn open_file(path: &Path) -> std::io::Result<File> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    match File::open(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            let now = getrlimit(Resource::Nofile);
            if now.current == now.maximum
                || setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }).is_err()
            {
                return Err(error);
            }
            File::open(path)
        }
        opened => opened,
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_read_and_not_mapped() {
        assert_eq!(remote(0x6969), Some("nfs"));
        assert_eq!(remote(0xff53_4d42), Some("cifs"));
        assert_eq!(remote(0xef53), None, "ext4 is local");
        assert_eq!(remote(0x5846_5342), None, "xfs is local");
    }

    #[test]
    fn the_words_for_io_are_read_back() {
        for io in [Io::Auto, Io::Mmap, Io::Pread] {
            assert_eq!(io.to_string().parse(), Ok(io));
        }
        assert_eq!("nmap".parse::<Io>(), Err("nmap is none of auto, mmap, pread".to_owned()));
    }

    #[test]
    fn no_stretch_outside_the_file_is_ever_handed_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 100]).unwrap();
        for io in [Io::Mmap, Io::Pread] {
            let source = Source::open(file.path()).unwrap().settle(io).unwrap();
            assert_eq!(source.io(), io);
            let mut buf = Vec::new();
            assert_eq!(source.bytes(90, 10, &mut buf).unwrap(), [7; 10]);
            for (offset, len) in [(90, 11), (101, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
                let error = source.bytes(offset, len, &mut buf).unwrap_err();
                assert!(error.to_string().contains("outside the file"), "{error}");
                source.will_need(offset, len);
            }
        }
    }
}
