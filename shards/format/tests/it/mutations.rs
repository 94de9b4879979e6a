//! Thousands of damaged shards, checksums made right again or not: errors are welcome, panics are not.

use crate::common::{Bytes, classes, sample, spec, write_shard};
use crate::resum::resum;
use beit_shards::{Io, Manifest, ReadBuf, Shard, ShardSet, ShardWriter, publish_manifest, shard_file_name};
use std::path::Path;

/// Numbers that have broken readers before.
const NASTY: [u64; 12] = [
    0,
    1,
    7,
    63,
    64,
    255,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 63,
    u64::MAX,
];

/// Opens whatever lies at `path` and looks at everything it offers; says how far it came.
fn look(path: &Path, io: Io) -> (bool, u64) {
    let Ok(shard) = Shard::open(path, io) else { return (false, 0) };
    let mut buf = ReadBuf::new();
    let mut read = 0;
    for index in 0..shard.len().min(100) {
        if !cfg!(miri) {
            shard.will_need(index, 1); // foreign code
        }
        for view in 0..shard.spec().views.min(4) {
            read += u64::from(shard.read(index, view, &mut buf).is_ok());
        }
    }
    let _ = shard.for_each_name(|_, _, _, _| Ok(()));
    let found = shard.verify_all(&mut |_| {});
    (found.is_sound(), read)
}

fn mutate(bytes: &mut [u8], random: &mut Bytes) {
    for _ in 0..1 + random.next() % 3 {
        // Half of the hits go to the tail, where the structure is.
        let span = if random.next().is_multiple_of(2) { bytes.len() } else { bytes.len().min(600) };
        let at = bytes.len() - 1 - (random.next() as usize % span);
        match random.next() % 4 {
            0 => bytes[at] ^= 1 << (random.next() % 8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let at = (at / 8 * 8).min(bytes.len() - 8);
                bytes[at..at + 8].copy_from_slice(&NASTY[random.next() as usize % NASTY.len()].to_le_bytes());
            }
            _ => {
                let at = (at / 4 * 4).min(bytes.len() - 4);
                let value = NASTY[random.next() as usize % NASTY.len()] as u32;
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

/// A shard with some damage; in two rounds of three its checksums are right again, so that it lies deeper.
fn damaged(sound: &[u8], random: &mut Bytes, round: u32) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    mutate(&mut bytes, random);
    if !round.is_multiple_of(3) {
        resum(&mut bytes);
    }
    bytes
}

#[test]
fn no_damaged_shard_makes_the_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 3, &spec(2));
    let path = dir.path().join(shard_file_name(0));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(look(&path, Io::Pread), (true, 6));
    let mut random = Bytes(0);
    let (mut refused, mut opened) = (0, 0);
    for round in 0..6000 {
        let bytes = damaged(&bytes, &mut random, round);
        // A file of its own each time: a mapped one must not change its length.
        let path = dir.path().join(format!("{round}"));
        std::fs::write(&path, &bytes).unwrap();
        match look(&path, if round % 2 == 0 { Io::Mmap } else { Io::Pread }) {
            (false, 0) => refused += 1,
            _ => opened += 1,
        }
        std::fs::remove_file(&path).unwrap();
    }
    assert!(
        refused > 500 && opened > 500,
        "one-sided: {refused} refused outright, {opened} readable in part"
    );
}

/// Small enough for Miri, which looks at every access: read at offsets, and JPEG payloads only, as zstd is foreign code.
#[test]
fn damaged_shards_are_refused_or_read_at_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 0, &spec(2), &classes()).unwrap();
    for number in [1, 2] {
        sample(number, &spec(2)).push(&mut writer).unwrap();
    }
    writer.quarantine("cat/bad.jpg", "truncated");
    writer.finish().unwrap();
    let path = dir.path().join(shard_file_name(0));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(look(&path, Io::Pread), (true, 4));
    let mut random = Bytes(1);
    let (rounds, mut harmed) = (if cfg!(miri) { 12 } else { 600 }, 0);
    for round in 0..rounds {
        let bytes = damaged(&bytes, &mut random, round);
        let path = dir.path().join(format!("{round}"));
        std::fs::write(&path, &bytes).unwrap();
        harmed += u32::from(!look(&path, Io::Pread).0);
    }
    assert!(harmed > rounds / 4, "only {harmed} of {rounds} were found out");
}

#[test]
fn resummed_bytes_of_a_sound_shard_are_the_sound_shard() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 3, &spec(2));
    let bytes = std::fs::read(dir.path().join(shard_file_name(0))).unwrap();
    let mut again = bytes.clone();
    assert_eq!(resum(&mut again), Some(()));
    assert!(bytes == again);
}

#[test]
fn no_edited_manifest_is_taken_for_the_written_one() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 1, &spec(1));
    let manifest = publish_manifest(dir.path(), &spec(1), &classes(), 1).unwrap();
    let text = manifest.encode();
    assert_eq!(Manifest::parse(text.as_bytes()).as_ref(), Ok(&manifest));
    let lines: Vec<_> = text.lines().collect();
    let joined = |lines: &[&str]| format!("{}\n", lines.join("\n"));
    for line in 0..lines.len() {
        let without: Vec<_> =
            lines.iter().enumerate().filter(|(i, _)| *i != line).map(|(_, line)| *line).collect();
        assert!(Manifest::parse(joined(&without).as_bytes()).is_err(), "without line {line}");
        let mut twice = lines.clone();
        twice.insert(line, lines[line]);
        assert!(Manifest::parse(joined(&twice).as_bytes()).is_err(), "line {line} twice");
    }
    for len in 0..text.len() {
        assert!(Manifest::parse(&text.as_bytes()[..len]).is_err(), "{len} bytes");
    }
    assert!(Manifest::parse(text.replace('\n', "\r\n").as_bytes()).is_err());
    assert!(Manifest::parse(&[text.as_bytes(), b"\n"].concat()).is_err());
    let error = Manifest::parse(text.replace("manifest 1", "manifest 2").as_bytes()).unwrap_err();
    assert_eq!(error, "it has format version 2, this program reads version 1");
    let error = Manifest::parse(text.replace("seed 42", "seed 4x").as_bytes()).unwrap_err();
    assert_eq!(error, "line 2: \"4x\" is not a value");
    std::fs::write(dir.path().join("manifest.txt"), text.replace("seed 42", "seed 43")).unwrap();
    let error = ShardSet::open(dir.path(), Io::Auto).unwrap_err().to_string();
    assert!(error.contains("damaged or edited; run `beit-shard build` again"), "{error}");
}
