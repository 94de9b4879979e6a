//! Mapped files that lose bytes under their readers: an error that names the file, never the end of the process.

use crate::common::{check_read, classes, sample, spec, write_shard};
use beit_shards::{Io, ReadBuf, Shard, ShardError, ShardSet, publish_manifest, shard_file_name};
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

const DIR: &str = "BEIT_SHARDS_SHRINKING_DIR";

/// Enough for several pages.
const SAMPLES: u64 = 200;

fn truncate(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[track_caller]
fn check_shrunk(error: &ShardError, path: &Path, now: u64) {
    assert!(error.is_damage() && error.reason() == "truncated", "{error:?}");
    let text = error.to_string();
    for word in [
        path.to_str().unwrap(),
        "was truncated while it was open",
        &format!("has {now} now"),
        "beit-shard repair",
    ] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn a_mapped_shard_that_shrinks_is_an_error_and_what_is_left_of_it_still_reads() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(2);
    for number in 0..2 {
        write_shard(dir.path(), number, SAMPLES, &spec);
    }
    publish_manifest(dir.path(), &spec, &classes(), 2).unwrap();
    for io in [Io::Mmap, Io::Pread] {
        write_shard(dir.path(), 1, SAMPLES, &spec);
        let set = ShardSet::open(dir.path(), io).unwrap();
        let path = dir.path().join(shard_file_name(1));
        let (shard, mut buf) = (&set.shards()[1], ReadBuf::new());
        let left = shard.entry(SAMPLES / 2).unwrap().offset;
        truncate(&path, left);
        let (mut sound, mut lost) = (0, 0);
        for index in (0..set.len()).rev() {
            match set.read(index, 1, &mut buf) {
                Ok(read) => {
                    check_read(&read, index, 1, &spec);
                    sound += 1;
                }
                Err(error) => {
                    check_shrunk(&error, &path, left);
                    assert!(index >= SAMPLES, "the other shard is whole");
                    lost += 1;
                }
            }
        }
        // The index lay behind the cut, so of this shard nothing can be found any more; of the other one everything.
        assert_eq!((sound, lost), (SAMPLES, SAMPLES), "{io}");
        let found = shard.verify_all(&mut |_| {});
        assert!(!found.is_sound() && found.damaged[0].error.to_string().contains(&format!("has {left} now")));
    }
}

#[test]
fn bytes_that_vanish_after_they_were_verified_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    // Records of many pages, so that a read does not fault everything in.
    let mut writer = beit_shards::ShardWriter::create(dir.path(), 0, &spec, &classes()).unwrap();
    let mut big = sample(1, &spec);
    big.payload = vec![7; 1 << 20];
    big.push(&mut writer).unwrap();
    writer.finish().unwrap();
    let path = dir.path().join(shard_file_name(0));
    let shard = Shard::open(&path, Io::Mmap).unwrap();
    let mut buf = ReadBuf::new();
    let read = shard.read(0, 0, &mut buf).unwrap();
    assert!(read.is_intact() && read.payload == big.payload);
    truncate(&path, 4096);
    assert!(read.payload != big.payload, "what is gone reads as zeros");
    assert!(!read.is_intact());
    let error = shard.read(0, 0, &mut ReadBuf::new()).unwrap_err();
    check_shrunk(&error, &path, 4096);
}

#[test]
fn many_threads_meet_the_truncation_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    for round in 0..20 {
        write_shard(dir.path(), 0, 2000, &spec);
        let path = dir.path().join(shard_file_name(0));
        let shard = Shard::open(&path, Io::Mmap).unwrap();
        let cut = shard.bytes() / 3;
        let lost = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (shard, spec, lost, path) = (&shard, &spec, &lost, &path);
                scope.spawn(move || {
                    let mut buf = ReadBuf::new();
                    for step in 0..600 {
                        if (thread, step) == (0, 20 * round) {
                            truncate(path, cut);
                        }
                        let index = (step * 37 + thread * 11) % shard.len();
                        match shard.read(index, 0, &mut buf) {
                            // The values may be compared only while the bytes they are made of are there.
                            Ok(read) => {
                                let same = read.payload == sample(index, spec).payload;
                                assert!(same || !read.is_intact(), "record {index}");
                            }
                            Err(error) => {
                                check_shrunk(&error, path, cut);
                                lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        assert!(lost.into_inner() > 0, "round {round} met no truncation");
    }
}

/// Not a test by itself: touches a map of its own behind the end of its file, which is none of this room's business.
#[test]
fn child_with_a_strangers_map() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    write_shard(dir, 0, 5, &spec(1));
    let _handler = Shard::open(&dir.join(shard_file_name(0)), Io::Mmap).unwrap();
    let path = dir.join("strange");
    std::fs::write(&path, [1; 10_000]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let map = strange_map(&file);
    truncate(&path, 0);
    println!("{}", map[9_000]);
}

#[expect(unsafe_code, reason = "a map that the room does not know")]
fn strange_map(file: &std::fs::File) -> memmap2::Mmap {
    // SAFETY: it is about to be broken on purpose, in a process that is there to die of it.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}

#[test]
fn a_strangers_truncated_map_still_ends_the_process_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shrinking::child_with_a_strangers_map", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(7), "SIGBUS: {output:?}");
}
