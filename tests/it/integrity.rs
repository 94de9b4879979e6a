//! Integrity: what happens to a set that is damaged, and to a build that is killed or runs out of disk.

use crate::house::{command, demo_photos, fail, last_json, run, succeed};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file of a folder, by name.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|item| item.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap())).collect()
}

#[track_caller]
fn check_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, when: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{when}");
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{name} differs {when}");
    }
}

/// The demo photos, and between them some files that are none.
fn photos(dir: &Path) -> PathBuf {
    let source = dir.join("photos");
    fs::create_dir(&source).unwrap();
    for item in fs::read_dir(demo_photos()).unwrap() {
        let path = item.unwrap().path();
        fs::copy(&path, source.join(path.file_name().unwrap())).unwrap();
    }
    for name in ["aa.jpg", "cz.jpg", "zz.jpg"] {
        fs::write(source.join(name), b"no image\n").unwrap();
    }
    source
}

struct Set {
    dir: tempfile::TempDir,
    source: PathBuf,
    out: PathBuf,
    pristine: BTreeMap<String, Vec<u8>>,
}

/// Four shards with a few photos each.
fn set() -> Set {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (photos(dir.path()), dir.path().join("photos.shards"));
    let mut args = vec!["build", text(&source), "--out", text(&out), "--tokenizer", "embedded"];
    args.extend(["--views", "3", "--shard-size", "50K", "--max-bad", "50%"]);
    succeed("beit-shard", &args);
    let pristine = contents(&out);
    assert!(pristine.len() >= 5, "the tests want several shards: {:?}", pristine.keys());
    Set { dir, source, out, pristine }
}

impl Set {
    fn shard(&self, number: usize) -> PathBuf {
        self.out.join(format!("shard-{number:06}.shard"))
    }

    fn open(&self, number: usize) -> beit_shards::Shard {
        beit_shards::Shard::open(&self.shard(number), beit_shards::Io::Pread).unwrap()
    }

    fn flip(&self, file: &Path, at: u64) {
        let mut bytes = fs::read(file).unwrap();
        bytes[at as usize] ^= 0x20;
        fs::write(file, bytes).unwrap();
    }

    fn repair(&self) -> serde_json::Value {
        let args = ["repair", text(&self.source), "--shards", text(&self.out), "--json"];
        last_json(&succeed("beit-shard", &args))
    }

    #[track_caller]
    fn check_pristine(&self, when: &str) {
        check_same(&contents(&self.out), &self.pristine, when);
    }

    fn count(&self) -> usize {
        self.pristine.keys().filter(|name| name.ends_with(".shard")).count()
    }
}

#[test]
fn a_repaired_set_is_byte_for_byte_the_one_that_was_built() {
    let set = set();
    let entry = set.open(1).entry(0).unwrap();
    let bytes = set.open(1).bytes();
    let names = {
        let mut last = (0, 0);
        set.open(1)
            .for_each_name(|index, entry, _, _| {
                last = (index, entry.offset + entry.length);
                Ok(())
            })
            .unwrap();
        last.1.next_multiple_of(64) + 32 * (last.0 + 1)
    };
    let frame = entry.offset + entry.length - 20;
    let places = [
        ("the file header", 3, 0),
        ("a record's header", entry.offset + 12, 1),
        ("a payload", entry.offset + 2000, 1),
        ("a view", frame, 1),
        ("the index", names - 8, 0),
        ("the names", names + 6, 0),
        ("the footer", bytes - 100, 0),
        ("the trailer", bytes - 3, 0),
    ];
    for (what, at, remade) in places {
        set.flip(&set.shard(1), at);
        fail("beit-shard", &["verify", text(&set.out)], &["shard-000001.shard", "beit-shard repair"]);
        let report = set.repair();
        assert_eq!(report["repaired"][0]["shard"], "shard-000001.shard", "{what}: {report}");
        assert_eq!(report["repaired"][0]["remade"], remade, "{what}: only what is lost is made again");
        set.check_pristine(&format!("after {what} was damaged"));
    }

    // Several at once: two flips, a shard cut short, the last one and two neighbours gone, and the derived files.
    let last = set.count() - 1;
    set.flip(&set.shard(1), entry.offset + 2000);
    set.flip(&set.shard(1), frame);
    let half = fs::metadata(set.shard(2)).unwrap().len() / 2;
    fs::OpenOptions::new().write(true).open(set.shard(2)).unwrap().set_len(half).unwrap();
    fs::remove_file(set.shard(last)).unwrap();
    set.flip(&set.out.join("catalog.lmdb"), 4100);
    let report = set.repair();
    assert_eq!(
        (report["repaired"].as_array().unwrap().len(), &report["sound"]),
        (3, &true.into()),
        "{report}"
    );
    set.check_pristine("after much was damaged");

    for number in 0..set.count() {
        fs::remove_file(set.shard(number)).unwrap();
    }
    assert_eq!(set.repair()["sound"], true);
    set.check_pristine("after all shards were gone");

    fs::remove_file(set.out.join("manifest.txt")).unwrap();
    set.flip(&set.shard(0), 3000);
    assert_eq!(set.repair()["manifest_rewritten"], true);
    set.check_pristine("after the manifest was gone and a record damaged");
    let report = set.repair();
    assert_eq!((&report["sound"], &report["repaired"]), (&true.into(), &serde_json::json!([])), "{report}");
}

#[test]
fn what_cannot_be_repaired_is_named_and_stays_as_it_is() {
    let set = set();
    // The sample of the damaged record is gone from the source; another damaged shard is not held back by that.
    let mut first = (String::new(), 0);
    set.open(1)
        .for_each_name(|index, entry, _, path| {
            if index == 0 {
                first = (path.to_owned(), entry.offset);
            }
            Ok(())
        })
        .unwrap();
    let (path, offset) = first;
    set.flip(&set.shard(1), offset + 2000);
    set.flip(&set.shard(0), 3000);
    let damaged = fs::read(set.shard(1)).unwrap();
    let photo = fs::read(set.source.join(&path)).unwrap();
    let arguments = ["repair", text(&set.source), "--shards", text(&set.out)];

    fs::write(set.source.join(&path), b"not what it was").unwrap();
    fail("beit-shard", &arguments, &["shard-000001.shard stays as it is", &path, "not_an_image"]);
    assert!(fs::read(set.shard(1)).unwrap() == damaged);
    assert!(
        fs::read(set.shard(0)).unwrap() == set.pristine["shard-000000.shard"],
        "this one could be repaired"
    );

    let other = fs::read(set.source.join("rocket.jpg")).unwrap();
    fs::write(
        set.source.join(&path),
        if path == "rocket.jpg" { photo[..photo.len() - 2].to_vec() } else { other },
    )
    .unwrap();
    fail("beit-shard", &arguments, &["shard-000001.shard stays as it is", &path, "changed or is gone"]);
    assert!(fs::read(set.shard(1)).unwrap() == damaged);

    fs::remove_file(set.source.join(&path)).unwrap();
    fail("beit-shard", &arguments, &["shard-000001.shard stays as it is", "files were added or removed"]);
    assert!(fs::read(set.shard(1)).unwrap() == damaged);
    assert!(contents(&set.out).keys().eq(set.pristine.keys()), "no litter");

    fs::write(set.source.join(&path), &photo).unwrap();
    assert_eq!(set.repair()["sound"], true);
    set.check_pristine("once the source was back");

    // Another tokenizer than that of the set is refused by name, before anything is written.
    set.flip(&set.shard(1), offset + 12);
    let golden = crate::house::root().join("tests/golden/dalle-tiny/encoder.pkl");
    let mut other = arguments.to_vec();
    other.extend(["--tokenizer", text(&golden)]);
    fail("beit-shard", &other, &["the tokens were made by demo", "--tokenizer"]);
    assert_eq!(set.repair()["sound"], true);
    set.check_pristine("with the right tokenizer");
}

#[test]
fn tokens_computed_again_are_those_that_are_stored() {
    let set = set();
    let verify = |more: &[&str]| run("beit-shard", &[&["verify", text(&set.out), "--json"], more].concat());
    let output = verify(&["--retokenize", "20", "--seed", "7"]);
    let report = last_json(&String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success());
    let again = &report["retokenized"];
    assert_eq!((again["views"].as_u64(), again["tokens"].as_u64()), (Some(20), Some(20 * 196)));
    assert_eq!(again["share"], 1.0, "the machine that built the set computes the same tokens: {again}");

    let golden = crate::house::root().join("tests/golden/dalle-tiny/encoder.pkl");
    fail(
        "beit-shard",
        &["verify", text(&set.out), "--retokenize", "2", "--tokenizer", text(&golden)],
        &["the tokens were made by demo", "--tokenizer"],
    );

    // A set that is sound but tells other tokens: written with one token changed in every view.
    let wrong = set.dir.path().join("wrong.shards");
    fs::create_dir(&wrong).unwrap();
    with_wrong_tokens(&set.out, &wrong);
    succeed("beit-shard", &["verify", text(&wrong)]);
    let message = fail(
        "beit-shard",
        &["verify", text(&wrong), "--retokenize", "20"],
        &["of the tokens are equal, --min-match wants 99.500%", "98 of its tokens differ"],
    );
    assert!(message.contains(".jpg"), "the worst view is named: {message}");
    succeed("beit-shard", &["verify", text(&wrong), "--retokenize", "20", "--min-match", "49%"]);
}

/// The same set with every other token off by one.
fn with_wrong_tokens(from: &Path, to: &Path) {
    use beit_shards::{Io, ReadBuf, Record, ShardSet, ShardWriter, ViewTokens};
    let set = ShardSet::open(from, Io::Pread).unwrap();
    let (spec, mut buf) = (set.spec(), ReadBuf::new());
    let mut writer = ShardWriter::create(to, 0, spec, set.classes()).unwrap();
    for index in 0..set.len() {
        let mut views: Vec<(u8, Vec<u16>)> = Vec::new();
        for k in 0..spec.views {
            let read = set.read(index, k, &mut buf).unwrap();
            let off = |(i, token): (usize, &u16)| if i % 2 == 0 { *token } else { (*token + 1) % 512 };
            views.push((read.grey, read.tokens.iter().enumerate().map(off).collect()));
        }
        let views: Vec<_> = views.iter().map(|(grey, tokens)| ViewTokens { grey: *grey, tokens }).collect();
        let read = set.read(index, 0, &mut buf).unwrap();
        let (id, label, path) = (read.id, read.label, read.path);
        let (width, height, payload_kind, payload) =
            (read.width, read.height, read.payload_kind, read.payload);
        writer
            .push(&Record { id, label, path, width, height, payload_kind, payload, views: &views })
            .unwrap();
    }
    writer.finish().unwrap();
    beit_shards::publish_manifest(to, spec, set.classes(), 1).unwrap();
}

#[test]
fn stats_add_up() {
    let set = set();
    let stats = last_json(&succeed("beit-shard", &["stats", text(&set.out), "--json"]));
    let shards: u64 = set
        .pristine
        .iter()
        .filter(|(name, _)| name.ends_with(".shard"))
        .map(|(_, bytes)| bytes.len() as u64)
        .sum();
    assert_eq!((stats["samples"].as_u64(), stats["bytes"]["total"].as_u64()), (Some(10), Some(shards)));
    let part = |name: &str| stats["bytes"][name].as_u64().unwrap();
    assert_eq!(part("payload") + part("views") + part("overhead"), shards);
    // 196 tokens of 9 bits, a grey level and a checksum.
    assert_eq!(part("views"), 10 * 3 * (221 + 1 + 8));
    assert_eq!(
        stats["classes"]["samples_per_class"],
        serde_json::json!({"min": 10, "median": 10, "max": 10})
    );
    assert_eq!(stats["images"]["kinds"], serde_json::json!({"jpeg": 10}));
    assert_eq!(stats["tokens"]["looked_at"], 10 * 3 * 196);
    assert!(stats["tokens"]["perplexity"].as_f64().unwrap() > 20.0);
    assert_eq!(stats["quarantine"], serde_json::json!({"total": 3, "by_reason": {"not_an_image": 3}}));
    let few = last_json(&succeed("beit-shard", &["stats", text(&set.out), "--json", "--sample", "4"]));
    assert_eq!(
        (few["images"]["looked_at"].as_u64(), few["tokens"]["looked_at"].as_u64()),
        (Some(4), Some(4 * 196))
    );
    let shown = succeed("beit-shard", &["stats", text(&set.out)]);
    assert!(shown.contains("quarantined 3: 3 not_an_image"), "{shown}");
}

/// What leaves a loader: epoch and id of each sample, and a digest of its pixels and tokens.
type Left = Vec<(u64, beit_shards::SampleId, u64)>;

/// How many records each reason kept out.
type Reasons = Vec<(&'static str, u64)>;

/// Loads three epochs of the set's ten samples, so that each of the three views is used.
fn load(dir: &Path, io: beit_shards::Io, mut after: impl FnMut(u64)) -> Result<(Left, Reasons), String> {
    use beit_loader::{Loader, Options};
    use std::hash::{DefaultHasher, Hash, Hasher};
    let set = beit_shards::ShardSet::open(dir, io).map_err(|error| error.to_string())?;
    let options = Options { view_px: 112, batch_size: 5, workers: 2, slots: 2, ..Options::new(set.into()) };
    let mut loader = Loader::start(options).map_err(|error| error.to_string())?;
    let (stats, mut rank) = (loader.stats(), loader.take_rank(0));
    let mut left = Vec::new();
    for step in 0..6 {
        let batch = rank.next().map_err(|error| error.to_string())?;
        let (pixels, tokens) = (batch.pixels().chunks_exact(112 * 112 * 3), batch.tokens().chunks_exact(196));
        for ((id, pixels), tokens) in batch.ids().iter().zip(pixels).zip(tokens) {
            let mut hasher = DefaultHasher::new();
            (pixels, tokens).hash(&mut hasher);
            left.push((batch.epoch(), *id, hasher.finish()));
        }
        drop(batch);
        after(step);
    }
    Ok((left, stats.corrupt.by_reason()))
}

#[test]
fn no_flipped_bit_changes_what_leaves_the_loader_on_any_run() {
    let set = set();
    let (sound, corrupt) = load(&set.out, beit_shards::Io::Mmap, |_| ()).unwrap();
    assert!(sound.len() == 30 && corrupt.is_empty());
    let (mut refused, mut replaced, mut untouched) = (0, 0, 0);
    for (name, bytes) in set.pristine.iter().filter(|(name, _)| *name != "catalog.lmdb") {
        let file = set.out.join(name);
        // Places anywhere, and the ends, where the structure is.
        let span = bytes.len() as u32;
        let mut draws = beit_views::SeedKey {
            seed: 3,
            stream: span.into(),
            index: 0,
            purpose: beit_views::Purpose::Batch,
        }
        .draws();
        let mut places: Vec<u32> = (0..5).map(|_| draws.below(span)).collect();
        places.extend([
            draws.below(64),
            span - 1 - draws.below(48),
            span - 1 - draws.below(400.min(span)),
            span - 1 - draws.below(900.min(span)),
        ]);
        for at in places {
            let mut damaged = bytes.clone();
            damaged[at as usize] ^= 1 << draws.below(8);
            fs::write(&file, &damaged).unwrap();
            let io = if at % 2 == 0 { beit_shards::Io::Mmap } else { beit_shards::Io::Pread };
            let first = load(&set.out, io, |_| ());
            assert_eq!(first, load(&set.out, io, |_| ()), "the second run sees what the first one saw");
            match first {
                Err(message) => {
                    assert!(message.contains(name.as_str()), "byte {at} of {name}: {message}");
                    refused += 1;
                }
                Ok((left, corrupt)) => {
                    assert_eq!(left.len(), 30);
                    for sample in &left {
                        assert!(sound.contains(sample), "byte {at} of {name}: a sample is not what it was");
                    }
                    if corrupt.is_empty() {
                        assert!(left == sound, "byte {at} of {name}");
                        untouched += 1;
                    } else {
                        replaced += 1;
                    }
                }
            }
        }
        fs::write(&file, bytes).unwrap();
    }
    println!(
        "{refused} refused when opened, {replaced} cost a sample, {untouched} were in bytes that no batch is made of"
    );
    assert!(refused > 5 && replaced > 5);
}

#[test]
fn a_shard_that_shrinks_during_a_run_costs_its_samples_and_not_the_run() {
    let set = set();
    let (sound, _) = load(&set.out, beit_shards::Io::Mmap, |_| ()).unwrap();
    for io in [beit_shards::Io::Mmap, beit_shards::Io::Pread] {
        let shard = set.shard(0);
        let (left, corrupt) = load(&set.out, io, |step| {
            if step == 1 {
                fs::OpenOptions::new().write(true).open(&shard).unwrap().set_len(5000).unwrap();
            }
        })
        .unwrap();
        assert!(left.iter().all(|sample| sound.contains(sample)), "{io}");
        let reasons: Vec<_> = corrupt.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, ["truncated"], "{io}");
        fs::write(&shard, &set.pristine["shard-000000.shard"]).unwrap();
    }
}

/// Pieces of the demo photos, in three classes: a source that makes many small shards quickly.
fn crops(dir: &Path) -> PathBuf {
    let source = dir.join("crops");
    let mut number = 0;
    for item in fs::read_dir(demo_photos()).unwrap() {
        let path = item.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "jpg") {
            continue;
        }
        let photo = beit_views::decode(&fs::read(&path).unwrap(), &beit_views::Limits::default()).unwrap();
        let photo = image::RgbImage::from_raw(photo.width, photo.height, photo.pixels).unwrap();
        for piece in 0..9 {
            let folder = source.join(format!("class-{}", number % 3));
            fs::create_dir_all(&folder).unwrap();
            let (x, y) = (piece % 4 * 60, piece / 4 * 60);
            let crop = image::imageops::crop_imm(&photo, x, y, 48, 48).to_image();
            crop.save(folder.join(format!("{number:03}.png"))).unwrap();
            number += 1;
        }
        fs::write(source.join(format!("class-1/{number:03}-bad.png")), b"no image").unwrap();
    }
    source
}

/// Whole shards in a folder, and whether a temporary file lies there.
fn signs(folder: &Path) -> (usize, bool) {
    let names =
        fs::read_dir(folder).map(|items| items.flatten().map(|item| item.file_name()).collect::<Vec<_>>());
    let names: Vec<String> =
        names.unwrap_or_default().iter().map(|name| name.to_string_lossy().into_owned()).collect();
    (
        names.iter().filter(|name| name.ends_with(".shard")).count(),
        names.iter().any(|name| name.ends_with(".tmp")),
    )
}

/// Kills a build `kills` times at random moments of its whole length, finishes it, and compares.
fn kill_at_random(kills: u32, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let source = crops(dir.path());
    let build = |out: &Path| {
        let mut build =
            command("beit-shard", &["build", text(&source), "--out", text(out), "--tokenizer", "embedded"]);
        build.args(["--views", "2", "--second-input-size", "32", "--shard-size", "15K", "--max-bad", "50%"]);
        build.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let finish = |out: &Path| assert!(build(out).wait().unwrap().success());
    let whole = dir.path().join("whole.shards");
    let started = Instant::now();
    let mut child = build(&whole);
    let mut first_sign = None;
    while child.try_wait().unwrap().is_none() {
        if first_sign.is_none() && signs(&whole) != (0, false) {
            first_sign = Some(started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let length = started.elapsed();
    let packing = length - first_sign.unwrap();
    let expected = contents(&whole);
    let shards = expected.keys().filter(|name| name.ends_with(".shard")).count();
    assert!(shards >= 20, "the test wants many shards: {shards}");

    let (mut killed, mut finished, mut with_shards, mut with_litter, mut unpublished) = (0, 0, 0, 0, 0);
    let mut round = 0_u64;
    let mut out = dir.path().join("killed-0.shards");
    while killed < kills {
        let mut draws =
            beit_views::SeedKey { seed, stream: round, index: 0, purpose: beit_views::Purpose::Batch }
                .draws();
        round += 1;
        let (whole_length, restart) = (draws.below(5) == 0, draws.below(4) == 0);
        let before = signs(&out);
        let mut child = build(&out);
        let mut ended = None;
        if whole_length {
            std::thread::sleep(length.mul_f64(1.05 * draws.unit()));
        } else {
            // Once it has got to work: a random moment of what is left to do.
            while signs(&out) == before && ended.is_none() {
                ended = child.try_wait().unwrap();
                std::thread::yield_now();
            }
            let left = 1.0 - before.0 as f64 / (shards + 1) as f64;
            std::thread::sleep(packing.mul_f64(left * draws.unit()));
        }
        ended = ended.or(child.try_wait().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        match ended {
            Some(status) => {
                assert!(status.success());
                finished += 1;
            }
            None => killed += 1,
        }
        if !out.is_dir() {
            continue;
        }
        let now = contents(&out);
        if ended.is_none() {
            let (now_shards, litter) = signs(&out);
            with_litter += u32::from(litter);
            with_shards += u32::from(now_shards > 0);
            unpublished += u32::from(now_shards == shards && !now.contains_key("manifest.txt"));
        }
        for (name, bytes) in now.iter().filter(|(name, _)| !name.ends_with(".tmp")) {
            // Killed while a finished set was published once more: its catalog still has both names.
            let name = name.replace(".previous.", ".");
            assert!(expected[&name] == *bytes, "after kill {killed}, {name} is published and differs");
        }
        // Most go on where the kill before them left it; now and then one is finished and the next starts afresh.
        if ended.is_some() || restart {
            finish(&out);
            check_same(&contents(&out), &expected, &format!("after {killed} kills"));
            fs::remove_dir_all(&out).unwrap();
            out = dir.path().join(format!("killed-{round}.shards"));
        }
    }
    finish(&out);
    check_same(&contents(&out), &expected, "at the end");
    println!(
        "{killed} builds of {shards} shards killed, {finished} finished before their kill; {with_shards} kills left whole shards, \
         {with_litter} a temporary file, {unpublished} all shards without a manifest; every rerun byte-identical"
    );
}

#[test]
fn a_build_killed_at_any_moment_ends_with_the_same_bytes() {
    kill_at_random(12, 1);
}

#[test]
#[ignore = "minutes: scripts/kill-test.sh"]
fn a_build_killed_at_many_moments_ends_with_the_same_bytes() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    kill_at_random(number("BEIT_KILLS", 200) as u32, number("BEIT_KILL_SEED", 2));
}

#[test]
fn two_builds_into_one_folder_are_one_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (photos(dir.path()), dir.path().join("photos.shards"));
    fs::create_dir(&out).unwrap();
    // The lock of a build at work, held as a build holds it.
    let folder = fs::File::open(&out).unwrap();
    folder.lock().unwrap();
    let arguments = ["build", text(&source), "--out", text(&out), "--tokenizer", "embedded", "--views", "1"];
    fail("beit-shard", &arguments, &["another beit-shard build is at work in", text(&out)]);
    fail("beit-shard", &["repair", text(&source), "--shards", text(&out)], &["is at work in", text(&out)]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    drop(folder);

    // Two real ones at once: one of them does it all, and the set is that of a build alone.
    let arguments = [&arguments[..], &["--max-bad", "50%"]].concat();
    let mut both: Vec<_> = (0..2)
        .map(|_| command("beit-shard", &arguments).stderr(std::process::Stdio::piped()).spawn().unwrap())
        .collect();
    let ended: Vec<_> = both.drain(..).map(|child| child.wait_with_output().unwrap()).collect();
    let messages: String =
        ended.iter().map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).collect();
    let succeeded = ended.iter().filter(|output| output.status.success()).count();
    assert!(succeeded >= 1, "{messages}");
    assert!(succeeded == 2 || messages.contains("another beit-shard build is at work"), "{messages}");
    succeed("beit-shard", &["verify", text(&out)]);
    let alone = dir.path().join("alone.shards");
    let mut again = arguments.clone();
    again[3] = text(&alone);
    succeed("beit-shard", &again);
    check_same(&contents(&out), &contents(&alone), "after two builds at once");
}
