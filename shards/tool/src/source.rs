//! Where images come from, recognised by looking: class folders, flat folders, per-class tars (also inside a big tar), tars
//! of class folders, WebDataset tars and Hugging Face Parquet, listed in one fixed order.
//!
//! Folders are listed as torchvision's `ImageFolder` does (spec 2.1): classes are the immediate sub-directories sorted by
//! code point, inside a class every directory (symlinks followed) sorted by path, inside a directory files sorted by name.
//! A per-class tar `n01440764.tar` lists as the folder `n01440764/` would, so both give the same samples, ids and bytes.
//! Tars of many classes and Parquet files keep their own order, behind the class folders and class tars.
//!
//! Nothing here grows with the data set: at most one directory's, or one class tar's, names are in memory.

mod classes;
mod folder;
mod look;
mod parquet;
mod stream;
mod tar;

use anyhow::{Context, Result};
use classes::Classes;
use folder::ClassFolder;
use parquet::ParquetFile;
use std::ffi::OsStr;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use stream::StreamTar;
use tar::{ClassTar, Stretch};

/// File endings that are images, as torchvision knows them.
const IMAGE_ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// One image of a source, in listing order.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Position in the whole listing, from 0.
    pub index: u64,
    /// Where its bytes are now.
    pub place: Place,
    /// `/`-separated path within the source: what the sample's id is made of.
    pub path: String,
    /// Index into [`Source::classes`].
    pub label: u32,
}

/// Where an image's bytes are.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file of its own.
    File(PathBuf),
    /// A stretch of a tar.
    Stretch(Stretch),
    /// In the listing's hands: a row of a Parquet file.
    Bytes(Vec<u8>),
    /// Not read, because nobody wants this entry.
    Skipped,
}

/// An entry that does not know its position yet.
struct Listed {
    place: Place,
    path: String,
    label: u32,
}

/// Takes entries until it breaks.
type Sink<'a> = dyn FnMut(Listed) -> Result<ControlFlow<()>> + 'a;

/// One stretch of the listing.
#[derive(Debug)]
enum Piece {
    Folder(ClassFolder),
    ClassTar(ClassTar),
    Stream(StreamTar),
    Parquet(ParquetFile),
}

impl Piece {
    /// What its samples' paths start with; two pieces of one prefix would give two samples of one path.
    fn prefix(&self) -> &str {
        match self {
            Self::Folder(folder) => &folder.prefix,
            Self::ClassTar(tar) => &tar.prefix,
            Self::Stream(tar) => &tar.prefix,
            Self::Parquet(file) => file.prefix(),
        }
    }

    /// Its number of entries, where looking at it told.
    fn known(&self) -> Option<u64> {
        match self {
            Self::Folder(_) | Self::ClassTar(_) => None,
            Self::Stream(tar) => Some(tar.images),
            Self::Parquet(file) => Some(file.rows),
        }
    }
}

/// What `SRC…` on the command line turned out to be.
#[derive(Debug)]
pub struct Source {
    classes: Classes,
    pieces: Vec<Piece>,
}

/// Says whether an entry belongs to the listing, from its path and where its bytes are.
pub type Filter<'a> = dyn Fn(&str, &Place) -> Result<bool> + Sync + 'a;

/// A listing: a source's entries in their order, or those that a set does not have yet.
pub struct Listing<'a> {
    source: &'a Source,
    growth: Option<Growth<'a>>,
}

struct Growth<'a> {
    filter: &'a Filter<'a>,
    /// Position of the first entry.
    start: u64,
    /// The set's label for each of the source's.
    labels: Vec<u32>,
}

impl Source {
    /// Class names; a label is a position in this list.
    pub fn classes(&self) -> &[String] {
        &self.classes.names
    }

    /// All of it.
    pub fn listing(&self) -> Listing<'_> {
        Listing { source: self, growth: None }
    }

    /// What `filter` lets through, numbered from `start`, with labels of another list of classes.
    pub fn growing<'a>(&'a self, filter: &'a Filter<'a>, start: u64, labels: Vec<u32>) -> Listing<'a> {
        Listing { source: self, growth: Some(Growth { filter, start, labels }) }
    }

    /// Hands on every image in listing order. Bytes of Parquet rows are read only for entries in `wanted`.
    ///
    /// # Errors
    /// a folder that cannot be read, or a damaged tar or Parquet file, is an error, not a gap; and what the sink says
    pub fn walk(
        &self,
        wanted: &Range<u64>,
        sink: &mut dyn FnMut(Entry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut index = 0;
        for piece in &self.pieces {
            let start = index;
            let here = wanted.start.saturating_sub(start)..wanted.end.saturating_sub(start);
            let mut number = |Listed { place, path, label }: Listed| {
                index += 1;
                sink(Entry { index: index - 1, place, path, label })
            };
            let flow = match piece {
                Piece::Folder(folder) => folder.walk(&mut number)?,
                Piece::ClassTar(tar) => tar.walk(&mut number)?,
                Piece::Stream(tar) => tar.walk(&self.classes, &mut number)?,
                Piece::Parquet(file) => file.walk(&here, &self.classes, &mut number)?,
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Counts the entries; `tick` hears of each stretch of them and may end the count.
    pub fn count(&self, tick: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        for piece in &self.pieces {
            let mut one = |_: Listed| Ok(tick(1));
            let flow = match piece {
                Piece::Folder(folder) => folder.walk(&mut one)?,
                Piece::ClassTar(tar) => tar.walk(&mut one)?,
                Piece::Stream(_) | Piece::Parquet(_) => tick(piece.known().unwrap_or_default()),
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Listing<'_> {
    /// See [`Source::walk`]; of a growing set, the bytes of all Parquet rows are read.
    pub fn walk(
        &self,
        wanted: &Range<u64>,
        sink: &mut dyn FnMut(Entry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Some(Growth { filter, start, labels }) = &self.growth else {
            return self.source.walk(wanted, sink);
        };
        let mut index = *start;
        self.source.walk(&(0..u64::MAX), &mut |entry| {
            if !filter(&entry.path, &entry.place)? {
                return Ok(ControlFlow::Continue(()));
            }
            let label = labels
                .get(entry.label as usize)
                .copied()
                .context("a class without a label; this is a bug")?;
            index += 1;
            sink(Entry { index: index - 1, label, ..entry })
        })
    }

    /// See [`Source::count`]; what a growing set lacks is known only when it is listed.
    pub fn count(&self, tick: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        match self.growth {
            None => self.source.count(tick),
            Some(_) => Ok(()),
        }
    }
}

impl Place {
    /// Bytes, and when they last changed, of a file of its own or of the tar that holds it; `None` where nobody knows.
    pub fn facts(&self) -> Option<(u64, SystemTime)> {
        let metadata = match self {
            Self::File(path) => std::fs::metadata(path).ok()?,
            Self::Stretch(stretch) => stretch.metadata().ok()?,
            Self::Bytes(_) | Self::Skipped => return None,
        };
        let bytes = if let Self::Stretch(stretch) = self { stretch.bytes } else { metadata.len() };
        Some((bytes, metadata.modified().ok()?))
    }
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    IMAGE_ENDINGS.contains(&ending.as_str())
}

#[cfg(test)]
mod tests;
