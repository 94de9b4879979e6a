//! What lies here: shard directories to train on, run directories to ask about.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::exit::{Fault, NO_DAEMON};
use crate::rundir::RunDir;

/// The only `*.shards` directory in `folder`.
///
/// # Errors
/// There is none, or more than one; the message says what was found and what to type.
pub fn only_shards(folder: &Path) -> Result<PathBuf> {
    let found: Vec<PathBuf> = folders(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "shards"))
        .collect();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            let images =
                folders(folder).into_iter().filter(|path| !path.ends_with("runs")).collect::<Vec<_>>();
            let from = match images.as_slice() {
                [only] => only.display().to_string(),
                _ => "IMAGES/".to_owned(),
            };
            bail!(
                "there is no *.shards directory here; make one with `beit-shard build {from}`, \
                 or say where it is with --shards DIR"
            )
        }
        several => bail!(
            "there are {} *.shards directories here: {}; say which with --shards, as in `beit-daemon start --shards {}`",
            several.len(),
            several.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            several[0].display()
        ),
    }
}

/// The run that `status` and `stop` mean without `--run`: the only one under `runs/` that is alive, else the only one.
///
/// # Errors
/// There is none, or it is not clear which; the message says what was found and what to type.
pub fn only_run(folder: &Path, command: &str) -> Result<RunDir> {
    let all = all_runs(&folder.join("runs"));
    let alive: Vec<RunDir> = all.iter().filter(|run| run.is_locked()).cloned().collect();
    match (alive.as_slice(), all.as_slice()) {
        ([only], _) | ([], [only]) => Ok(only.clone()),
        ([], []) => Err(Fault::error(
            NO_DAEMON,
            format!(
                "no run was found under runs/ here; say where it is, as in `beit-daemon {command} --run DIR`, \
                 or start one with `beit-daemon start`"
            ),
        )),
        ([], several) | (several, _) => bail!(
            "there are {} {}: {}; say which, as in `beit-daemon {command} --run {}`",
            several.len(),
            if alive.is_empty() { "runs here and none is alive" } else { "live runs here" },
            several.iter().map(|run| run.path().display().to_string()).collect::<Vec<_>>().join(", "),
            several[0].path().display()
        ),
    }
}

/// The run directories in `folder`, sorted by name.
pub fn all_runs(folder: &Path) -> Vec<RunDir> {
    folders(folder).into_iter().map(RunDir::new).filter(RunDir::has_daemon).collect()
}

/// Directories in `folder`, sorted by name, hidden ones left out; a folder that cannot be read has none.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| plain(&entry.path())).collect())
        .unwrap_or_default();
    found.retain(|path| path.is_dir() && !hidden(path));
    found.sort();
    found
}

/// A path the way someone standing in the current directory would type it.
fn plain(path: &Path) -> PathBuf {
    path.strip_prefix(".").unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[track_caller]
    fn check(folders: &[&str], expect: Result<&str, &[&str]>) {
        let here = tempfile::tempdir().unwrap();
        for name in folders {
            fs::create_dir_all(here.path().join(name)).unwrap();
        }
        match (only_shards(here.path()), expect) {
            (Ok(found), Ok(name)) => assert_eq!(found, here.path().join(name)),
            (Err(error), Err(words)) => {
                let message = error.to_string();
                for word in words {
                    assert!(message.contains(word), "{word:?} is not in: {message}");
                }
            }
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn the_only_shards_directory_is_taken() {
        check(&["a.shards", "photos", ".hidden.shards"], Ok("a.shards"));
    }

    #[test]
    fn without_shards_the_message_says_how_to_make_them() {
        check(&[], Err(&["beit-shard build IMAGES/", "--shards DIR"]));
        check(&["photos", "runs"], Err(&["beit-shard build", "photos"]));
    }

    #[test]
    fn with_several_shards_directories_all_are_named() {
        check(
            &["b.shards", "a.shards"],
            Err(&["2 *.shards", "a.shards, ", "b.shards; say which", "--shards"]),
        );
    }

    #[test]
    fn the_only_live_run_is_meant_and_otherwise_the_only_run() {
        let here = tempfile::tempdir().unwrap();
        let message = only_run(here.path(), "stop").unwrap_err().to_string();
        assert!(message.contains("beit-daemon stop --run DIR"), "{message}");
        let runs = ["one", "two"].map(|name| RunDir::new(here.path().join("runs").join(name)));
        fs::create_dir_all(here.path().join("runs/not-a-run")).unwrap();
        for run in &runs {
            drop(run.lock().unwrap());
            fs::write(run.path().join("daemon.json"), "{}").unwrap();
        }
        let message = only_run(here.path(), "status").unwrap_err().to_string();
        assert!(
            message.contains("none is alive") && message.contains("beit-daemon status --run"),
            "{message}"
        );
        let _lock = runs[1].lock().unwrap();
        assert_eq!(only_run(here.path(), "status").unwrap(), runs[1]);
    }
}
