//! One flipped bit anywhere is found, and a read never hands out anything but what was packed.

use crate::common::{classes, sample, spec, write_shard};
use beit_shards::{
    CATALOG_FILE, Io, MANIFEST_FILE, ReadBuf, Shard, ShardError, ShardSet, publish_manifest, shard_file_name,
};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SAMPLES: u64 = 4;
const VIEWS: u32 = 2;

fn write_set(dir: &Path) -> PathBuf {
    let spec = spec(VIEWS);
    write_shard(dir, 0, SAMPLES, &spec);
    publish_manifest(dir, &spec, &classes(), 1).unwrap();
    dir.join(shard_file_name(0))
}

/// Flips `bits` of every byte of `path`, one at a time, and calls `check` with what was flipped.
fn flip_all(path: &Path, bits: impl Fn(u64) -> std::ops::Range<u32>, mut check: impl FnMut(u64, u32)) {
    let bytes = std::fs::read(path).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for (offset, &byte) in (0..).zip(&bytes) {
        for bit in bits(offset) {
            file.write_all_at(&[byte ^ (1 << bit)], offset).unwrap();
            check(offset, bit);
        }
        file.write_all_at(&[byte], offset).unwrap();
    }
}

/// Opens and verifies a shard, reading everything that can still be read.
fn find_damage(path: &Path, io: Io) -> Result<(), ShardError> {
    let shard = Shard::open(path, io)?;
    let spec = spec(VIEWS);
    let mut buf = ReadBuf::new();
    for index in 0..shard.len() {
        for view in 0..VIEWS {
            if let Ok(read) = shard.read(index, view, &mut buf) {
                crate::common::check_read(&read, index, view, &spec);
            }
        }
    }
    match shard.verify_all(&mut |_| {}).damaged.into_iter().next() {
        Some(damage) => Err(damage.error),
        None => Ok(()),
    }
}

#[test]
fn every_flipped_bit_of_a_shard_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_set(dir.path());
    find_damage(&path, Io::Pread).unwrap();
    flip_all(
        &path,
        |_| 0..8,
        |offset, bit| {
            assert!(find_damage(&path, Io::Pread).is_err(), "bit {bit} of byte {offset} went unnoticed");
        },
    );
    find_damage(&path, Io::Pread).unwrap();
}

#[test]
fn every_flipped_byte_of_a_mapped_shard_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_set(dir.path());
    flip_all(
        &path,
        |offset| (offset % 8) as u32..(offset % 8) as u32 + 1,
        |offset, bit| {
            assert!(find_damage(&path, Io::Mmap).is_err(), "bit {bit} of byte {offset} went unnoticed");
        },
    );
}

#[test]
fn every_flipped_bit_of_manifest_and_catalog_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path());
    let find = || ShardSet::open(dir.path(), Io::Auto).map(|set| set.verify_all(&mut |_| {}).is_sound());
    assert!(find().unwrap());
    flip_all(
        &dir.path().join(MANIFEST_FILE),
        |_| 0..8,
        |offset, bit| {
            let error = ShardSet::open(dir.path(), Io::Auto).expect_err("bad manifest");
            assert_eq!(error.reason(), "manifest", "bit {bit} of byte {offset}: {error}");
        },
    );
    flip_all(
        &dir.path().join(CATALOG_FILE),
        |offset| (offset % 8) as u32..(offset % 8) as u32 + 1,
        |offset, bit| assert!(!find().unwrap(), "bit {bit} of byte {offset} went unnoticed"),
    );
    assert!(find().unwrap());
}

#[test]
fn damage_is_located_and_leaves_the_other_records_and_views_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_set(dir.path());
    let spec = spec(VIEWS);
    let shard = Shard::open(&path, Io::Pread).unwrap();
    let entry = shard.entry(1).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let hit = |offset: u64| {
        let mut bytes = bytes.clone();
        bytes[offset as usize] ^= 16;
        std::fs::write(&path, bytes).unwrap();
        let found = shard.verify_all(&mut |_| {});
        assert_eq!(found.damaged.iter().map(|damage| damage.record).collect::<Vec<_>>(), [Some(1)]);
        found.damaged[0].error.to_string()
    };
    let mut buf = ReadBuf::new();

    let last_view = hit(entry.offset + entry.length - 1);
    assert!(last_view.contains("record 1, view 1 has checksum"), "{last_view}");
    assert!(last_view.contains("beit-shard repair SRC --shards"), "{last_view}");
    let error = shard.read(1, 1, &mut buf).unwrap_err();
    assert_eq!((error.reason(), error.is_damage()), ("checksum", true));
    crate::common::check_read(&shard.read(1, 0, &mut buf).unwrap(), 1, 0, &spec);

    let header = hit(entry.offset + 9);
    assert!(header.contains("record 1, header has checksum"), "{header}");
    let payload_at = 72_u64.next_multiple_of(8) + sample(1, &spec).path.len().next_multiple_of(8) as u64 + 8;
    let payload = hit(entry.offset + payload_at);
    assert!(payload.contains("record 1, payload has checksum"), "{payload}");
    assert!(shard.read(1, 0, &mut buf).is_err());
    for index in [0, 2, 3] {
        crate::common::check_read(&shard.read(index, 1, &mut buf).unwrap(), index, 1, &spec);
    }
}

#[test]
fn a_shard_cut_short_or_grown_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_set(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    for io in [Io::Mmap, Io::Pread] {
        std::fs::write(&path, &bytes).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut last = String::new();
        for len in (0..bytes.len()).rev() {
            file.set_len(len as u64).unwrap();
            let error = Shard::open(&path, io).expect_err("a shard cut short").to_string();
            if len > 200 {
                last = error;
            }
        }
        assert!(last.contains("is not a whole shard: it does not end as a shard does"), "{last}");
        for extra in [1, 8, 64, 4096] {
            std::fs::write(&path, [bytes.clone(), vec![0; extra]].concat()).unwrap();
            assert!(Shard::open(&path, io).is_err(), "{extra} more bytes");
        }
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_at_offsets_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_set(dir.path());
    let shard = Shard::open(&path, Io::Pread).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = shard.read(2, 0, &mut ReadBuf::new()).unwrap_err();
    assert_eq!(error.reason(), "truncated");
    assert!(error.to_string().contains("was truncated while it was open"), "{error}");
    let found = shard.verify_all(&mut |_| {});
    assert!(found.damaged[0].error.to_string().contains("and has 100 now"));
}

#[test]
fn a_sound_shard_of_another_build_is_not_taken_for_the_published_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_set(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    let mut writer = beit_shards::ShardWriter::create(dir.path(), 0, &spec(VIEWS), &classes()).unwrap();
    for number in (0..SAMPLES).rev() {
        sample(number, &spec(VIEWS)).push(&mut writer).unwrap();
    }
    writer.quarantine("cat/bad 0.jpg", "truncated");
    writer.cover(0, [1; 32]);
    writer.finish().unwrap();
    assert!(Shard::open(&path, Io::Auto).unwrap().verify_all(&mut |_| {}).is_sound());
    let error = ShardSet::open(dir.path(), Io::Auto).unwrap_err();
    assert!(["checksum", "malformed"].contains(&error.reason()), "{error}");
    std::fs::write(&path, bytes).unwrap();
    ShardSet::open(dir.path(), Io::Auto).unwrap();
}
