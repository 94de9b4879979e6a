#!/usr/bin/env python3
"""Launches `beit-train run` with PyTorch's own torchrun, kills and stops ranks of it, and spreads it over two network namespaces.

    torchrun.py [--bin target/release] [--torchrun TORCHRUN] [--shards SHARDS/] [--steps N]

Each run must show the losses of one process with two ranks, and see the same samples. Needs torch from the package registry (for its
torchrun; nothing here imports it) and the release binaries. The namespaces need root and iproute2; without them that part is
skipped, and says so. Takes about a minute and a half on two cores; ends with one line per claim, and with 1 if one does not hold.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="target/release", help="folder of beit-train and beit-shard")
ap.add_argument("--torchrun", default=str(pathlib.Path(sys.executable).parent / "torchrun"))
ap.add_argument("--shards", help="train on these instead of on demo-photos/")
ap.add_argument("--steps", type=int, default=24)
args = ap.parse_args()

REPO = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(args.bin).resolve()
ENV = {k: v for k, v in os.environ.items() if not re.match("RANK$|WORLD_SIZE|LOCAL_|MASTER_|SLURM_|PET_|TORCHELASTIC", k)}
ENV["OMP_NUM_THREADS"] = "1"
failed = []


def claim(name, holds, detail=""):
    print(f"{'holds ' if holds else 'FAILS '} {name}{': ' + detail if detail else ''}", flush=True)
    if not holds:
        failed.append(name)


def train(run, ranks=1, timeout_s=60, steps=None):
    steps = steps or args.steps
    settings = ["loss_mean=global", f"steps={steps}", "save_every_steps=4", "keep_last=100", "num_workers=1", "threads_per_rank=1",
                f"collective_timeout_s={timeout_s}", "warmup_steps=4", "input_size=112", "patch_size=8"]
    sets = [word for setting in settings for word in ("--set", setting)]
    return [str(BIN / "beit-train"), "run", "--shards", str(shards), "--run", str(run), "--recipe", "pretrain-tiny-cpu",
            "--ranks", str(ranks), *sets]


def curve(run):
    """Loss and samples by step; a step that was done twice counts as it was last done."""
    lines = [json.loads(line) for line in open(run / "log.jsonl") if line.endswith("}\n")]
    return {line["step"]: (line["loss"], line["batch"]) for line in lines if "batch" in line}


def same(name, run, steps=None):
    found, wanted = curve(run), {s: v for s, v in reference.items() if s <= (steps or args.steps)}
    away = max((abs(found[s][0] / wanted[s][0] - 1) for s in wanted if s in found), default=float("inf"))
    samples = all(s in found and found[s][1] == wanted[s][1] for s in wanted)
    claim(name, samples and away < 1e-5, f"{len(wanted)} steps, losses differ by {away:.1e}, {'the same' if samples else 'OTHER'} samples")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def workers(launcher):
    """Process ids of the beit-train processes below a launcher, by LOCAL_RANK."""
    found = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and "beit-train" in (entry / "cmdline").read_text():
                env = dict(e.partition("=")[::2] for e in (entry / "environ").read_text().split("\0"))
                found[int(env["LOCAL_RANK"])] = int(entry.name)
        except (OSError, ValueError, KeyError):
            continue
    return found


def with_torchrun(name, fault=None, timeout_s=60, whose=1):
    run = work / f"{name.replace(' ', '-')}.run"
    command = [args.torchrun, "--nproc-per-node", "2", "--no-python", "--master-port", str(free_port())]
    command += ["--max-restarts", "1"] if fault else []
    command.append("--")  # or torchrun takes --run for its own --run-path
    began = time.monotonic()
    steps = args.steps if not fault else 4000
    with open(work / "log", "w+") as log:
        launcher = subprocess.Popen(command + train(run, timeout_s=timeout_s, steps=steps), env=ENV, stdout=log, stderr=log)
        struck = None
        if fault:
            while not (run / "checkpoints/step-00000008").is_dir():
                if launcher.poll() is not None or time.monotonic() - began > 120:
                    break
                time.sleep(0.01)
            pids = workers(launcher.pid)
            if whose in pids:
                os.kill(pids[whose], fault)
                struck = time.monotonic()
            # The second attempt is long enough: ask it to stop once it has gone on for a while.
            while launcher.poll() is None and time.monotonic() - began < 180:
                starts = [json.loads(line) for line in open(run / "log.jsonl") if '"event":"start"' in line]
                if len(starts) > 1 and len(curve(run)) > 0 and max(curve(run)) > starts[-1]["step"] + 4:
                    again = time.monotonic() - struck if struck else 0
                    for pid in workers(launcher.pid).values():
                        os.kill(pid, signal.SIGTERM)
                    break
                time.sleep(0.05)
        try:
            code = launcher.wait(timeout=180)
        except subprocess.TimeoutExpired:
            launcher.kill()
            code = "hangs"
        log.seek(0)
        text = log.read()
    if code != 0:
        print(text[-3000:])
    if not fault:
        claim(f"{name}: ends well", code == 0)
        same(f"{name}: the losses of one process with two ranks", run)
        return
    lost = re.search(rf"beit-train: (rank {whose} \(process {pids.get(whose)} on .*)", text)
    claim(f"{name}: the survivor names it", bool(lost), lost.group(1) if lost else text[-500:])
    starts = [json.loads(line) for line in open(run / "log.jsonl") if '"event":"start"' in line]
    resumed = starts[-1]["step"]
    claim(f"{name}: torchrun starts again from the checkpoint", code == 0 and len(starts) == 2 and resumed >= 8,
          f"goes on at step {resumed}, {again:.1f} s after the fault" if len(starts) == 2 else f"exit {code}, {len(starts)} starts")


def sh(*words):
    return subprocess.run(words, capture_output=True, text=True)


def in_namespaces():
    names = [f"beit{os.getpid()}{x}" for x in "ab"]
    made = [sh("ip", "netns", "add", name) for name in names] if shutil.which("ip") else []
    try:
        if not made or any(m.returncode for m in made):
            print("skipped two network namespaces: " + (made[0].stderr.strip() if made else "there is no ip (Debian: iproute2)"))
            return
        veth = [f"v{os.getpid()}{x}" for x in "ab"]
        steps = [("ip", "link", "add", veth[0], "type", "veth", "peer", "name", veth[1])]
        for name, end, address in zip(names, veth, ("10.93.7.1", "10.93.7.2")):
            steps += [("ip", "link", "set", end, "netns", name), ("ip", "-n", name, "addr", "add", address + "/24", "dev", end),
                      ("ip", "-n", name, "link", "set", end, "up"), ("ip", "-n", name, "link", "set", "lo", "up")]
        for step in steps:
            done = sh(*step)
            if done.returncode:
                print(f"skipped two network namespaces: {' '.join(step)}: {done.stderr.strip()}")
                return
        run = work / "namespaces.run"
        processes = []
        for rank, name in enumerate(names):
            env = ENV | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "10.93.7.1", "MASTER_PORT": "29511"}
            log = open(work / f"namespace-{rank}", "w")
            processes.append(subprocess.Popen(["ip", "netns", "exec", name, *train(run)], env=env, stdout=log, stderr=log))
        codes = [p.wait(timeout=180) for p in processes]
        claim("two network namespaces: both end well", codes == [0, 0], "" if codes == [0, 0] else (work / "namespace-1").read_text()[-800:])
        same("two network namespaces: the losses of one process with two ranks", run)

        # The cable is pulled: nobody dies, and nobody answers any more.
        run, processes = work / "cable.run", []
        for rank, name in enumerate(names):
            env = ENV | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "10.93.7.1", "MASTER_PORT": "29512"}
            log = open(work / f"cable-{rank}", "w")
            processes.append(subprocess.Popen(["ip", "netns", "exec", name, *train(run, timeout_s=5, steps=4000)], env=env, stdout=log, stderr=log))
        while not (run / "checkpoints/step-00000008").is_dir() and all(p.poll() is None for p in processes):
            time.sleep(0.02)
        sh("ip", "-n", names[1], "link", "set", veth[1], "down")
        began = time.monotonic()
        codes = [p.wait(timeout=120) for p in processes]
        took = time.monotonic() - began
        words = [re.findall(r"^beit-train: (.*)", (work / f"cable-{rank}").read_text(), re.M) for rank in (0, 1)]
        claim("a pulled cable: both end, each names the other", codes == [1, 1] and words[0][-1].startswith("rank 1 (")
              and words[1][-1].startswith("rank 0 ("), f"within {took:.1f} s: {words[0][-1:]}; {words[1][-1:]}")
    finally:
        for name in names:
            sh("ip", "netns", "del", name)


with tempfile.TemporaryDirectory(prefix="beit-torchrun-") as folder:
    work = pathlib.Path(folder)
    shards = pathlib.Path(args.shards).resolve() if args.shards else work / "photos.shards"
    if not args.shards:
        subprocess.run([BIN / "beit-shard", "build", REPO / "demo-photos", "--out", shards, "--tokenizer", "embedded", "--views", "4"],
                       check=True, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(train(work / "one.run", ranks=2), check=True, env=ENV, stderr=subprocess.DEVNULL)
    reference = curve(work / "one.run")
    with_torchrun("torchrun")
    with_torchrun("kill -9 of rank 1", fault=signal.SIGKILL)
    with_torchrun("kill -9 of rank 0", fault=signal.SIGKILL, whose=0)
    with_torchrun("SIGSTOP of rank 1", fault=signal.SIGSTOP, timeout_s=5)
    in_namespaces()
print("all claims hold" if not failed else f"{len(failed)} claims fail")
sys.exit(1 if failed else 0)
