//! Full disks and file size limits, real ones: a clear error, and nothing half-written under a final name.

use crate::common::{classes, sample, spec, write_shard};
use beit_shards::{Io, ShardError, ShardSet, ShardWriter, publish_manifest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use std::process::Command;

const DIR: &str = "BEIT_SHARDS_LIMITED_DIR";

fn published(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Writes one shard and publishes it as a set.
fn build(dir: &Path, samples: u64) -> Result<(), ShardError> {
    let spec = spec(1);
    let mut writer = ShardWriter::create(dir, 0, &spec, &classes())?;
    for number in 0..samples {
        sample(number, &spec).push(&mut writer)?;
    }
    writer.finish()?;
    publish_manifest(dir, &spec, &classes(), 1).map(drop)
}

#[track_caller]
fn check_message(error: &ShardError, dir: &Path, words: &[&str]) {
    assert_eq!(error.reason(), "io");
    let text = error.to_string();
    for word in words.iter().copied().chain([dir.to_str().unwrap(), "run the same command again"]) {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// Not a test by itself: runs in a process of its own, where a limit hurts nobody else and SIGXFSZ is ignored.
#[test]
fn child_with_a_file_size_limit() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let before = getrlimit(Resource::Fsize);
    let limit = |bytes| setrlimit(Resource::Fsize, Rlimit { current: bytes, ..before }).unwrap();
    let mut failures = 0;
    // Shard, catalog and manifest are written in this order and grow past the limits in turn.
    for bytes in (0..80_000).step_by(1500) {
        limit(Some(bytes));
        let result = build(dir, 100);
        limit(before.current);
        let Err(error) = result else { break };
        failures += 1;
        check_message(&error, dir, &["File too large", "raise the file size limit"]);
        assert!(published(dir).iter().all(|name| !name.ends_with(".tmp")), "{:?}", published(dir));
        assert!(ShardSet::open(dir, Io::Auto).is_err());
        for name in published(dir).iter().filter(|name| name.ends_with(".shard")) {
            assert!(
                beit_shards::Shard::open(&dir.join(name), Io::Auto)
                    .unwrap()
                    .verify_all(&mut |_| {})
                    .is_sound()
            );
        }
    }
    build(dir, 100).unwrap();
    assert!(ShardSet::open(dir, Io::Auto).unwrap().verify_all(&mut |_| {}).is_sound());
    println!("{failures} builds failed");
    assert!(failures > 10);
}

#[test]
fn a_write_that_fails_at_any_size_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact faults::child_with_a_file_size_limit --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("builds failed"), "{text}{:?}", output);
}

#[test]
fn a_full_disk_is_named_and_the_earlier_set_survives() {
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(dir.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: only root can mount a small disk");
        return;
    }
    let _unmount = Unmount(dir.path());
    let spec = spec(1);
    write_shard(dir.path(), 0, 20, &spec);
    publish_manifest(dir.path(), &spec, &classes(), 1).unwrap();
    let error = build(dir.path(), 5000).unwrap_err();
    check_message(&error, dir.path(), &["No space left on device", "free some space", "shard-000000.shard"]);
    assert!(published(dir.path()).iter().all(|name| !name.ends_with(".tmp")));
    assert!(ShardSet::open(dir.path(), Io::Auto).unwrap().verify_all(&mut |_| {}).is_sound());

    // A second shard, on a disk that is full a page later each time, until it fits with catalog and manifest.
    let resize = |kilobytes: u64| {
        let size = format!("remount,size={kilobytes}k");
        Command::new("mount").args(["-o", &size]).arg(dir.path()).status().unwrap().success()
    };
    let grow = || {
        let mut writer = ShardWriter::create(dir.path(), 1, &spec, &classes())?;
        for number in 20..120 {
            sample(number, &spec).push(&mut writer)?;
        }
        writer.cover(21, [2; 32]);
        writer.finish()?;
        publish_manifest(dir.path(), &spec, &classes(), 2).map(drop)
    };
    let (mut full, mut kilobytes) = (0, 32);
    loop {
        if resize(kilobytes) {
            let grown = grow();
            let set = ShardSet::open(dir.path(), Io::Auto).unwrap();
            assert!(set.verify_all(&mut |_| {}).is_sound(), "{kilobytes} kB");
            assert_eq!(set.len(), if grown.is_ok() { 120 } else { 20 }, "{kilobytes} kB");
            assert!(published(dir.path()).iter().all(|name| !name.ends_with(".tmp")));
            let Err(error) = grown else { break };
            assert!(error.to_string().contains("No space left on device"), "{error}");
            let _ = std::fs::remove_file(dir.path().join("shard-000001.shard"));
            full += 1;
        }
        kilobytes += 4;
    }
    assert!(full >= 8, "{full} full disks, the last of {kilobytes} kB");
}
