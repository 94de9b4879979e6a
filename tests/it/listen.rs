//! `beit-shard build|watch --listen` as Prometheus meets it: a stalled build still answers, and says where it stands.

use crate::house::{command, demo_photos, fail, last_json, promtool};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

const PATIENCE: Duration = Duration::from_secs(120);

/// A packer that listens; killed when the test ends, however it ends.
struct Packing {
    child: Child,
    address: String,
}

impl Drop for Packing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Packing {
    #[track_caller]
    fn start(verb: &str, source: &Path, out: &Path, more: &[&str]) -> Packing {
        let mut args = vec![verb, source.to_str().unwrap(), "--out", out.to_str().unwrap()];
        args.extend(["--tokenizer", "embedded", "--views", "2", "--listen", "127.0.0.1:0"]);
        args.extend(more);
        let mut command = command("beit-shard", &args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Packing { child, address }
    }

    fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn metrics(&self) -> Metrics {
        Metrics(self.ask("/metrics"))
    }

    /// The numbers, once they are as `there` wants them.
    #[track_caller]
    fn wait_for(&self, what: &str, there: impl Fn(&Metrics) -> bool) -> Metrics {
        let begun = Instant::now();
        loop {
            let metrics = self.metrics();
            if there(&metrics) {
                return metrics;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}:\n{}", metrics.0);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The text of `/metrics`.
struct Metrics(String);

impl Metrics {
    #[track_caller]
    fn of(&self, series: &str) -> f64 {
        let find = |line: &'_ str| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned);
        let value = self.0.lines().find_map(find);
        value.unwrap_or_else(|| panic!("no {series} in:\n{}", self.0)).parse().unwrap()
    }

    /// Has Prometheus' own tool look at it, where tools may be asked for.
    #[track_caller]
    fn check(&self) {
        assert_eq!(promtool(&self.0), "");
    }
}

/// Keeps whoever opens a file waiting in the kernel, as a file server does that has gone away; for 45 s, after which the
/// kernel ends it.
struct Lease {
    _file: File,
}

impl Lease {
    #[expect(unsafe_code, reason = "no safe crate has leases")]
    fn on(path: &Path) -> Lease {
        let file = File::open(path).unwrap();
        // A lease is broken with SIGIO, which would end us; SIGURG says the same and is ignored.
        // SAFETY: both calls take a descriptor that `file` keeps open, and a number.
        let taken = unsafe {
            libc::fcntl(file.as_raw_fd(), 10 /* F_SETSIG */, libc::SIGURG) == 0
                && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
        };
        assert!(taken, "no lease on {}: {}", path.display(), std::io::Error::last_os_error());
        Lease { _file: file }
    }
}

#[test]
fn a_stalled_build_answers_and_says_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    fs::create_dir(&source).unwrap();
    for photo in fs::read_dir(demo_photos()).unwrap().map(|item| item.unwrap().path()) {
        if photo.extension().is_some_and(|ending| ending == "jpg") {
            fs::copy(&photo, source.join(photo.file_name().unwrap())).unwrap();
        }
    }
    let photos = fs::read_dir(&source).unwrap().count() as f64;
    let lease = Lease::on(&source.join("coffee.jpg"));
    let mut packing = Packing::start("build", &source, &out, &["--jobs", "1", "--json"]);
    let (read, since) = (
        "beit_shard_items_in_progress{stage=\"read\"}",
        "beit_shard_last_activity_timestamp_seconds{stage=\"read\"}",
    );
    let mut stalled = packing.wait_for("a read", |metrics| metrics.of(read) == 1.0);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let later = packing.metrics();
        if later.of(since) == stalled.of(since) {
            break;
        }
        stalled = later;
    }
    let stalled = packing.metrics();
    assert_eq!(packing.ask("/healthz"), "alive\n");
    stalled.check();
    assert_eq!(stalled.of(read), 1.0, "one image is being read");
    assert_eq!(stalled.of("beit_shard_samples_planned"), photos);
    assert!(stalled.of("beit_shard_samples_total") < photos - 1.0);
    assert!(stalled.of("beit_shard_progress_ratio") < 1.0);
    assert_eq!(stalled.of("beit_shard_rejected_samples_total{reason=\"truncated\"}"), 0.0);
    assert!(stalled.of("beit_shard_disk_free_bytes") > 1e6);
    assert!(stalled.of("beit_shard_process_resident_memory_bytes") > 1e6);
    assert!(packing.ask("/").contains("/metrics"));

    drop(lease);
    let mut printed = String::new();
    packing.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(packing.child.wait().unwrap().success());
    assert_eq!(last_json(&printed)["samples"].as_f64(), Some(photos));
    assert_eq!(printed.lines().count(), 1, "standard output is the result's alone:\n{printed}");
    assert!(TcpStream::connect(&packing.address).is_err(), "the port ends with the build");
}

#[test]
fn a_watch_counts_what_waits_what_it_packs_and_what_it_rejects() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("photos"), dir.path().join("photos.shards"));
    fs::create_dir_all(source.join("a")).unwrap();
    let arrive = |name: &str| fs::copy(demo_photos().join(name), source.join("a").join(name)).unwrap();
    let settle = |name: &str| {
        let file = File::options().append(true).open(source.join("a").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    };
    fs::write(source.join("a/text.jpg"), b"this is not an image\n").unwrap();
    assert!(arrive("astronaut.jpg") > 0 && arrive("brick.jpg") > 0);
    let packing = Packing::start("watch", &source, &out, &["--settle", "3600", "--rescan", "1"]);
    let pending = "beit_shard_watch_pending_samples";
    packing.wait_for("three files that may still be written", |metrics| metrics.of(pending) == 3.0);
    for name in ["astronaut.jpg", "brick.jpg", "text.jpg"] {
        settle(name);
    }
    let rejected = "beit_shard_rejected_samples_total{reason=\"not_an_image\"}";
    let first = packing.wait_for("a shard of both photos", |metrics| {
        let [samples, shards] =
            ["beit_shard_samples_total", "beit_shard_shards_total"].map(|series| metrics.of(series));
        samples == 2.0 && metrics.of(rejected) == 1.0 && shards >= 1.0
    });
    first.check();
    let bytes = |name: &str| fs::metadata(source.join("a").join(name)).unwrap().len() as f64;
    for (series, value) in [
        ("beit_shard_samples_total", 2.0),
        ("beit_shard_views_total", 4.0),
        ("beit_shard_items_in_total{stage=\"decode\"}", 3.0),
        ("beit_shard_items_out_total{stage=\"write\"}", 3.0),
        ("beit_shard_items_in_progress{stage=\"tokenize\"}", 0.0),
        ("beit_shard_samples_planned", 3.0),
        ("beit_shard_progress_ratio", 1.0),
        (pending, 0.0),
        ("beit_shard_source_bytes_total", bytes("astronaut.jpg") + bytes("brick.jpg") + bytes("text.jpg")),
    ] {
        assert_eq!(first.of(series), value, "{series}");
    }
    assert!(first.of("beit_shard_payload_bytes_total") > 1e3);
    assert!(first.of("beit_shard_stage_seconds_total{stage=\"render\"}") > 0.0);
    let scans = "beit_shard_watch_scans_total";
    assert!(arrive("camera.jpg") > 0);
    settle("camera.jpg");
    let second = packing.wait_for("another", |metrics| metrics.of("beit_shard_samples_total") == 3.0);
    packing.wait_for("its shard", |metrics| metrics.of("beit_shard_shards_total") >= 2.0);
    assert_eq!(second.of("beit_shard_samples_planned"), 4.0);
    assert!(second.of(scans) > first.of(scans));
}

#[test]
fn a_busy_port_is_told_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("photos.shards");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let photos = demo_photos();
    let build = ["build", photos.to_str().unwrap(), "--out", out.to_str().unwrap(), "--listen", &address];
    fail("beit-shard", &build, &["in use", "--listen 127.0.0.1:0"]);
    assert!(!out.exists());
}
