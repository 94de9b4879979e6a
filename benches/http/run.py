#!/usr/bin/env python3
"""What 200 connections cost a training: a real run on the CPU, in turns left alone and hammered.

    cargo build --release --bins
    benches/http/run.py                                    # two minutes on two cores; needs Python alone
    sudo benches/http/run.py --first-in-line               # on a busy machine: this session's processes come before all others
    benches/http/run.py --connections 400 --rounds 4 --seconds 3 --json http.json

Every core trains (one rank each). The connections belong to one client process as nice as can be (19), so that what shows is the
daemon's cost more than the client's: 7 in 10 ask for /metrics, /api/v1/run, /api/v1/history, /api/v1/log and / without waiting for
answers, which they let the kernel throw away; 1 in 10 follow /api/v1/events; 1 in 10 drip headers that never end, 1 in 10 ask for much and never read: these come back whenever
they are thrown out. A stretch with them is held against the mean of the stretches before and after it: by the median step's time by
the clock, and by the worker's processor time per step, which other work on the machine stretches less. With --first-in-line (Linux,
root, sched_autogroup) the others on the machine hardly show, while the bench's own processes share as they would on a quiet machine;
a filler of the idle class on each core keeps the others out of the training's gaps too.
"""
import argparse
import collections
import datetime
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICK = os.sysconf("SC_CLK_TCK")
PATHS = ["/metrics", "/api/v1/run", "/api/v1/history?points=200", "/api/v1/log?lines=50", "/"]
KINDS = ["hammer"] * 7 + ["stream", "slow", "deaf"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200), parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stretch"), parser.add_argument("--ranks", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="change a key of the recipe pretrain-tiny-cpu")
    parser.add_argument("--bin", default=os.path.join(ROOT, "target", "release"), help="folder of our binaries")
    parser.add_argument("--renice", type=int, help="give the HTTP threads this priority, to see what theirs is worth (0; root)")
    parser.add_argument("--first-in-line", action="store_true"), parser.add_argument("--json", help="write all figures here")
    args = parser.parse_args()
    if args.first_in_line:
        become_a_session()
        with open("/proc/self/autogroup", "w") as file:
            file.write("-20")
        fillers = [fill(core) for core in os.sched_getaffinity(0)]
    else:
        fillers = []
    with tempfile.TemporaryDirectory() as work:
        shards = os.path.join(work, "photos.shards")
        build = [os.path.join(args.bin, "beit-shard"), "build", os.path.join(ROOT, "demo-photos"), "--out", shards]
        subprocess.run([*build, "--tokenizer", "embedded", "--views", "2"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = Run(args, work, shards)
        try:
            found = measure(run, args)
        finally:
            run.end()
            for pid in fillers:
                os.kill(pid, signal.SIGKILL)
    print_table(args, found)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(dict(vars(args), found=found), file, indent=1)


def become_a_session():
    """Goes on in a child that leads a session, which is what the kernel shares processor time between."""
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setsid()


def fill(core):
    """Keeps a core busy when nobody of this session wants it, so that the gaps of a lonely training don't go to others."""
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        parent = os.getppid()
        while os.getppid() == parent:
            sum(range(100_000))
        os._exit(0)
    return pid


class Run:
    """A daemon that trains."""

    def __init__(self, args, work, shards):
        self.folder = os.path.join(work, "run")
        command = [os.path.join(args.bin, "beit-daemon"), "start", "--device", "cpu", "--ranks", str(args.ranks), "--run", self.folder]
        command += ["--shards", shards, "--recipe", "pretrain-tiny-cpu", "--steps", "1000000", "--listen", "127.0.0.1:0"]
        for setting in ["num_workers=1", "save_every_steps=1000000", *args.set]:
            command += ["--set", setting]
        self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(os.path.join(work, "log"), "w"), text=True)
        self.address = self.daemon.stdout.readline().strip().removeprefix("listening on http://")
        while self.board()["last"]["step"] < 20:
            time.sleep(0.2)
        self.worker = self.board()["worker_pid"]
        tasks = f"/proc/{self.daemon.pid}/task"
        self.http = [task for task in os.listdir(tasks) if open(f"{tasks}/{task}/comm").read().startswith("http")]
        for task in self.http if args.renice is not None else []:
            os.setpriority(os.PRIO_PROCESS, int(task), args.renice)
        self.log = open(os.path.join(self.folder, "log.jsonl"))

    def board(self):
        with urllib.request.urlopen(f"http://{self.address}/api/v1/run", timeout=30) as answer:
            return json.load(answer)

    def answers(self):
        """Requests answered so far."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("beit_daemon_http_requests_total{"))

    def steps(self):
        """Seconds of each step since the last call, as the run's log has them."""
        lines = [json.loads(line) for line in self.log.readlines() if line.endswith("\n")]
        return [line["step_s"] for line in lines if "step_s" in line]

    def stretch(self, seconds):
        self.steps()
        busy = [cpu(self.worker), sum(cpu(self.daemon.pid, task) for task in self.http)]
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        busy = [now - before for now, before in zip([cpu(self.worker), sum(cpu(self.daemon.pid, task) for task in self.http)], busy)]
        clock = self.steps()
        return {
            "steps": len(clock),
            "seconds_per_step": statistics.median(clock),
            "mean_seconds_per_step": statistics.mean(clock),
            "cpu_per_step": busy[0] / len(clock),
            "http_cpu": busy[1] / took,
        }

    def end(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(60)


def cpu(pid, task=None):
    """Seconds of processor time of a process, or of one of its threads."""
    with open(f"/proc/{pid}/task/{task}/stat" if task else f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def measure(run, args):
    alone, crowded = [run.stretch(args.seconds)], []
    for number in range(args.rounds):
        client = Client(run.address, args.connections)
        time.sleep(1.0)
        before = dict(client.told(), answers=run.answers())
        stretch = run.stretch(args.seconds)
        after = dict(client.told(), answers=run.answers())
        client.end()
        span = after["at"] - before["at"]
        stretch.update({key: (after[key] - before[key]) / span for key in ("answers", "bytes", "returns", "cpu")})
        crowded.append(stretch)
        time.sleep(0.5)
        alone.append(run.stretch(args.seconds))
        print(f"round {number + 1}: {say(alone[-2])} alone, {say(stretch)} with {args.connections} connections and {stretch['answers']:.0f} "
              f"answers/s, {say(alone[-1])} alone", file=sys.stderr)
    return {"alone": alone, "crowded": crowded}


def say(stretch):
    return f"{1e3 * stretch['seconds_per_step']:.2f} ms"


class Client:
    """All connections, in a process of their own."""

    def __init__(self, address, connections):
        self.tells, tell = os.pipe()
        self.buffer = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.tells)
            os.nice(19)
            try:
                hammer(address, connections, tell)
            finally:
                os._exit(0)
        os.close(tell)

    def told(self):
        """The next report that the client makes."""
        self.buffer = b""
        while self.buffer.count(b"\n") < 2:
            self.buffer += os.read(self.tells, 65536)
        return json.loads(self.buffer.split(b"\n")[-2])

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        os.close(self.tells)


def hammer(address, connections, tell):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    host, port = address.split(":")
    selector, counts = selectors.DefaultSelector(), collections.Counter(bytes=0, returns=0)
    ask = lambda path: f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    greedy, unsent, nothing = b"".join(map(ask, PATHS)) * 20, {}, bytearray(1 << 20)
    first = {"hammer": greedy, "deaf": greedy, "stream": ask("/api/v1/events"), "slow": b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-"}
    both, waits_for = selectors.EVENT_READ | selectors.EVENT_WRITE, {"deaf": selectors.EVENT_WRITE}

    def connect(number):
        kind = KINDS[number % len(KINDS)]
        sock = socket.create_connection((host, int(port)), timeout=30)
        sock.setblocking(False)
        sock.send(first[kind])
        selector.register(sock, waits_for.get(kind, both if kind != "stream" else selectors.EVENT_READ), (number, kind))

    for number in range(connections):
        connect(number)
    told = 0.0
    while True:
        if time.monotonic() - told >= 0.5:
            told = time.monotonic()
            used = os.times()
            os.write(tell, json.dumps(dict(counts, at=told, cpu=used.user + used.system)).encode() + b"\n")
        time.sleep(0.02)  # Much at a time costs the client little.
        for key, ready in selector.select(0):
            sock, (number, kind) = key.fileobj, key.data
            try:
                if ready & selectors.EVENT_WRITE:
                    rest = unsent.pop(sock, b"") or (b"x" if kind == "slow" else greedy)
                    unsent[sock] = rest[sock.send(rest):]
                if ready & selectors.EVENT_READ:
                    data = sock.recv_into(nothing, len(nothing), socket.MSG_TRUNC)  # The kernel throws it away.
                    if data == 0:
                        raise ConnectionError
                    counts["bytes"] += data
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(sock)
                unsent.pop(sock, None)
                sock.close()
                counts["returns"] += 1
                connect(number)


def ratios(found, key):
    alone = [stretch[key] for stretch in found["alone"]]
    return [stretch[key] / statistics.mean(alone[number:number + 2]) for number, stretch in enumerate(found["crowded"])]


def print_table(args, found):
    print(f"\n{datetime.date.today()}: {args.ranks} ranks of pretrain-tiny-cpu {' '.join(args.set)} on {processor()}, Linux {os.uname().release}; {args.connections} "
          f"connections{'' if args.renice is None else f', HTTP threads at nice {args.renice}'}; {args.rounds} rounds of {args.seconds:g} s alone, {args.seconds:g} s with them\n")
    print("| | alone, median (range) | with them | ratio within a round, median (range) |\n|---|---|---|---|")
    for key, name in [("seconds_per_step", "median step, ms by the clock"), ("mean_seconds_per_step", "mean step, ms by the clock"),
                      ("cpu_per_step", "worker's processor time, ms per step")]:
        cells = []
        for kind in ("alone", "crowded"):
            values = [1e3 * stretch[key] for stretch in found[kind]]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})")
        each = ratios(found, key)
        print(f"| {name} | {cells[0]} | {cells[1]} | {statistics.median(each):.3f} ({min(each):.3f}–{max(each):.3f}) |")
    middle = {key: statistics.median(stretch[key] for stretch in found["crowded"]) for key in found["crowded"][0]}
    rest = statistics.median(stretch["http_cpu"] for stretch in found["alone"])
    print(f"\nThe daemon's HTTP thread took {100 * middle['http_cpu']:.1f} % of a core ({100 * rest:.1f} % alone), the client {100 * middle['cpu']:.1f} %: "
          f"{middle['answers']:.0f} answers, {middle['bytes'] / 1e6:.1f} MB and {middle['returns']:.1f} returns of the thrown out a second.")


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return f"{len(names)} cores of {names[0]}"
    except (OSError, IndexError):
        return "this machine"


main()
