//! One shard of every format ever written still reads, and today's writer still writes the same bytes.

use crate::common::{check_read, classes, sample, spec, write_shard};
use beit_shards::{Io, PAYLOAD_RGB, ReadBuf, Shard, ShardSet, publish_manifest, shard_file_name};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set to write the golden files afresh after a change of format (which needs a new version and a new folder).
const BLESS: &str = "BEIT_BLESS_GOLDEN";
const SAMPLES: u64 = 6;
const VIEWS: u32 = 2;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/shard-v1")
}

#[test]
fn the_first_format_still_reads() {
    let set = ShardSet::open(&golden(), Io::Auto).unwrap();
    assert_eq!((set.len(), set.classes(), set.spec()), (SAMPLES, classes().as_slice(), &spec(VIEWS)));
    let mut buf = ReadBuf::new();
    for index in 0..SAMPLES {
        for view in 0..VIEWS {
            check_read(&set.read(index, view, &mut buf).unwrap(), index, view, &spec(VIEWS));
        }
    }
    let shard = &set.shards()[0];
    assert!(shard.verify_all(&mut |_| {}).is_sound());
    let plain: usize = (0..SAMPLES).map(|number| sample(number, &spec(VIEWS)).payload.len()).sum();
    assert!(shard.footer().payload_bytes < plain as u64, "an RGB payload is compressed");
    assert_eq!(shard.footer().quarantine, [("cat/bad 0.jpg".to_owned(), "truncated".to_owned())]);
}

#[test]
fn the_writer_still_writes_the_first_format_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, SAMPLES, &spec(VIEWS));
    let manifest = publish_manifest(dir.path(), &spec(VIEWS), &classes(), 1).unwrap();
    let names = [shard_file_name(0), "manifest.txt".to_owned()];
    if std::env::var_os(BLESS).is_some() {
        std::fs::create_dir_all(golden()).unwrap();
        for name in &names {
            std::fs::copy(dir.path().join(name), golden().join(name)).unwrap();
        }
    }
    let read = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
    assert!(read(dir.path(), &names[0]) == read(&golden(), &names[0]), "the shard's bytes changed");
    // The catalog's file follows LMDB's page size, so its digests are the one thing that may differ.
    let set = ShardSet::open(&golden(), Io::Auto).unwrap();
    assert_eq!(set.digest(), manifest.digest());
    assert_eq!(set.manifest().shards, manifest.shards);
}

/// What the Python reader prints, made from what this one reads.
fn listing(shard: &Shard, with_payloads: bool) -> String {
    let mut text = String::new();
    let mut buf = ReadBuf::new();
    for index in 0..shard.len() {
        for view in 0..shard.spec().views {
            let read = shard.read(index, view, &mut buf).unwrap();
            if view == 0 {
                let hidden = read.payload_kind == PAYLOAD_RGB && !with_payloads;
                let payload = if hidden { "?".to_owned() } else { hex(read.payload) };
                let (id, label, kind) = (read.id, read.label, read.payload_kind);
                writeln!(
                    text,
                    "{index} {id} {label} {}x{} {kind} {payload} {}",
                    read.width, read.height, read.path
                )
                .unwrap();
            }
            let tokens: Vec<String> = read.tokens.iter().map(ToString::to_string).collect();
            writeln!(text, "{index} view {view} grey {} tokens {}", read.grey, tokens.join(" ")).unwrap();
        }
    }
    for (path, reason) in &shard.footer().quarantine {
        writeln!(text, "quarantined {path}: {reason}").unwrap();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `python read_shard.py`; `None` when there is no such Python.
fn read_in_python(python: &str, path: &Path) -> Option<(bool, String, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat/read_shard.py");
    let output = Command::new(python).arg(script).arg(path).output().ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_reader_written_from_the_format_page_alone_reads_the_same() {
    let python = std::env::var("BEIT_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let path = golden().join(shard_file_name(0));
    let Some((sound, read, notes)) = read_in_python(&python, &path) else {
        println!("skipped: no {python} here");
        return;
    };
    assert!(sound, "{notes}");
    let shard = Shard::open(&path, Io::Auto).unwrap();
    assert_eq!(read, listing(&shard, !notes.contains("no zstandard")));

    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.shard");
    let mut bytes = std::fs::read(&path).unwrap();
    if !notes.contains("no xxhash") {
        for at in (0..bytes.len()).step_by(211) {
            bytes[at] ^= 4;
            std::fs::write(&damaged, &bytes).unwrap();
            let (sound, _, notes) = read_in_python(&python, &damaged).unwrap();
            let found = !sound || (notes.contains("no blake3") && Shard::open(&damaged, Io::Auto).is_ok());
            assert!(found, "byte {at} went unnoticed");
            bytes[at] ^= 4;
        }
    }
}
