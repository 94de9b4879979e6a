//! What people will meet: sets that do not fit together, and what the messages say about it.

use crate::common::{classes, sample, spec, write_shard};
use beit_shards::{
    Io, Record, SampleId, SetSpec, Shard, ShardError, ShardSet, ShardWriter, ViewTokens, publish_manifest,
    shard_file_name,
};
use std::path::Path;

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, ShardError>, reason: &str, words: &[&str]) {
    let error = result.expect_err("an error is expected");
    let text = error.to_string();
    assert_eq!(error.reason(), reason, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn a_directory_without_a_manifest_is_an_unfinished_build() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &Path| ShardSet::open(dir, Io::Auto);
    check(
        open(&dir.path().join("nowhere")),
        "unfinished",
        &["nowhere has no manifest.txt", "no such directory"],
    );
    check(open(dir.path()), "unfinished", &["there are no shards in it"]);
    write_shard(dir.path(), 0, 1, &spec(1));
    check(open(dir.path()), "unfinished", &["did not finish; run the same `beit-shard build` command again"]);
}

#[test]
fn shards_of_different_builds_are_named_both() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = spec(1);
    write_shard(dir.path(), 0, 2, &other);
    other.tokenizer.digest = [9; 32];
    other.tokenizer.name = "other".to_owned();
    write_shard(dir.path(), 1, 2, &other);
    let words = [
        "shard-000000.shard and ",
        "shard-000001.shard do not belong together",
        "tokenizer tiny (070707070707) against other (090909090909)",
    ];
    check(publish_manifest(dir.path(), &spec(1), &classes(), 2), "mixed", &words);
    write_shard(dir.path(), 1, 2, &SetSpec { seed: 43, ..spec(1) });
    check(publish_manifest(dir.path(), &spec(1), &classes(), 2), "mixed", &["seed 42 against 43"]);
    write_shard(dir.path(), 1, 2, &spec(1));
    publish_manifest(dir.path(), &spec(1), &classes(), 2).unwrap();

    write_shard(dir.path(), 1, 2, &SetSpec { view_spec: "as wide".to_owned(), ..spec(1) });
    let error = ShardSet::open(dir.path(), Io::Auto).unwrap_err();
    assert!(["mixed", "malformed"].contains(&error.reason()), "{error}");
    assert!(error.to_string().contains("shard-000001.shard"), "{error}");
}

#[test]
fn a_shard_that_knows_more_classes_than_the_set_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 1, &spec(1));
    check(publish_manifest(dir.path(), &spec(1), &classes()[..1], 1), "mixed", &["1 classes against 2"]);
}

#[test]
fn a_gap_in_the_listing_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 2, &spec(1));
    let mut writer = ShardWriter::create(dir.path(), 1, &spec(1), &classes()).unwrap();
    sample(9, &spec(1)).push(&mut writer).unwrap();
    writer.cover(5, [1; 32]);
    writer.finish().unwrap();
    check(
        publish_manifest(dir.path(), &spec(1), &classes(), 2),
        "mixed",
        &["starts at listing entry 5", "end at 3"],
    );
}

#[test]
fn a_missing_shard_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 2, &spec(1));
    check(
        publish_manifest(dir.path(), &spec(1), &classes(), 2),
        "io",
        &["shard-000001.shard", "No such file"],
    );
}

#[test]
fn one_id_for_two_samples_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..2 {
        let mut writer = ShardWriter::create(dir.path(), number, &spec(1), &classes()).unwrap();
        let mut sample = sample(number, &spec(1));
        sample.id = SampleId(0xabc);
        sample.push(&mut writer).unwrap();
        writer.finish().unwrap();
    }
    let words = ["cat/é 0.jpg (", "dog/é 1.jpg (", "shard-000001.shard", "have the same id 0000000000000abc"];
    check(publish_manifest(dir.path(), &spec(1), &classes(), 2), "collision", &words);
}

#[test]
fn a_later_format_version_is_refused_with_its_number() {
    let dir = tempfile::tempdir().unwrap();
    write_shard(dir.path(), 0, 1, &spec(1));
    let path = dir.path().join(shard_file_name(0));
    let mut bytes = std::fs::read(&path).unwrap();
    let version = bytes.len() - 48 + 24;
    bytes[version..version + 4].copy_from_slice(&2_u32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    check(Shard::open(&path, Io::Auto), "checksum", &["trailer has checksum"]);
    crate::resum::resum(&mut bytes).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    check(Shard::open(&path, Io::Auto), "foreign", &["format version 2, this program reads version 1"]);
}

#[test]
fn strangers_are_not_taken_for_shards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photo.shard");
    std::fs::write(&path, b"\xff\xd8\xff\xe0").unwrap();
    check(Shard::open(&path, Io::Mmap), "malformed", &["photo.shard is not a whole shard: it has 4 bytes"]);
    std::fs::write(&path, "").unwrap();
    check(Shard::open(&path, Io::Mmap), "malformed", &["it has 0 bytes"]);
    std::fs::write(&path, [7; 5000]).unwrap();
    check(Shard::open(&path, Io::Mmap), "malformed", &["it does not end as a shard does"]);
    check(Shard::open(dir.path(), Io::Mmap), "malformed", &["it is not a regular file"]);
}

#[test]
fn a_sample_that_does_not_fit_the_set_is_refused_and_the_shard_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(2);
    let mut writer = ShardWriter::create(dir.path(), 0, &spec, &classes()).unwrap();
    let (tokens, short, foreign) = ([0; 15], [0; 14], [[0; 14].as_slice(), &[512]].concat());
    let view = |tokens| ViewTokens { grey: 0, tokens };
    let good = [view(&tokens), view(&tokens)];
    let record = Record {
        id: SampleId(1),
        label: 0,
        path: "a.jpg",
        width: 1,
        height: 1,
        payload_kind: 0,
        payload: b"",
        views: &good,
    };
    let long = "x".repeat(70_000);
    let wrong = [
        (Record { label: 2, ..record }, "its label is 2, but there are 2 classes"),
        (Record { path: "", ..record }, "its path has 0 bytes"),
        (Record { path: &long, ..record }, "its path has 70000 bytes"),
        (Record { payload_kind: 9, ..record }, "payload kind 9 is unknown"),
        (Record { views: &good[..1], ..record }, "it has 1 views, the set has 2"),
        (Record { views: &[view(&tokens), view(&short)], ..record }, "view 1 has 14 tokens, the grid has 15"),
        (
            Record { views: &[view(&foreign), view(&tokens)], ..record },
            "token 512, the vocabulary ends at 512",
        ),
    ];
    for (record, words) in &wrong {
        check(writer.push(record), "refused", &["cannot pack", words]);
    }
    writer.push(&record).unwrap();
    writer.finish().unwrap();
    let shard = Shard::open(&dir.path().join(shard_file_name(0)), Io::Auto).unwrap();
    assert!(shard.len() == 1 && shard.verify_all(&mut |_| {}).is_sound());
}

#[test]
fn a_spec_no_shard_can_have_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut none = spec(0);
    check(ShardWriter::create(dir.path(), 0, &none, &classes()), "refused", &["1 to 1048576 views"]);
    none = spec(1);
    none.grid = (0, 5);
    check(ShardWriter::create(dir.path(), 0, &none, &classes()), "refused", &["the token grid is empty"]);
    none.grid = (1, 1);
    none.tokenizer.vocab = 65_537;
    check(ShardWriter::create(dir.path(), 0, &none, &classes()), "refused", &["1 to 65536 tokens"]);
    let nowhere = dir.path().join("nowhere");
    check(
        ShardWriter::create(&nowhere, 0, &spec(1), &classes()),
        "io",
        &["nowhere", "create the output directory"],
    );
}
