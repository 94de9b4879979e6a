//! Publishing: all or nothing, and no litter.

use crate::common::{classes, sample, spec, write_shard};
use beit_shards::{
    Io, ReadBuf, Shard, ShardSet, ShardWriter, publish_manifest, retract_manifest, shard_file_name,
};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const DIR: &str = "BEIT_SHARDS_TEST_DIR";

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_unfinished_shard_is_invisible_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 0, &spec(1), &classes()).unwrap();
    sample(0, &spec(1)).push(&mut writer).unwrap();
    assert!(names(dir.path()).iter().all(|name| name.ends_with(".tmp")));
    drop(writer);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn temporaries_of_dead_writers_are_removed_and_those_of_living_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".shard-000007.shard.1-0.tmp"), "left behind").unwrap();
    std::fs::write(dir.path().join(".mine"), "not a temporary").unwrap();
    let living = ShardWriter::create(dir.path(), 0, &spec(1), &classes()).unwrap();
    let other = ShardWriter::create(dir.path(), 1, &spec(1), &classes()).unwrap();
    assert_eq!(names(dir.path()).len(), 3, "{:?}", names(dir.path()));
    living.finish().unwrap();
    other.finish().unwrap();
    assert_eq!(names(dir.path()), [".mine", "shard-000000.shard", "shard-000001.shard"]);
}

#[test]
fn a_replaced_shard_stays_readable_for_those_who_have_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    write_shard(dir.path(), 0, 5, &spec);
    let shard = Shard::open(&dir.path().join(shard_file_name(0)), Io::Mmap).unwrap();
    write_shard(dir.path(), 0, 1, &spec);
    let mut buf = ReadBuf::new();
    for index in 0..5 {
        crate::common::check_read(&shard.read(index, 0, &mut buf).unwrap(), index, 0, &spec);
    }
}

#[test]
fn a_retracted_manifest_makes_the_set_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 5, &spec(1));
    publish_manifest(dir.path(), &spec(1), &classes(), 1).unwrap();
    retract_manifest(dir.path()).unwrap();
    retract_manifest(dir.path()).unwrap();
    assert_eq!(ShardSet::open(dir.path(), Io::Auto).unwrap_err().reason(), "unfinished");
}

/// Not a test by itself: the process that the next one kills.
#[test]
fn child_that_publishes_for_ever() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let spec = spec(2);
    loop {
        for number in 0..4 {
            write_shard(Path::new(&dir), number, 200, &spec);
        }
        publish_manifest(Path::new(&dir), &spec, &classes(), 4).unwrap();
    }
}

#[test]
fn whatever_moment_a_build_is_killed_at_published_files_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "publishing::child_that_publishes_for_ever"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + 13 * round % 97));
        child.kill().unwrap();
        child.wait().unwrap();
        for name in names(dir.path()) {
            if name.ends_with(".shard") {
                let shard = Shard::open(&dir.path().join(&name), Io::Auto).unwrap();
                assert!(shard.verify_all(&mut |_| {}).is_sound(), "{name}");
            }
            seen.push(name);
        }
        if dir.path().join("manifest.txt").exists() {
            assert!(ShardSet::open(dir.path(), Io::Auto).unwrap().verify_all(&mut |_| {}).is_sound());
        }
    }
    // What a killed build left is gone after the same build again, and the bytes are those of an undisturbed one.
    let undisturbed = tempfile::tempdir().unwrap();
    for dir in [&dir, &undisturbed] {
        for number in 0..4 {
            write_shard(dir.path(), number, 200, &spec(2));
        }
        publish_manifest(dir.path(), &spec(2), &classes(), 4).unwrap();
    }
    assert_eq!(names(dir.path()), names(undisturbed.path()));
    for name in names(dir.path()) {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(&name)).unwrap();
        assert!(read(&dir) == read(&undisturbed), "{name} differs");
    }
    assert!(seen.iter().any(|name| name.ends_with(".tmp")), "no kill hit a write: {seen:?}");
}
