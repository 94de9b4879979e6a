#!/usr/bin/env python3
"""Trains the same model on the same batches in PyTorch and compares every step, and the weights at the end.

    beit-train train   --shards S --recipe R --set drop_path=0 --set steps=N --run A                      # the run to compare
    beit-train train   --shards S --recipe R --set drop_path=0 --set steps=1 --set warmup_steps=1 --run B  # its first step has lr 0: the initial weights
    beit-train batches --shards S --recipe R --set drop_path=0 --set steps=N --to N --out BATCHES          # what it saw
    train_like_pytorch.py BATCHES B A [--threads N] [--golden FILE]

or, which types these for you:

    train_like_pytorch.py --bin target/release --shards S --work DIR -- --recipe R --set steps=50 --ranks 2 …

Model, loss, clipping, AdamW and schedules are beit.py's; weights and batches are the trainer's. Micro-batches (update_freq) and ranks
are gone through one after the other, each with its share of the loss. Two PyTorch runs are made, in f32 and in f64: the second says how
far f32 rounding alone takes a run, and the trainer may be no further from it than TOLERANCE of that, or than the fixed limits
below, whichever is more. Learning rate and weight decay must be equal to the last bit. Exits with 1 when anything is beyond that.

Needs torch, numpy and safetensors (pip install torch numpy safetensors).
"""
import argparse
import glob
import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

import beit

TOLERANCE = 3.0  # times PyTorch's own distance between f32 and f64
LIMITS = dict(loss=1e-6, mlm_acc=0.01, grad_norm=1e-5, weights=5e-5)  # relative; mlm_acc: a few ties; weights: of the way they have gone


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batches", nargs="?"), parser.add_argument("start", nargs="?"), parser.add_argument("run", nargs="?")
    parser.add_argument("--bin", help="folder of beit-train: make the runs, too"), parser.add_argument("--shards")
    parser.add_argument("--work", default="target/parity/one"), parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--golden", help="write the steps of the f64 run here")
    parser.add_argument("--only-f64", action="store_true", help="leave the f32 run out: the fixed limits alone count")
    own = sys.argv[1:]
    cut = own.index("--") if "--" in own else len(own)
    args, options = parser.parse_args(own[:cut]), own[cut + 1 :]
    torch.set_num_threads(args.threads)
    if args.bin:
        args.batches, args.start, args.run = make_runs(args, options)
    with open(os.path.join(args.batches, "plan.json")) as file:
        plan = json.load(file)
    initial, ours = weights(args.start), weights(args.run)
    steps = read_log(os.path.join(args.run, "log.jsonl"), plan["steps"])
    double, goal = train(plan, args.batches, initial, torch.float64)
    if args.golden:
        write_golden(args.golden, plan, double, initial, goal)
    noise = {}
    if not args.only_f64:
        single, end = train(plan, args.batches, initial, torch.float32)
        noise = distances(single, double, end, goal, initial)
    found = distances(steps, double, ours, goal, initial)
    model = plan["model"]
    print(f"{plan['steps']} steps of {plan['global_batch']} images, {plan['world']['size']} ranks, update_freq {plan['recipe']['update_freq']}; "
          f"{model['depth']} layers, width {model['width']}, {sum(value.numel() for value in initial.values())} numbers; torch {torch.__version__}")
    print(f"loss {double[0]['loss']:.6f} at first, {double[-1]['loss']:.6f} at last")
    print("largest distance to PyTorch in f64:      ours     PyTorch in f32     allowed")
    bad = []
    for name, limit in LIMITS.items():
        allowed = max(limit, TOLERANCE * noise.get(name, 0.0))
        print(f"  {name:<30} {found[name]:>12.3e} {noise.get(name, float('nan')):>18.3e} {allowed:>11.3e}")
        bad += [name] if not found[name] <= allowed else []
    for name in ("lr", "weight_decay"):
        equal = sum(a[name] == b[name] for a, b in zip(steps, double))
        print(f"  {name:<30} {equal} of {len(steps)} bit-equal")
        bad += [name] if equal != len(steps) else []
    if bad:
        sys.exit(f"too far from PyTorch: {', '.join(bad)}")


def make_runs(args, options):
    """Runs beit-train three times; its messages go to stderr."""
    tool = os.path.join(args.bin, "beit-train")
    whole, start, batches = (os.path.join(args.work, name) for name in ("whole", "start", "batches"))
    common = ["--shards", args.shards, *options, "--set", "drop_path=0"]
    threads = ["--set", f"threads_per_rank={args.threads}"]
    for command in (
        ["train", *common, *threads, "--run", whole],
        ["train", *common, *threads, "--set", "steps=1", "--set", "warmup_steps=1", "--run", start],
    ):
        subprocess.run([tool, *command], check=True, stdout=sys.stderr)
    steps = str(read_plan(whole)["steps"])
    subprocess.run([tool, "batches", *common, "--run", whole, "--to", steps, "--out", batches], check=True, stdout=sys.stderr)
    return batches, start, whole


def read_plan(run):
    with open(os.path.join(run, "log.jsonl")) as file:
        return [event for event in map(json.loads, file) if event.get("event") == "start"][-1]["plan"]


def weights(run):
    """Of the newest checkpoint, without buffers."""
    newest = sorted(glob.glob(os.path.join(run, "checkpoints", "step-*")))[-1]
    state = load_file(os.path.join(newest, "model.safetensors"))
    return {name: value for name, value in state.items() if value.is_floating_point()}


def read_log(path, steps):
    """The newest line of every step."""
    lines = {}
    with open(path) as file:
        for line in map(json.loads, filter(str.strip, file)):
            if "event" not in line and "step" in line:
                lines[line["step"]] = line
    assert sorted(lines) == list(range(1, steps + 1)), f"{path} does not hold steps 1 to {steps}"
    return [lines[step] for step in range(1, steps + 1)]


def micro_batches(plan, folder):
    """For each step its micro-batches, with weights that make the reference's loss: the mean over ranks of means over micro-batches."""
    ranks, parts, size = plan["world"]["size"], plan["recipe"]["update_freq"], plan["recipe"]["batch_size"]
    for step in range(plan["steps"]):
        whole, hidden = [], []
        for rank in range(ranks):
            batch = load_file(os.path.join(folder, f"step-{step:08}.rank-{rank:04}.safetensors"))
            mask = batch["mask"].bool()
            assert torch.equal(batch["tokens"][mask], batch["labels"]), "labels are the tokens of hidden patches"
            for part in range(parts):
                rows = slice(part * size, (part + 1) * size)
                whole.append((batch["pixels"][rows], mask[rows], batch["tokens"][rows][mask[rows]]))
                hidden.append(int(mask[rows].sum()))
        if plan["recipe"].get("loss_mean", "rank") == "global":
            yield [(*micro, count / sum(hidden)) for micro, count in zip(whole, hidden)]
        else:
            yield [(*micro, 1 / (ranks * parts)) for micro in whole]


def train(plan, folder, initial, dtype):
    model = beit.Beit(plan["model"])
    missing, unknown = model.load_state_dict(initial, strict=False)
    assert not unknown and all("relative_position_index" in name for name in missing), (missing, unknown)
    model.to(dtype).train()
    names = ("loss", "mlm_acc", "grad_norm", "lr", "weight_decay")
    run = beit.train(model, plan["recipe"], plan["steps"], plan["warmup_steps"], micro_batches(plan, folder))
    steps = [dict(zip(names, step)) for step in run]
    return steps, {name: parameter.detach() for name, parameter in model.named_parameters()}


def distances(steps, goal_steps, weights, goal, initial):
    """The largest over all steps, relative to the goal's number; for weights the norm of the difference by that of the way they went."""
    far = {name: max(abs(a[name] - b[name]) / max(abs(b[name]), 1e-30) for a, b in zip(steps, goal_steps)) for name in ("loss", "grad_norm")}
    far["mlm_acc"] = max(abs(a["mlm_acc"] - b["mlm_acc"]) for a, b in zip(steps, goal_steps))
    assert weights.keys() == goal.keys(), weights.keys() ^ goal.keys()
    off = way = 0.0
    for name, value in goal.items():
        off += (weights[name].double() - value.double()).square().sum().item()
        way += (initial[name].double() - value.double()).square().sum().item()
    far["weights"] = (off / way) ** 0.5
    return far


def write_golden(path, plan, steps, initial, goal):
    """Numbers of every step, and for each parameter how far it went and what it came to, in f64."""
    parameters = {
        name: [(value - initial[name].double()).norm().item(), value.double().norm().item(), value.double().sum().item()]
        for name, value in goal.items()
    }
    golden = dict(
        made_by="tests/parity/train_like_pytorch.py --golden: PyTorch in f64",
        torch=torch.__version__,
        steps=[[step[name] for name in ("loss", "mlm_acc", "grad_norm", "lr", "weight_decay")] for step in steps],
        parameters=parameters,
    )
    text = json.dumps(golden).replace("], [", "],\n[").replace(', "', ',\n"')
    with open(path, "w") as file:
        file.write(text + "\n")


main()
