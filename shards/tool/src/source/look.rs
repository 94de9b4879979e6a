//! Look: what each `SRC` of the command line is, and the pieces of the listing that follow from it.

use super::classes::{Classes, Found};
use super::folder::ClassFolder;
use super::parquet::ParquetFile;
use super::stream::{self, StreamTar, TarKind, is_tar, kind_of};
use super::tar::{Archive, ClassTar};
use super::{IMAGE_ENDINGS, Piece, Source, is_image};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What a source consists of, before labels are numbers.
#[derive(Default)]
struct Plan {
    /// Class name → what holds its images, and the prefix of their paths.
    by_class: BTreeMap<String, Vec<(ClassPlace, String)>>,
    streams: Vec<StreamTar>,
    tables: Vec<ParquetFile>,
    found: Vec<Found>,
}

enum ClassPlace {
    Folder(PathBuf),
    Tar(Archive),
}

impl Source {
    /// Looks at the sources and names the classes; images are listed later, by [`Source::walk`].
    ///
    /// Classes of the same name are one class, see [`Classes::merge`]. With several folders (or tars of tars) the paths
    /// of each start with its name.
    ///
    /// # Errors
    /// a source that does not exist, is of no known kind or cannot be read; two that would give samples of the same path
    pub fn open(roots: &[PathBuf]) -> Result<Self> {
        let mut names = HashSet::new();
        let mut plan = Plan::default();
        for root in roots {
            let full =
                root.canonicalize().with_context(|| format!("looking for the source {}", root.display()))?;
            let name = if full.is_dir() { file_name(&full) } else { stem(&full) };
            let name = if name.is_empty() { "root".to_owned() } else { name };
            ensure!(
                names.insert(name.clone()),
                "two sources are called {name}: their samples' paths would be the same; rename one of them"
            );
            let prefix = if roots.len() > 1 { format!("{name}/") } else { String::new() };
            plan.look_at(root, &name, &prefix)?;
        }
        plan.finish()
    }
}

impl Plan {
    fn look_at(&mut self, root: &Path, name: &str, prefix: &str) -> Result<()> {
        let mut labels = Labels::of(root);
        if root.is_dir() {
            self.look_at_folder(root, name, prefix, &mut labels)?;
        } else if is_parquet(root) {
            self.add_table(root, "", &mut labels)?;
        } else if is_tar(root) {
            self.add_tar(root, prefix, "", &mut labels)?;
        } else {
            bail!(
                "the source {} is not a folder, and neither .tar nor .parquet; give the folder that holds the class folders \
                 (or the images, tars or Parquet files)",
                root.display()
            );
        }
        self.found.push(labels.into_found());
        Ok(())
    }

    fn look_at_folder(&mut self, root: &Path, name: &str, prefix: &str, labels: &mut Labels) -> Result<()> {
        let listing = || format!("listing {}", root.display());
        let (mut folders, mut files, mut loose) = (Vec::new(), Vec::new(), 0_u64);
        for item in root.read_dir().with_context(listing)? {
            let item = item.with_context(listing)?;
            let (path, kind) = (item.path(), item.file_type().with_context(listing)?);
            let is_folder = kind.is_dir() || kind.is_symlink() && path.is_dir();
            if is_folder {
                if !is_hidden(&path) {
                    folders.push(path);
                }
            } else if is_tar(&path) || is_parquet(&path) {
                files.push(path);
            } else {
                loose += u64::from(is_image(&path));
            }
        }
        folders.sort();
        files.sort();
        if files.len() > 1 {
            tracing::info!(files = files.len(), folder = %root.display(), "Looking at tars and Parquet files.");
        }
        for folder in folders {
            let class = file_name(&folder);
            let prefix = format!("{prefix}{class}/");
            match packed_files(&folder)? {
                files if files.is_empty() => {
                    labels.found.names.push(class.clone());
                    self.by_class.entry(class).or_default().push((ClassPlace::Folder(folder), prefix));
                }
                // `data/` of a data set on the hub, or shards one level down.
                files => self.add_files(&files, &prefix, labels)?,
            }
        }
        self.add_files(&files, prefix, labels)?;
        let nothing = labels.found.names.is_empty() && files.is_empty() && self.is_empty();
        if nothing {
            ensure!(
                loose > 0,
                "no images in {}: expected class folders with {} files, such files themselves, tars or Parquet files",
                root.display(),
                IMAGE_ENDINGS.join(", ")
            );
            labels.found.names.push(name.to_owned());
            let place = (ClassPlace::Folder(root.to_owned()), prefix.to_owned());
            self.by_class.entry(name.to_owned()).or_default().push(place);
        } else if loose > 0 {
            tracing::warn!(
                folder = %root.display(),
                images = loose,
                "Images beside the class folders, tars or Parquet files are left out, as torchvision's ImageFolder does."
            );
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.by_class.is_empty() && self.streams.is_empty() && self.tables.is_empty()
    }

    fn add_files(&mut self, files: &[PathBuf], prefix: &str, labels: &mut Labels) -> Result<()> {
        for file in files {
            match is_parquet(file) {
                true => self.add_table(file, prefix, labels)?,
                false => self.add_tar(file, prefix, prefix, labels)?,
            }
        }
        Ok(())
    }

    fn add_table(&mut self, file: &Path, prefix: &str, labels: &mut Labels) -> Result<()> {
        let prefix = format!("{prefix}{}/", stem(file));
        self.tables.push(ParquetFile::look(file, prefix, &mut labels.found, &mut labels.seen)?);
        Ok(())
    }

    /// `outer` starts the paths of what the tar holds several of; `prefix` those of the tar itself, before its name.
    fn add_tar(&mut self, file: &Path, outer: &str, prefix: &str, labels: &mut Labels) -> Result<()> {
        let archive = Archive::file(file)?;
        let stem = stem(file);
        match kind_of(&archive, &stem)? {
            TarKind::Empty => {
                bail!("no images in {}: no class tars, and no files that are images", file.display())
            }
            TarKind::Class => self.add_class_tar(archive, &stem, prefix, labels),
            TarKind::Tars => archive
                .clone()
                .members(&mut |member| {
                    if is_tar(Path::new(&member.path)) {
                        let class = self::stem(Path::new(&member.path));
                        self.add_class_tar(archive.nested(&member), &class, outer, labels);
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .map(drop)?,
            TarKind::Stream(kind) => {
                let prefix = match kind {
                    stream::Labels::Beside => format!("{prefix}{stem}/"),
                    stream::Labels::TopFolder => outer.to_owned(),
                };
                let mut tar = StreamTar { archive, labels: kind, stem, prefix, images: 0 };
                tar.look(&mut labels.found, &mut labels.seen)?;
                self.streams.push(tar);
            }
        }
        Ok(())
    }

    fn add_class_tar(&mut self, archive: Archive, class: &str, prefix: &str, labels: &mut Labels) {
        let prefix = format!("{prefix}{class}/");
        labels.seen.insert(class.to_owned());
        self.by_class.entry(class.to_owned()).or_default().push((ClassPlace::Tar(archive), prefix));
    }

    /// Numbers the labels.
    fn finish(self) -> Result<Source> {
        let classes = Classes::merge(&self.found)?;
        let mut pieces = Vec::new();
        let mut by_label: Vec<_> = self
            .by_class
            .into_iter()
            .map(|(class, places)| {
                let label = classes.label(&super::classes::RawLabel::Name(class.clone()));
                (label.unwrap_or_default(), class, places) // every class of a piece is one of the merged names
            })
            .collect();
        by_label.sort_by_key(|(label, ..)| *label);
        for (label, class, places) in by_label {
            for (place, prefix) in places {
                pieces.push(match place {
                    ClassPlace::Folder(folder) => Piece::Folder(ClassFolder { label, folder, prefix }),
                    ClassPlace::Tar(archive) => {
                        Piece::ClassTar(ClassTar { label, archive, class: class.clone(), prefix })
                    }
                });
            }
        }
        let mut prefixes = HashSet::new();
        pieces.extend(self.tables.into_iter().map(Piece::Parquet));
        if let Some(twice) = pieces.iter().map(Piece::prefix).find(|prefix| !prefixes.insert(*prefix)) {
            bail!(
                "two parts of the sources hold {twice}… (a folder and a tar of the same name, perhaps): their samples would have \
                 the same paths; take one of them out"
            );
        }
        pieces.extend(self.streams.into_iter().map(Piece::Stream));
        Ok(Source { classes, pieces })
    }
}

/// The labels of one source as they are found.
struct Labels {
    found: Found,
    seen: BTreeSet<String>,
}

impl Labels {
    fn of(root: &Path) -> Self {
        Self { found: Found::of(root.display().to_string()), seen: BTreeSet::new() }
    }

    /// Folders come in their order already; what tars and columns name is sorted, unless a list of names came along.
    fn into_found(mut self) -> Found {
        if !self.seen.is_empty() {
            let listed: BTreeSet<String> = std::mem::take(&mut self.found.names).into_iter().collect();
            self.found.names = listed.union(&self.seen).cloned().collect();
        }
        self.found
    }
}

/// The tars and Parquet files of a folder that holds such and no image; a class folder is left at its first image.
fn packed_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = || format!("listing {}", folder.display());
    let mut files = Vec::new();
    for item in folder.read_dir().with_context(listing)? {
        let path = item.with_context(listing)?.path();
        if is_image(&path) {
            return Ok(Vec::new());
        }
        if is_tar(&path) || is_parquet(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Our own output folders and version control are hidden; torchvision would take them for classes.
fn is_hidden(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with('.'))
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
