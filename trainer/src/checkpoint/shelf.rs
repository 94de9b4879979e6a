//! The folder of a run's checkpoints: publish one, find the newest sound one, clear away the old.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::manifest::{self, Digesting, Manifest};
use crate::error::{TrainError, io};

/// Prefix of what is not a checkpoint yet, or no more.
const UNFINISHED: &str = ".tmp-";

/// `checkpoints/` of one run, held by one trainer at a time.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
}

/// A checkpoint whose files are all as its manifest says.
#[derive(Debug)]
pub struct Found {
    /// The newest sound checkpoint.
    pub path: PathBuf,
    /// Its step.
    pub step: u64,
}

/// The outcome of a search: what was found, and what had to be passed over.
#[derive(Debug, Default)]
pub struct Search {
    /// The newest sound checkpoint.
    pub found: Option<Found>,
    /// Newer ones that are damaged, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Which checkpoints stay when old ones are cleared away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest; one stays in any case.
    pub last: u32,
    /// Those whose step is a multiple of this, for good.
    pub every: Option<u64>,
}

impl Keep {
    /// Whether the checkpoint of `step` is never cleared away.
    pub fn for_good(&self, step: u64) -> bool {
        self.every.is_some_and(|every| step.is_multiple_of(every))
    }
}

/// A checkpoint just published.
#[derive(Debug)]
pub struct Published {
    /// Its folder.
    pub path: PathBuf,
    /// All files together.
    pub bytes: u64,
}

/// A file of a checkpoint: its name, and what writes it.
pub(crate) type Part<'a> = (&'static str, &'a dyn Fn(&mut dyn Write) -> std::io::Result<()>);

impl Shelf {
    /// The checkpoints of the run in `run`; removes what a killed trainer left unfinished.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(run: &Path) -> Result<Shelf, TrainError> {
        let folder = run.join("checkpoints");
        fs::create_dir_all(&folder).map_err(io("creating", &folder))?;
        for entry in fs::read_dir(&folder).map_err(io("listing", &folder))? {
            let entry = entry.map_err(io("listing", &folder))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path()).map_err(io("removing", &entry.path()))?;
            }
        }
        Ok(Shelf { folder })
    }

    /// What [`Shelf::newest`] finds in the run in `run`, which may be another trainer's: nothing is cleared away.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn newest_of(run: &Path) -> Result<Search, TrainError> {
        Shelf { folder: run.join("checkpoints") }.newest()
    }

    /// Name of the checkpoint of `step`.
    pub fn name(step: u64) -> String {
        format!("step-{step:08}")
    }

    /// Writes `parts` under a private name, syncs them, and renames the whole into place.
    ///
    /// # Errors
    /// Any I/O error, a full disk among them; the unfinished folder is removed, and whatever was there stays.
    pub(super) fn publish(&self, step: u64, parts: &[Part<'_>]) -> Result<Published, TrainError> {
        let private = self.folder.join(format!("{UNFINISHED}{}", Shelf::name(step)));
        let written = self.write(&private, parts).and_then(|bytes| {
            let path = self.folder.join(Shelf::name(step));
            self.put(&private, &path)?;
            Ok(Published { path, bytes })
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&private); // The error at hand matters more; the next start tries again.
        }
        written
    }

    fn write(&self, private: &Path, parts: &[Part<'_>]) -> Result<u64, TrainError> {
        if private.exists() {
            fs::remove_dir_all(private).map_err(io("removing", private))?;
        }
        fs::create_dir(private).map_err(io("creating", private))?;
        let mut manifest = Manifest { format: manifest::FORMAT, ..Manifest::default() };
        let mut bytes = 0;
        for (name, fill) in parts {
            let path = private.join(name);
            let entry = Digesting::create(&path)
                .and_then(|mut file| fill(&mut file).and_then(|()| file.finish()))
                .map_err(io("writing", &path))?;
            bytes += entry.bytes;
            manifest.files.insert((*name).to_owned(), entry);
        }
        let path = private.join(manifest::NAME);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| TrainError::Broken(format!("writing a manifest: {error}")))?;
        Digesting::create(&path)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.finish()))
            .map_err(io("writing", &path))?;
        sync_folder(private)?;
        Ok(bytes + text.len() as u64)
    }

    /// Moves `private` to `path`. A checkpoint already there (damaged, or of the same step) is swapped out in one move.
    fn put(&self, private: &Path, path: &Path) -> Result<(), TrainError> {
        if path.exists() {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, private, CWD, path, RenameFlags::EXCHANGE)
                .map_err(|error| io("swapping in", path)(error.into()))?;
            fs::remove_dir_all(private).map_err(io("removing", private))?;
        } else {
            fs::rename(private, path).map_err(io("publishing", path))?;
        }
        sync_folder(&self.folder)
    }

    /// The newest checkpoint whose every file is as its manifest says.
    ///
    /// # Errors
    /// The folder can't be read. A damaged checkpoint is no error: it is named and passed over.
    pub fn newest(&self) -> Result<Search, TrainError> {
        let mut search = Search::default();
        for (step, path) in self.steps()?.into_iter().rev() {
            match Manifest::check(&path) {
                Ok(_) => {
                    search.found = Some(Found { path, step });
                    break;
                }
                Err(reason) => search.skipped.push((path, reason)),
            }
        }
        Ok(search)
    }

    /// Removes all but those that `keep` names, up to `sound`, which is known to be good and always stays.
    ///
    /// Those after `sound` are damaged ones that a resume passed over: they stay until their step comes again.
    ///
    /// # Errors
    /// A folder can't be listed or removed.
    pub fn prune(&self, keep: Keep, sound: u64) -> Result<(), TrainError> {
        let old = self.steps()?.into_iter().rev().filter(|(step, _)| *step <= sound);
        for (step, path) in old.skip(keep.last.max(1) as usize).filter(|(step, _)| !keep.for_good(*step)) {
            let private = self.folder.join(format!("{UNFINISHED}{}", Shelf::name(step)));
            fs::rename(&path, &private).map_err(io("retiring", &path))?;
            fs::remove_dir_all(&private).map_err(io("removing", &private))?;
        }
        Ok(())
    }

    /// All checkpoints, sound or not, oldest first.
    fn steps(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io("listing", &self.folder))? {
            let entry = entry.map_err(io("listing", &self.folder))?;
            let name = entry.file_name();
            if let Some(step) =
                name.to_string_lossy().strip_prefix("step-").and_then(|step| step.parse().ok())
            {
                steps.push((step, entry.path()));
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }
}

fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("syncing", folder))
}

/// Publishes `parts` as a checkpoint at `path`, which belongs to no run.
///
/// # Errors
/// Any I/O error; the unfinished folder is removed then
pub(crate) fn publish_at(path: &Path, parts: &[Part<'_>]) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let shelf = Shelf { folder: parent.unwrap_or(Path::new(".")).into() };
    let private = shelf.folder.join(format!("{UNFINISHED}{name}-{}", std::process::id()));
    let written = shelf.write(&private, parts).and_then(|_| shelf.put(&private, path));
    if written.is_err() {
        let _ = fs::remove_dir_all(&private); // The error at hand matters more.
    }
    written
}

/// Checks one checkpoint, wherever it lies.
pub(crate) fn check(folder: &Path) -> Result<(), TrainError> {
    Manifest::check(folder)
        .map(|_| ())
        .map_err(|reason| TrainError::Damaged { checkpoint: folder.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let run = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(run.path()).unwrap();
        (run, shelf)
    }

    fn put(shelf: &Shelf, step: u64, text: &str) {
        shelf
            .publish(
                step,
                &[("a", &|file| file.write_all(text.as_bytes())), ("b", &|file| file.write_all(b"b"))],
            )
            .unwrap();
    }

    fn newest(shelf: &Shelf) -> Option<u64> {
        shelf.newest().unwrap().found.map(|found| found.step)
    }

    #[test]
    fn the_newest_sound_checkpoint_wins_and_damaged_ones_are_named() {
        let (run, shelf) = shelf();
        for step in [10, 20, 30, 40, 50] {
            put(&shelf, step, "text");
        }
        let folder = run.path().join("checkpoints");
        fs::write(folder.join("step-00000050/a"), "tex").unwrap(); // cut short
        fs::write(folder.join("step-00000040/a"), "tExt").unwrap(); // a flipped bit
        fs::remove_file(folder.join("step-00000030/manifest.json")).unwrap(); // never finished
        let search = shelf.newest().unwrap();
        assert_eq!(search.found.unwrap().step, 20);
        let reasons: Vec<&str> = search.skipped.iter().map(|(_, reason)| reason.as_str()).collect();
        assert!(reasons[0].contains("3 bytes, the manifest says 4"), "{reasons:?}");
        assert!(reasons[1].contains("blake3 differs"), "{reasons:?}");
        assert!(reasons[2].contains("no manifest.json"), "{reasons:?}");
    }

    #[test]
    fn a_missing_file_makes_a_checkpoint_unsound() {
        let (run, shelf) = shelf();
        put(&shelf, 1, "x");
        fs::remove_file(run.path().join("checkpoints/step-00000001/b")).unwrap();
        assert_eq!(newest(&shelf), None);
    }

    #[test]
    fn a_damaged_checkpoint_is_replaced_when_its_step_comes_again() {
        let (run, shelf) = shelf();
        put(&shelf, 10, "x");
        fs::write(run.path().join("checkpoints/step-00000010/a"), "y").unwrap();
        assert_eq!(newest(&shelf), None);
        put(&shelf, 10, "x");
        assert_eq!(newest(&shelf), Some(10));
        assert_eq!(fs::read_dir(run.path().join("checkpoints")).unwrap().count(), 1);
    }

    #[test]
    fn a_failing_write_leaves_the_old_checkpoints_and_nothing_else() {
        let (run, shelf) = shelf();
        put(&shelf, 10, "x");
        let full = |_: &mut dyn Write| Err(std::io::Error::from_raw_os_error(28));
        let error = shelf.publish(20, &[("a", &|file| file.write_all(b"half")), ("b", &full)]).unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert_eq!(newest(&shelf), Some(10));
        assert_eq!(fs::read_dir(run.path().join("checkpoints")).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_trainer_left_is_cleared_on_opening() {
        let (run, shelf) = shelf();
        put(&shelf, 10, "x");
        fs::create_dir(run.path().join("checkpoints/.tmp-step-00000020")).unwrap();
        fs::write(run.path().join("checkpoints/.tmp-step-00000020/model"), "half").unwrap();
        let shelf = Shelf::open(run.path()).unwrap();
        assert_eq!(newest(&shelf), Some(10));
        assert!(!run.path().join("checkpoints/.tmp-step-00000020").exists());
    }

    #[test]
    fn pruning_keeps_the_newest_and_never_the_last_sound_one() {
        let (run, shelf) = shelf();
        for step in 1..=5 {
            put(&shelf, step, "x");
        }
        shelf.prune(Keep { last: 2, every: None }, 5).unwrap();
        assert_eq!(shelf.steps().unwrap().into_iter().map(|(step, _)| step).collect::<Vec<_>>(), [4, 5]);
        fs::remove_file(run.path().join("checkpoints/step-00000005/a")).unwrap();
        shelf.prune(Keep { last: 1, every: None }, 4).unwrap(); // 5 is damaged: 4 must stay, although it is not the newest
        assert_eq!(newest(&shelf), Some(4));
    }

    #[test]
    fn pruning_never_takes_those_that_are_kept_for_good() {
        let (_run, shelf) = shelf();
        for step in 1..=12 {
            put(&shelf, step, "x");
            shelf.prune(Keep { last: 2, every: Some(5) }, step).unwrap();
        }
        let steps = shelf.steps().unwrap().into_iter().map(|(step, _)| step).collect::<Vec<_>>();
        assert_eq!(steps, [5, 10, 11, 12]);
    }
}
