//! The daemon as a service: what it tells its manager, how it takes signals, what it logs.

use crate::daemon::{Daemon, arguments, home, kill, order};
use crate::house::command;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a service manager hears on its socket.
struct Manager {
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                kept.lock().unwrap().push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        });
        Manager { heard }
    }

    fn all(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn count(&self, words: &str) -> usize {
        self.all().iter().filter(|message| message.contains(words)).count()
    }

    #[track_caller]
    fn wait_for(&self, daemon: &Daemon, words: &str, count: usize) {
        daemon.wait_for(&format!("{count} × {words}"), |_| self.count(words) >= count);
    }
}

#[test]
fn a_service_manager_hears_that_training_began_that_all_is_well_and_that_it_ends() {
    let home = home();
    let home = home.path();
    let socket = home.join("notify");
    let manager = Manager::listen(&socket);
    let mut start = command("beit-daemon", &arguments(&["--set", "save_every_steps=2"]));
    start.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000000").env_remove("WATCHDOG_PID");
    let daemon = Daemon::spawn(home, &mut start);
    manager.wait_for(&daemon, "READY=1", 1);
    assert!(daemon.metric("beit_trainer_step") >= 1.0, "ready means that it trains");
    let all = manager.all();
    let ready = all.iter().position(|message| message.contains("READY=1")).unwrap();
    assert!(all[..ready].iter().any(|message| message.contains("EXTEND_TIMEOUT_USEC=")), "{all:?}");
    assert!(all[..ready].iter().any(|message| message.contains("STATUS=starting")), "{all:?}");
    manager.wait_for(&daemon, "WATCHDOG=1", 3);
    manager.wait_for(&daemon, "STATUS=running: step", 1);

    kill("HUP", daemon.child.id());
    manager.wait_for(&daemon, "READY=1", 2);
    let reloading: Vec<String> =
        manager.all().into_iter().filter(|message| message.contains("RELOADING=1")).collect();
    assert!(reloading.len() == 1 && reloading[0].contains("MONOTONIC_USEC="), "{reloading:?}");

    // A restart is no new start for the manager, and no reason to shoot.
    let before = manager.count("WATCHDOG=1");
    kill("KILL", daemon.worker());
    daemon
        .wait_for("a restart", |daemon| daemon.metric("beit_daemon_restarts_total{cause=\"signal\"}") == 1.0);
    manager.wait_for(&daemon, "WATCHDOG=1", before + 2);
    daemon.wait_for("a worker", |daemon| daemon.metric("beit_daemon_worker_up") == 1.0);
    daemon.wait_for("steps again", |_| order(home, &["status"]).1["state"] == "running");

    // A worker that never saves: the manager is asked for more time until the stop timeout.
    kill("STOP", daemon.worker());
    let before = manager.count("EXTEND_TIMEOUT_USEC=");
    kill("TERM", daemon.child.id());
    manager.wait_for(&daemon, "STOPPING=1", 1);
    manager.wait_for(&daemon, "EXTEND_TIMEOUT_USEC=", before + 1);
    kill("TERM", daemon.child.id());
    assert_eq!(daemon.end().0.code(), Some(3));
    assert_eq!(manager.count("READY=1"), 2, "said once, and once after the reload");
}

#[test]
fn sighup_reads_the_settings_again_and_begins_a_new_log_and_a_broken_file_changes_nothing() {
    let home = home();
    let home = home.path();
    let (config, log) = (home.join("daemon.toml"), home.join("run/daemon.log"));
    fs::write(&config, "hang_timeout = 600\nlog = \"info\"\n").unwrap();
    let daemon = Daemon::start(home, &["--config", "daemon.toml", "--set", "save_every_steps=1000"]);
    daemon.wait_for_step(2.0);
    let logged = |words: &str| fs::read_to_string(&log).is_ok_and(|text| text.contains(words));
    daemon.wait_for("the log", |_| logged("Training, starting at step 0"));
    assert!(!fs::read_to_string(&log).unwrap().contains('\u{1b}'), "no colours in files");

    fs::rename(&log, home.join("yesterday")).unwrap();
    fs::write(&config, "hang_timeout = 500\nrestarts = 2\n").unwrap();
    kill("HUP", daemon.child.id());
    daemon.wait_for("the new settings", |_| logged("hang_timeout 600 s → 500 s, restarts 5 → 2"));
    assert!(!logged("Training, starting"), "it goes on in a new file");

    fs::write(&config, "hang_timeot = 3\n").unwrap();
    kill("HUP", daemon.child.id());
    daemon.wait_for("the refusal", |_| logged("The settings stay as they were"));
    assert!(logged("daemon.toml") && logged("hang_timeot"), "{}", fs::read_to_string(&log).unwrap());
    assert!(daemon.ask("GET /api/v1/run").contains("could not be read again"));

    // The worker's own lines follow the filter too.
    let published = |step: u64| logged(&format!("Checkpoint published. step={step} "));
    let save = || order(home, &["checkpoint"]).1["checkpoint_step"].as_u64().unwrap();
    let step = save();
    daemon.wait_for("the checkpoint's line", |_| published(step));
    fs::write(&config, "log = \"warn\"\n").unwrap();
    kill("HUP", daemon.child.id());
    daemon.wait_for("the change", |daemon| daemon.ask("GET /api/v1/run").contains("log info → warn"));
    let step = save();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!published(step), "{}", fs::read_to_string(&log).unwrap());
    assert_eq!(order(home, &["stop"]).0, 0);

    let mut refused = command("beit-daemon", &arguments(&["--config", "daemon.toml"]));
    fs::write(&config, "lr = 1e-3\n").unwrap();
    let output = refused.current_dir(home).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && words.contains("daemon.toml") && words.contains("lr"),
        "{words}"
    );
}

#[test]
fn a_log_is_followed_to_its_end_and_runs_are_listed() {
    let home = home();
    let home = home.path();
    let runs = |json: bool| {
        let args = if json { &["runs", ".", "--json"][..] } else { &["runs", "."] };
        let output = command("beit-daemon", args).current_dir(home).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(runs(false).contains("no runs in ./"), "{}", runs(false));
    let daemon = Daemon::start(home, &[]);
    daemon.wait_for_step(2.0);
    let mut logs = command("beit-daemon", &["logs", "--run", "run", "--follow", "--json", "-n", "5"]);
    let follower = logs.current_dir(home).stdout(Stdio::piped()).spawn().unwrap();
    let list: serde_json::Value = serde_json::from_str(&runs(true)).unwrap();
    let row = &list["runs"][0];
    assert_eq!((&row["alive"], &row["state"]), (&true.into(), &"running".into()), "{list}");
    assert_eq!(row["address"], format!("http://{}", daemon.address), "{list}");
    assert_eq!(row["pid"], daemon.child.id(), "{list}");
    assert_eq!(order(home, &["stop"]).0, 0);
    let output = follower.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stopping = lines.iter().find(|line| line["text"].as_str().unwrap().starts_with("Stopping, asked by"));
    assert_eq!(stopping.unwrap()["level"], "INFO", "{text}");
    assert!(text.contains("stopped at step"), "the last words too: {text}");
    assert!(runs(false).contains("stopped"), "{}", runs(false));
    assert_eq!(
        command("beit-daemon", &["logs", "--run", "nowhere"]).output().unwrap().status.code(),
        Some(4)
    );
}

#[test]
fn a_run_whose_terminal_goes_away_saves_and_ends() {
    const TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b''
while b'Training, starting at step 0' not in seen:
    seen += os.read(terminal, 4096)
os.close(terminal)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
";
    let home = home();
    let home = home.path();
    let start = command("beit-daemon", &arguments(&["--steps", "100000"]));
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL]).arg(start.get_program()).args(start.get_args());
    let output = python.current_dir(home).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}{}", String::from_utf8_lossy(&output.stdout));
    let log = fs::read_to_string(home.join("run/daemon.log")).unwrap();
    assert!(log.contains("asked by the end of its terminal") && log.contains("stopped at step"), "{log}");
    assert_eq!(order(home, &["status"]).1["state"], "stopped");
}
