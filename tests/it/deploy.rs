//! The examples in docs/deploy, run as far as they can be without their clusters.

use crate::daemon::{TINY, home, kill};
use crate::house::{binary, demo_photos, root, succeed};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A batch script as Slurm would start it in `home`, with our binaries and a `scontrol` that writes down what it is asked.
fn script(home: &Path, name: &str) -> Command {
    let tools = home.join("tools");
    fs::create_dir_all(&tools).unwrap();
    let scontrol = tools.join("scontrol");
    fs::write(&scontrol, "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/asked\"\n").unwrap();
    fs::set_permissions(&scontrol, fs::Permissions::from_mode(0o755)).unwrap();
    let binaries = binary("beit-daemon").parent().unwrap().to_owned();
    let path = format!("{}:{}:{}", tools.display(), binaries.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg(root().join("docs/deploy/slurm").join(name)).current_dir(home).env("PATH", path);
    command.env("SLURM_JOB_ID", "4242").stdin(Stdio::null());
    command
}

#[test]
fn the_slurm_job_saves_before_its_time_is_up_and_is_queued_again_until_all_is_done() {
    let home = home();
    let home = home.path();
    let start = |steps: &str| {
        let mut command = script(home, "one-node.sbatch");
        command.envs([("SHARDS", "photos.shards"), ("RUN", "run"), ("RECIPE", TINY[1])]);
        command.envs([("DEVICES", "--device cpu --ranks 2"), ("LISTEN", "127.0.0.1:0")]);
        command.env("MORE", format!("{} --steps {steps}", TINY[2..].join(" ")));
        let log = fs::File::create(home.join("job.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    };
    let log = || fs::read_to_string(home.join("job.log")).unwrap();
    let mut job = start("100000");
    let begun = Instant::now();
    while !log().contains("Training, starting at step 0") {
        assert!(begun.elapsed() < Duration::from_secs(90) && job.try_wait().unwrap().is_none(), "{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    kill("TERM", job.id());
    assert!(job.wait().unwrap().success(), "{}", log());
    assert!(log().contains("stopped at step") && log().contains("back into the queue"), "{}", log());
    assert_eq!(fs::read_to_string(home.join("tools/asked")).unwrap(), "requeue 4242\n");

    let saved = crate::daemon::checkpoints(home).last().copied().unwrap();
    assert!(start(&(saved + 2).to_string()).wait().unwrap().success(), "{}", log());
    assert!(log().contains("finished") && !log().contains("back into the queue"), "{}", log());
}

#[test]
fn validators_accept_the_examples_and_our_binaries_their_command_lines() {
    let mut check = Command::new("scripts/check-deploy.sh");
    let output =
        check.current_dir(root()).env("BIN", binary("beit-daemon").parent().unwrap()).output().unwrap();
    let [said, words] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{said}{words}");
    for ours in ["beit-daemon start", "beit-shard build", "beit-train run"] {
        assert!(said.contains(ours), "{ours} was not tried:\n{said}");
    }
}

#[test]
fn the_slurm_array_builds_parts_that_merge() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for id in ["1", "2"] {
        let mut task = script(home, "build.sbatch");
        task.env("IMAGES", demo_photos()).envs([("OUT", "photos.shards"), ("TOKENIZER", "embedded")]);
        task.envs([
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "2"),
        ]);
        let output = task.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let [one, two, out] = ["photos.shards.part-1-of-2", "photos.shards.part-2-of-2", "photos.shards"]
        .map(|name| home.join(name).to_str().unwrap().to_owned());
    succeed("beit-shard", &["merge", &one, &two, "--out", &out]);
    succeed("beit-shard", &["verify", &out]);
}
