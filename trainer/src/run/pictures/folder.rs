//! The folder of pictures: PNGs, and `index.json` that names them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What `index.json` says; it is replaced after what it names is there.
#[derive(Debug, Serialize)]
pub(super) struct Index {
    /// Steps done when the model was asked.
    pub step: u64,
    /// When it was written, in seconds since 1970.
    pub at: f64,
    /// Name of the tokenizer that decoded.
    pub tokenizer: Option<String>,
    /// Why there is nothing decoded, and what to set.
    pub why_no_reconstruction: Option<String>,
    pub samples: Vec<Entry>,
}

/// One sample of it; the last four fields are names of files.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub id: String,
    /// Hidden patches.
    pub masked: usize,
    /// All of them.
    pub patches: usize,
    /// Hidden ones whose token is guessed.
    pub correct: usize,
    pub view: String,
    pub masked_view: String,
    #[serde(rename = "true")]
    pub truth: Option<String>,
    pub predicted: Option<String>,
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = &str> {
        let always = [&self.view, &self.masked_view].into_iter();
        always.chain(&self.truth).chain(&self.predicted).map(String::as_str)
    }
}

/// `pictures/` of a run directory.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// That of `run`; it need not be there yet.
    pub fn of(run: &Path) -> Folder {
        Folder(run.join("pictures"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it if it is not there.
    ///
    /// # Errors
    /// the file system's
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// Writes one file so that its name stands for all of it or for what was there before.
    ///
    /// # Errors
    /// the file system's; nothing is left then
    pub fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let private = self.0.join(format!("{PRIVATE}{name}"));
        File::create(&private)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&private, self.0.join(name)))
            .inspect_err(|_| drop(fs::remove_file(&private)))
    }

    /// Replaces the index, and clears away what it does not name.
    ///
    /// # Errors
    /// the file system's; the old index and its pictures stay then
    pub fn publish(&self, index: &Index) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(index).map_err(io::Error::other)?;
        self.put("index.json", &text)?;
        File::open(&self.0)?.sync_all()?;
        let named: HashSet<&str> = index.samples.iter().flat_map(Entry::names).collect();
        for file in fs::read_dir(&self.0)?.flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            if is_ours(&name) && !named.contains(&*name) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// Beginning of the names of files that are not whole yet, or never were.
const PRIVATE: &str = ".tmp-";

/// Whether we gave a file its name: `3-predicted-1200.png`, or an unfinished one of a process that was killed.
fn is_ours(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Option<Vec<&str>> = name.strip_suffix(".png").map(|stem| stem.split('-').collect());
    match parts.as_deref() {
        Some([sample, kind, step]) => {
            digits(sample) && digits(step) && ["view", "masked", "true", "predicted"].contains(kind)
        }
        _ => name.starts_with(PRIVATE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_are_cleared_away() {
        for name in ["0-view-1.png", "12-predicted-99.png", ".tmp-0-true-3.png", ".tmp-index.json"] {
            assert!(is_ours(name), "{name}");
        }
        for name in
            ["index.json", "0-view-.png", "a-view-1.png", "0-other-1.png", "holiday.png", "0-view-1-2.png"]
        {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn the_index_says_what_the_page_reads() {
        let entry = Entry {
            id: "00000000000000ff".into(),
            masked: 77,
            patches: 196,
            correct: 12,
            view: "0-view-1.png".into(),
            masked_view: "0-masked-1.png".into(),
            truth: Some("0-true-1.png".into()),
            predicted: None,
        };
        let index = Index {
            step: 7,
            at: 1.5,
            tokenizer: Some("t".into()),
            why_no_reconstruction: None,
            samples: vec![entry],
        };
        assert_eq!(
            serde_json::to_string(&index).unwrap(),
            r#"{"step":7,"at":1.5,"tokenizer":"t","why_no_reconstruction":null,"samples":[{"id":"00000000000000ff","masked":77,"patches":196,"correct":12,"view":"0-view-1.png","masked_view":"0-masked-1.png","true":"0-true-1.png","predicted":null}]}"#
        );
    }

    #[test]
    fn publishing_leaves_what_the_index_names_and_strangers() {
        let run = tempfile::tempdir().unwrap();
        let folder = Folder::of(run.path());
        folder.create().unwrap();
        for name in
            ["0-view-1.png", "0-predicted-1.png", "0-predicted-9.png", "notes.txt", ".tmp-0-view-3.png"]
        {
            folder.put(name, b"x").unwrap();
        }
        let entry = Entry {
            id: "1".into(),
            masked: 1,
            patches: 4,
            correct: 0,
            view: "0-view-1.png".into(),
            masked_view: "0-masked-1.png".into(),
            truth: None,
            predicted: Some("0-predicted-9.png".into()),
        };
        let index =
            Index { step: 9, at: 0.0, tokenizer: None, why_no_reconstruction: None, samples: vec![entry] };
        folder.publish(&index).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0-predicted-9.png", "0-view-1.png", "index.json", "notes.txt"]);
    }
}
