//! Catalog: an LMDB file that finds a sample by id or path, and a quarantined path's reason.
//!
//! It is derived: everything in it is also in the shards, and it is written afresh, in one transaction, each time a
//! set is published. The manifest holds digests of its file and of its content. A damaged LMDB file can crash whoever
//! opens it, so the file's digest is checked before LMDB sees it.
#![expect(unsafe_code, reason = "LMDB's open; its SAFETY comments say who keeps the file still")]

use crate::digest::Digest;
use crate::disk;
use crate::error::{ShardError, io_at, write_at};
use crate::index::Name;
use crate::manifest::Manifest;
use crate::publish::Staged;
use crate::sample::SampleId;
use crate::shard::Shard;
use crate::wire::{Put, Take};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, WithoutTls};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// File name of the catalog within a set's directory.
pub const CATALOG_FILE: &str = "catalog.lmdb";

/// Where the catalog of the set that is still published lies while that of the next one takes its place: two files cannot
/// be replaced at once, so until the new manifest is there the old one keeps its catalog under this name.
pub(crate) const PREVIOUS_CATALOG: &str = "catalog.previous.lmdb";

/// Key prefix of quarantined entries; sorts before that of samples.
const QUARANTINED: u8 = b'q';
/// Key prefix of samples.
const SAMPLE: u8 = b's';
/// Bytes of a key: prefix and big-endian id.
const KEY_LEN: usize = 9;

/// What the manifest says about the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CatalogInfo {
    /// Length of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub file: Digest,
    /// BLAKE3 of the content, independent of how LMDB arranges it.
    pub content: Digest,
}

/// Where a sample is and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The sample.
    pub id: SampleId,
    /// Position of its shard in the manifest.
    pub shard: u32,
    /// Its record within that shard.
    pub index: u64,
    /// Index into the set's classes.
    pub label: u32,
    /// `/`-separated path within the source.
    pub path: String,
}

/// A set's catalog, open for reading.
pub struct Catalog {
    path: PathBuf,
    env: Env<WithoutTls>,
    db: Database<'static, Bytes, Bytes>,
}

impl Catalog {
    /// Opens the catalog of the set in `dir`, after comparing its file with the manifest.
    ///
    /// One process can have a set's catalog open only once.
    ///
    /// # Errors
    /// [`ShardError::Catalog`] when it is damaged or not of this set; those of [`Manifest::read`]
    pub fn open(dir: &Path) -> Result<Self, ShardError> {
        Self::open_checked(dir, &Manifest::read(dir)?.catalog)
    }

    pub(crate) fn open_checked(dir: &Path, info: &CatalogInfo) -> Result<Self, ShardError> {
        let path = published(dir, info)?;
        let env = open(&path, EnvFlags::READ_ONLY, info.bytes).map_err(heed_at(&path))?;
        let txn = env.read_txn().map_err(heed_at(&path))?;
        let db = env
            .open_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
                Ok(match opener.open_database::<Bytes, Bytes>(txn, None)? {
                    Some(db) => CommitOrAbort::Commit(db),
                    None => CommitOrAbort::Abort(()),
                })
            })
            .map_err(heed_at(&path))?;
        match db {
            CommitOrAbort::Commit(db) => Ok(Self { path, env, db }),
            CommitOrAbort::Abort(()) => Err(broken(&path)("it has no table")),
        }
    }

    /// Finds a sample by its id.
    ///
    /// # Errors
    /// [`ShardError::Catalog`]
    pub fn find(&self, id: SampleId) -> Result<Option<CatalogEntry>, ShardError> {
        self.get(key(SAMPLE, id), |value| decode_sample(id, value))
    }

    /// Finds a sample by its path within the source.
    ///
    /// # Errors
    /// [`ShardError::Catalog`]
    pub fn find_path(&self, path: &str) -> Result<Option<CatalogEntry>, ShardError> {
        Ok(self.find(SampleId::of_path(path))?.filter(|entry| entry.path == path))
    }

    /// Why the entry at `path` could not be packed; `None` when it was, or is unknown.
    ///
    /// # Errors
    /// [`ShardError::Catalog`]
    pub fn quarantine_reason(&self, path: &str) -> Result<Option<String>, ShardError> {
        let found = self.get(key(QUARANTINED, SampleId::of_path(path)), decode_quarantined)?;
        Ok(found.filter(|(found, _)| found == path).map(|(_, reason)| reason))
    }

    /// Hands every sample to `each`, in the order of ids.
    ///
    /// # Errors
    /// [`ShardError::Catalog`], or whatever `each` returns
    pub fn for_each(
        &self,
        mut each: impl FnMut(CatalogEntry) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        self.scan(|key, value| match *key {
            [SAMPLE, ref id @ ..] => {
                let id =
                    <[u8; 8]>::try_from(id).map_err(|_| broken(&self.path)("a key has a wrong length"))?;
                each(decode_sample(SampleId(u64::from_be_bytes(id)), value).map_err(broken(&self.path))?)
            }
            _ => Ok(()),
        })
    }

    /// Digest of the content, recomputed from what LMDB returns.
    pub(crate) fn content(&self) -> Result<Digest, ShardError> {
        let mut content = Content::default();
        self.scan(|key, value| {
            content.add(key, value);
            Ok(())
        })?;
        Ok(content.finish())
    }

    fn scan(&self, mut each: impl FnMut(&[u8], &[u8]) -> Result<(), ShardError>) -> Result<(), ShardError> {
        let txn = self.env.read_txn().map_err(heed_at(&self.path))?;
        for pair in self.db.iter(&txn).map_err(heed_at(&self.path))? {
            let (key, value) = pair.map_err(heed_at(&self.path))?;
            each(key, value)?;
        }
        Ok(())
    }

    fn get<T>(
        &self,
        key: [u8; KEY_LEN],
        decode: impl FnOnce(&[u8]) -> Result<T, &'static str>,
    ) -> Result<Option<T>, ShardError> {
        let txn = self.env.read_txn().map_err(heed_at(&self.path))?;
        let value = self.db.get(&txn, &key).map_err(heed_at(&self.path))?;
        value.map(decode).transpose().map_err(broken(&self.path))
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The file that is the catalog which a manifest speaks of.
fn published(dir: &Path, info: &CatalogInfo) -> Result<PathBuf, ShardError> {
    let (path, previous) = (dir.join(CATALOG_FILE), dir.join(PREVIOUS_CATALOG));
    let found = digest_file(&path);
    if found.as_ref().is_ok_and(|found| *found == (info.bytes, info.file)) {
        return Ok(path);
    }
    if digest_file(&previous).is_ok_and(|found| found == (info.bytes, info.file)) {
        return Ok(previous);
    }
    found?;
    Err(broken(&path)("it is damaged, or belongs to another build than the manifest"))
}

/// Keeps the catalog of the published set, if there is one, findable while the next one is published.
fn keep_previous(dir: &Path) -> Result<(), ShardError> {
    let path = dir.join(CATALOG_FILE);
    match Manifest::read(dir).and_then(|manifest| published(dir, &manifest.catalog)) {
        Ok(found) if found == path => Staged::link(&path, &dir.join(PREVIOUS_CATALOG)),
        // It is kept already, or there is none that is worth it.
        _ => Ok(()),
    }
}

/// Takes away what [`keep_previous`] kept, once the next manifest is published.
pub(crate) fn drop_previous(dir: &Path) -> Result<(), ShardError> {
    let path = dir.join(PREVIOUS_CATALOG);
    disk::remove(&path).map(drop).map_err(io_at("removing", &path))
}

/// Derives the catalog from all shards of a set and publishes it.
pub(crate) fn publish(dir: &Path, shards: &[Shard]) -> Result<CatalogInfo, ShardError> {
    let mut buffers = vec![Vec::new(); shards.len()];
    let mut names = Vec::with_capacity(shards.len());
    for (shard, buffer) in shards.iter().zip(&mut buffers) {
        names.push(shard.names(buffer)?);
    }
    let samples = list_samples(shards, &names)?;
    let quarantined = list_quarantined(shards)?;

    let path = dir.join(CATALOG_FILE);
    let staged = Staged::create(&path)?;
    let room = room(&names, samples.len(), &quarantined);
    let env = open(staged.temporary(), EnvFlags::empty(), room).map_err(heed_at(&path))?;
    let mut content = Content::default();
    let txn = env.write_txn().map_err(heed_at(&path))?;
    env.create_databases_and_commit(txn, |opener, txn| -> heed::Result<CommitOrAbort<(), ()>> {
        let db = opener.create_database::<Bytes, Bytes>(txn, None)?;
        let mut put = |key: [u8; KEY_LEN], value: &[u8]| {
            content.add(&key, value);
            // Both lists are sorted by id and q sorts before s, so each key goes behind the last one.
            db.put_with_flags(txn, PutFlags::APPEND, &key, value)
        };
        let mut value = Put::default();
        for (id, path, reason) in &quarantined {
            value.0.clear();
            value.text(path);
            value.bytes(reason.as_bytes());
            put(key(QUARANTINED, *id), &value.0)?;
        }
        for sample in &samples {
            let name = sample.name(&names);
            value.0.clear();
            value.u32(sample.shard);
            value.u32(sample.index);
            value.u32(name.label);
            value.bytes(name.path.as_bytes());
            put(key(SAMPLE, sample.id), &value.0)?;
        }
        Ok(CommitOrAbort::Commit(()))
    })
    .map_err(heed_at(&path))?;
    env.prepare_for_closing().wait();
    let (bytes, file) = digest_file(staged.temporary())?;
    keep_previous(dir)?;
    staged.publish()?;
    Ok(CatalogInfo { bytes, file, content: content.finish() })
}

/// Where one sample is, and where its name is in its shard's names.
struct Listed {
    id: SampleId,
    name: u64,
    shard: u32,
    index: u32,
}

impl Listed {
    /// `names` were parsed once when this was listed, so they parse again.
    fn name<'a>(&self, names: &[&'a [u8]]) -> Name<'a> {
        let at = names.get(self.shard as usize).and_then(|names| names.get(self.name as usize..));
        at.and_then(|names| Name::take(&mut Take(names)).ok()).unwrap_or(Name { label: 0, path: "" })
    }
}

/// All samples, sorted by id; two with one id are an error.
fn list_samples(shards: &[Shard], names: &[&[u8]]) -> Result<Vec<Listed>, ShardError> {
    let mut samples = Vec::new();
    for ((number, shard), names) in (0..).zip(shards).zip(names) {
        shard.for_each_name_in(names, |index, entry, at, _| {
            let Ok(index) = u32::try_from(index) else {
                return Err(broken(shard.path())("a shard has more than 2^32 records"));
            };
            samples.push(Listed { id: entry.id, name: at, shard: number, index });
            Ok(())
        })?;
    }
    samples.sort_unstable_by_key(|sample| (sample.id, sample.shard, sample.index));
    if let Some([first, second]) = samples.array_windows().find(|[first, second]| first.id == second.id) {
        let tell = |sample: &Listed| {
            format!("{} ({})", sample.name(names).path, shards[sample.shard as usize].path().display())
        };
        return Err(ShardError::IdCollision { id: first.id, first: tell(first), second: tell(second) });
    }
    Ok(samples)
}

/// All quarantined entries, sorted by the id of their path; two with one id are an error.
fn list_quarantined(shards: &[Shard]) -> Result<Vec<(SampleId, &str, &str)>, ShardError> {
    let mut list: Vec<(SampleId, &str, &str)> = Vec::new();
    for (path, reason) in shards.iter().flat_map(|shard| &shard.footer().quarantine) {
        list.push((SampleId::of_path(path), path, reason));
    }
    list.sort_unstable();
    if let Some([first, second]) = list.array_windows().find(|[first, second]| first.0 == second.0) {
        let (first, second) = ((first.0, first.1.to_owned()), second.1.to_owned());
        return Err(ShardError::IdCollision { id: first.0, first: first.1, second });
    }
    Ok(list)
}

/// Bytes of address space that LMDB may need for the content; generous, and the same for the same content.
fn room(names: &[&[u8]], samples: usize, quarantined: &[(SampleId, &str, &str)]) -> u64 {
    // Values longer than half a page get pages of their own, at most two each.
    const LONG: u64 = 1000;
    const PAGES: u64 = 2 * 65_536;
    let names: u64 = names.iter().map(|names| names.len() as u64).sum();
    let reasons: u64 = quarantined.iter().map(|(_, path, reason)| (path.len() + reason.len()) as u64).sum();
    let bytes = names + reasons;
    let entries = (samples + quarantined.len()) as u64;
    (2 * bytes + 128 * entries + bytes / LONG * PAGES + (16 << 20)).next_multiple_of(1 << 20)
}

fn key(prefix: u8, id: SampleId) -> [u8; KEY_LEN] {
    let mut key = [prefix; KEY_LEN];
    key[1..].copy_from_slice(&id.0.to_be_bytes());
    key
}

fn decode_sample(id: SampleId, value: &[u8]) -> Result<CatalogEntry, &'static str> {
    let mut take = Take(value);
    let (shard, index, label) = (take.u32()?, take.u32()?, take.u32()?);
    let path = std::str::from_utf8(take.0).map_err(|_| "a path is not UTF-8")?.to_owned();
    Ok(CatalogEntry { id, shard, index: index.into(), label, path })
}

fn decode_quarantined(value: &[u8]) -> Result<(String, String), &'static str> {
    let mut take = Take(value);
    let path = take.text()?.to_owned();
    let reason = std::str::from_utf8(take.0).map_err(|_| "a reason is not UTF-8")?.to_owned();
    Ok((path, reason))
}

/// Digest over pairs of key and value, in order.
#[derive(Default)]
struct Content(blake3::Hasher);

impl Content {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0.update(key).update(&(value.len() as u64).to_le_bytes()).update(value);
    }

    fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Opens an LMDB file of its own, without a lock file.
fn open(path: &Path, flags: EnvFlags, room: u64) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(usize::try_from(room.next_multiple_of(1 << 20)).unwrap_or(usize::MAX));
    // SAFETY: NO_LOCK leaves exclusion to us. The writer is alone on its temporary, whose name is its own and which is
    // locked by `Staged`; readers open a published file, which nobody writes to again, as `Staged` only renames.
    unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | flags) };
    // SAFETY: the map stays valid because a catalog is replaced by a rename, never truncated or written in place; and
    // readers have compared its digest with the manifest's, so LMDB follows no damaged page pointers.
    unsafe { options.open(path) }
}

fn digest_file(path: &Path) -> Result<(u64, Digest), ShardError> {
    let file = File::open(path).map_err(io_at("opening", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(io_at("reading", path))?;
    Ok((hasher.count(), Digest(*hasher.finalize().as_bytes())))
}

fn broken(path: &Path) -> impl Fn(&'static str) -> ShardError {
    move |why| ShardError::Catalog { path: path.to_owned(), why: why.to_owned() }
}

fn heed_at(path: &Path) -> impl FnOnce(heed::Error) -> ShardError {
    move |error| match error {
        heed::Error::Io(source) => write_at(path)(blame_full_disk(path, source)),
        error => ShardError::Catalog { path: path.to_owned(), why: error.to_string() },
    }
}

/// LMDB calls a write that a full disk cut short an input/output error.
fn blame_full_disk(path: &Path, error: io::Error) -> io::Error {
    const FULL: u64 = 1 << 20;
    let eio = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    let dir = path.parent().filter(|_| eio);
    let free = dir.and_then(|dir| rustix::fs::statvfs(dir).ok()).map(|disk| disk.f_bavail * disk.f_frsize);
    if free.is_some_and(|free| free < FULL) { rustix::io::Errno::NOSPC.into() } else { error }
}
