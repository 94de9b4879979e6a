"""What every contender has in common: one thread, the same images, one JSON line. Import it before anything heavy."""

import argparse
import json
import os
import resource
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

BATCH = 64


def arguments(**more):
    """The command line of a contender: the images, how long to run, where to keep what it converts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="folder of class folders of JPEGs")
    parser.add_argument("--seconds", type=float, default=8, help="processor time to spend at least")
    parser.add_argument("--work", required=True, help="folder for converted data sets")
    for name, options in more.items():
        parser.add_argument("--" + name, **options)
    return parser.parse_args()


def images(data):
    """All (path, class) of a folder of class folders, in sorted order."""
    classes = sorted(entry.name for entry in os.scandir(data) if entry.is_dir())
    return [
        (os.path.join(data, name, file), label)
        for label, name in enumerate(classes)
        for file in sorted(os.listdir(os.path.join(data, name)))
    ]


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(args, epoch, **versions):
    """Runs whole epochs (`epoch()` says of how many images) after one to warm up; prints what came of it."""
    epoch()
    count, wall, core = 0, time.perf_counter(), processor_seconds()
    while processor_seconds() - core < args.seconds:
        count += epoch()
    core = processor_seconds() - core
    wall = time.perf_counter() - wall
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = dict(images_per_cpu_s=count / core, images_per_s=count / wall, rss_mb=memory, versions=versions)
    print(json.dumps(line), flush=True)
