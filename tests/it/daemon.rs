//! `beit-daemon` as its users meet it: scraped, stopped, resumed, killed, misused.

use crate::house::{command, demo_photos, fail, run, succeed};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A model so small that a step takes milliseconds.
const TINY: [&str; 14] = [
    "--recipe",
    "pretrain-tiny-cpu",
    "--set",
    "embed_dim=32",
    "--set",
    "depth=1",
    "--set",
    "num_heads=1",
    "--set",
    "batch_size=2",
    "--set",
    "num_workers=1",
    "--set",
    "warmup_steps=1",
];

/// Longest wait for anything; training shares its cores with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A folder with `photos.shards` in it.
pub(crate) fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    pack(&home.path().join("photos.shards"), "7");
    home
}

pub(crate) fn pack(out: &Path, seed: &str) {
    let (photos, out) = (demo_photos(), out.to_str().unwrap().to_owned());
    let args = [
        "build",
        photos.to_str().unwrap(),
        "--out",
        &out,
        "--tokenizer",
        "embedded",
        "--views",
        "2",
        "--seed",
        seed,
    ];
    succeed("beit-shard", &args);
}

pub(crate) fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let start = ["start", "--device", "cpu", "--ranks", "2", "--run", "run", "--listen", "127.0.0.1:0"];
    start.iter().chain(&TINY).chain(more).copied().collect()
}

/// A daemon in the foreground; killed when the test ends, however it ends.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) log: PathBuf,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn start(home: &Path, more: &[&str]) -> Daemon {
        Daemon::spawn(home, &mut command("beit-daemon", &arguments(more)))
    }

    /// Starts what `command` says in `home`.
    #[track_caller]
    pub(crate) fn spawn(home: &Path, command: &mut Command) -> Daemon {
        let log = home.join("stderr.log");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.current_dir(home).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        child.stdout = Some(stdout.into_inner());
        let log_text = || std::fs::read_to_string(&log).unwrap_or_default();
        let address = line.trim().strip_prefix("listening on http://");
        let address =
            address.unwrap_or_else(|| panic!("no address in {line:?}; it said:\n{}", log_text())).to_owned();
        Daemon { child, address, log }
    }

    /// One request; status line, headers and body as they come.
    pub(crate) fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The value of a series.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.ask("GET /metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut there: impl FnMut(&Daemon) -> bool) {
        let begun = Instant::now();
        while !there(self) {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}; the daemon said:\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub(crate) fn wait_for_step(&self, step: f64) {
        self.wait_for(&format!("step {step}"), |daemon| daemon.metric("beit_trainer_step") >= step);
    }

    pub(crate) fn worker(&self) -> u32 {
        let answer = self.ask("GET /api/v1/run");
        let facts: serde_json::Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        facts["worker_pid"].as_u64().unwrap().try_into().unwrap()
    }

    #[track_caller]
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said, std::fs::read_to_string(&self.log).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn kill(signal: &str, pid: u32) {
    let status =
        std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(status.success(), "kill -{signal} {pid}");
}

/// Whether a process runs; one that only waits to be buried does not.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

pub(crate) fn checkpoints(home: &Path) -> Vec<u64> {
    let folder = std::fs::read_dir(home.join("run/checkpoints")).into_iter().flatten();
    let names = folder.map(|item| item.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn a_run_is_scraped_stopped_by_sigterm_and_resumed() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &[]);
    assert!(daemon.ask("GET /healthz").starts_with("HTTP/1.1 200"), "alive before training starts");
    daemon.wait_for_step(4.0);
    assert!(daemon.ask("GET /readyz").starts_with("HTTP/1.1 200"));
    assert!(daemon.metric("beit_trainer_loss") > 1.0);
    assert!(daemon.metric("beit_trainer_samples_total") >= 16.0);
    assert!(daemon.metric("beit_trainer_lr") > 0.0);
    assert!(daemon.metric("beit_trainer_grad_norm") > 0.0);
    assert!(daemon.metric("beit_loader_samples_total") >= 16.0);
    assert!(daemon.metric("beit_loader_cpu_seconds_total") > 0.0);
    assert_eq!(daemon.metric("beit_loader_corrupt_samples_total{reason=\"checksum\"}"), 0.0);
    for rank in ["0", "1"] {
        assert!(daemon.metric(&format!("beit_trainer_data_wait_seconds_sum{{rank=\"{rank}\"}}")) >= 0.0);
    }
    let page = daemon.ask("GET /");
    assert!(page.contains("pretrain-tiny-cpu") && page.contains("running"), "{page}");
    let status =
        command("beit-daemon", &["status", "--run", "run", "--json"]).current_dir(home).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["alive"], &status["state"]), (&true.into(), &"running".into()));

    kill("TERM", daemon.child.id());
    let (status, said, log) = daemon.end();
    assert!(status.success(), "{status}: {log}");
    let saved = *checkpoints(home).last().expect("a checkpoint");
    assert!(saved >= 4 && said.contains(&format!("stopped at step {saved}")), "{said}");

    let steps = (saved + 3).to_string();
    let daemon = Daemon::start(home, &["--steps", &steps]);
    let (status, said, log) = daemon.end();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains(&format!("going on from the checkpoint of step {saved}")), "{log}");
    assert!(said.contains(&format!("finished: {steps} steps done")), "{said}");
    assert_eq!(checkpoints(home).last(), Some(&(saved + 3)));
}

#[test]
fn a_killed_worker_is_replaced_and_counters_only_rise() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &["--set", "save_every_steps=5"]);
    daemon.wait_for_step(7.0);
    let samples = daemon.metric("beit_trainer_samples_total");
    let first = daemon.worker();
    kill("KILL", first);
    daemon
        .wait_for("a restart", |daemon| daemon.metric("beit_daemon_restarts_total{cause=\"signal\"}") == 1.0);
    assert!(daemon.metric("beit_trainer_samples_total") >= samples, "a counter fell");
    daemon.wait_for("a new worker that trains", |daemon| {
        daemon.metric("beit_daemon_worker_up") == 1.0
            && daemon.metric("beit_trainer_samples_total") > samples + 8.0
    });
    assert_ne!(daemon.worker(), first);

    let output = command("beit-daemon", &["stop", "--run", "run"]).current_dir(home).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (status, _, log) = daemon.end();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("going on from the checkpoint of step"), "{log}");
    assert!(log.contains("SIGKILL"), "{log}");
}

#[test]
fn a_killed_supervisor_leaves_no_orphan_and_the_next_start_just_works() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &[]);
    daemon.wait_for_step(2.0);
    let worker = daemon.worker();
    kill("KILL", daemon.child.id());
    // At once: the old worker may still be dying, its lock, port and files still there.
    let next = Daemon::start(home, &["--steps", "5"]);
    daemon.wait_for("the orphan to be gone", |_| !alive(worker));
    let (status, said, log) = next.end();
    assert!(status.success(), "{status}: {log}");
    assert!(said.contains("finished: 5 steps done"), "{said}");
}

#[test]
fn a_stalled_run_still_answers_and_a_second_sigterm_ends_it_at_once() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &["--set", "save_every_steps=2"]);
    daemon.wait_for_step(4.0);
    let worker = daemon.worker();
    kill("STOP", worker);
    assert!(daemon.metric("beit_trainer_step") >= 4.0, "a scrape during a stall");
    kill("TERM", daemon.child.id());
    daemon.wait_for("the request to be taken", |daemon| {
        daemon.metric("beit_daemon_state{state=\"stopping\"}") == 1.0
    });
    assert!(daemon.ask("GET /readyz").starts_with("HTTP/1.1 503"));
    kill("TERM", daemon.child.id());
    let (status, said, log) = daemon.end();
    assert_eq!(status.code(), Some(3), "not saved is not success: {log}");
    assert!(said.contains("stopped without saving"), "{said}");
    assert!(!alive(worker), "no orphan");
    assert!(!checkpoints(home).is_empty(), "the last confirmed checkpoint stands");
}

/// Runs a command on the run in `home`; exit status and the JSON it printed.
#[track_caller]
pub(crate) fn order(home: &Path, args: &[&str]) -> (i32, serde_json::Value) {
    let args = [args, &["--run", "run", "--json"]].concat();
    let output = command("beit-daemon", &args).current_dir(home).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(said.trim());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let value = value.unwrap_or_else(|error| panic!("{args:?}: {error}: {said}{stderr}"));
    (output.status.code().unwrap(), value)
}

#[test]
fn a_paused_run_stands_still_saves_when_asked_and_stays_paused_when_its_worker_dies() {
    let home = home();
    let home = home.path();
    assert_eq!(run("beit-daemon", &["pause", "--run", home.to_str().unwrap()]).status.code(), Some(4));
    let daemon = Daemon::start(home, &["--set", "save_every_steps=1000"]);
    daemon.wait_for_step(3.0);
    let (code, outcome) = order(home, &["pause"]);
    assert_eq!((code, &outcome["state"]), (0, &"paused".into()), "{outcome}");
    let step = outcome["step"].as_u64().unwrap();
    let answer = daemon.ask("GET /readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the run is paused"), "{answer}");
    assert_eq!(daemon.metric("beit_daemon_state{state=\"paused\"}"), 1.0);

    for _ in 0..2 {
        let (code, outcome) = order(home, &["checkpoint"]);
        assert_eq!((code, outcome["checkpoint_step"].as_u64()), (0, Some(step)), "{outcome}");
    }
    assert_eq!(checkpoints(home), [step], "nothing was trained meanwhile");
    assert_eq!(order(home, &["status"]).1["step"].as_u64(), Some(step));

    let first = daemon.worker();
    kill("KILL", first);
    daemon.wait_for("another worker that is paused", |daemon| {
        let (_, status) = order(home, &["status"]);
        status["state"] == "paused" && daemon.worker() != first
    });
    let (code, outcome) = order(home, &["resume"]);
    assert_eq!((code, &outcome["state"]), (0, &"running".into()), "{outcome}");
    daemon.wait_for_step(step as f64 + 3.0);

    // A paused run can be stopped, and is saved where it stood.
    let (_, outcome) = order(home, &["pause"]);
    let step = outcome["step"].as_u64().unwrap();
    let (code, outcome) = order(home, &["stop"]);
    assert_eq!((code, outcome["checkpoint_step"].as_u64()), (0, Some(step)), "{outcome}");
    assert!(daemon.end().0.success());
    assert_eq!(order(home, &["status"]).0, 4, "nobody lives there any more");
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_never_success() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &["--set", "save_every_steps=1000"]);
    daemon.wait_for_step(2.0);
    let (folder, away) = (home.join("run/checkpoints"), home.join("away"));
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let (code, outcome) = order(home, &["checkpoint"]);
    assert_eq!((code, &outcome["ok"]), (1, &false.into()), "{outcome}");
    assert!(outcome["error"].as_str().unwrap().contains("could not be written"), "{outcome}");

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    let (code, outcome) = order(home, &["checkpoint"]);
    assert_eq!((code, &outcome["ok"]), (0, &true.into()), "{outcome}");

    // The same disk, when the run is to end: the steps since then are lost, and everyone says so.
    let saved = outcome["checkpoint_step"].as_u64().unwrap();
    daemon.wait_for_step(saved as f64 + 2.0);
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let (code, outcome) = order(home, &["stop"]);
    assert_eq!(code, 3, "{outcome}");
    let (status, said, log) = daemon.end();
    assert_eq!(status.code(), Some(3), "{said}{log}");
    assert!(log.contains("could not be written"), "{log}");
}

#[test]
fn a_stop_that_takes_too_long_is_no_success() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &["--set", "save_every_steps=2", "--stop-timeout", "2"]);
    daemon.wait_for_step(4.0);
    kill("STOP", daemon.worker());
    assert_eq!(order(home, &["checkpoint", "--timeout", "0"]).0, 5, "asked for, and not there");
    let (code, outcome) = order(home, &["stop"]);
    assert_eq!(code, 3, "{outcome}");
    let (status, said, log) = daemon.end();
    assert_eq!(status.code(), Some(3), "{said}{log}");
    assert!(log.contains("has not saved within 2 s"), "{log}");
}

#[test]
fn a_detached_run_outlives_its_starter_and_stops_when_told() {
    let home = home();
    let home = home.path();
    let start = command("beit-daemon", &arguments(&["--detach"])).current_dir(home).output().unwrap();
    let said = String::from_utf8(start.stdout).unwrap();
    assert!(start.status.success(), "{said}{}", String::from_utf8_lossy(&start.stderr));
    assert!(said.starts_with("listening on http://127.0.0.1:"), "{said}");
    let pid: u32 = std::fs::read_to_string(home.join("run/daemon.pid")).unwrap().trim().parse().unwrap();
    assert!(alive(pid));

    let message = again(home, &["--detach"]);
    assert!(
        message.contains("already trains") && message.contains("beit-daemon stop --run run"),
        "{message}"
    );

    let stop = command("beit-daemon", &["stop", "--run", "run"]).current_dir(home).output().unwrap();
    assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
    assert!(!alive(pid), "stop waits until the daemon is gone");
    assert!(std::fs::read_to_string(home.join("run/daemon.log")).unwrap().contains("stopped at step"));

    // Another data set in the same run: refused by the worker, reported by the starter, and not tried again.
    pack(&home.join("other.shards"), "8");
    let message = again(home, &["--detach", "--shards", "other.shards"]);
    assert!(message.contains("does not continue this run") && message.contains("data set"), "{message}");
    assert!(!message.contains("Restarting"), "{message}");
}

/// Starts where it must fail; returns what it said.
#[track_caller]
fn again(home: &Path, more: &[&str]) -> String {
    let shards = if more.contains(&"--shards") { &[][..] } else { &["--shards", "photos.shards"] };
    let output =
        command("beit-daemon", &arguments(&[more, shards].concat())).current_dir(home).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

#[test]
fn what_cannot_start_says_why_and_what_to_type() {
    let home = home();
    let home = home.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let shards = home.join("photos.shards");
    let shards = shards.to_str().unwrap();
    let runs = home.join("other-run");
    let cpu =
        ["start", "--device", "cpu", "--ranks", "2", "--shards", shards, "--run", runs.to_str().unwrap()];
    let refuse = |more: &[&str], words: &[&str]| fail("beit-daemon", &[&cpu[..], more].concat(), words);

    refuse(
        &["--recipe", "pretrain-tiny-cpu", "--listen", &address],
        &[&format!("port {}", taken.local_addr().unwrap().port()), "--listen 127.0.0.1:0"],
    );
    refuse(&["--recipe", "pretrain-tiny"], &["pretrain-tiny-cpu"]);
    let grid = ["--recipe", "pretrain-tiny-cpu", "--listen", "127.0.0.1:0", "--set", "input_size=112"];
    let message = refuse(&grid, &["7x7 patches", "14x14 tokens"]);
    assert_eq!(message.matches("7x7").count(), 1, "said once: {message}");

    let empty = home.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty_words = fail(
        "beit-daemon",
        &[
            "start",
            "--device",
            "cpu",
            "--recipe",
            "pretrain-tiny-cpu",
            "--listen",
            "127.0.0.1:0",
            "--shards",
            empty.to_str().unwrap(),
            "--run",
            runs.to_str().unwrap(),
        ],
        &["empty"],
    );
    assert!(!empty_words.contains("panicked"), "{empty_words}");
    fail(
        "beit-daemon",
        &["start", "--gpus", "1000"],
        &["1000 GPUs", "beit-daemon start --device cpu --ranks 2 --recipe pretrain-tiny-cpu"],
    );
    let status = run("beit-daemon", &["status", "--run", runs.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("failed"), "a failed start is on record");
}

#[test]
fn the_doctor_measures_the_loader_alone() {
    let home = home();
    let shards = home.path().join("photos.shards");
    let args = [
        "doctor",
        "--shards",
        shards.to_str().unwrap(),
        "--threads",
        "1",
        "--seconds",
        "0.5",
        "--loader-only",
    ];
    let report = crate::house::last_json(&succeed("beit-daemon", &[&args[..], &["--json"]].concat()));
    assert!(report["loader"]["images_per_s_per_core"].as_f64().unwrap() > 1.0, "{report}");
    for stage in ["read", "entropy", "idct", "resize", "jitter", "mask", "handoff"] {
        assert!(report["loader"]["stages_us"][stage].is_number(), "{report}");
    }
    let text = succeed("beit-daemon", &[&args[..], &["--io", "pread", "--order", "blocks"]].concat());
    for words in ["entropy", "of which checksums", "read by pread", "blocks of 128 samples"] {
        assert!(text.contains(words), "{words} is missing from\n{text}");
    }
}
