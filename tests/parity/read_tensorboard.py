#!/usr/bin/env python3
"""Reads the TensorBoard event files of a run back with PyPI's tensorboard, and compares them with the run's log.jsonl.

    read_tensorboard.py LOG_DIR RUN_DIR

LOG_DIR: what the recipe's key log_dir named; RUN_DIR: the run directory. Every scalar of every step must be there once, with the
value of log.jsonl rounded to 32 bits. A run that was killed and resumed passes too: a session's start takes back what is done again.

Needs from the package registry: tensorboard. For example:

    beit-train train --shards S --recipe pretrain-tiny-cpu --run R --set log_dir=TB && python3 tests/parity/read_tensorboard.py TB R
"""
import json
import math
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "loss/mlm_acc": "mlm_acc", "loss/loss": "loss", "opt/loss_scale": "loss_scale", "opt/lr": "lr", "opt/min_lr": "lr",
    "opt/weight_decay": "weight_decay", "opt/grad_norm": "grad_norm",
}


def f32(number):
    return struct.unpack("<f", struct.pack("<f", number))[0]


def main(log_dir, run_dir):
    steps = {}
    for line in (pathlib.Path(run_dir) / "log.jsonl").read_text().splitlines():
        try:
            line = json.loads(line)
        except ValueError:
            continue  # half a line of a killed trainer
        if "loss" in line and "step" in line and "event" not in line:
            steps[line["step"] - 1] = line  # the newest line of a step counts
    read = EventAccumulator(log_dir, size_guidance={"scalars": 0})
    read.Reload()
    found = set(read.Tags()["scalars"])
    assert found == set(TAGS), f"tags {sorted(found)}"
    for tag, key in TAGS.items():
        scalars = read.Scalars(tag)
        assert [scalar.step for scalar in scalars] == sorted(steps), f"{tag}: steps differ from log.jsonl's"
        for scalar in scalars:
            value = steps[scalar.step].get(key, 1.0 if key == "loss_scale" else None)
            same = not math.isfinite(scalar.value) if value is None else f32(value) == scalar.value
            assert same, f"{tag} of step {scalar.step}: {scalar.value}, log.jsonl has {value}"
    print(f"{len(TAGS)} tags x {len(steps)} steps: all equal to log.jsonl")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
