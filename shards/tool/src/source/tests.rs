use super::*;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

fn tree(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join("src").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file.as_bytes()).unwrap();
    }
    dir
}

/// A tar whose members hold these bytes.
fn tar_bytes(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar whose members hold their own names.
fn write_tar(dir: &TempDir, name: &str, members: &[&str]) -> PathBuf {
    let members: Vec<_> = members.iter().map(|name| (*name, name.as_bytes())).collect();
    write(dir, name, &tar_bytes(&members))
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("src").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Path, label and bytes of all entries.
type Found = Vec<(String, u32, Vec<u8>)>;

fn listed(source: &Source, wanted: Range<u64>) -> Result<Found> {
    let mut found = Vec::new();
    source.walk(&wanted, &mut |mut entry| {
        assert_eq!(entry.index, found.len() as u64);
        let bytes = match &mut entry.place {
            Place::Skipped => Vec::new(),
            place => crate::fetch::fetch(place, &beit_views::Limits::default())
                .map_err(|e| anyhow::anyhow!(e.detail))?,
        };
        found.push((entry.path, entry.label, bytes));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

#[track_caller]
fn open(roots: &[PathBuf]) -> (Vec<String>, Found) {
    let source = Source::open(roots).unwrap();
    let found = listed(&source, 0..u64::MAX).unwrap();
    let mut count = 0;
    source
        .count(&mut |entries| {
            count += entries;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(count, found.len() as u64);
    (source.classes().to_vec(), found)
}

/// Opens `src` and expects these classes, and these paths and labels.
#[track_caller]
fn check(dir: &TempDir, classes: &[&str], expect: &[(&str, u32)]) {
    check_roots(&[dir.path().join("src")], classes, expect);
}

#[track_caller]
fn check_roots(roots: &[PathBuf], classes: &[&str], expect: &[(&str, u32)]) {
    let (found_classes, found) = open(roots);
    assert_eq!(found_classes, classes);
    let found: Vec<_> = found.iter().map(|(path, label, _)| (path.as_str(), *label)).collect();
    assert_eq!(found, expect);
}

#[track_caller]
fn refused(roots: &[PathBuf], words: &[&str]) {
    let result = Source::open(roots).and_then(|source| listed(&source, 0..u64::MAX));
    let message = format!("{:#}", result.expect_err("this source should be refused"));
    for word in words {
        assert!(message.contains(word), "the message lacks {word:?}: {message}");
    }
}

#[test]
fn classes_and_files_come_in_image_folder_order() {
    let dir = tree(&[
        "b/2.jpg",
        "b/10.JPEG",
        "B/x.png",
        "a/deep/z.webp",
        "a/y.jpg",
        "a/notes.txt",
        "a/deep-2/a.jpg",
        "a/deep/er/1.jpg",
    ]);
    check(
        &dir,
        &["B", "a", "b"],
        &[
            ("B/x.png", 0),
            ("a/y.jpg", 1),
            ("a/deep/z.webp", 1),
            ("a/deep-2/a.jpg", 1),
            ("a/deep/er/1.jpg", 1),
            ("b/10.JPEG", 2),
            ("b/2.jpg", 2),
        ],
    );
}

#[test]
fn a_flat_folder_is_one_class() {
    check(&tree(&["2.jpg", "1.jpg"]), &["src"], &[("1.jpg", 0), ("2.jpg", 0)]);
}

#[test]
fn images_beside_class_folders_are_left_out_and_empty_classes_keep_their_label() {
    check(&tree(&["loose.jpg", "a/none.txt", "b/1.jpg"]), &["a", "b"], &[("b/1.jpg", 1)]);
}

#[test]
fn several_sources_share_classes_and_keep_their_paths_apart() {
    let dir = tree(&["one/n01/a.jpg", "two/n01/a.jpg", "two/n02/b.jpg"]);
    let roots = [dir.path().join("src/one"), dir.path().join("src/two")];
    check_roots(&roots, &["n01", "n02"], &[("one/n01/a.jpg", 0), ("two/n01/a.jpg", 0), ("two/n02/b.jpg", 1)]);
}

#[test]
fn a_wrong_path_and_an_empty_folder_say_so() {
    let dir = tree(&["notes.txt"]);
    refused(&[dir.path().join("src/nowhere")], &["nowhere"]);
    refused(&[dir.path().join("src")], &["no images in"]);
}

#[test]
fn a_class_tar_lists_as_its_unpacked_folder_would() {
    let files = ["a/deep-2/a.jpg", "a/deep/z.webp", "a/10.JPEG", "a/notes.txt", "a/2.jpg", "b/x.jpg"];
    let folders = tree(&files);
    let tars = tree(&[]);
    // Not in order, and one of them with the class folder in its names.
    write_tar(&tars, "a.tar", &["deep-2/a.jpg", "2.jpg", "notes.txt", "deep/z.webp", "10.JPEG"].map(|n| n));
    write_tar(&tars, "b.tar", &["b/x.jpg"]);
    let strip = |found: Found| found.into_iter().map(|(path, label, _)| (path, label)).collect::<Vec<_>>();
    // A tar with folders in it is taken for one of class folders, unless it lies beside another: so name it alone.
    let (classes, from_folders) = open(&[folders.path().join("src")]);
    assert_eq!(classes, ["a", "b"]);
    let flat = tree(&[]);
    write_tar(&flat, "a.tar", &["2.jpg", "10.JPEG", "notes.txt"].map(|n| n));
    write_tar(&flat, "b.tar", &["b/x.jpg"]);
    let (classes, from_tars) = open(&[flat.path().join("src")]);
    assert_eq!(classes, ["a", "b"]);
    let expect: Vec<_> = strip(from_folders).into_iter().filter(|(path, _)| !path.contains("deep")).collect();
    assert_eq!(strip(from_tars), expect);
}

#[test]
fn the_big_tar_of_class_tars_gives_the_same_paths_and_the_right_bytes() {
    let dir = tree(&[]);
    let one = tar_bytes(&[("n02_2.JPEG", b"two"), ("n02_1.JPEG", b"one")]);
    let two = tar_bytes(&[("n01_1.JPEG", b"three")]);
    let big = write(&dir, "train.tar", &tar_bytes(&[("n02.tar", &one), ("n01.tar", &two)]));
    let (classes, found) = open(&[big]);
    assert_eq!(classes, ["n01", "n02"]);
    let expect = [("n01/n01_1.JPEG", 0, "three"), ("n02/n02_1.JPEG", 1, "one"), ("n02/n02_2.JPEG", 1, "two")];
    let expect: Found =
        expect.map(|(path, label, bytes)| (path.to_owned(), label, bytes.as_bytes().to_vec())).to_vec();
    assert_eq!(found, expect);
}

#[test]
fn a_tar_of_class_folders_has_their_classes() {
    let dir = tree(&[]);
    let tar = write_tar(&dir, "set.tar", &["set/b/1.jpg", "set/a/1.jpg", "set/b/0.jpg"]);
    check_roots(&[tar], &["a", "b"], &[("b/1.jpg", 1), ("a/1.jpg", 0), ("b/0.jpg", 1)]);
}

#[test]
fn web_dataset_labels_are_read_beside_the_image_in_any_order() {
    let dir = tree(&[]);
    write(
        &dir,
        "000.tar",
        &tar_bytes(&[
            ("000000.jpg", b"x"),
            ("000000.cls", b"7"),
            ("000001.cls", b"2\n"),
            ("000001.seg.png", b"y"),
            ("000001.json", br#"{"label": 5}"#),
            ("000002.json", br#"{"caption": "no label", "label": 0}"#),
            ("000002.webp", b"z"),
            ("000003.txt", b"no image here"),
        ]),
    );
    write(&dir, "001.tar", &tar_bytes(&[("000004.jpg", b"x"), ("000004.json", br#"{"label": -1}"#)]));
    check(
        &dir,
        &["0", "1", "2", "3", "4", "5", "6", "7", "unlabelled"],
        &[("000/000000.jpg", 7), ("000/000001.seg.png", 2), ("000/000002.webp", 0), ("001/000004.jpg", 8)],
    );
    let named = tree(&[]);
    let tar = write(
        &named,
        "x.tar",
        &tar_bytes(&[("0.jpg", b"x"), ("0.cls", b"tench"), ("1.jpg", b"y"), ("1.cls", b"cat")]),
    );
    check_roots(&[tar], &["cat", "tench"], &[("x/0.jpg", 1), ("x/1.jpg", 0)]);
}

#[test]
fn damaged_tars_are_named_and_lies_about_sizes_believed_by_nobody() {
    let whole = tar_bytes(&[("1.jpg", &[1; 700]), ("2.jpg", &[2; 700])]);
    let broken = |change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let dir = tree(&[]);
        let mut bytes = whole.clone();
        change(&mut bytes);
        let tar = write(&dir, "n01.tar", &bytes);
        refused(&[tar], &[&["n01.tar"], words].concat());
    };
    broken(&|tar| tar.truncate(512 + 1024 + 512 + 100), &["cut off", "2.jpg"]);
    broken(&|tar| tar[512 + 1024 + 10] ^= 1, &["damaged"]); // the second header's name: its checksum is wrong
    broken(&|tar| tar.truncate(100), &["no tar"]);
    broken(&|tar| tar[..2].copy_from_slice(&[0x1f, 0x8b]), &["gzip-compressed", "gunzip"]);
    // Exabytes: base-256 size, with a right checksum.
    let claim = |tar: &mut Vec<u8>, kind: u8, size: u64| {
        let header = &mut tar[512 + 1024..512 + 1024 + 512];
        header[124..136].fill(0);
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    };
    for size in [1 << 60, u64::MAX / 2, u64::MAX - 600, u64::MAX] {
        broken(&|tar| claim(tar, b'0', size), &[]);
    }
    // A member's name as long as the file: read, it would fill the memory.
    broken(
        &|tar| {
            claim(tar, b'L', 8 << 20);
            tar.resize(10 << 20, b'a');
        },
        &["damaged"],
    );
}

#[test]
fn one_path_from_two_places_is_an_error_before_anything_is_read() {
    let dir = tree(&["n01/a.jpg"]);
    write_tar(&dir, "n01.tar", &["a.jpg"]);
    refused(&[dir.path().join("src")], &["n01/", "take one of them out"]);
    let same = tree(&["one/set/a.jpg", "two/set/a.jpg"]);
    refused(&[same.path().join("src/one/set"), same.path().join("src/two/set")], &["called set"]);
}

/// A Parquet file like `datasets` writes: `image` {bytes, path}, `label`, and names in the metadata if there are any.
fn write_parquet(dir: &TempDir, name: &str, rows: &[(&[u8], i64)], names: &[&str], group: usize) -> PathBuf {
    let schema = "message m { optional group image { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";
    let schema = Arc::new(::parquet::schema::parser::parse_message_type(schema).unwrap());
    let features =
        serde_json::json!({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}});
    let metadata =
        (!names.is_empty()).then(|| vec![KeyValue::new("huggingface".to_owned(), features.to_string())]);
    let properties = WriterProperties::builder()
        .set_key_value_metadata(metadata)
        .set_compression(::parquet::basic::Compression::SNAPPY)
        .build();
    let path = write(dir, name, b"");
    let mut writer =
        SerializedFileWriter::new(fs::File::create(&path).unwrap(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let bytes: Vec<ByteArray> = rows.iter().map(|(bytes, _)| ByteArray::from(bytes.to_vec())).collect();
        let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&bytes, Some(&vec![2; rows.len()]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; rows.len()]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    path
}

#[test]
fn parquet_rows_keep_their_labels_names_and_bytes() {
    let dir = tree(&[]);
    let rows: Vec<(&[u8], i64)> = vec![(b"r0", 1), (b"r1", 0), (b"r2", 1), (b"r3", 2), (b"r4", -1)];
    write_parquet(&dir, "data/train-0.parquet", &rows[..3], &["tench", "cat", "ant"], 2);
    write_parquet(&dir, "data/train-1.parquet", &rows[3..], &["tench", "cat", "ant"], 2);
    let expect = [
        ("data/train-0/00000000", 1, "r0"),
        ("data/train-0/00000001", 0, "r1"),
        ("data/train-0/00000002", 1, "r2"),
        ("data/train-1/00000000", 2, "r3"),
        ("data/train-1/00000001", 3, "r4"),
    ];
    let expect: Found =
        expect.map(|(path, label, bytes)| (path.to_owned(), label, bytes.as_bytes().to_vec())).to_vec();
    let (classes, found) = open(&[dir.path().join("src")]);
    assert_eq!(classes, ["tench", "cat", "ant", "unlabelled"]);
    assert_eq!(found, expect);
    // A restart lists everything, but reads no image that is packed already.
    let source = Source::open(&[dir.path().join("src")]).unwrap();
    for from in 0..5 {
        let found = listed(&source, from..5).unwrap();
        for (at, (found, expect)) in (0..).zip(found.iter().zip(&expect)) {
            assert_eq!((&found.0, found.1), (&expect.0, expect.1));
            assert_eq!(found.2, if at < from { &[] } else { expect.2.as_slice() });
        }
    }
}

#[test]
fn parquet_labels_without_names_are_their_own_numbers() {
    let dir = tree(&[]);
    let file = write_parquet(&dir, "x.parquet", &[(b"a", 2), (b"b", 0)], &[], 10);
    check_roots(&[file], &["0", "1", "2"], &[("x/00000000", 2), ("x/00000001", 0)]);
    let folder = tree(&["cat/1.jpg"]);
    refused(&[dir.path().join("src/x.parquet"), folder.path().join("src")], &["are numbers", "are names"]);
}

#[test]
fn no_damage_to_a_parquet_file_crashes_the_scan() {
    let dir = tree(&[]);
    let rows: Vec<(&[u8], i64)> = vec![(b"some bytes of an image", 1), (b"and of another one", 0)];
    let path = write_parquet(&dir, "x.parquet", &rows, &["a", "b"], 1);
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
        fs::write(&path, bytes).unwrap();
        let result =
            Source::open(std::slice::from_ref(&path)).and_then(|source| listed(&source, 0..u64::MAX));
        refused += u32::from(result.is_err());
    }
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Source::open(std::slice::from_ref(&path)).is_err(), "{length}");
    }
    std::panic::set_hook(quiet);
    assert!(refused > 100, "{refused} of {} changes were noticed", whole.len());
}

/// The most memory this process ever had, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// ImageNet-22k's shape, 21,841 classes of 650, made of links to one class: everything but the disk is real.
#[test]
#[ignore = "a minute and more: cargo nextest run --release -p beit-shard --run-ignored only listing_14_million --no-capture"]
fn listing_14_million_images_takes_little_memory() {
    const CLASSES: usize = 21_841;
    const IMAGES: usize = 650;
    let names: Vec<String> = (0..IMAGES).map(|number| format!("n00000000_{number}.JPEG")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let dir = tree(&[]);
    let tar = write(&dir, "../class.tar", &tar_bytes(&members));
    let folder = dir.path().join("class");
    fs::create_dir(&folder).unwrap();
    names.iter().for_each(|name| fs::write(folder.join(name), b"x").unwrap());
    for (kind, ending, target) in [("tars", ".tar", &tar), ("folders", "", &folder)] {
        let source = dir.path().join(kind);
        fs::create_dir(&source).unwrap();
        for class in 0..CLASSES {
            std::os::unix::fs::symlink(target, source.join(format!("n{class:08}{ending}"))).unwrap();
        }
        let started = std::time::Instant::now();
        let source = Source::open(&[source]).unwrap();
        let opened = started.elapsed();
        let mut count = 0;
        source
            .walk(&(0..0), &mut |_| {
                count += 1;
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        let walked = (started.elapsed() - opened).as_secs_f64();
        let peak = peak_bytes();
        println!(
            "{kind}: opened in {opened:.1?}, {count} images listed in {walked:.1} s, {:.0} files/s, at most {} MB of memory",
            count as f64 / walked,
            peak >> 20
        );
        assert_eq!(count, CLASSES * IMAGES);
        assert!(peak < 300 << 20);
    }
}
