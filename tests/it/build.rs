//! `beit-shard` as its users meet it: good folders, bad files, kills, flipped bits, wrong tokenizers.

use crate::house::{binary, command, demo_photos, fail, last_json, root, run, succeed};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Packs with the embedded tokenizer; returns the summary.
#[track_caller]
pub fn build(source: &Path, out: &Path, more: &[&str]) -> serde_json::Value {
    let mut args = vec!["build", text(source), "--out", text(out), "--tokenizer", "embedded", "--json"];
    args.extend(more);
    last_json(&succeed("beit-shard", &args))
}

pub fn listing(shards: &Path) -> serde_json::Value {
    last_json(&succeed("beit-shard", &["ls", text(shards), "--json"]))
}

/// Every file of a folder, by name.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|item| item.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap())).collect()
}

pub fn shard_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "shard"));
    files.sort();
    files
}

#[test]
fn the_demo_photos_become_a_sound_set() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("photos.shards");
    let summary = build(&demo_photos(), &out, &["--views", "2"]);
    assert_eq!(summary["samples"], 10);
    assert_eq!(summary["quarantined"], 0);
    assert_eq!(summary["views"], 2);
    assert!(summary["shards"].as_u64().unwrap() >= 1);
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
    assert!(summary["tokens_per_s"].as_f64().unwrap() > 0.0);
    succeed("beit-shard", &["verify", text(&out)]);
    assert_eq!(listing(&out)["samples"].as_array().unwrap().len(), 10);
}

#[test]
fn without_a_tokenizer_the_build_names_three_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        command("beit-shard", &["build", text(&demo_photos()), "--out", text(&dir.path().join("x.shards"))])
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env_remove("XDG_DATA_HOME")
            .output()
            .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for way in ["encoder.pkl", "beit-shard tokenizer train", "--tokenizer embedded"] {
        assert!(message.contains(way), "the message lacks {way:?}:\n{message}");
    }
}

#[test]
fn jobs_and_kills_leave_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.shards");
    let options = ["--views", "3", "--shard-size", "40K"];
    build(&demo_photos(), &whole, &[&options[..], &["--jobs", "1"]].concat());
    assert!(shard_files(&whole).len() >= 3, "the test wants several shards");

    let killed = dir.path().join("killed.shards");
    let mut kills = 0;
    for _ in 0..20 {
        let mut build = command("beit-shard", &["build", text(&demo_photos()), "--out", text(&killed)])
            .args(["--tokenizer", "embedded", "--jobs", "2"])
            .args(options)
            .spawn()
            .unwrap();
        let already = if killed.is_dir() { shard_files(&killed).len() } else { 0 };
        let ended = loop {
            if let Some(status) = build.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if killed.is_dir() && shard_files(&killed).len() > already {
                build.kill().unwrap(); // SIGKILL, at some moment of the next shard
                build.wait().unwrap();
                kills += 1;
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if ended {
            break;
        }
    }
    assert!(kills >= 1, "the build was never killed");
    build(&demo_photos(), &killed, &options);
    let (whole, killed) = (contents(&whole), contents(&killed));
    assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(killed[name] == *bytes, "{name} differs");
    }
}

#[test]
fn every_flipped_byte_of_a_shard_is_found_by_verify() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("photos.shards");
    build(&demo_photos(), &out, &["--views", "1"]);
    let shard = &shard_files(&out)[0];
    let sound = fs::read(shard).unwrap();
    for at in [0, 9, sound.len() / 3, sound.len() / 2, sound.len() - 200, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        fs::write(shard, &bytes).unwrap();
        fail("beit-shard", &["verify", text(&out)], &[shard.file_name().unwrap().to_str().unwrap()]);
    }
    fs::write(shard, &sound[..sound.len() / 2]).unwrap();
    fail("beit-shard", &["verify", text(&out)], &[shard.file_name().unwrap().to_str().unwrap()]);
    fs::write(shard, &sound).unwrap();
    succeed("beit-shard", &["verify", text(&out)]);
}

#[test]
fn bad_files_are_quarantined_with_a_reason_and_odd_ones_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("odd");
    fs::create_dir(&source).unwrap();
    let photo = fs::read(demo_photos().join("chelsea.jpg")).unwrap();
    let save = |name: &str, bytes: &[u8]| fs::write(source.join(name), bytes).unwrap();
    save("good.jpg", &photo);
    save("text.jpg", b"this is not an image\n");
    save("truncated.jpg", &photo[..photo.len() / 2]);
    save("empty.jpg", b"");
    std::os::unix::fs::symlink(dir.path().join("nowhere"), source.join("unreadable.jpg")).unwrap();
    let small = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 77]));
    let mut png = std::io::Cursor::new(Vec::new());
    small.write_to(&mut png, image::ImageFormat::Png).unwrap();
    save("png-in-disguise.JPEG", png.get_ref());
    let deep = image::ImageBuffer::from_fn(40, 30, |x, y| {
        image::Rgb([x as u16 * 1500, y as u16 * 2000, 30_000_u16])
    });
    image::DynamicImage::ImageRgb16(deep).save(source.join("sixteen-bit.png")).unwrap();
    image::RgbImage::from_pixel(1, 1, image::Rgb([9, 8, 7])).save(source.join("one-pixel.png")).unwrap();
    save("rotated.jpg", &with_exif_rotation(&photo));

    let out = dir.path().join("odd.shards");
    let arguments = ["build", text(&source), "--out", text(&out), "--tokenizer", "embedded", "--views", "2"];
    fail("beit-shard", &arguments, &["--max-bad", "4 of 9", "truncated.jpg", "text.jpg"]);
    let summary = build(&source, &out, &["--views", "2", "--max-bad", "50%"]);
    assert_eq!(summary["samples"], 5);
    assert_eq!(summary["quarantined"], 4);

    let listing = listing(&out);
    let reasons: BTreeMap<&str, &str> = listing["quarantined"]
        .as_array()
        .unwrap()
        .iter()
        .map(|q| (q["path"].as_str().unwrap(), q["reason"].as_str().unwrap()))
        .collect();
    let expect = [
        ("empty.jpg", "not_an_image"),
        ("text.jpg", "not_an_image"),
        ("truncated.jpg", "truncated"),
        ("unreadable.jpg", "unreadable"),
    ];
    assert_eq!(reasons.len(), expect.len());
    for (path, reason) in expect {
        assert!(reasons[path].starts_with(reason), "{path}: {}", reasons[path]);
    }
    let set = beit_shards::ShardSet::open(&out, beit_shards::Io::Auto).unwrap();
    let mut buf = beit_shards::ReadBuf::new();
    for index in 0..set.len() {
        let sample = set.read(index, 0, &mut buf).unwrap();
        if sample.path == "rotated.jpg" {
            assert!(sample.width > sample.height, "EXIF rotation is ignored, as the reference does");
        }
    }
}

/// The same JPEG with an EXIF block that says "rotated by 90 degrees".
fn with_exif_rotation(jpeg: &[u8]) -> Vec<u8> {
    let tiff = [
        b"MM\0*\0\0\0\x08".as_slice(),
        b"\0\x01",                             // one entry
        b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0", // orientation = 6
        b"\0\0\0\0",
    ]
    .concat();
    let length = (2 + 6 + tiff.len()) as u16;
    [&jpeg[..2], b"\xff\xe1", &length.to_be_bytes(), b"Exif\0\0", &tiff, &jpeg[2..]].concat()
}

#[test]
fn wrong_sources_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fail("beit-shard", &["build", text(&empty), "--tokenizer", "embedded"], &["no images in", "empty"]);
    fail("beit-shard", &["build", "/no/such/folder", "--tokenizer", "embedded"], &["/no/such/folder"]);
    let file = dir.path().join("photo.jpg");
    fs::copy(demo_photos().join("chelsea.jpg"), &file).unwrap();
    fail("beit-shard", &["build", text(&file), "--tokenizer", "embedded"], &["photo.jpg", "not a folder"]);
}

#[test]
fn wrong_tokenizers_say_what_is_wrong_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("photos.shards");
    let photos = demo_photos();
    let arguments = |tokenizer: &str| {
        ["build", text(&photos), "--out", text(&out), "--views", "1", "--tokenizer", tokenizer]
            .map(str::to_owned)
    };
    let golden = root().join("tests/golden");
    let fail = |tokenizer: &str, more: &[&str], words: &[&str]| {
        let arguments = arguments(tokenizer);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        fail("beit-shard", &arguments, words);
    };
    fail("no-such-file.pkl", &[], &["no-such-file.pkl"]);
    fail(text(&photos.join("chelsea.jpg")), &[], &["chelsea.jpg"]);
    fail(text(&golden.join("beit-tiny/pretrain.pth")), &[], &["pretrain.pth"]);
    fail("embedded", &["--second-input-size", "100"], &["100", "multiple of 8"]);
    assert!(!out.exists(), "a wrong tokenizer must not leave a folder behind");

    build(&photos, &out, &["--views", "1"]);
    let before = contents(&out);
    fail(text(&golden.join("dalle-tiny/encoder.pkl")), &[], &["tokenizer", "--out"]);
    assert!(contents(&out) == before, "the set of the other tokenizer must stay as it was");
}

#[test]
fn building_again_changes_nothing_and_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("photos.shards");
    build(&demo_photos(), &out, &["--views", "1"]);
    let before = contents(&out);
    let again = build(&demo_photos(), &out, &["--views", "1"]);
    assert_eq!(again["samples"], 10);
    assert!(contents(&out) == before);
}

#[test]
fn cat_draws_the_view_a_trainer_will_see() {
    let dir = tempfile::tempdir().unwrap();
    let (out, png) = (dir.path().join("photos.shards"), dir.path().join("view.png"));
    build(&demo_photos(), &out, &["--views", "2"]);
    let id = listing(&out)["samples"][3]["id"].as_str().unwrap().to_owned();
    succeed("beit-shard", &["cat", &id, "--shards", text(&out), "--view", "1", "--out", text(&png)]);
    let picture = image::open(&png).unwrap().to_rgb8();
    assert_eq!(picture.height(), 224);
    assert!(picture.width() >= 2 * 224, "the view and, beside it, what the decoder makes of its tokens");
    fail(
        "beit-shard",
        &["cat", &id, "--shards", text(&out), "--view", "2", "--out", text(&png)],
        &["2 views"],
    );
}

#[test]
fn help_has_examples_and_wrong_usage_is_exit_code_2() {
    for args in [&["--help"][..], &["build", "--help"], &["tokenizer", "train", "--help"]] {
        assert!(succeed("beit-shard", args).contains("Examples:"), "{args:?}");
    }
    assert_eq!(run("beit-shard", &["build"]).status.code(), Some(2));
    assert!(binary("beit-shard").is_file());
}
