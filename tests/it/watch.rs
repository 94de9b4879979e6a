//! `beit-shard watch`: a set that grows while people use it.

use crate::house::{command, demo_photos, fail, last_json, run, succeed};
use beit_shards::{Io, ReadBuf, SampleId, ShardSet};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Copies demo photos into a class folder.
fn arrive(source: &Path, class: &str, photos: &[&str]) {
    let folder = source.join(class);
    fs::create_dir_all(&folder).unwrap();
    for photo in photos {
        fs::copy(demo_photos().join(format!("{photo}.jpg")), folder.join(format!("{photo}.jpg"))).unwrap();
    }
}

fn arguments<'a>(source: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["watch", text(source), "--out", text(out), "--tokenizer", "embedded", "--views", "2"];
    arguments.extend(["--settle", "0"]);
    arguments.extend(more);
    arguments
}

/// What a set holds of a sample: the grey levels and tokens of both views, and the payload.
#[derive(Default)]
struct Held {
    greys: Vec<u8>,
    tokens: Vec<u16>,
    payload: Vec<u8>,
}

/// Every sample of a set by its path.
fn samples(out: &Path) -> BTreeMap<String, Held> {
    let set = ShardSet::open(out, Io::Auto).unwrap();
    let mut buf = ReadBuf::new();
    let mut all = BTreeMap::new();
    for index in 0..set.len() {
        let (mut held, mut path) = (Held::default(), String::new());
        for view in 0..2 {
            let sample = set.read(index, view, &mut buf).unwrap();
            assert_eq!(sample.id, SampleId::of_path(sample.path));
            held.greys.push(sample.grey);
            held.tokens.extend(sample.tokens);
            held.payload = sample.payload.to_vec();
            path = sample.path.to_owned();
        }
        assert!(all.insert(path, held).is_none(), "a sample came twice");
    }
    all
}

#[test]
fn each_round_adds_a_shard_and_changes_none() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    arrive(&source, "dogs", &["astronaut", "brick"]);
    arrive(&source, "fish", &["camera"]);
    let once = arguments(&source, &out, &["--once"]);
    succeed("beit-shard", &once);
    let first = fs::read(out.join("shard-000000.shard")).unwrap();
    assert_eq!(samples(&out).len(), 3);

    arrive(&source, "cats", &["chelsea", "coffee"]); // sorts before the others, and yet comes behind them
    arrive(&source, "dogs", &["grass"]);
    fs::write(source.join("dogs/broken.jpg"), b"no image").unwrap();
    succeed("beit-shard", &once);
    assert!(fs::read(out.join("shard-000000.shard")).unwrap() == first, "a published shard never changes");
    let set = ShardSet::open(&out, Io::Auto).unwrap();
    assert_eq!((set.len(), set.shards().len(), set.manifest().quarantined), (6, 2, 1));
    assert_eq!(set.classes(), ["dogs", "fish", "cats"]);
    succeed("beit-shard", &["verify", text(&out)]);

    let manifest = fs::read(out.join("manifest.txt")).unwrap();
    succeed("beit-shard", &once);
    assert!(
        fs::read(out.join("manifest.txt")).unwrap() == manifest,
        "nothing was new, the broken file neither"
    );

    // Both shards are damaged, one beyond its index: repaired, they are what they were, though the source lists otherwise now.
    let published: Vec<Vec<u8>> =
        (0..2).map(|n| fs::read(out.join(format!("shard-00000{n}.shard"))).unwrap()).collect();
    for (n, sound) in published.iter().enumerate() {
        let (mut bytes, shard) = (sound.clone(), out.join(format!("shard-00000{n}.shard")));
        bytes[300] ^= 1; // a payload
        if n == 1 {
            bytes.truncate(sound.len() - 700); // footer and index
        }
        fs::remove_file(&shard).unwrap();
        fs::write(&shard, bytes).unwrap();
    }
    fail("beit-shard", &["verify", text(&out)], &["shard-000000.shard"]);
    succeed("beit-shard", &["repair", text(&source), "--shards", text(&out), "--tokenizer", "embedded"]);
    for (n, sound) in published.iter().enumerate() {
        assert!(fs::read(out.join(format!("shard-00000{n}.shard"))).unwrap() == *sound, "shard {n} differs");
    }

    // Which shard a sample is in depends on when it came; what it is does not.
    fs::remove_file(source.join("dogs/broken.jpg")).unwrap();
    let whole = dir.path().join("whole.shards");
    succeed(
        "beit-shard",
        &["build", text(&source), "--out", text(&whole), "--tokenizer", "embedded", "--views", "2"],
    );
    let (grown, built) = (samples(&out), samples(&whole));
    assert_eq!(grown.keys().collect::<Vec<_>>(), built.keys().collect::<Vec<_>>());
    let (mut equal, mut all) = (0, 0);
    for (path, grown) in &grown {
        let built = &built[path];
        assert!(grown.greys == built.greys && grown.payload == built.payload, "{path} differs");
        equal += grown.tokens.iter().zip(&built.tokens).filter(|(a, b)| a == b).count();
        all += grown.tokens.len();
    }
    // Batches of another size may round a token the other way.
    assert!(equal * 1000 >= all * 995, "{equal} of {all} tokens are equal");
}

#[test]
fn a_set_grows_by_one_shard_of_the_size_asked_for_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    arrive(&source, "a", &["astronaut", "brick", "camera", "chelsea", "coffee", "grass"]);
    succeed("beit-shard", &arguments(&source, &out, &["--once", "--shard-size", "40K"]));
    let set = ShardSet::open(&out, Io::Auto).unwrap();
    assert_eq!(set.len(), 6);
    assert!(set.shards().len() >= 2, "{} shards", set.shards().len());
}

#[test]
fn what_cannot_grow_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    arrive(&source, "a", &["astronaut", "brick", "camera"]);
    let build = ["build", text(&source), "--out", text(&out), "--tokenizer", "embedded"];
    succeed("beit-shard", &[&build[..], &["--views", "2", "--shard-size", "8K"]].concat());
    let once = arguments(&source, &out, &["--once"]);
    fail("beit-shard", &[&once[..], &["--seed", "1"]].concat(), &["another set", "seed"]);
    fail("beit-shard", &[&once[..], &["--part", "1/2"]].concat(), &["part"]);
    succeed("beit-shard", &once); // a finished build goes on growing
    fs::remove_file(out.join("manifest.txt")).unwrap();
    assert!(out.join("shard-000001.shard").exists());
    fail("beit-shard", &once, &["has not finished", "beit-shard build"]);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fail("beit-shard", &arguments(&empty, &dir.path().join("e.shards"), &["--once"]), &["no images"]);
}

/// A watch in the background; ends with the test.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Watching {
    fn start(source: &Path, out: &Path) -> Watching {
        let mut command = command("beit-shard", &arguments(source, out, &["--rescan", "0"]));
        Watching(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        let kill = std::process::Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }
}

/// Waits until the set has so many samples.
#[track_caller]
fn wait_for(out: &Path, samples: u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Ok(set) = ShardSet::open(out, Io::Auto)
            && set.len() >= samples
        {
            assert_eq!(set.len(), samples);
            return;
        }
        assert!(Instant::now() < deadline, "the set never had {samples} samples");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn files_are_packed_as_they_arrive_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    fs::create_dir(&source).unwrap();
    let watching = Watching::start(&source, &out);
    std::thread::sleep(Duration::from_millis(300));
    arrive(&source, "a", &["astronaut"]);
    wait_for(&out, 1);
    arrive(&source, "new/deep", &["brick"]); // a folder that was not there when the watch began
    wait_for(&out, 2);
    watching.signal("-KILL");
    drop(watching);
    arrive(&source, "a", &["camera"]);
    let mut watching = Watching::start(&source, &out);
    wait_for(&out, 3);
    watching.signal("-TERM");
    assert!(watching.0.wait().unwrap().success(), "asked to stop, it ends well");
    let listing = last_json(&succeed("beit-shard", &["ls", text(&out), "--json"]));
    assert_eq!(listing["samples"].as_array().unwrap().len(), 3);
    assert!(run("beit-shard", &["verify", text(&out)]).status.success());
}

/// A shard whose manifest was never published, as a kill between the two leaves it.
#[test]
fn an_unpublished_shard_is_packed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    let watch = |out: &Path| succeed("beit-shard", &arguments(&source, out, &["--once"]));
    arrive(&source, "a", &["astronaut"]);
    watch(&out);
    let manifest = fs::read(out.join("manifest.txt")).unwrap();
    let catalogs: Vec<PathBuf> = fs::read_dir(&out).unwrap().map(|item| item.unwrap().path()).collect();
    let before: Vec<(PathBuf, Vec<u8>)> =
        catalogs.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    arrive(&source, "a", &["brick"]);
    watch(&out);
    let sound = fs::read(out.join("shard-000001.shard")).unwrap();
    for (path, bytes) in before {
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
    }
    assert!(fs::read(out.join("manifest.txt")).unwrap() == manifest);
    watch(&out);
    assert_eq!(ShardSet::open(&out, Io::Auto).unwrap().len(), 2);
    assert!(fs::read(out.join("shard-000001.shard")).unwrap() == sound);
}
