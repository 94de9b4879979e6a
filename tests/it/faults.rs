//! What must not stop a run: workers that hang, starve for memory or are killed, starters and supervisors that are.
//!
//! Every fault here is a real one: signals, limits of the kernel, a pipe that nobody empties.

use crate::daemon::{Daemon, alive, arguments, checkpoints, home, kill, order};
use crate::house::command;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Makes `run/log.jsonl` a pipe with room for about `room` bytes that nobody reads: rank 0 hangs when it is full.
fn clog(home: &Path, room: usize) -> fs::File {
    let path = home.join("run/log.jsonl");
    fs::create_dir_all(home.join("run")).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    // Open at both ends, so that opening waits for nobody.
    let mut pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    pipe.write_all(&vec![b'\n'; (64 << 10) - room]).unwrap();
    pipe
}

#[track_caller]
fn wait_for_restart(daemon: &Daemon, cause: &str) {
    let series = format!("beit_daemon_restarts_total{{cause=\"{cause}\"}}");
    daemon.wait_for(&series, |daemon| daemon.metric(&series) >= 1.0);
}

#[track_caller]
fn said(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[test]
fn a_stopped_worker_is_a_hang_and_is_replaced() {
    let home = home();
    let home = home.path();
    let daemon = Daemon::start(home, &["--hang-timeout", "6", "--set", "save_every_steps=5"]);
    daemon.wait_for_step(7.0);
    let first = daemon.worker();
    kill("STOP", first);
    wait_for_restart(&daemon, "hang");
    daemon.wait_for("another worker that trains", |daemon| {
        let (_, status) = order(home, &["status"]);
        status["state"] == "running" && daemon.metric("beit_daemon_worker_up") == 1.0
    });
    assert!(!alive(first), "no orphan");
    assert_eq!(order(home, &["stop"]).0, 0);
    let (status, _, log) = daemon.end();
    assert!(status.success(), "{log}");
    // Whether both ranks were in one stage when it stopped is chance.
    said(&log, &["--hang-timeout allows 6 s", "in stage", "its reports ended", "is stopped (SIGSTOP"]);
    said(&log, &["cause=\"hang\"", "going on from the checkpoint of step"]);
}

#[test]
fn a_rank_that_waits_for_ever_is_named_with_its_stage() {
    let home = home();
    let home = home.path();
    let pipe = clog(home, 24 << 10);
    let daemon = Daemon::start(home, &["--hang-timeout", "6", "--set", "save_every_steps=2"]);
    wait_for_restart(&daemon, "hang");
    // Whoever repaired the log did so while the run was waiting.
    fs::remove_file(home.join("run/log.jsonl")).unwrap();
    drop(pipe);
    let reached = *checkpoints(home).last().unwrap() as f64;
    daemon.wait_for_step(reached + 4.0);
    assert_eq!(order(home, &["stop"]).0, 0);
    let (_, _, log) = daemon.end();
    said(&log, &["rank 0 is in stage update", "rank 1 is in stage", "going on from the checkpoint of step"]);
    let hang = log.lines().find(|line| line.contains("The worker hangs")).unwrap();
    assert!(!hang.contains("reports ended"), "it reports all the while: {hang}");
}

#[test]
fn starting_up_has_a_limit_of_its_own_and_the_budget_is_settable() {
    let home = home();
    let home = home.path();
    let _pipe = clog(home, 0);
    let daemon = Daemon::start(home, &["--start-timeout", "5", "--hang-timeout", "1", "--restarts", "0"]);
    let (status, _, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    said(&log, &["--start-timeout allows 5 s", "are in stage start", "--restarts 0 allows no other worker"]);
}

#[test]
fn a_step_longer_than_the_limit_is_told_as_one() {
    let home = home();
    let home = home.path();
    let slow = ["--set", "update_freq=400", "--hang-timeout", "1", "--restarts", "0"];
    let daemon = Daemon::start(home, &slow);
    let (status, _, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    said(&log, &["--hang-timeout allows 1 s", "in stage step (forward, backward and all-reduce) for"]);
    let (code, status) = order(home, &["status"]);
    assert_eq!((code, &status["state"]), (4, &"failed".into()));
    said(status["error"].as_str().unwrap(), &["no step was done"]);
}

#[test]
fn a_worker_that_finds_no_memory_is_replaced_and_counted_as_such() {
    let home = home();
    let home = home.path();
    let large = ["--set", "batch_size=64", "--set", "save_every_steps=1"]; // tensors that malloc must map anew
    let daemon = Daemon::start(home, &large);
    daemon.wait_for_step(1.0);
    assert_eq!(order(home, &["pause"]).0, 0);
    let worker = daemon.worker();
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let bytes = used.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    let limit = format!("--as={bytes}");
    assert!(Command::new("prlimit").args(["--pid", &worker.to_string(), &limit]).status().unwrap().success());
    assert_eq!(order(home, &["resume"]).0, 0);
    wait_for_restart(&daemon, "out_of_memory");
    daemon.wait_for("a worker with room again", |daemon| {
        daemon.metric("beit_trainer_steps_total") >= 3.0 && daemon.metric("beit_daemon_worker_up") == 1.0
    });
    assert_eq!(order(home, &["stop"]).0, 0);
    said(&daemon.end().2, &["cause=\"out_of_memory\"", "is out of memory", "lower batch_size"]);
}

/// A control group with room for `bytes`, where this user may make one.
struct Group(std::path::PathBuf);

impl Group {
    fn make(bytes: u64) -> Option<Group> {
        let name = format!("beit-test-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let folder = Path::new(root).join(&name);
            if fs::create_dir(&folder).is_ok() {
                let group = Group(folder);
                // Without the memory controller there is no such file, and none can be made.
                if group.0.join(limit).is_file() && fs::write(group.0.join(limit), bytes.to_string()).is_ok()
                {
                    let _ = fs::write(group.0.join("memory.swap.max"), "0");
                    return Some(group);
                }
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty at the latest when the kernel has cleared the processes away.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn the_kernels_oom_killer_is_told_from_anybody_elses_sigkill() {
    let home = home();
    let home = home.path();
    let Some(group) = Group::make(160 << 20) else {
        eprintln!("not tested: no control group with a memory limit can be made here");
        return;
    };
    let procs = group.0.join("cgroup.procs");
    let script = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
    let start = command("beit-daemon", &arguments(&["--restarts", "1", "--set", "batch_size=128"]));
    let mut confined = Command::new("sh");
    confined.args(["-c", &script]).arg(start.get_program()).args(start.get_args());
    let daemon = Daemon::spawn(home, &mut confined);
    let (status, _, log) = daemon.end();
    assert_eq!(status.code(), Some(1), "{log}");
    said(
        &log,
        &["cause=\"out_of_memory\"", "by the kernel for want of memory", "died 2 times", "--restarts 1"],
    );
}

#[test]
fn a_kill_of_everything_leaves_nothing_that_the_next_start_trips_over() {
    let home = home();
    let home = home.path();
    let shared = |_: &()| -> Vec<String> {
        let names = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        names
            .map(|item| item.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("torch"))
            .collect()
    };
    let before = shared(&());
    let daemon = Daemon::start(home, &["--set", "save_every_steps=2"]);
    daemon.wait_for_step(3.0);
    let worker = daemon.worker();
    kill("KILL", worker);
    kill("KILL", daemon.child.id());
    drop(daemon);
    // Left behind by kills at other moments.
    for name in ["daemon.json.tmp", "daemon.pid.tmp", "daemon.token.tmp"] {
        fs::write(home.join("run").join(name), "half").unwrap();
    }
    let begun = Instant::now();
    while alive(worker) {
        assert!(begun.elapsed() < Duration::from_secs(60), "an orphan");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, status) = order(home, &["status"]);
    assert_eq!((code, &status["state"], &status["alive"]), (4, &"killed".into(), &false.into()), "{status}");
    assert_eq!(order(home, &["stop"]).0, 0, "nothing to stop");
    assert_eq!(order(home, &["pause"]).0, 4);
    assert_eq!(shared(&()), before, "shared memory");

    // The old pid is somebody else's now: nobody must shoot at it.
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let notice = home.join("run/daemon.json");
    let text = fs::read_to_string(&notice).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["pid"] = bystander.id().into();
    fs::write(&notice, value.to_string()).unwrap();
    fs::write(home.join("run/daemon.pid"), format!("{}\n", bystander.id())).unwrap();
    assert_eq!(order(home, &["stop"]).0, 0);
    let saved = *checkpoints(home).last().unwrap();
    let steps = (saved + 3).to_string();
    let daemon = Daemon::start(home, &["--steps", &steps]);
    let (status, said, log) = daemon.end();
    assert!(status.success() && said.contains("finished"), "{said}{log}");
    assert!(!home.join("run/daemon.pid").exists(), "a pid file outlives its process only after a kill");
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander was hit");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn of_two_starts_at_once_one_trains_and_a_killed_starter_matters_to_nobody() {
    let home = home();
    let home = home.path();
    let spawn = || {
        let mut command = command("beit-daemon", &arguments(&["--detach"]));
        command.current_dir(home).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ends = [spawn(), spawn()].map(|starter| starter.wait_with_output().unwrap());
    let good = ends.iter().filter(|end| end.status.success()).count();
    let words: Vec<_> = ends.iter().map(|end| String::from_utf8_lossy(&end.stderr)).collect();
    assert_eq!(good, 1, "{words:?}");
    assert!(words.iter().any(|words| words.contains("beit-daemon stop --run run")), "{words:?}");
    assert_eq!(order(home, &["stop"]).0, 0);

    let mut starter = spawn();
    let begun = Instant::now();
    while !home.join("run/daemon.pid").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    starter.kill().unwrap();
    starter.wait().unwrap();
    let begun = Instant::now();
    while order(home, &["status"]).1["state"] != "running" {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", order(home, &["status"]));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, outcome) = order(home, &["stop"]);
    assert_eq!(code, 0, "{outcome}");
}

/// A small file system at `run` that goes with its guard; `None` where this process may not mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<SmallDisk> {
        fs::create_dir_all(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "beit-test"]).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(path.to_owned())),
            other => {
                eprintln!("SKIPPED: no file system can be mounted here: {other:?}");
                None
            }
        }
    }

    /// Takes all room there is, to the last byte.
    fn fill(&self) -> std::path::PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        for block in [1 << 20, 4096, 1] {
            while file.write(&vec![0; block]).is_ok_and(|written| written > 0) {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_worker_that_dies_on_a_full_disk_is_replaced_on_a_full_disk() {
    let home = home();
    let home = home.path();
    let Some(disk) = SmallDisk::mount(&home.join("run")) else { return };
    let daemon = Daemon::start(home, &["--set", "save_every_steps=5", "--set", "keep_last=2"]);
    // Epochs of ten samples: log.txt has lines that the next worker takes back.
    daemon.wait_for("a checkpoint", |daemon| daemon.metric("beit_trainer_checkpoint_step") >= 10.0);
    let ballast = disk.fill();
    daemon.wait_for("a checkpoint that fails", |daemon| {
        daemon.metric("beit_trainer_checkpoint_failures_total") >= 1.0
    });
    let done = daemon.metric("beit_trainer_step");
    kill("KILL", daemon.worker());
    wait_for_restart(&daemon, "signal");
    daemon.wait_for_step(done + 10.0);
    assert_eq!(daemon.metric("beit_daemon_restarts_total{cause=\"error\"}"), 0.0);
    fs::remove_file(ballast).unwrap();
    let saved = *checkpoints(home).last().unwrap() as f64;
    daemon.wait_for("a checkpoint again", |daemon| daemon.metric("beit_trainer_checkpoint_step") > saved);
    assert_eq!(order(home, &["stop"]).0, 0);
    let (status, _, log) = daemon.end();
    assert!(status.success(), "{log}");
}
