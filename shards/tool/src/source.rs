//! Where images come from: class-folder trees and flat folders, listed in one fixed order.
//!
//! The order is torchvision's `ImageFolder` (spec 2.1): classes are the immediate sub-directories sorted by code point,
//! inside a class every directory (symlinks followed) sorted by path, inside a directory files sorted by name.
//! A folder that holds images and no sub-directory is one class. Only one class is listed in memory at a time, so
//! the scan's memory does not grow with the data set.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// File endings that are images, as torchvision knows them.
const IMAGE_ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// One image file of a source, in listing order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the whole listing, from 0.
    pub index: u64,
    /// Where the file is now.
    pub file: PathBuf,
    /// `/`-separated path within the source: what the sample's id is made of.
    pub path: String,
    /// Index into [`Source::classes`].
    pub label: u32,
}

/// One folder of a class and the prefix its samples' paths start with.
#[derive(Clone, Debug)]
struct ClassFolder {
    label: u32,
    folder: PathBuf,
    prefix: String,
}

/// What `SRC…` on the command line turned out to be.
#[derive(Debug)]
pub struct Source {
    /// Class names, sorted; a label is a position in this list.
    pub classes: Vec<String>,
    folders: Vec<ClassFolder>,
}

impl Source {
    /// Looks at the folders and names the classes; files are listed later, by [`Source::entries`].
    ///
    /// With several roots, classes of the same name are one class and paths start with the root's name.
    ///
    /// # Errors
    /// a root that does not exist, is not a folder, cannot be read, or two roots of the same name
    pub fn open(roots: &[PathBuf]) -> Result<Self> {
        let mut by_class: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
        let mut names = Vec::new();
        for root in roots {
            let name = root_name(root)?;
            ensure!(
                !names.contains(&name),
                "two sources are called {name}: their samples' paths would be the same; rename one of the folders"
            );
            let prefix = if roots.len() > 1 { format!("{name}/") } else { String::new() };
            for (class, folder) in classes_of(root, &name)? {
                let prefix = if folder == *root { prefix.clone() } else { format!("{prefix}{class}/") };
                by_class.entry(class).or_default().push((folder, prefix));
            }
            names.push(name);
        }
        let mut source = Self { classes: Vec::new(), folders: Vec::new() };
        for (label, (class, folders)) in by_class.into_iter().enumerate() {
            source.classes.push(class);
            for (folder, prefix) in folders {
                source.folders.push(ClassFolder { label: label as u32, folder, prefix });
            }
        }
        Ok(source)
    }

    /// Every image file, in listing order, from `first` on. A folder that cannot be read is an error, not a gap.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> + '_ {
        let mut index = 0;
        self.folders.iter().flat_map(list_class).map(move |entry| {
            entry.map(|(file, path, label)| {
                index += 1;
                Entry { index: index - 1, file, path, label }
            })
        })
    }
}

fn root_name(root: &Path) -> Result<String> {
    let full = root.canonicalize().with_context(|| format!("looking for the source {}", root.display()))?;
    ensure!(
        full.is_dir(),
        "the source {} is not a folder; give the folder that holds the class folders (or the images)",
        root.display()
    );
    Ok(full.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned()))
}

/// The classes of one root: its sub-directories, or itself when it has images and no sub-directory.
fn classes_of(root: &Path, name: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut classes = Vec::new();
    let mut loose = 0_u64;
    for item in root.read_dir().with_context(|| format!("listing {}", root.display()))? {
        let item = item.with_context(|| format!("listing {}", root.display()))?;
        let path = item.path();
        if path.is_dir() {
            if !is_hidden(&path) {
                classes.push((item.file_name().to_string_lossy().into_owned(), path));
            }
        } else if is_image(&path) {
            loose += 1;
        }
    }
    if classes.is_empty() {
        ensure!(
            loose > 0,
            "no images in {}: expected class folders with {} files, or such files themselves",
            root.display(),
            IMAGE_ENDINGS.join(", ")
        );
        return Ok(vec![(name.to_owned(), root.to_owned())]);
    }
    if loose > 0 {
        tracing::warn!(
            folder = %root.display(),
            images = loose,
            "Images beside the class folders are left out, as torchvision's ImageFolder does."
        );
    }
    classes.sort();
    Ok(classes)
}

/// Our own output folders and version control are hidden; torchvision would take them for classes.
fn is_hidden(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with('.'))
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    IMAGE_ENDINGS.contains(&ending.as_str())
}

type Listed = Result<(PathBuf, String, u32)>;

fn list_class(class: &ClassFolder) -> Vec<Listed> {
    match try_list_class(class) {
        Ok(entries) => entries.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

fn try_list_class(class: &ClassFolder) -> Result<Vec<(PathBuf, String, u32)>> {
    let mut files = Vec::new();
    let mut list = |path: &Path| {
        // The folder as a string, not as a path: `a-b` sorts before `a/c`, as Python's sorted(os.walk()) has it.
        let folder = path.parent().unwrap_or(&class.folder).as_os_str().to_owned();
        files.push((folder, path.file_name().unwrap_or_default().to_owned()));
    };
    for item in WalkDir::new(&class.folder).follow_links(true) {
        match item {
            Ok(item) if !item.file_type().is_dir() && is_image(item.path()) => list(item.path()),
            Ok(_) => {}
            // A link that leads nowhere is an image that cannot be read: the build quarantines it.
            Err(error) if is_dangling(&error) => list(error.path().unwrap_or(&class.folder)),
            Err(error) => return Err(error).with_context(|| format!("scanning {}", class.folder.display())),
        }
    }
    files.sort_unstable();
    let mut entries = Vec::with_capacity(files.len());
    for (folder, name) in files {
        let file = Path::new(&folder).join(name);
        let inside = file.strip_prefix(&class.folder).context("a walked file lies outside its folder")?;
        let Some(inside) = inside.to_str() else {
            bail!("{} is not a UTF-8 path; rename it", file.display());
        };
        let path = format!("{}{inside}", class.prefix);
        entries.push((file, path, class.label));
    }
    Ok(entries)
}

fn is_dangling(error: &walkdir::Error) -> bool {
    let missing = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    missing && error.path().is_some_and(|path| is_image(path) && path.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join("src").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        dir
    }

    #[track_caller]
    fn check(files: &[&str], classes: &[&str], expect: &[(&str, u32)]) {
        let dir = tree(files);
        let source = Source::open(&[dir.path().join("src")]).unwrap();
        assert_eq!(source.classes, classes);
        let found: Vec<_> = source.entries().map(|e| e.map(|e| (e.path, e.label)).unwrap()).collect();
        let expect: Vec<_> = expect.iter().map(|(path, label)| ((*path).to_owned(), *label)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn classes_and_files_come_in_image_folder_order() {
        check(
            &[
                "b/2.jpg",
                "b/10.JPEG",
                "B/x.png",
                "a/deep/z.webp",
                "a/y.jpg",
                "a/notes.txt",
                "a/deep-2/a.jpg",
                "a/deep/er/1.jpg",
            ],
            &["B", "a", "b"],
            &[
                ("B/x.png", 0),
                ("a/y.jpg", 1),
                ("a/deep/z.webp", 1),
                ("a/deep-2/a.jpg", 1),
                ("a/deep/er/1.jpg", 1),
                ("b/10.JPEG", 2),
                ("b/2.jpg", 2),
            ],
        );
    }

    #[test]
    fn a_flat_folder_is_one_class() {
        check(&["2.jpg", "1.jpg"], &["src"], &[("1.jpg", 0), ("2.jpg", 0)]);
    }

    #[test]
    fn images_beside_class_folders_are_left_out_and_empty_classes_keep_their_label() {
        check(&["loose.jpg", "a/none.txt", "b/1.jpg"], &["a", "b"], &[("b/1.jpg", 1)]);
    }

    #[test]
    fn several_sources_share_classes_and_keep_their_paths_apart() {
        let dir = tree(&["one/n01/a.jpg", "two/n01/a.jpg", "two/n02/b.jpg"]);
        let roots = [dir.path().join("src/one"), dir.path().join("src/two")];
        let source = Source::open(&roots).unwrap();
        let found: Vec<_> = source.entries().map(|e| e.map(|e| (e.path, e.label)).unwrap()).collect();
        assert_eq!(source.classes, ["n01", "n02"]);
        assert_eq!(
            found,
            [
                ("one/n01/a.jpg".to_owned(), 0),
                ("two/n01/a.jpg".to_owned(), 0),
                ("two/n02/b.jpg".to_owned(), 1)
            ]
        );
    }

    #[test]
    fn a_wrong_path_and_an_empty_folder_say_so() {
        let dir = tree(&["notes.txt"]);
        let missing = Source::open(&[dir.path().join("nowhere")]).unwrap_err();
        assert!(format!("{missing:#}").contains("nowhere"), "{missing:#}");
        let empty = Source::open(&[dir.path().join("src")]).unwrap_err();
        assert!(format!("{empty:#}").contains("no images in"), "{empty:#}");
    }
}
