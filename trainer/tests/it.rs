//! `beit-train` from the street: what it prints, how it ends, and what a kill leaves behind.
#![expect(clippy::unwrap_used, reason = "tests, helpers too")]

#[path = "it/fifty_steps.rs"]
mod fifty_steps;
#[path = "it/pictures.rs"]
mod pictures;
#[path = "../src/testing.rs"]
mod testing;

use std::fs;
use std::io;
use std::net::TcpListener;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use testing::{RECIPE, write_shards};

struct House {
    folder: tempfile::TempDir,
}

impl House {
    /// A set of 24 samples in `a.shards`.
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        write_shards(&folder.path().join("a.shards"), 24, 1, "one");
        House { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `beit-train run` on the set, into `run`.
    fn train(&self, run: &str, ranks: u32, settings: &[&str]) -> Command {
        let mut command = beit_train();
        command.current_dir(self.folder.path()).args(["run", "--shards", "a.shards", "--run", run, "--json"]);
        command.args(["--recipe", "pretrain-tiny-cpu", "--ranks", &ranks.to_string()]);
        for setting in RECIPE.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        command
    }

    fn model(&self, run: &str, step: u64) -> Vec<u8> {
        fs::read(self.path(run).join(format!("checkpoints/step-{step:08}/model.safetensors"))).unwrap()
    }

    fn has(&self, run: &str, step: u64) -> bool {
        self.path(run).join(format!("checkpoints/step-{step:08}/manifest.json")).exists()
    }
}

fn beit_train() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_beit-train"));
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "PET_NNODES"] {
        command.env_remove(name);
    }
    command
}

#[track_caller]
fn ends(command: &mut Command, code: i32) -> (String, String) {
    told(command.output().unwrap(), code)
}

#[track_caller]
fn told(output: Output, code: i32) -> (String, String) {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

#[track_caller]
fn wait_for(child: &mut Child, what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        assert!(begun.elapsed() < Duration::from_secs(120), "it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A trainer that does not outlive its test, however that ends.
struct Trainer(Option<Child>);

impl Trainer {
    fn wait_with_output(mut self) -> io::Result<Output> {
        self.0.take().unwrap().wait_with_output()
    }
}

impl Deref for Trainer {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().unwrap()
    }
}

impl DerefMut for Trainer {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill(); // of one that has ended long ago, too: its number stays ours until it is waited for
            let _ = child.wait();
        }
    }
}

fn spawn(command: &mut Command) -> Trainer {
    Trainer(Some(command.spawn().unwrap()))
}

fn start(command: &mut Command) -> Trainer {
    spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn summary(out: &str) -> serde_json::Value {
    serde_json::from_str(out.lines().last().unwrap()).unwrap()
}

#[test]
fn it_trains_and_evaluates_as_the_help_says() {
    let house = House::new();
    let (out, err) = ends(&mut house.train("a.run", 2, &[]), 0);
    assert!(err.contains("4 per rank x 2 ranks = 8 per step"), "{err}");
    assert!(err.contains("finished at step 8 of 8"), "{err}");
    assert!(err.contains("\nEpoch: [2]  [1/3]  eta: 0:00:0") && err.contains("  max mem: "), "{err}");
    assert_eq!(fs::read_to_string(house.path("a.run/log.txt")).unwrap().lines().count(), 3);
    assert_eq!(summary(&out)["finished"], true);
    let log = fs::read_to_string(house.path("a.run/log.jsonl")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("\"first_batch\"")).count(), 2);
    let (out, _) = ends(
        beit_train().current_dir(house.folder.path()).args([
            "evaluate",
            "--run",
            "a.run",
            "--shards",
            "a.shards",
            "--shuffle-pixels",
            "--json",
        ]),
        0,
    );
    let report = summary(&out);
    assert_eq!(report["samples"], 24);
    assert!(report["other_image_loss"].is_f64() && report["marginal_entropy"].is_f64(), "{report}");
    let (out, _) = ends(beit_train().args(["recipes"]), 0);
    assert!(out.contains("pretrain-tiny-cpu"), "{out}");
    let (out, _) = ends(beit_train().args(["recipes", "--keys"]), 0);
    assert!(out.contains("num_mask_patches"), "{out}");
    let (out, _) = ends(beit_train().args(["recipes", "pretrain-base-22k"]), 0);
    assert!(out.contains("warmup_steps = 10000"), "{out}");
}

#[test]
fn mistakes_are_told_apart_by_exit_code_and_words() {
    let house = House::new();
    ends(beit_train().args(["run"]), 2);
    let (_, err) = ends(&mut house.train("a.run", 1, &["num_mask_patch=3"]), 1);
    assert!(err.contains("did you mean num_mask_patches?"), "{err}");
    let (_, err) = ends(&mut house.train("a.run", 1, &["patch_size=16"]), 1);
    assert!(err.contains("2x2 patches") && err.contains("4x4 tokens"), "{err}");
    let (_, err) = ends(beit_train().args(["plan", "--shards", "nowhere.shards"]), 1);
    assert!(err.contains("nowhere.shards"), "{err}");
    let (_, err) = ends(
        beit_train().current_dir(house.folder.path()).args(["train", "--shards", "a.shards", "--gpus", "16"]),
        1,
    );
    assert!(err.contains("16 GPUs are asked for, and this machine has"), "{err}");
    assert!(!house.path("a.run").exists());
}

#[test]
fn sigterm_checkpoints_and_exits_0_and_the_same_command_goes_on() {
    let house = House::new();
    let settings = ["steps=100000", "save_every_steps=100000"];
    let mut child = start(&mut house.train("a.run", 2, &settings));
    wait_for(&mut child, || {
        fs::read_to_string(house.path("a.run/log.jsonl")).is_ok_and(|log| log.contains("\"step\":5,"))
    });
    // The run is locked meanwhile.
    let (_, err) = ends(&mut house.train("a.run", 1, &settings), 1);
    assert!(err.contains("in use by another trainer"), "{err}");
    signal(&child, rustix::process::Signal::TERM);
    let (out, err) = told(child.wait_with_output().unwrap(), 0);
    let step = summary(&out)["step"].as_u64().unwrap();
    assert!(step >= 5 && house.has("a.run", step), "{err}");
    assert!(err.contains("stopped as asked"), "{err}");
    let last = format!("steps={}", step + 1);
    // Another length is another schedule, but the same run.
    let (out, _) = ends(&mut house.train("a.run", 2, &[&last]), 0);
    assert_eq!(summary(&out)["resumed_from"], step);
}

#[test]
fn kill_9_loses_at_most_the_steps_since_the_newest_checkpoint() {
    let house = House::new();
    let settings = ["steps=120", "save_every_steps=10"];
    ends(&mut house.train("whole.run", 2, &settings), 0);
    for step in [10, 60] {
        let mut child = start(&mut house.train("killed.run", 2, &settings));
        wait_for(&mut child, || house.has("killed.run", step));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (out, _) = ends(&mut house.train("killed.run", 2, &settings), 0);
    assert!(summary(&out)["resumed_from"].as_u64().unwrap() >= 60, "{out}");
    assert!(house.model("whole.run", 120) == house.model("killed.run", 120));
}

/// Drop path is on, and 3 steps make an epoch: some kills come within one.
#[test]
fn kill_9_at_any_moment_and_the_run_ends_as_if_nothing_had_been() {
    let house = House::new();
    let settings = ["steps=30", "save_every_steps=1", "keep_last=2", "embed_dim=128"];
    ends(&mut house.train("whole.run", 2, &settings), 0);
    let checkpoints = house.path("killed.run/checkpoints");
    let names = || -> Vec<String> {
        let names = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let newest = || names().iter().filter_map(|name| name.strip_prefix("step-")?.parse::<u64>().ok()).max();
    // Once right after a checkpoint, then while the background writes one.
    let mut while_writing = 0;
    for target in [1, 5, 10, 16, 20] {
        let mut child = start(&mut house.train("killed.run", 2, &settings));
        wait_for(&mut child, || newest() >= Some(target));
        if target > 1 {
            wait_for(&mut child, || names().iter().any(|name| name.starts_with(".tmp-")));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while_writing += usize::from(names().iter().any(|name| name.starts_with(".tmp-")));
    }
    let before = newest();
    let (out, _) = ends(&mut house.train("killed.run", 2, &settings), 0);
    let resumed = summary(&out)["resumed_from"].as_u64();
    assert!(resumed >= Some(20) && resumed <= before, "{out}");
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let file =
            |run: &str| fs::read(house.path(run).join("checkpoints/step-00000030").join(name)).unwrap();
        assert!(file("whole.run") == file("killed.run"), "{name} differs");
    }
    let log = |run: &str| fs::read_to_string(house.path(run).join("log.txt")).unwrap();
    assert_eq!(log("whole.run"), log("killed.run"));
    assert!(while_writing > 0, "no kill came while a checkpoint was written");
}

/// A small file system that goes with its guard; `None` where this process may not mount one.
struct Small(PathBuf);

impl Small {
    /// `size` as mount takes it.
    fn mount(path: PathBuf, size: &str) -> Option<Small> {
        fs::create_dir_all(&path).unwrap();
        let size = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "beit-test"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Small(path)),
            other => {
                eprintln!("SKIPPED: no file system can be mounted here: {other:?}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_that_is_really_full_costs_checkpoints_and_not_the_run() {
    let house = House::new();
    let Some(small) = Small::mount(house.path("small"), "8m") else { return };
    let settings = ["steps=1000000", "save_every_steps=20", "keep_last=1", "embed_dim=64"];
    let errors = house.path("stderr");
    let mut train = house.train("small/a.run", 1, &settings);
    let mut child = spawn(train.stdout(Stdio::null()).stderr(fs::File::create(&errors).unwrap()));
    let told = |words: &str| fs::read_to_string(&errors).unwrap().matches(words).count();
    wait_for(&mut child, || told("Checkpoint published.") > 0);
    let filler = small.0.join("filler");
    let bytes = fs::File::create(&filler).unwrap();
    wait_for(&mut child, || {
        // What an old checkpoint or an unfinished one gives back is taken at once.
        while std::io::Write::write_all(&mut &bytes, &[1; 4096]).is_ok() {}
        told("training goes on") >= 3
    });
    let log = fs::read_to_string(&errors).unwrap();
    assert!(log.contains("No space left on device") && log.contains("and the older ones stay"), "{log}");
    // What failed left nothing, and what there was is sound: it can be evaluated while the disk is full.
    let run = house.path("small/a.run");
    let mut evaluate = beit_train();
    evaluate.current_dir(house.folder.path()).args(["evaluate", "--json", "--shards", "a.shards", "--run"]);
    let (out, _) = ends(evaluate.arg(&run), 0);
    let published = told("Checkpoint published.");
    assert!(summary(&out)["step"].as_u64() > Some(0), "{out}");
    drop(bytes);
    fs::remove_file(&filler).unwrap();
    wait_for(&mut child, || told("Checkpoint published.") > published);
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", fs::read_to_string(&errors).unwrap());
    let left: Vec<_> = fs::read_dir(run.join("checkpoints")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// The limit on the size of a file stands for a full disk: both fail the write, and both must leave no trace.
#[test]
fn a_full_disk_keeps_the_old_checkpoints_and_says_so() {
    let house = House::new();
    ends(&mut house.train("a.run", 1, &["steps=4"]), 0);
    let old = house.model("a.run", 4);
    let limit = old.len() / 1024 / 2;
    let train = house.train("a.run", 1, &["steps=12", "save_every_steps=4"]);
    let mut limited = Command::new("bash");
    limited.current_dir(house.folder.path()).args(["-c", "ulimit -f $0; trap '' XFSZ; exec \"$@\""]);
    limited.arg(limit.to_string()).arg(train.get_program()).args(train.get_args());
    let (_, err) = ends(&mut limited, 1);
    assert!(err.contains("training goes on"), "{err}");
    assert!(err.contains("writing") && err.contains("File too large"), "{err}");
    let left: Vec<_> = fs::read_dir(house.path("a.run/checkpoints")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(house.model("a.run", 4) == old);
    let (out, _) = ends(&mut house.train("a.run", 1, &["steps=12", "save_every_steps=4"]), 0);
    assert_eq!(summary(&out)["resumed_from"], 4);
}

/// Two processes that meet as torchrun's do.
fn launch(house: &House, run: &str, settings: &[&str]) -> Vec<Trainer> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let variables = |rank: u32| {
        let rank = rank.to_string();
        let pairs =
            [("RANK", &*rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port)];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    };
    launch_with(house, run, 1, settings, variables)
}

fn launch_with(
    house: &House,
    run: &str,
    ranks: u32,
    settings: &[&str],
    variables: impl Fn(u32) -> Vec<(String, String)>,
) -> Vec<Trainer> {
    (0..2).map(|process| start(house.train(run, ranks, settings).envs(variables(process)))).collect()
}

#[test]
fn two_processes_train_what_two_threads_train() {
    let house = House::new();
    ends(&mut house.train("threads.run", 2, &[]), 0);
    for child in launch(&house, "processes.run", &[]) {
        told(child.wait_with_output().unwrap(), 0);
    }
    assert!(house.model("threads.run", 8) == house.model("processes.run", 8));
}

/// One task per node, with as many ranks as it is asked for.
#[test]
fn two_tasks_of_slurm_with_two_ranks_each_train_what_four_threads_train() {
    let house = House::new();
    let settings = ["batch_size=2"];
    ends(&mut house.train("threads.run", 4, &settings), 0);
    let job = std::process::id().to_string(); // stands for a job's number: the port is derived from it
    let tasks = launch_with(&house, "slurm.run", 2, &settings, |task| {
        let task = task.to_string();
        let pairs = [
            ("SLURM_PROCID", &*task),
            ("SLURM_NTASKS", "2"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_JOB_ID", &*job),
            ("SLURM_JOB_NODELIST", "127.0.0.1,node[2-4]"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    });
    for child in tasks {
        let (_, err) = told(child.wait_with_output().unwrap(), 0);
        assert!(err.contains("2 per rank x 4 ranks = 8 per step"), "{err}");
    }
    assert!(house.model("threads.run", 8) == house.model("slurm.run", 8));
}

/// A fault befalls process `whose` of a run of two; the other must say so within the time that collectives may take.
#[track_caller]
fn one_of_two_is_lost(whose: usize, fault: rustix::process::Signal, timeout_s: u64) -> (House, String) {
    let house = House::new();
    let timeout = format!("collective_timeout_s={timeout_s}");
    let mut children = launch(&house, "a.run", &["steps=100000", "save_every_steps=5", &timeout]);
    wait_for(&mut children[0], || house.has("a.run", 5));
    let mut lost = children.remove(whose);
    signal(&lost, fault);
    let begun = Instant::now();
    let (_, err) = told(children.remove(0).wait_with_output().unwrap(), 1);
    // Beside the timeout: a survivor watches the others' signs, and who serves the store stays a little for the others.
    let most = Duration::from_secs(timeout_s + 20);
    assert!(begun.elapsed() < most, "it took {:?}: {err}", begun.elapsed());
    let pid = lost.id();
    lost.kill().unwrap();
    lost.wait().unwrap();
    let line = err.lines().rfind(|line| line.starts_with("beit-train: ")).unwrap_or_default().to_owned();
    println!("after {:?}: {line}", begun.elapsed());
    let rank = format!("rank {whose} (process {pid} on ");
    assert!(line.starts_with(&format!("beit-train: {rank}")), "{err}");
    (house, line)
}

#[test]
fn a_process_that_is_killed_is_named_and_the_run_goes_on_from_its_checkpoint() {
    let (house, line) = one_of_two_is_lost(1, rustix::process::Signal::KILL, 30);
    assert!(line.contains("has not been heard of for") && line.contains(" and is dead"), "{line}");
    assert!(line.contains("; last after step ") && line.contains("; rank 0 noticed: "), "{line}");
    let log = fs::read_to_string(house.path("a.run/log.jsonl")).unwrap();
    assert!(log.lines().last().unwrap().contains("\"failed\"") && log.contains("rank 1 (process"), "{log}");
    let settings = ["steps=100000", "save_every_steps=5"];
    let mut again = launch(&house, "a.run", &settings);
    wait_for(&mut again[0], || {
        let log = fs::read_to_string(house.path("a.run/log.jsonl")).unwrap();
        let starts = log.lines().filter(|line| line.contains("\"event\":\"start\""));
        starts.filter(|line| !line.contains("\"step\":0,")).count() == 1
    });
    signal(&again[0], rustix::process::Signal::TERM);
    for child in again {
        told(child.wait_with_output().unwrap(), 0);
    }
}

#[test]
fn a_process_that_hangs_is_named_within_the_timeout() {
    let (_, line) = one_of_two_is_lost(1, rustix::process::Signal::STOP, 5);
    assert!(line.contains("has not been heard of for") && line.contains(" and is stopped"), "{line}");
}

#[test]
fn the_process_that_keeps_the_meeting_point_is_named_too() {
    let (_, line) = one_of_two_is_lost(0, rustix::process::Signal::KILL, 30);
    assert!(line.contains("which keeps the meeting point of the ranks at 127.0.0.1:"), "{line}");
    assert!(line.contains(", does not answer and is dead; rank 1 noticed: "), "{line}");
    let (_, line) = one_of_two_is_lost(0, rustix::process::Signal::STOP, 5);
    assert!(line.contains(", does not answer and is stopped; rank 1 noticed: "), "{line}");
}

#[test]
fn a_model_beyond_memory_is_refused_with_its_sizes() {
    let house = House::new();
    // 20 GB of address space, for a model of hundreds.
    let train = house.train("a.run", 1, &["embed_dim=65536", "depth=1"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -v 20000000; exec \"$0\" \"$@\""])
        .arg(train.get_program())
        .args(train.get_args());
    shell.current_dir(house.folder.path());
    let output = shell.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("rank 0 is out of memory") && err.contains("M parameters"), "{err}");
    assert!(err.contains("lower batch_size"), "{err}");
}

#[test]
fn a_runs_weights_travel_to_transformers_and_back() {
    let house = House::new();
    ends(&mut house.train("a.run", 1, &["steps=2", "warmup_steps=1"]), 0);
    let run =
        |words: &[&str], code: i32| ends(beit_train().current_dir(house.folder.path()).args(words), code);
    let (said, _) = run(&["inspect", "a.run", "--json"], 0);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["kind"], &report["state"]["step"]), (&"pretrain".into(), &2.into()));
    assert_eq!(report["plan"]["model"]["width"], 32);
    assert_eq!(report["groups"][0]["name"], "no_decay");
    run(&["export", "a.run", "--to", "transformers", "hf"], 0);
    let (_, said) = run(&["import", "hf", "again"], 0);
    assert!(said.contains("pretrain, 32 px in patches of 8 px, width 32, 2 blocks"), "{said}");
    assert_eq!(house.model("a.run", 2), fs::read(house.path("again/model.safetensors")).unwrap());
    let (_, said) = run(&["export", "a.run", "--to", "transformers", "hf"], 1);
    assert!(said.contains("hf: is there already"), "{said}");
    run(&["export", "a.run", "--to", "onnx", "x"], 2);
}
