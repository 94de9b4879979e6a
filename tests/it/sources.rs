//! Where images come from, and what is kept of them: tars, WebDataset, Parquet; traps and bombs; scaled pixels; parts.

use crate::build::{build, contents, listing, shard_files, text};
use crate::house::{command, demo_photos, fail, last_json, root, succeed};
use beit_views::{Limits, Payload, PayloadKind, Renderer, RgbImage, SeedKey, View, ViewSpec};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The demo photos in two class folders, `n02` with the smaller half.
fn class_folders(dir: &Path) -> PathBuf {
    let source = dir.join("folders");
    let mut photos: Vec<PathBuf> =
        fs::read_dir(demo_photos()).unwrap().map(|item| item.unwrap().path()).collect();
    photos.retain(|path| path.extension().is_some_and(|ending| ending == "jpg"));
    photos.sort();
    for (number, photo) in photos.iter().enumerate() {
        let class = source.join(if number % 2 == 0 { "n01" } else { "n02" });
        fs::create_dir_all(&class).unwrap();
        fs::copy(photo, class.join(photo.file_name().unwrap())).unwrap();
    }
    source
}

fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The files of a folder, in no order that anyone sorted.
fn members(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap().map(|item| item.unwrap());
    let mut files: Vec<_> =
        files.map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap())).collect();
    files.sort_by_key(|(name, _)| name.bytes().rev().collect::<Vec<_>>());
    files
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (contents(one), contents(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(other[name] == *bytes, "{name} differs");
    }
}

#[test]
fn class_tars_and_the_tar_of_tars_give_the_bytes_of_the_folders_also_after_kills() {
    let dir = tempfile::tempdir().unwrap();
    let folders = class_folders(dir.path());
    let class_tars: Vec<(String, Vec<u8>)> =
        ["n02", "n01"].map(|class| (format!("{class}.tar"), tar(&members(&folders.join(class))))).to_vec();
    let tars = dir.path().join("tars");
    fs::create_dir(&tars).unwrap();
    for (name, bytes) in &class_tars {
        fs::write(tars.join(name), bytes).unwrap();
    }
    let big = dir.path().join("train.tar");
    fs::write(&big, tar(&class_tars)).unwrap();

    let options = ["--views", "2", "--shard-size", "40K"];
    let out = |name: &str| dir.path().join(format!("{name}.shards"));
    build(&folders, &out("folders"), &options);
    build(&tars, &out("tars"), &[&options[..], &["--jobs", "1"]].concat());
    assert_same(&out("folders"), &out("tars"));

    // The big tar, killed as soon as a shard is out, until it is done.
    let mut kills = 0;
    loop {
        let already = if out("big").is_dir() { shard_files(&out("big")).len() } else { 0 };
        let mut build = command("beit-shard", &["build", text(&big), "--out", text(&out("big"))])
            .args(["--tokenizer", "embedded"])
            .args(options)
            .spawn()
            .unwrap();
        let ended = loop {
            if let Some(status) = build.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if kills < 2 && out("big").is_dir() && shard_files(&out("big")).len() > already {
                build.kill().unwrap();
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
    assert_same(&out("folders"), &out("big"));
}

/// A Parquet file as `datasets` writes them.
fn write_parquet(path: &Path, rows: &[(Vec<u8>, i64)], names: &[&str]) {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter};
    use std::sync::Arc;
    let schema = "message m { optional group image { optional binary bytes; optional binary path (UTF8); } \
                  optional int64 label; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let features =
        serde_json::json!({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}});
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), features.to_string())]))
        .set_compression(parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let bytes: Vec<ByteArray> = rows.iter().map(|(bytes, _)| ByteArray::from(bytes.clone())).collect();
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
    writer.close().unwrap();
}

/// `path class` of every sample.
fn labels(out: &Path) -> Vec<String> {
    let listing = listing(out);
    let line = |sample: &serde_json::Value| {
        format!("{} {}", sample["path"].as_str().unwrap(), sample["class"].as_str().unwrap())
    };
    listing["samples"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn folders_tars_web_dataset_and_parquet_build_together_with_the_right_classes() {
    let dir = tempfile::tempdir().unwrap();
    let photo = |name: &str| fs::read(demo_photos().join(name)).unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir_all(folder.join("cat")).unwrap();
    fs::write(folder.join("cat/chelsea.jpg"), photo("chelsea.jpg")).unwrap();
    let web = dir.path().join("web-000.tar");
    let member = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let web_members = [
        member("000000.jpg", &photo("chelsea.jpg")),
        member("000000.cls", b"cat"),
        member("000001.json", br#"{"label": "aardvark", "width": 451}"#),
        member("000001.jpg", &photo("chelsea.jpg")),
    ];
    fs::write(&web, tar(&web_members)).unwrap();
    let table = dir.path().join("train-00000-of-00001.parquet");
    write_parquet(
        &table,
        &[(photo("chelsea.jpg"), 1), (b"no image".to_vec(), 0), (photo("chelsea.jpg"), 0)],
        &["zebra", "cat"],
    );

    let out = dir.path().join("all.shards");
    let summary =
        build(&folder, &out, &[text(&web), text(&table), "--views", "1", "--max-bad", "50%", "--jobs", "2"]);
    assert_eq!((&summary["samples"], &summary["quarantined"]), (&5.into(), &1.into()));
    succeed("beit-shard", &["verify", text(&out)]);
    assert_eq!(
        labels(&out),
        [
            "folder/cat/chelsea.jpg cat",
            "train-00000-of-00001/00000000 cat",
            "train-00000-of-00001/00000002 zebra",
            "web-000/000000.jpg cat",
            "web-000/000001.jpg aardvark",
        ]
    );
    let png = dir.path().join("view.png");
    succeed(
        "beit-shard",
        &["cat", "train-00000-of-00001/00000002", "--shards", text(&out), "--out", text(&png)],
    );

    // The data set alone keeps its own numbers: zebra is 0, cat is 1.
    let alone = dir.path().join("alone.shards");
    build(&table, &alone, &["--views", "1", "--max-bad", "50%"]);
    assert_eq!(listing(&alone)["classes"], serde_json::json!(["zebra", "cat"]));
    // A second run changes nothing.
    let before = contents(&alone);
    build(&table, &alone, &["--views", "1", "--max-bad", "50%"]);
    assert!(contents(&alone) == before);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// A real PNG of this size, all black, one bit a pixel.
fn black_png(width: u32, height: u32) -> Vec<u8> {
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let mut sum = flate2::Crc::new();
        sum.update(name);
        sum.update(body);
        [&(body.len() as u32).to_be_bytes()[..], name, body, &sum.sum().to_be_bytes()].concat()
    };
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend([1, 0, 0, 0, 0]);
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&vec![0; (width as usize / 8 + 1) * height as usize]).unwrap();
    let data = packer.finish().unwrap();
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &head)[..], &chunk(b"IDAT", &data), &chunk(b"IEND", &[])].concat()
}

/// A progressive JPEG whose first scan comes again and again.
fn endless_scans(jpeg: &[u8], times: usize) -> Vec<u8> {
    let scan = |from: usize| from + jpeg[from..].windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let (first, second) = (scan(0), scan(scan(0) + 2));
    // Tables may stand between two scans; the scan ends where the next marker that is none of its own begins.
    let end = first
        + 2
        + jpeg[first + 2..second + 1]
            .windows(2)
            .position(|pair| pair[0] == 0xff && pair[1] >= 0xc0 && !(0xd0..=0xd7).contains(&pair[1]))
            .unwrap_or(second - first - 2);
    [&jpeg[..end], &jpeg[first..end].repeat(times), &jpeg[end..]].concat()
}

#[test]
fn traps_are_packed_and_bombs_are_refused_each_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("traps");
    fs::create_dir(&source).unwrap();
    let views = root().join("shards/views/tests/data");
    let golden = |name: &str| fs::read(views.join(name)).unwrap();
    let save = |name: &str, bytes: &[u8]| fs::write(source.join(name), bytes).unwrap();
    let photo = fs::read(demo_photos().join("chelsea.jpg")).unwrap();
    save("plain.JPEG", &photo);
    save("gzipped.JPEG", &gzip(&photo));
    save("cmyk.JPEG", &golden("small-cmyk.jpg"));
    save("grey.JPEG", &golden("small-grey.jpg"));
    save("png-in-disguise.JPEG", &golden("rgb-16.png"));

    let mut tall = golden("small-444.jpg");
    let frame = tall.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    tall[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    save("bomb-65k-header.jpg", &tall);
    save("bomb-200-megapixels.png", &black_png(20_000, 10_000));
    save("bomb-scans.jpg", &endless_scans(&golden("small-progressive.jpg"), 20_000));
    save("bomb.JPEG", &gzip(&vec![0; 300 << 20]));
    save("gzip-cut-off.JPEG", &gzip(&photo)[..9000]);
    save("gzip-of-gzip.JPEG", &gzip(&gzip(&photo)));
    let sparse = fs::File::create(source.join("sparse-terabyte.jpg")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("/dev/zero", source.join("zero.jpg")).unwrap();

    let started = Instant::now();
    let out = dir.path().join("traps.shards");
    let summary = build(&source, &out, &["--views", "2", "--max-bad", "90%"]);
    assert!(started.elapsed() < Duration::from_secs(120), "a bomb took {:?}", started.elapsed());
    assert_eq!((&summary["samples"], &summary["quarantined"]), (&5.into(), &8.into()));
    let listing = listing(&out);
    let reasons: BTreeMap<&str, &str> = listing["quarantined"]
        .as_array()
        .unwrap()
        .iter()
        .map(|q| (q["path"].as_str().unwrap(), q["reason"].as_str().unwrap()))
        .collect();
    for (path, reason) in [
        ("bomb-65k-header.jpg", "too_large"),
        ("bomb-200-megapixels.png", "too_large"),
        ("bomb-scans.jpg", "too_large"),
        ("bomb.JPEG", "too_large"),
        ("gzip-cut-off.JPEG", "truncated"),
        ("gzip-of-gzip.JPEG", "unsupported"),
        ("sparse-terabyte.jpg", "too_large"),
        ("zero.jpg", "unreadable"),
    ] {
        assert!(reasons[path].starts_with(reason), "{path}: {}", reasons[path]);
    }
    let set = beit_shards::ShardSet::open(&out, beit_shards::Io::Auto).unwrap();
    let (mut buf, mut payloads) = (beit_shards::ReadBuf::new(), BTreeMap::new());
    for index in 0..set.len() {
        let sample = set.read(index, 0, &mut buf).unwrap();
        payloads.insert(sample.path.to_owned(), (sample.width, sample.height, sample.payload.to_vec()));
    }
    assert!(payloads["gzipped.JPEG"] == payloads["plain.JPEG"], "the gzip wrapping changed the image");
    let cmyk = beit_views::decode(&golden("small-cmyk.jpg"), &Limits::default()).unwrap();
    assert!(
        payloads["cmyk.JPEG"] == (cmyk.width, cmyk.height, cmyk.pixels),
        "the CMYK pixels are kept as RGB"
    );
    let png = dir.path().join("cmyk.png");
    succeed("beit-shard", &["cat", "cmyk.JPEG", "--shards", text(&out), "--view", "1", "--out", text(&png)]);
    assert_eq!(image::open(&png).unwrap().height(), 224);
}

/// The token view of a stored sample as it is rendered from its payload, and the tokens it gives.
fn tokens_again(
    tokenizer: &beit_tokenizer::Tokenizer,
    set: &beit_shards::ShardSet,
    sample: &beit_shards::SampleRef<'_>,
    view: u32,
) -> Vec<u16> {
    let spec: ViewSpec = set.spec().view_spec.parse().unwrap();
    let drawn =
        View::draw(&spec, sample.width, sample.height, SeedKey::view(set.spec().seed, sample.id.0, view));
    let kind = match sample.payload_kind {
        beit_shards::PAYLOAD_JPEG => PayloadKind::Jpeg,
        _ => PayloadKind::Rgb,
    };
    let payload = Payload { kind, width: sample.width, height: sample.height, bytes: sample.payload };
    let mut pixels = vec![0; (spec.token_px * spec.token_px * 3) as usize];
    Renderer::new()
        .render_payload(
            payload,
            &drawn,
            sample.grey,
            spec.token_px,
            spec.token_interpolation,
            &mut pixels,
            &mut beit_views::StageTimes::default(),
        )
        .unwrap();
    let mut tokens = Vec::new();
    tokenizer.encode(&pixels, 1, spec.token_px, &mut tokens).unwrap();
    tokens
}

#[test]
fn scaled_pixels_are_what_views_and_tokens_are_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("photos");
    fs::create_dir(&source).unwrap();
    let wavy = |at: usize| (at * at / 700 % 251) as u8;
    let photo = RgbImage { width: 500, height: 375, pixels: (0..500 * 375 * 3).map(wavy).collect() };
    fs::write(source.join("photo.jpg"), beit_views::encode_jpeg(&photo, 95).unwrap()).unwrap();
    let small = image::RgbImage::from_fn(90, 60, |x, y| image::Rgb([x as u8 * 2, y as u8 * 4, 77]));
    small.save(source.join("small.png")).unwrap();
    let photo = beit_views::decode(&fs::read(source.join("photo.jpg")).unwrap(), &Limits::default()).unwrap();
    assert!(photo.width.min(photo.height) > 256, "the test wants an image that is scaled");
    let tokenizer = beit_tokenizer::Tokenizer::embedded().unwrap();
    let scaled: RgbImage = beit_views::shrink_to_short_side(&photo, 256);

    for (pixels, words, kind) in [
        ("short256", "short256 q90", beit_shards::PAYLOAD_JPEG),
        ("raw256", "raw256", beit_shards::PAYLOAD_RGB),
    ] {
        let out = dir.path().join(format!("{pixels}.shards"));
        build(&source, &out, &["--views", "2", "--pixels", pixels]);
        succeed("beit-shard", &["verify", text(&out)]);
        assert_eq!(listing(&out)["payload"], words);
        let set = beit_shards::ShardSet::open(&out, beit_shards::Io::Auto).unwrap();
        let mut buf = beit_shards::ReadBuf::new();
        for index in 0..set.len() {
            for view in 0..2 {
                let sample = set.read(index, view, &mut buf).unwrap();
                assert_eq!(sample.payload_kind, kind, "{}", sample.path);
                let side = sample.width.min(sample.height);
                assert_eq!(side, if sample.path == "small.png" { 60 } else { 256 }, "{}", sample.path);
                if sample.path == "photo.jpg" {
                    assert_eq!((sample.width, sample.height), (scaled.width, scaled.height));
                    if pixels == "raw256" {
                        assert!(sample.payload == scaled.pixels, "raw pixels are the scaled image's");
                    }
                }
                assert_eq!(
                    tokens_again(&tokenizer, &set, &sample, view),
                    sample.tokens,
                    "{} view {view}",
                    sample.path
                );
            }
        }
        let png = dir.path().join("view.png");
        succeed("beit-shard", &["cat", "0", "--shards", text(&out), "--out", text(&png)]);
        // Other pixels are another set.
        let other = ["build", text(&source), "--out", text(&out), "--tokenizer", "embedded", "--views", "2"];
        fail("beit-shard", &other, &[&format!("payload {words} against original")]);
    }
    let raw = shard_files(&dir.path().join("raw256.shards"));
    let plain: u64 = raw.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(plain >= scaled.pixels.len() as u64, "raw pixels are not compressed");
}

/// Id, path, class and all tokens and greys of every sample, in the set's order.
fn samples(out: &Path) -> Vec<String> {
    let set = beit_shards::ShardSet::open(out, beit_shards::Io::Auto).unwrap();
    let mut buf = beit_shards::ReadBuf::new();
    let mut all = Vec::new();
    for index in 0..set.len() {
        for view in 0..set.spec().views {
            let sample = set.read(index, view, &mut buf).unwrap();
            all.push(format!(
                "{} {} {} {} {:?} {}",
                sample.id,
                sample.path,
                sample.label,
                sample.grey,
                sample.tokens,
                sample.payload.len()
            ));
        }
    }
    all
}

#[test]
fn merged_parts_are_the_unparted_set() {
    let dir = tempfile::tempdir().unwrap();
    let source = class_folders(dir.path());
    fs::write(source.join("n01/bad.jpg"), b"no image").unwrap();
    let options = ["--views", "5", "--max-bad", "50%", "--shard-size", "100K"];
    let whole = dir.path().join("whole.shards");
    let summary = build(&source, &whole, &options);
    let base = dir.path().join("parted.shards");
    let slurm = command(
        "beit-shard",
        &["build", text(&source), "--out", text(&base), "--tokenizer", "embedded", "--json"],
    )
    .args(options)
    .args(["--part", "auto"])
    .envs([("SLURM_ARRAY_TASK_ID", "10"), ("SLURM_ARRAY_TASK_MIN", "10"), ("SLURM_ARRAY_TASK_COUNT", "3")])
    .output()
    .unwrap();
    assert!(slurm.status.success(), "{}", String::from_utf8_lossy(&slurm.stderr));
    let first = last_json(&String::from_utf8(slurm.stdout).unwrap());
    build(&source, &base, &[&options[..], &["--part", "3/3"]].concat());
    let part = |number: u32| dir.path().join(format!("parted.shards.part-{number}-of-3"));
    assert_eq!(first["out"], text(&part(1)));

    let merged = dir.path().join("merged.shards");
    let merge = |parts: &[u32], out: &Path| {
        let parts: Vec<PathBuf> = parts.iter().map(|&number| part(number)).collect();
        let mut args = vec!["merge".to_owned()];
        args.extend(parts.iter().map(|path| text(path).to_owned()));
        args.extend(["--out".to_owned(), text(out).to_owned()]);
        args
    };
    let try_merge = |parts: &[u32], words: &[&str]| {
        let args = merge(parts, &merged);
        fail("beit-shard", &args.iter().map(String::as_str).collect::<Vec<_>>(), words);
        assert!(!merged.exists(), "a refused merge leaves nothing behind");
    };
    try_merge(&[1, 3], &["part 2/3 is missing"]);
    build(&source, &base, &[&options[..], &["--part", "2/3"]].concat());
    try_merge(&[1, 2, 3, 2], &["named twice"]);

    let args = merge(&[3, 1, 2], &merged);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    succeed("beit-shard", &args);
    succeed("beit-shard", &["verify", text(&merged)]);
    assert_eq!(samples(&merged), samples(&whole));
    assert_eq!(listing(&merged)["quarantined"], listing(&whole)["quarantined"]);
    assert_eq!(summary["samples"], listing(&merged)["samples"].as_array().unwrap().len());
    let before = contents(&merged);
    succeed("beit-shard", &args);
    assert!(contents(&merged) == before, "merging again changes nothing");
    // The parts may go: the merged set does not need them.
    (1..=3).for_each(|number| fs::remove_dir_all(part(number)).unwrap());
    succeed("beit-shard", &["verify", text(&merged)]);
    let again = ["build", text(&source), "--out", text(&merged), "--tokenizer", "embedded", "--views", "5"];
    fail("beit-shard", &again, &["merged from parts"]);
}

#[test]
fn one_build_shows_where_its_processor_time_went() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("photos.shards");
    let summary = build(&demo_photos(), &out, &["--views", "2"]);
    let stages = &summary["cpu_seconds"];
    for stage in ["read", "decode", "render", "relayout", "write", "tokenize"] {
        assert!(stages[stage].as_f64().unwrap() > 0.0, "{stage} took no time: {stages}");
    }
}

#[test]
fn precision_is_part_of_the_set_and_missing_gpus_are_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("photos");
    fs::create_dir(&source).unwrap();
    fs::copy(demo_photos().join("chelsea.jpg"), source.join("chelsea.jpg")).unwrap();
    let out = dir.path().join("photos.shards");
    build(&source, &out, &["--views", "1", "--precision", "bf16"]);
    assert_eq!(listing(&out)["tokenizer"]["name"], "demo (bf16)");
    let png = dir.path().join("view.png");
    succeed("beit-shard", &["cat", "0", "--shards", text(&out), "--out", text(&png)]);
    let with = |more: &[&'static str]| {
        let mut args =
            vec!["build", text(&source), "--out", text(&out), "--tokenizer", "embedded", "--views", "1"];
        args.extend(more);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let refused = |more: &[&'static str], words: &[&str]| {
        let args = with(more);
        fail("beit-shard", &args.iter().map(String::as_str).collect::<Vec<_>>(), words);
    };
    refused(&[], &["demo (bf16)", "holds another set"]);
    refused(&["--precision", "fp16"], &["fp32 or bf16"]);
    // More GPUs than any machine has: with CUDA the driver's number is named, without it the libtorch.
    refused(&["--gpus", "64"], &["--gpus 64: ", "leave --gpus out"]);
}
