//! Tars: their members, and per-class tars. Bytes lie: sizes are held against the file before anything is believed.

use super::{Listed, Place, Sink, is_image};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the names of one member (GNU long names, PAX headers) may have in bytes.
const MOST_NAME_BYTES: u64 = 1 << 20;

/// A stretch of a file, readable from any number of threads.
#[derive(Clone, Debug)]
pub struct Stretch {
    file: Arc<File>,
    pub offset: u64,
    pub bytes: u64,
}

impl Stretch {
    /// Facts about the tar.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    /// All of it; the caller has looked at how much that is.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }
}

/// A tar file, or a tar inside one.
#[derive(Clone, Debug)]
pub struct Archive {
    path: PathBuf,
    start: u64,
    bytes: u64,
}

/// A regular file of a tar.
#[derive(Debug)]
pub struct Member {
    /// `/`-separated, without `.` and leading `/`.
    pub path: String,
    pub stretch: Stretch,
}

impl Archive {
    pub fn file(path: &Path) -> Result<Self> {
        let bytes = std::fs::metadata(path).with_context(|| format!("opening {}", path.display()))?.len();
        Ok(Self { path: path.to_owned(), start: 0, bytes })
    }

    /// The tar that a member of this one is.
    pub fn nested(&self, member: &Member) -> Self {
        Self { path: self.path.clone(), start: member.stretch.offset, bytes: member.stretch.bytes }
    }

    /// Hands on every regular file, in the tar's order; what lies between the headers is skipped, not read.
    ///
    /// # Errors
    /// a damaged header, a member that reaches beyond the file, a sparse file, a name that is not UTF-8
    pub fn members(
        &self,
        each: &mut dyn FnMut(Member) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let opening = || format!("opening {}", self.path.display());
        let file = Arc::new(File::open(&self.path).with_context(opening)?);
        self.check_magic(&file)?;
        let budget = std::cell::Cell::new(0);
        let window = Window { file: &file, start: self.start, bytes: self.bytes, at: 0, budget: &budget };
        let mut archive = tar::Archive::new(window);
        let mut entries = archive.entries_with_seek().with_context(opening)?;
        let mut seen = 0;
        let mut links = 0_u64;
        loop {
            budget.set(MOST_NAME_BYTES);
            let Some(entry) = entries.next() else { break };
            let damaged = || {
                format!(
                    "{} is damaged behind byte {}, after {seen} members; copy it again, or take it out of the source",
                    self.path.display(),
                    self.start
                )
            };
            let entry = entry.with_context(damaged)?;
            seen += 1;
            let (offset, bytes) = (entry.raw_file_position(), entry.size());
            let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
            ensure!(
                inside,
                "{} is cut off or damaged: its member {} claims {bytes} bytes at byte {}, the tar ends at byte {}; copy it \
                 again, or take it out of the source",
                self.path.display(),
                String::from_utf8_lossy(&entry.path_bytes()),
                self.start.saturating_add(offset),
                self.start + self.bytes
            );
            let kind = entry.header().entry_type();
            let name = entry.path_bytes();
            let Ok(name) = std::str::from_utf8(&name) else {
                bail!(
                    "{}: the member {} has no UTF-8 name; rename it",
                    self.path.display(),
                    String::from_utf8_lossy(&name)
                );
            };
            if kind.is_gnu_sparse() {
                bail!("{}: the member {name} is sparse; write the tar without --sparse", self.path.display());
            }
            links += u64::from((kind.is_symlink() || kind.is_hard_link()) && is_image(Path::new(name)));
            if !(kind.is_file() || kind.is_contiguous()) {
                continue;
            }
            let path = plain(name);
            let stretch = Stretch { file: Arc::clone(&file), offset: self.start + offset, bytes };
            if each(Member { path, stretch })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if links > 0 {
            tracing::warn!(tar = %self.path.display(), links, "Images that are links within a tar are left out.");
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check_magic(&self, file: &File) -> Result<()> {
        let mut head = [0; 512];
        let read = file.read_at(&mut head[..self.bytes.min(512) as usize], self.start);
        let read = read.with_context(|| format!("reading {}", self.path.display()))?;
        if head.starts_with(&[0x1f, 0x8b]) {
            bail!(
                "{} is gzip-compressed, and a compressed tar cannot be read from the middle; unpack it with gunzip (the images \
                 in it are compressed already)",
                self.path.display()
            );
        }
        ensure!(
            read == 512,
            "{} is no tar: it has {} bytes; copy it again, or take it out of the source",
            self.path.display(),
            self.bytes
        );
        Ok(())
    }

    /// For messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Without `.`, `..` and doubled or leading slashes.
fn plain(name: &str) -> String {
    let parts = name.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
    parts.collect::<Vec<_>>().join("/")
}

/// A tar whose images are all of one class, and what their paths start with.
#[derive(Debug)]
pub struct ClassTar {
    pub label: u32,
    pub archive: Archive,
    pub class: String,
    pub prefix: String,
}

impl ClassTar {
    /// Hands on every image in the order that the unpacked folder would have, so that both give the same shards.
    ///
    /// Holds the names of this one tar in memory.
    pub fn walk(&self, sink: &mut Sink<'_>) -> Result<ControlFlow<()>> {
        let mut members = Vec::new();
        let _ = self.archive.members(&mut |mut member| {
            if is_image(Path::new(&member.path)) {
                // A tar made of the class folder itself names it once more.
                if let Some(inside) =
                    member.path.strip_prefix(&self.class).and_then(|rest| rest.strip_prefix('/'))
                {
                    member.path = inside.to_owned();
                }
                members.push(member);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let key = |member: &Member| {
            let (folder, name) = member.path.rsplit_once('/').unwrap_or(("", &member.path));
            (folder.to_owned(), name.to_owned())
        };
        members.sort_by_cached_key(key); // stable: of two with one name the later stays the later
        let mut members = members.into_iter().peekable();
        while let Some(member) = members.next() {
            if members.peek().is_some_and(|next| next.path == member.path) {
                tracing::warn!(tar = %self.archive.path.display(), member = member.path, "A later member replaces this one.");
                continue; // as unpacking would have it
            }
            let path = format!("{}{}", self.prefix, member.path);
            let listed = Listed { place: Place::Stretch(member.stretch), path, label: self.label };
            if sink(listed)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A part of a file as the tar reader sees it; reads for one member's names are bounded by the budget.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: u64,
    at: u64,
    budget: &'a std::cell::Cell<u64>,
}

impl Read for Window<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let most = left.min(into.len() as u64);
        if most > 0 && self.budget.get() == 0 {
            return Err(io::Error::other(format!("a member's name has more than {MOST_NAME_BYTES} bytes")));
        }
        let most = most.min(self.budget.get()) as usize;
        let count = self.file.read_at(&mut into[..most], self.start + self.at)?;
        self.budget.set(self.budget.get() - count as u64);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::other("a member reaches beyond the end of all files"))?;
        Ok(self.at)
    }
}
