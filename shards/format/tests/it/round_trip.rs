//! What is packed is read back.

use crate::common::{check_read, classes, sample, spec, write_shard};
use beit_shards::{
    Catalog, Io, Manifest, ReadBuf, SampleId, Shard, ShardError, ShardSet, ShardWriter, publish_manifest,
    retract_manifest, shard_file_name,
};

#[test]
fn every_view_of_every_sample_is_read_back_in_both_ways_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(3);
    for number in 0..3 {
        write_shard(dir.path(), number, 7, &spec);
    }
    let manifest = publish_manifest(dir.path(), &spec, &classes(), 3).unwrap();
    assert_eq!((manifest.samples(), manifest.quarantined), (21, 3));
    for io in [Io::Mmap, Io::Pread, Io::Auto] {
        let set = ShardSet::open(dir.path(), io).unwrap();
        assert_eq!((set.len(), set.classes(), set.spec()), (21, classes().as_slice(), &spec));
        assert_eq!(set.digest(), manifest.digest());
        let mut buf = ReadBuf::new();
        for index in (0..21).rev() {
            set.will_need(index, 2);
            for view in 0..3 {
                check_read(&set.read(index, view, &mut buf).unwrap(), index, view, &spec);
            }
        }
        let found = set.verify_all(&mut |_| {});
        assert!(found.is_sound(), "{:?}", found.damaged);
        assert_eq!((found.progress.records, found.progress.bytes), (21, manifest.bytes()));
    }
}

#[test]
fn questions_about_what_is_not_there_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(2);
    write_shard(dir.path(), 0, 4, &spec);
    publish_manifest(dir.path(), &spec, &classes(), 1).unwrap();
    let set = ShardSet::open(dir.path(), Io::Auto).unwrap();
    let mut buf = ReadBuf::new();
    let error = set.read(4, 0, &mut buf).unwrap_err().to_string();
    assert!(error.ends_with("has 4 samples, number 4 was asked for"), "{error}");
    let error = set.read(3, 2, &mut buf).unwrap_err().to_string();
    assert!(error.ends_with("has 2 views, number 2 was asked for"), "{error}");
    assert!(matches!(set.locate(u64::MAX), Err(ShardError::OutOfRange { .. })));
    set.will_need(u64::MAX, 0);
}

#[test]
fn the_footer_tells_what_a_restarted_build_needs_to_know() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    let info = write_shard(dir.path(), 2, 5, &spec);
    let shard = Shard::open(&dir.path().join(shard_file_name(2)), Io::Auto).unwrap();
    let footer = shard.footer();
    assert_eq!((footer.number, footer.samples, footer.classes), (2, 5, 2));
    assert_eq!(
        (footer.covered.first_entry, footer.covered.entries, footer.covered.digest.0),
        (12, 6, [3; 32])
    );
    assert_eq!(footer.quarantine, [("cat/bad 2.jpg".to_owned(), "truncated".to_owned())]);
    assert_eq!(shard.info(), info);
}

#[test]
fn an_empty_shard_is_a_shard() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    write_shard(dir.path(), 0, 0, &spec);
    write_shard(dir.path(), 1, 0, &spec);
    publish_manifest(dir.path(), &spec, &classes(), 2).unwrap();
    let set = ShardSet::open(dir.path(), Io::Auto).unwrap();
    assert!(set.is_empty());
    assert!(set.read(0, 0, &mut ReadBuf::new()).is_err());
    assert!(set.verify_all(&mut |_| {}).is_sound());
}

#[test]
fn samples_are_found_across_empty_shards() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    for number in 0..5 {
        let mut writer = ShardWriter::create(dir.path(), number, &spec, &classes()).unwrap();
        if number % 2 == 1 {
            sample(number, &spec).push(&mut writer).unwrap();
        }
        writer.finish().unwrap();
    }
    publish_manifest(dir.path(), &spec, &classes(), 5).unwrap();
    let set = ShardSet::open(dir.path(), Io::Auto).unwrap();
    let mut buf = ReadBuf::new();
    for (index, number) in [(0, 1), (1, 3)] {
        check_read(&set.read(index, 0, &mut buf).unwrap(), number, 0, &spec);
    }
    assert!(set.read(2, 0, &mut buf).is_err());
}

#[test]
fn the_catalog_finds_samples_by_id_and_path_and_tells_why_others_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    for number in 0..2 {
        write_shard(dir.path(), number, 6, &spec);
    }
    publish_manifest(dir.path(), &spec, &classes(), 2).unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let set = ShardSet::open(dir.path(), Io::Auto).unwrap();
    for number in 0..12 {
        let sample = sample(number, &spec);
        let entry = catalog.find(sample.id).unwrap().unwrap();
        assert_eq!((entry.shard, entry.index), ((number / 6) as u32, number % 6));
        assert_eq!(set.index_of(entry.shard, entry.index), Some(number));
        assert_eq!((entry.id, entry.label, &entry.path), (sample.id, sample.label, &sample.path));
        assert_eq!(catalog.find_path(&sample.path).unwrap(), Some(entry));
    }
    assert_eq!((set.index_of(1, 6), set.index_of(2, 0)), (None, None));
    assert_eq!(catalog.find(SampleId(1)).unwrap(), None);
    assert_eq!(catalog.find_path("cat/bad 1.jpg").unwrap(), None);
    assert_eq!(catalog.quarantine_reason("cat/bad 1.jpg").unwrap().as_deref(), Some("truncated"));
    assert_eq!(catalog.quarantine_reason("cat/é 0.jpg").unwrap(), None);
    let mut ids = Vec::new();
    catalog
        .for_each(|entry| {
            ids.push(entry.id);
            Ok(())
        })
        .unwrap();
    assert!(ids.len() == 12 && ids.is_sorted());
}

#[test]
fn the_same_input_gives_the_same_bytes_in_every_file() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = spec(4);
    for dir in [&one, &two] {
        for number in 0..2 {
            write_shard(dir.path(), number, 40, &spec);
        }
        publish_manifest(dir.path(), &spec, &classes(), 2).unwrap();
    }
    // A second publication over the first changes nothing either.
    write_shard(two.path(), 1, 40, &spec);
    retract_manifest(two.path()).unwrap();
    publish_manifest(two.path(), &spec, &classes(), 2).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(one.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["catalog.lmdb", "manifest.txt", "shard-000000.shard", "shard-000001.shard"]);
    for name in names {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(&name)).unwrap();
        assert!(read(&one) == read(&two), "{name:?} differs");
    }
    assert_eq!(Manifest::read(one.path()).unwrap(), Manifest::read(two.path()).unwrap());
}

#[test]
fn many_threads_read_one_set_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(2);
    for number in 0..3 {
        write_shard(dir.path(), number, 50, &spec);
    }
    publish_manifest(dir.path(), &spec, &classes(), 3).unwrap();
    for io in [Io::Mmap, Io::Pread] {
        let set = ShardSet::open(dir.path(), io).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (set, spec) = (&set, &spec);
                scope.spawn(move || {
                    let mut buf = ReadBuf::new();
                    for step in 0..300 {
                        let index = (step * 7 + thread * 41) % set.len();
                        check_read(
                            &set.read(index, (step % 2) as u32, &mut buf).unwrap(),
                            index,
                            (step % 2) as u32,
                            spec,
                        );
                    }
                });
            }
        });
    }
}

#[test]
fn more_shards_than_files_may_be_open_are_opened_by_raising_that_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    for number in 0..60 {
        write_shard(dir.path(), number, 1, &spec);
    }
    publish_manifest(dir.path(), &spec, &classes(), 60).unwrap();
    // Under nextest every test is a process of its own; elsewhere the limit is soon as high as it was.
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(40), ..before }).unwrap();
    let set = ShardSet::open(dir.path(), Io::Pread).unwrap();
    assert_eq!(set.len(), 60);
    assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    setrlimit(Resource::Nofile, before).unwrap();
}
