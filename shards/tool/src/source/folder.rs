//! Class folders: one class's files, listed directory by directory, so that only one directory's names are in memory.

use super::{Listed, Place, Sink, is_image};
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// A folder whose images are all of one class, and what their paths start with.
#[derive(Debug)]
pub struct ClassFolder {
    pub label: u32,
    pub folder: PathBuf,
    pub prefix: String,
}

impl ClassFolder {
    /// Hands on every image in torchvision's order: directories sorted as strings, in each the files sorted by name.
    pub fn walk(&self, sink: &mut Sink<'_>) -> Result<ControlFlow<()>> {
        for folder in directories(&self.folder)? {
            for name in images(&folder)? {
                let file = folder.join(name);
                let inside =
                    file.strip_prefix(&self.folder).context("a walked file lies outside its folder")?;
                let inside = inside
                    .to_str()
                    .with_context(|| format!("{} is not a UTF-8 path; rename it", file.display()))?;
                let path = format!("{}{inside}", self.prefix);
                if sink(Listed { place: Place::File(file), path, label: self.label })?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The folder and all below it, links followed; `a-b` sorts before `a/c`, as Python's `sorted(os.walk())` has it.
fn directories(top: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for item in WalkDir::new(top).follow_links(true) {
        match item {
            Ok(item) if item.file_type().is_dir() => found.push(item.into_path()),
            Ok(_) => {}
            // A link that leads nowhere: no directory, whatever else it is.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound) => {}
            Err(error) => return Err(error).with_context(|| format!("scanning {}", top.display())),
        }
    }
    found.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(found)
}

/// The image files of one directory. A link that leads nowhere is one that cannot be read: the build quarantines it.
fn images(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let listing = || format!("listing {}", folder.display());
    let mut names = Vec::new();
    for item in folder.read_dir().with_context(listing)? {
        let item = item.with_context(listing)?;
        let name = item.file_name();
        if !is_image(Path::new(&name)) {
            continue;
        }
        let kind = item.file_type().with_context(listing)?;
        let folder = kind.is_dir() || kind.is_symlink() && item.path().is_dir();
        if !folder {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
