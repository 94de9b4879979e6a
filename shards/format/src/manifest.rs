//! Manifest: which shards make a set; published last, so that a directory without one is an unfinished build.

use crate::catalog::{self, CatalogInfo};
use crate::digest::Digest;
use crate::disk;
use crate::error::{ShardError, io_at};
use crate::publish::{Staged, sync_dir};
use crate::shard::Shard;
use crate::source::Io;
use crate::spec::{SetSpec, TokenizerRef};
use crate::text::{escape, unescape};
use crate::writer::shard_file_name;
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64;

/// File name of the manifest within a set's directory.
pub const MANIFEST_FILE: &str = "manifest.txt";
/// First line of a manifest.
const TITLE: &str = "beit-shards manifest 1";
/// Largest manifest a reader takes, in bytes.
const MAX_BYTES: u64 = 1 << 28;

/// One shard of a set, as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    /// File name within the set's directory.
    pub file: String,
    /// Its records.
    pub samples: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of footer and trailer ([`Shard::digest`]).
    pub digest: Digest,
}

/// Everything a set's manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What all samples have in common.
    pub spec: SetSpec,
    /// Class names; a label is a position in this list.
    pub classes: Vec<String>,
    /// The shards, in the order of their samples.
    pub shards: Vec<ShardInfo>,
    /// Entries of the source listing that could not be packed; their paths and reasons are in shards and catalog.
    pub quarantined: u64,
    pub(crate) catalog: CatalogInfo,
}

/// Publishes the finished shards 0 to `shards`-1 of `dir` as a set: derives the catalog from them, then writes the
/// manifest, both atomically and in place of older ones.
///
/// # Errors
/// [`ShardError::MixedSpecs`] when a shard differs from `spec` or knows more classes, [`ShardError::Gap`] when listing
/// entries between two shards are missing, [`ShardError::IdCollision`], and those of reading and writing
pub fn publish_manifest(
    dir: &Path,
    spec: &SetSpec,
    classes: &[String],
    shards: u64,
) -> Result<Manifest, ShardError> {
    publish_shards(dir, spec, classes, &Vec::from_iter(0..shards), 0)
}

/// As [`publish_manifest`], for the shards of these numbers in this order: one part of a set, or several parts merged.
/// `first_entry` is the listing entry that the first of them starts at.
///
/// # Errors
/// those of [`publish_manifest`]
pub fn publish_shards(
    dir: &Path,
    spec: &SetSpec,
    classes: &[String],
    numbers: &[u64],
    first_entry: u64,
) -> Result<Manifest, ShardError> {
    let mut opened: Vec<Shard> = Vec::new();
    for &number in numbers {
        let shard = Shard::open(&dir.join(shard_file_name(number)), Io::Auto)?;
        let before = opened.last();
        if let Some(difference) = spec.difference(shard.spec()) {
            let first = before.map_or_else(|| dir.join(MANIFEST_FILE), |before| before.path().to_owned());
            return Err(ShardError::MixedSpecs { first, second: shard.path().to_owned(), difference });
        }
        check_classes(dir, classes, &shard)?;
        let (covered, end) = (shard.footer().covered, before.map(|before| before.footer().covered));
        let expected = end.map_or(first_entry, |before| before.first_entry + before.entries);
        if !covered.digest.is_zero() && covered.first_entry != expected {
            let path = shard.path().to_owned();
            return Err(ShardError::Gap { path, expected, found: covered.first_entry });
        }
        opened.push(shard);
    }
    let manifest = Manifest {
        spec: spec.clone(),
        classes: classes.to_vec(),
        shards: opened.iter().map(Shard::info).collect(),
        quarantined: opened.iter().map(|shard| shard.footer().quarantine.len() as u64).sum(),
        catalog: catalog::publish(dir, &opened)?,
    };
    let mut staged = Staged::create(&dir.join(MANIFEST_FILE))?;
    staged.write(manifest.encode().as_bytes())?;
    staged.publish()?;
    catalog::drop_previous(dir)?;
    Ok(manifest)
}

/// Takes a set's manifest away, so that the directory counts as unfinished while its shards are replaced.
///
/// # Errors
/// [`ShardError::Io`]; a manifest that is not there is none
pub fn retract_manifest(dir: &Path) -> Result<(), ShardError> {
    let path = dir.join(MANIFEST_FILE);
    match disk::remove(&path) {
        Ok(true) => sync_dir(dir),
        Ok(false) => Ok(()),
        Err(error) => Err(io_at("removing", &path)(error)),
    }
}

/// A shard's labels must name classes of the set.
pub(crate) fn check_classes(dir: &Path, classes: &[String], shard: &Shard) -> Result<(), ShardError> {
    let count = shard.footer().classes as usize;
    if count <= classes.len() {
        return Ok(());
    }
    let difference = format!("{} classes against {count}", classes.len());
    Err(ShardError::MixedSpecs {
        first: dir.join(MANIFEST_FILE),
        second: shard.path().to_owned(),
        difference,
    })
}

impl Manifest {
    /// Reads and checks the manifest of `dir`.
    ///
    /// # Errors
    /// [`ShardError::Unfinished`] without one, [`ShardError::Manifest`] for a damaged one, [`ShardError::Io`]
    pub fn read(dir: &Path) -> Result<Self, ShardError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = match fs::metadata(&path).and_then(|metadata| {
            if metadata.len() > MAX_BYTES {
                return Err(std::io::Error::new(ErrorKind::FileTooLarge, "it is larger than any manifest"));
            }
            fs::read(&path)
        }) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(unfinished(dir)),
            Err(error) => return Err(io_at("reading", &path)(error)),
        };
        Self::parse(&bytes).map_err(|why| ShardError::Manifest { path, why })
    }

    /// Opens one of the set's shards in `dir`: it must be the one that was published.
    ///
    /// # Errors
    /// [`ShardError::Digest`] for another one, [`ShardError::MixedSpecs`], and those of [`Shard::open`]
    pub(crate) fn open_shard(&self, dir: &Path, info: &ShardInfo, io: Io) -> Result<Shard, ShardError> {
        let shard = Shard::open(&dir.join(&info.file), io)?;
        if shard.bytes() != info.bytes {
            let why = format!("it has {} bytes, the manifest says {}", shard.bytes(), info.bytes);
            return Err(ShardError::NotAShard { path: shard.path().to_owned(), why });
        }
        if let Some(difference) = self.spec.difference(shard.spec()) {
            let (first, second) = (dir.join(MANIFEST_FILE), shard.path().to_owned());
            return Err(ShardError::MixedSpecs { first, second, difference });
        }
        if (shard.digest(), shard.len()) != (info.digest, info.samples) {
            let (expected, found) = (info.digest, shard.digest());
            return Err(ShardError::Digest { path: shard.path().to_owned(), expected, found });
        }
        check_classes(dir, &self.classes, &shard)?;
        Ok(shard)
    }

    /// Samples of all shards.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.shards.iter().map(|shard| shard.samples).sum()
    }

    /// Bytes of all shards.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// BLAKE3 that stands for the whole set: spec, classes and every byte of every shard.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.encode_content().as_bytes())
    }

    /// BLAKE3 over the spec and the first `shards` shards: what every later generation of a growing set has in common with
    /// the one that had just those; `None` when there are fewer.
    #[must_use]
    pub fn lineage(&self, shards: usize) -> Option<Digest> {
        let first = self.shards.get(..shards)?.to_vec();
        let Self { spec, quarantined: _, classes: _, shards: _, catalog } = self;
        let (spec, catalog) = (spec.clone(), *catalog);
        // Classes are only ever added, and neither they nor the quarantine change what a sample is.
        Some(Manifest { spec, classes: Vec::new(), shards: first, quarantined: 0, catalog }.digest())
    }

    /// The manifest's text; equal manifests have equal texts.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = self.encode_content();
        let digest = Digest::of(text.as_bytes());
        let CatalogInfo { bytes, file, content } = self.catalog;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "digest {digest}\ncatalog {bytes} {file} {content}");
        let check = xxh3_64(text.as_bytes());
        let _ = writeln!(text, "checksum {check:016x}");
        text
    }

    fn encode_content(&self) -> String {
        let Self { spec, classes, shards, quarantined, catalog: _ } = self;
        let mut text = String::new();
        let tokenizer = &spec.tokenizer;
        let _ = writeln!(text, "{TITLE}\nseed {}\nviews {}", spec.seed, spec.views);
        let _ = writeln!(text, "view-spec {}", escape(&spec.view_spec));
        let _ = writeln!(text, "tokenizer {} {}", Digest(tokenizer.digest), escape(&tokenizer.name));
        let _ = writeln!(text, "vocab {}\ngrid {} {}", tokenizer.vocab, spec.grid.0, spec.grid.1);
        let _ = writeln!(text, "payload {}\nclasses {}", escape(&spec.payload), classes.len());
        for class in classes {
            let _ = writeln!(text, "class {}", escape(class));
        }
        let _ = writeln!(text, "shards {}", shards.len());
        for ShardInfo { file, samples, bytes, digest } in shards {
            let _ = writeln!(text, "shard {samples} {bytes} {digest} {}", escape(file));
        }
        let _ = writeln!(text, "samples {}\nquarantined {quarantined}", self.samples());
        text
    }

    /// Reads exactly what [`encode`](Self::encode) writes; anything else is refused with the line and the trouble.
    ///
    /// # Errors
    /// the trouble, in words
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let version = text.lines().next().and_then(|line| line.strip_prefix("beit-shards manifest "));
        if let Some(version) = version.filter(|version| *version != "1") {
            return Err(format!("it has format version {version}, this program reads version 1"));
        }
        let mut lines = Lines { lines: text.lines(), number: 0 };
        if lines.next()? != TITLE {
            return Err(format!("it does not start with `{TITLE}`"));
        }
        let seed = lines.number("seed")?;
        let views = lines.number("views")?;
        let view_spec = lines.text("view-spec")?;
        let (digest, name) = lines.split("tokenizer")?;
        let digest: Digest = lines.parsed(digest)?;
        let name = unescape(name).ok_or_else(|| lines.wrong("a stray backslash"))?;
        let vocab = lines.number("vocab")?;
        let (rows, columns) = lines.split("grid")?;
        let grid = (lines.parsed(rows)?, lines.parsed(columns)?);
        let payload = lines.text("payload")?;
        let tokenizer = TokenizerRef { digest: digest.0, name, vocab };
        let spec = SetSpec { seed, views, view_spec, tokenizer, grid, payload };
        spec.check().map_err(|why| lines.wrong(why))?;

        let count: u64 = lines.number("classes")?;
        let classes = (0..count).map(|_| lines.text("class")).collect::<Result<_, _>>()?;
        let count: u64 = lines.number("shards")?;
        let shards = (0..count).map(|_| lines.shard()).collect::<Result<Vec<_>, _>>()?;
        let total = |of: fn(&ShardInfo) -> u64| {
            shards.iter().try_fold(0_u64, |sum, shard| sum.checked_add(of(shard)))
        };
        if total(|shard| shard.samples).is_none() || total(|shard| shard.bytes).is_none() {
            return Err(lines.wrong("the shards are larger than anything"));
        }
        let _: u64 = lines.number("samples")?;
        let quarantined = lines.number("quarantined")?;
        let _: Digest = {
            let text = lines.value("digest")?;
            lines.parsed(text)?
        };
        let (catalog_bytes, digests) = lines.split("catalog")?;
        let (file, content) = digests.split_once(' ').ok_or_else(|| lines.wrong("a digest is missing"))?;
        let catalog = CatalogInfo {
            bytes: lines.parsed(catalog_bytes)?,
            file: lines.parsed(file)?,
            content: lines.parsed(content)?,
        };
        let manifest = Self { spec, classes, shards, quarantined, catalog };
        // One text for one manifest: whatever differs from it anywhere was damaged or edited.
        if manifest.encode() != text {
            return Err("its checksum is not that of its lines: it was damaged or edited".to_owned());
        }
        Ok(manifest)
    }
}

/// What is there instead of a manifest.
fn unfinished(dir: &Path) -> ShardError {
    let is_shard = |entry: fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".shard");
    let state = match fs::read_dir(dir).map(|entries| entries.flatten().any(is_shard)) {
        Err(_) => "there is no such directory; build it with `beit-shard build`",
        Ok(true) => {
            "the build there did not finish; run the same `beit-shard build` command again, it keeps finished shards"
        }
        Ok(false) => "there are no shards in it; name a directory that `beit-shard build` wrote",
    };
    ShardError::Unfinished { dir: dir.to_owned(), state }
}

/// The lines of a manifest, one after the other.
struct Lines<'a> {
    lines: std::str::Lines<'a>,
    number: u64,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        self.number += 1;
        self.lines.next().ok_or_else(|| self.wrong("it ends too early"))
    }

    fn wrong(&self, why: &str) -> String {
        format!("line {}: {why}", self.number)
    }

    /// What stands behind `key ` on the next line.
    fn value(&mut self, key: &str) -> Result<&'a str, String> {
        let line = self.next()?;
        line.strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or_else(|| self.wrong(&format!("`{key} …` is expected here")))
    }

    fn split(&mut self, key: &str) -> Result<(&'a str, &'a str), String> {
        self.value(key)?.split_once(' ').ok_or_else(|| self.wrong("a second value is missing"))
    }

    fn number<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        let value = self.value(key)?;
        self.parsed(value)
    }

    fn text(&mut self, key: &str) -> Result<String, String> {
        unescape(self.value(key)?).ok_or_else(|| self.wrong("a stray backslash"))
    }

    fn parsed<T: FromStr>(&self, value: &str) -> Result<T, String> {
        value.parse().map_err(|_| self.wrong(&format!("{value:?} is not a value")))
    }

    fn shard(&mut self) -> Result<ShardInfo, String> {
        let (samples, rest) = self.split("shard")?;
        let mut parts = rest.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let (bytes, digest, file) = (part(), part(), part());
        let file = unescape(file).ok_or_else(|| self.wrong("a stray backslash"))?;
        if file.is_empty() || file.contains('/') || file == ".." {
            return Err(self.wrong("a shard's file name has no slash"));
        }
        Ok(ShardInfo {
            file,
            samples: self.parsed(samples)?,
            bytes: self.parsed(bytes)?,
            digest: self.parsed(digest)?,
        })
    }
}
