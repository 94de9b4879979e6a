#!/usr/bin/env python3
"""Learning rate and weight decay of every step of whole published runs, by the specification's formulas, and their digests.

    schedules.py          prints a line for each run; trainer/src/schedule/tests.rs holds these lines, bit for bit

The warm-up is NumPy's linspace, the cosine is Python's math.cos, one step at a time, as in the reference: both are libm's, as Rust's
is. NumPy's own vectorised cos is another function and may differ in the last bit; how often it does is printed beside.
The digest of f64 values v(0), v(1), … is Σ bits(v(t))·(2t + 1) mod 2⁶⁴: any change of a single value changes it. Needs numpy.
"""
import math

import numpy as np

RUNS = [
    # name, peak, end, warm-up steps, steps
    ("base 22k lr", 1.5e-3, 1e-5, 10_000, 150 * 6932),
    ("large 22k weight decay", 0.05, 0.05, 0, 150 * 6932),
    ("base 1k lr", 1.5e-3, 1e-5, 10 * 625, 800 * 625),
    ("rising weight decay", 0.04, 0.4, 0, 150 * 6932),
]


def schedule(peak, end, warmup, total, cos):
    length = total - warmup
    warming = np.linspace(0, peak, warmup) if warmup else np.zeros(0)
    return np.concatenate([warming, cos(np.arange(length), peak, end, length)])


def one_by_one(steps, peak, end, length):
    return np.array([end + 0.5 * (peak - end) * (1 + math.cos(math.pi * t / length)) for t in steps.tolist()])


def vectorised(steps, peak, end, length):
    return end + 0.5 * (peak - end) * (1 + np.cos(np.pi * steps / length))


def digest(values):
    with np.errstate(over="ignore"):
        return int((values.view(np.uint64) * (2 * np.arange(len(values), dtype=np.uint64) + 1)).sum(dtype=np.uint64))


for name, *run in RUNS:
    values = schedule(*run, one_by_one)
    other = (values != schedule(*run, vectorised)).sum()
    print(f'check_digest("{name}", {run[0]!r}, {run[1]!r}, {run[2]}, {run[3]}, 0x{digest(values):016x});', f"// NumPy's cos: {other} differ")
