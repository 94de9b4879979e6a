#!/usr/bin/env python3
"""One training step, ours beside PyTorch's: same model, same batch, same threads, taken in turns.

    python -m venv V && V/bin/pip install torch numpy safetensors
    cargo build --release --bins
    V/bin/python benches/step/run.py                      # beit_base, 8 images: several seconds a step on two cores
    V/bin/python benches/step/run.py --only ours,eager --model tiny --rounds 5

Contenders: ours in f32 and in bf16 (`beit-daemon doctor --step-only`); the same model in eager PyTorch with the reference's explicit
attention, and with scaled_dot_product_attention; and the reference's kind of step: explicit attention, with the full-size dVAE
encoder in f32 (random weights: they cost the same) on 112 px views inside the step. All take forward, backward, clipping and AdamW on
the batch that this script draws. In each round every contender runs once, a process of its own, one after the other; a ratio is taken
within a round, and the median over rounds is printed, by the clock and by processor time, which other work on the machine stretches
less.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODELS = {
    "base": [],
    "large": ["model=beit_large_patch16_224_8k_vocab", "layer_scale_init_value=1e-5"],
    "tiny": ["embed_dim=96", "depth=3", "num_heads=3"],
}
OURS = {"ours": ("ours, f32", "off"), "ours-bf16": ("ours, bf16", "bf16")}
THEIRS = {
    "eager": ("eager PyTorch", ["--attention", "explicit"]),
    "eager-sdpa": ("eager PyTorch with SDPA", ["--attention", "sdpa"]),
    "reference": ("the reference's step: with the dVAE", ["--attention", "explicit", "--dvae"]),
}
LABELS = {name: label for name, (label, _) in (*OURS.items(), *THEIRS.items())}
RATIOS = [("ours", "eager", 1.0), ("ours", "eager-sdpa", None), ("ours", "reference", 0.65), ("ours-bf16", "reference", 0.4)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="base"), parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count()), parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measured in each round"), parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--only", help="contenders, with commas: " + ", ".join(LABELS))
    parser.add_argument("--bin", default=os.path.join(ROOT, "target", "release"), help="folder of our binaries")
    parser.add_argument("--json", help="write all figures here")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(LABELS)
    found = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as work:
        batch = os.path.join(work, "batch.safetensors")
        write_batch(batch, args.batch)
        for number in range(args.rounds):
            for name in chosen:
                result = measure(name, batch, args)
                found[name].append(result)
                print(f"round {number + 1}: {LABELS[name]}: {result['seconds']:.3f} s, {result['cpu_seconds']:.3f} s of processor time, "
                      f"loss {result['loss']:.3f}", file=sys.stderr)
    print_tables(args, found)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(dict(vars(args), found=found, torch=torch_version()), file, indent=1)


def write_batch(path, images):
    """Noise; 75 of 196 patches are hidden in each image."""
    import numpy as np
    from safetensors.numpy import save_file

    draws = np.random.default_rng(0)
    mask = np.zeros((images, 196), np.uint8)
    for row in mask:
        row[draws.choice(196, 75, replace=False)] = 1
    pixels = draws.uniform(-1, 1, (images, 3, 224, 224)).astype(np.float32)
    save_file(dict(pixels=pixels, mask=mask, labels=draws.integers(0, 8192, images * 75)), path)


def measure(name, batch, args):
    common = ["--batch", batch, "--steps", str(args.steps), "--warmup", str(args.warmup)]
    if name in OURS:
        command = [os.path.join(args.bin, "beit-daemon"), "doctor", "--step-only", "--json", *common]
        settings = [f"batch_size={args.batch}", f"threads_per_rank={args.threads}", "drop_path=0", *MODELS[args.model]]
        for setting in (*settings, f"amp={OURS[name][1]}"):
            command += ["--set", setting]
    else:
        command = [sys.executable, os.path.join(HERE, "eager.py"), *common, *THEIRS[name][1]]
        command += ["--model", args.model, "--threads", str(args.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} failed: {' '.join(command)}")
    return json.loads(done.stdout.splitlines()[-1])["step"]


def print_tables(args, found):
    print(f"\n{datetime.date.today()}: {args.model}, {args.batch} images, {args.threads} threads; {args.rounds} rounds of {args.steps} steps; "
          f"{processor()}; torch {torch_version()}\n")
    print("| step | s, median (range) | processor s | GB at most |\n|---|---|---|---|")
    for name, rounds in found.items():
        seconds = [second for result in rounds for second in result["each_seconds"]]
        cpu = statistics.median(second for result in rounds for second in result["each_cpu_seconds"])
        spread = f"{statistics.median(seconds):.3f} ({min(seconds):.3f}–{max(seconds):.3f})"
        memory = max(result["peak_rss_bytes"] for result in rounds) / 1e9
        print(f"| {LABELS[name]} | {spread} | {cpu:.3f} | {memory:.1f} |")
    print("\n| ratio, median of rounds | by the clock | by processor time | asked |\n|---|---|---|---|")
    for above, below, asked in RATIOS:
        if above in found and below in found:
            clock, cpu = (
                statistics.median(a[key] / b[key] for a, b in zip(found[above], found[below])) for key in ("seconds", "cpu_seconds")
            )
            print(f"| {LABELS[above]} / {LABELS[below]} | {clock:.3f} | {cpu:.3f} | {f'≤ {asked}' if asked else ''} |")


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return f"{len(names)} cores of {names[0]}"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def torch_version():
    from importlib.metadata import version

    return version("torch")


main()
