#!/usr/bin/env python3
"""Compares this loader with its peers: same images, one core, one sitting, every contender once in each round.

    python -m venv V && V/bin/pip install -r benches/peers/requirements.txt
    cargo build --release --bins
    V/bin/python benches/peers/run.py --data FOLDER_OF_CLASS_FOLDERS

Builds the shards first, with as many payloads as this beit-shard knows. Ours is measured by `beit-daemon doctor`, over the
processor time of the loader's one thread (the main thread only takes batches and drops them); a peer over that of its
process, once it has started. So a busy machine shifts the figures little; ratios are taken within a round.
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
REFERENCE = "reference"

# Key, label, what is done with each image; in the order of the table.
PEERS = [
    (REFERENCE, "Pillow + torchvision", "everything; tokens' view too", ["reference.py"]),
    ("dali-beit", "DALI, the reference's order", "everything but the mask", ["dali.py", "--pipeline", "beit"]),
    ("dali-crop", "DALI, random-crop decode", "crop, 224 linear, flip", ["dali.py", "--pipeline", "crop"]),
    ("ffcv-jpg", "FFCV, 512 px, q90", "crop, 224 area, flip", ["ffcv_pipeline.py"]),
    ("ffcv-jpg-jitter", "FFCV, 512 px, q90, jitter", "the same and jitter", ["ffcv_pipeline.py", "--jitter", "1"]),
    ("ffcv-raw", "FFCV, raw, short side 256", "crop, 224 area, flip", ["ffcv_pipeline.py", "--mode", "raw"]),
]
OURS = [
    ("original", "all: crop, 224 bicubic, flip, jitter, mask, tokens, checksums"),
    ("short256", "all, from a short side of 256, q90"),
    ("raw256", "all, from raw pixels with a short side of 256"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of class folders of JPEGs")
    parser.add_argument("--work", help="folder for shards and converted sets [default: in the system's temporary one]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each contender in each round")
    parser.add_argument("--core", type=int, default=0, help="the core all of them are pinned to")
    parser.add_argument("--views", type=int, default=4, help="views of the shards")
    parser.add_argument("--bin", default=os.path.join(ROOT, "target", "release"), help="folder of our binaries")
    parser.add_argument("--only", help="keys of contenders, with commas")
    args = parser.parse_args()
    args.data = os.path.abspath(args.data)
    args.work = args.work or os.path.join(tempfile.gettempdir(), "beit-peers")
    os.makedirs(args.work, exist_ok=True)
    wanted = args.only.split(",") if args.only else None
    contenders = [
        (key, label, work, [sys.executable, os.path.join(HERE, script[0]), *script[1:], *common(args)])
        for key, label, work, script in PEERS
        if not wanted or key in wanted
    ] + [contender for contender in ours(args, wanted)]
    read_all(args.data)

    found, missing = {key: [] for key, *_ in contenders}, {}
    for number in range(args.rounds):
        for key, label, _, command in contenders:
            if key in missing:
                continue
            result, error = measure(command, args.core)
            if error:
                missing[key] = error
                print(f"round {number + 1}: {label}: left out: {error}", file=sys.stderr)
                continue
            found[key].append(result)
            print(f"round {number + 1}: {label}: {result['images_per_cpu_s']:.0f} images/s/core", file=sys.stderr)
    print_table(args, contenders, found, missing)


def common(args):
    return ["--data", args.data, "--seconds", str(args.seconds), "--work", args.work]


def ours(args, wanted):
    """Builds the shards of each payload this version knows, and yields the contenders."""
    shard, daemon = (os.path.join(args.bin, name) for name in ("beit-shard", "beit-daemon"))
    usage = subprocess.run([shard, "build", "--help"], capture_output=True, text=True, check=True).stdout
    for payload, work in OURS:
        key = "ours-" + payload
        if (wanted and key not in wanted) or (payload != "original" and payload not in usage):
            continue
        out = os.path.join(args.work, payload + ".shards")
        build = [shard, "build", args.data, "--tokenizer", "embedded", "--views", str(args.views), "--out", out]
        print(f"building {out}", file=sys.stderr)
        subprocess.run(build + (["--pixels", payload] if "--pixels" in usage else []), check=True, stdout=sys.stderr)
        run = [daemon, "doctor", "--loader-only", "--json", "--threads", "1", "--shards", out]
        yield key, f"ours, {payload}", work, run + ["--seconds", str(args.seconds)]


def read_all(folder):
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                file.read()


def measure(command, core):
    """Runs one contender on one core; its report, or why there is none."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            env=dict(os.environ, PYTHONWARNINGS="ignore"),
        )
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            return None, f"{last} (exit status {process.returncode})"
    report = json.loads(output.strip().splitlines()[-1])
    if "loader" in report:
        loader = report["loader"]
        report = dict(
            images_per_cpu_s=loader["images_per_s_per_core"],
            rss_mb=used.ru_maxrss / 1024,
            loader=loader,
            versions={},
        )
    return report, None


def print_table(args, contenders, found, missing):
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}, {len(found)} contenders, {args.rounds} rounds of {args.seconds:g} s, one core;")
    print(f"{hardware()}; load average at the end {os.getloadavg()[0]:.1f}.\n")
    print("| contender | for each image | images/s/core, median (range) | ratio to Pillow + torchvision | MB |")
    print("|---|---|---|---|---|")
    base = [result["images_per_cpu_s"] for result in found.get(REFERENCE, [])]
    for key, label, work, _ in contenders:
        if key in missing:
            print(f"| {label} | {work} | not available: {missing[key]} | | |")
            continue
        rates = [result["images_per_cpu_s"] for result in found[key]]
        versions = ", ".join(f"{name} {version}" for name, version in found[key][0]["versions"].items())
        label += f" ({versions})" if versions else ""
        ratio = f"{statistics.median(a / b for a, b in zip(rates, base)):.2f}" if base else ""
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})"
        print(f"| {label} | {work} | {spread} | {ratio} | {max(r['rss_mb'] for r in found[key]):.0f} |")
    for key, label, *_ in contenders:
        loaders = [result["loader"] for result in found[key] if "loader" in result]
        if loaders:
            middle = sorted(loaders, key=lambda loader: loader["images_per_s_per_core"])[len(loaders) // 2]
            stages = ", ".join(f"{name} {us:.1f}" for name, us in middle["stages_us"].items())
            print(f"\n{label}: µs per image by the clock: {stages}; checksums {middle['checksum_us']:.1f} of read; hand-off "
                  f"{100 * middle['handoff_ratio']:.2f} %.")


def hardware():
    with open("/proc/cpuinfo") as file:
        lines = [line.split(":", 1) for line in file if ":" in line]
    model = next((value.strip() for key, value in lines if key.strip() == "model name"), platform.machine())
    flags = next((value for key, value in lines if key.strip() == "flags"), "")
    simd = next((name for name in ("avx512vbmi", "avx512bw", "avx2") if name in flags.split()), "no AVX2")
    return f"{model}, {os.cpu_count()} cores ({simd}), Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
