//! Every call that changes the disk fails once, in every way: what was published before stays, or the new is there whole.

use super::faults::{Fault, under};
use crate::{
    CATALOG_FILE, Catalog, Io, MANIFEST_FILE, PAYLOAD_JPEG, Record, SampleId, SetSpec, Shard, ShardError,
    ShardSet, ShardWriter, TokenizerRef, ViewTokens, publish_manifest, retract_manifest, shard_file_name,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::Path;

fn spec() -> SetSpec {
    SetSpec {
        seed: 1,
        views: 1,
        view_spec: String::new(),
        tokenizer: TokenizerRef { digest: [1; 32], name: "t".to_owned(), vocab: 16 },
        grid: (2, 2),
        payload: "original".to_owned(),
    }
}

fn classes() -> Vec<String> {
    vec!["one".to_owned()]
}

/// A shard of `samples` payloads of 100 kB: the writer lets go of a megabyte at a time.
fn write_shard(dir: &Path, number: u64, samples: u64, first: u64) -> Result<(), ShardError> {
    let mut writer = ShardWriter::create(dir, number, &spec(), &classes())?;
    for i in first..first + samples {
        let path = format!("{number}/{i}.jpg");
        let payload = vec![i as u8; 100_000];
        writer.push(&Record {
            id: SampleId::of_path(&path),
            label: 0,
            path: &path,
            width: 1,
            height: 1,
            payload_kind: PAYLOAD_JPEG,
            payload: &payload,
            views: &[ViewTokens { grey: 0, tokens: &[1, 2, 3, 4] }],
        })?;
    }
    writer.finish().map(drop)
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap())).collect()
}

fn restore(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for name in contents(dir).keys().filter(|name| !files.contains_key(*name)) {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Runs `work` from the state `old` under every fault there is, and each time hands the result to `check`.
fn every_fault(
    dir: &Path,
    old: &BTreeMap<String, Vec<u8>>,
    work: impl Fn() -> Result<(), ShardError>,
    mut check: impl FnMut(&BTreeMap<String, Vec<u8>>, bool, &str),
) -> usize {
    restore(dir, old);
    let (done, calls) = under(None, &work);
    done.unwrap();
    check(&contents(dir), true, "without a fault");
    let mut faults: Vec<Fault> = vec![Fault::Short(997)];
    for (at, call) in (0..).zip(&calls) {
        faults.extend([Errno::NOSPC, Errno::IO].map(|errno| Fault::Fail(at, errno)));
        if *call == "write" {
            faults.push(Fault::Half(at, Errno::NOSPC));
        }
    }
    for fault in &faults {
        restore(dir, old);
        let (done, _) = under(Some(*fault), &work);
        let when = format!("{fault:?} of {calls:?}");
        let fine = matches!(fault, Fault::Short(_));
        assert_eq!(done.is_ok(), fine || done.is_ok(), "{when}");
        if let Err(error) = &done {
            assert_eq!(error.reason(), "io", "{when}: {error}");
            assert!(!fine, "{when}: {error}");
        }
        check(&contents(dir), done.is_ok(), &when);
    }
    faults.len()
}

#[test]
fn a_shard_is_the_old_one_or_the_new_one_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let name = shard_file_name(0);
    write_shard(dir.path(), 0, 25, 0).unwrap();
    let old = contents(dir.path());
    let new = {
        let other = tempfile::tempdir().unwrap();
        write_shard(other.path(), 0, 32, 7).unwrap();
        contents(other.path())
    };
    for before in [old, BTreeMap::new()] {
        let faults = every_fault(
            dir.path(),
            &before,
            || write_shard(dir.path(), 0, 32, 7),
            |now, ok, when| {
                assert!(now.keys().all(|found| *found == name), "litter after {when}: {:?}", now.keys());
                let is_new = now.get(&name) == new.get(&name);
                assert!(is_new || now.get(&name) == before.get(&name), "neither old nor new after {when}");
                assert!(is_new || !ok, "it said it was published, {when}");
                if now.contains_key(&name) {
                    let shard = Shard::open(&dir.path().join(&name), Io::Pread).unwrap();
                    assert!(shard.verify_all(&mut |_| {}).is_sound(), "{when}");
                }
            },
        );
        assert!(faults >= 15, "several writes, a sync, a rename, the directory's sync: {faults}");
    }
}

#[test]
fn a_grown_set_is_the_old_one_or_the_new_one_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 3, 0).unwrap();
    publish_manifest(dir.path(), &spec(), &classes(), 1).unwrap();
    write_shard(dir.path(), 1, 2, 3).unwrap();
    let old = contents(dir.path());
    let (mut olds, mut news) = (0, 0);
    let publish = || publish_manifest(dir.path(), &spec(), &classes(), 2).map(drop);
    let faults = every_fault(dir.path(), &old, publish, |now, ok, when| {
        let set = ShardSet::open(dir.path(), Io::Pread).unwrap();
        assert!(set.verify_all(&mut |_| {}).is_sound(), "{when}: {:?}", now.keys());
        let catalog = Catalog::open(dir.path()).unwrap();
        assert_eq!(catalog.find_path("1/3.jpg").unwrap().is_some(), set.len() == 5, "{when}");
        match set.len() {
            5 => news += 1,
            3 => {
                olds += 1;
                assert!(!ok, "it said it was published, {when}");
            }
            len => panic!("{len} samples, {when}"),
        }
        assert!(now.keys().all(|name| !name.ends_with(".tmp")), "litter after {when}: {:?}", now.keys());
        // The same command again ends with the same files as an undisturbed one.
        drop(catalog);
        publish_manifest(dir.path(), &spec(), &classes(), 2).unwrap();
        let names: Vec<_> = contents(dir.path()).into_keys().collect();
        assert_eq!(names, [CATALOG_FILE, MANIFEST_FILE, &shard_file_name(0), &shard_file_name(1)], "{when}");
    });
    assert!(faults >= 20 && olds >= 10 && news >= 3, "{faults} faults: {olds} old, {news} new");
}

#[test]
fn a_manifest_is_taken_away_or_not() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 1, 0).unwrap();
    publish_manifest(dir.path(), &spec(), &classes(), 1).unwrap();
    let old = contents(dir.path());
    every_fault(
        dir.path(),
        &old,
        || retract_manifest(dir.path()),
        |now, ok, when| {
            assert!(now.contains_key(MANIFEST_FILE) != ok || !ok, "{when}");
            match ShardSet::open(dir.path(), Io::Pread) {
                Ok(set) => assert!(set.verify_all(&mut |_| {}).is_sound(), "{when}"),
                Err(error) => assert_eq!(error.reason(), "unfinished", "{when}"),
            }
        },
    );
}
