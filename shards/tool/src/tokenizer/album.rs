//! The images that a tokenizer is trained on or looked at with: listed, and kept decoded when they are small.

use crate::fetch::fetch;
use crate::source::Place;
use anyhow::{Context, Result, anyhow, ensure};
use beit_views::{Limits, RgbImage};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// File endings that are images, as torchvision knows them.
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// Images by number; decoding an image twice gives the same pixels, so keeping them changes nothing but speed.
pub struct Album {
    files: Vec<PathBuf>,
    kept: Vec<OnceLock<RgbImage>>,
    bad: Vec<AtomicBool>,
    room: AtomicU64,
    limits: Limits,
}

/// One decoded image: borrowed from the album, or decoded just now.
pub enum Page<'a> {
    Kept(&'a RgbImage),
    Fresh(RgbImage),
}

impl Page<'_> {
    pub fn image(&self) -> &RgbImage {
        match self {
            Page::Kept(image) => image,
            Page::Fresh(image) => image,
        }
    }
}

impl Album {
    /// Lists image files: files as given, folders recursively, sorted by path. Keeps up to `keep_bytes` decoded.
    pub fn open(paths: &[PathBuf], keep_bytes: u64) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            list(path, &mut files)?;
        }
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        ensure!(
            !files.is_empty(),
            "no images in {}; looked for files ending in {}",
            names.join(", "),
            ENDINGS.join(", ")
        );
        ensure!(u32::try_from(files.len()).is_ok(), "more than 4 billion images");
        Ok(Self {
            kept: files.iter().map(|_| OnceLock::new()).collect(),
            bad: files.iter().map(|_| AtomicBool::new(false)).collect(),
            files,
            room: AtomicU64::new(keep_bytes),
            limits: Limits::default(),
        })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Number of files that could not be decoded so far.
    pub fn bad(&self) -> usize {
        self.bad.iter().filter(|bad| bad.load(Ordering::Relaxed)).count()
    }

    /// The image with this number; `None`, with a warning the first time, when its file cannot be decoded.
    pub fn page(&self, number: usize) -> Option<Page<'_>> {
        if let Some(image) = self.kept[number].get() {
            return Some(Page::Kept(image));
        }
        if self.bad[number].load(Ordering::Relaxed) {
            return None;
        }
        let file = &self.files[number];
        let decoded = fetch(&mut Place::File(file.clone()), &self.limits)
            .map_err(|refusal| anyhow!(refusal.detail))
            .and_then(|bytes| Ok(beit_views::decode(&bytes, &self.limits)?));
        match decoded {
            Err(error) => {
                if !self.bad[number].swap(true, Ordering::Relaxed) {
                    tracing::warn!(file = %file.display(), "Skipped an image: {error:#}.");
                }
                None
            }
            Ok(image) => {
                let bytes = image.pixels.len() as u64;
                let take = |room: u64| room.checked_sub(bytes);
                if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                    return Some(Page::Fresh(image));
                }
                Some(Page::Kept(self.kept[number].get_or_init(|| image)))
            }
        }
    }

    /// The image with this number, or the next one that can be decoded, in a circle over `numbers`.
    pub fn page_from<'a>(&'a self, numbers: &[u32], position: usize) -> Result<Page<'a>> {
        (0..numbers.len())
            .find_map(|skip| self.page(numbers[(position + skip) % numbers.len()] as usize))
            .context("none of the images can be decoded")
    }

    /// Decodes everything once with `threads` threads, so that bad files are known and small sets lie in memory.
    ///
    /// Stops early once the memory for decoded images is used up.
    pub fn decode_ahead(&self, threads: usize, on_image: &(dyn Fn() + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.len() || matches!(self.page(number), Some(Page::Fresh(_))) {
                            return;
                        }
                        on_image();
                    }
                });
            }
        });
    }
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let metadata = std::fs::metadata(path).with_context(|| format!("opening {}", path.display()))?;
    if !metadata.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in walkdir::WalkDir::new(path).follow_links(true).sort_by_file_name() {
        let entry = entry.with_context(|| format!("listing {}", path.display()))?;
        let ending = entry.path().extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        if entry.file_type().is_file() && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            files.push(entry.into_path());
        }
    }
    Ok(())
}
