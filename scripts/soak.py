#!/usr/bin/env python3
"""A run with faults, and a judgement: does anything get lost?

    make build && python3 scripts/soak.py --minutes 30 --kills 20 --out soak

Trains a tiny BEiT on two CPU ranks for so many minutes, its run directory and shards on a small disk of their own (a tmpfs, so this
needs root; --disk takes a small file system that is there already). A real `beit-shard watch` packs what arrives, a real Prometheus
scrapes both. Meanwhile, at times drawn from --seed: the worker is killed with SIGKILL so many times; Prometheus is restarted; the disk is
filled to its last byte for --full-seconds; new images arrive, and bits of the shard that `watch` makes of them are flipped before
the run takes it up. At the end: does `beit-train audit` find every sample of every epoch once, do Prometheus's series go on
without a gap or a reset, does memory stay flat, is anything left behind? Python's standard library alone.

Exits with 0 if all of it holds. OUT/report.json has everything, OUT/report.md the table.
"""
import argparse, json, os, pathlib, random, re, shutil, signal, subprocess, sys, time, urllib.error, urllib.parse, urllib.request

HOUSE = pathlib.Path(__file__).resolve().parent.parent
BIN = HOUSE / "target" / "release"
TINY = ["embed_dim=64", "depth=2", "num_heads=2", "batch_size=4", "num_workers=1", "warmup_steps=10", "max_corrupt_samples=100"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("soak"))
    parser.add_argument("--disk", type=pathlib.Path, help="an empty folder on a small file system of its own")
    parser.add_argument("--disk-mb", type=int, default=256)
    parser.add_argument("--full-seconds", type=float, default=45)
    parser.add_argument("--save-seconds", type=float, default=12, help="about how often a checkpoint is asked for")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def wait_for(what, there, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = there()
        except (OSError, ValueError, KeyError):
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise SystemExit(f"soak: waited {seconds} s in vain for {what}")


def resident(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class Soak:
    def __init__(self, args):
        self.args, self.random = args, random.Random(args.seed)
        self.out = args.out.resolve()
        self.images, self.prometheus_data = self.out / "images", self.out / "prometheus"
        self.disk = (args.disk or self.out / "disk").resolve()
        self.shards, self.run = self.disk / "photos.shards", self.disk / "run"
        # As the daemon is told, so that its page shows no path of this machine.
        self.told_shards, self.told_run = (os.path.relpath(path, self.out) for path in (self.shards, self.run))
        self.children, self.told, self.memory = [], [], []
        self.shared_memory = set(os.listdir("/dev/shm"))
        self.down = []  # stretches in which Prometheus did not run

    def start(self, name, command, **more):
        log = open(self.out / f"{name}.log", "ab")
        child = subprocess.Popen([str(part) for part in command], stderr=log, stdout=more.pop("stdout", log), cwd=self.out, **more)
        self.children.append(child)
        return child

    def tell(self, text):
        self.told.append({"at": time.time(), "text": text})
        say(text)

    # What there is before the first fault.

    def prepare(self):
        shutil.rmtree(self.out, ignore_errors=True)
        for folder in (self.images / "photos", self.prometheus_data, self.disk, self.out / "later"):
            folder.mkdir(parents=True)
        if not self.args.disk:
            size = f"size={self.args.disk_mb}m"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "beit-soak", self.disk], check=True)
        # A sample's views follow from its name, so copies of ten photos are as good as so many photos.
        for number in range(160):
            photos = sorted((HOUSE / "demo-photos").glob("*.jpg"))
            folder = self.images / "photos" if number < 120 else self.out / "later"
            shutil.copy(photos[number % len(photos)], folder / f"{number:03}.jpg")

    def begin(self):
        self.watch = self.start("watch", [BIN / "beit-shard", "watch", self.images, "--out", self.shards, "--tokenizer", "embedded",
                                          "--views", "2", "--settle", "1", "--rescan", "5", "--listen", "127.0.0.1:0"])
        said = lambda: re.search(r"listening on http://(\S+?)/?\s", (self.out / "watch.log").read_text())
        self.watch_address = wait_for("watch's address", said).group(1)
        wait_for("the first shards", lambda: self.manifest().is_file(), 300)
        self.set_size = self.manifest().stat().st_mtime_ns
        settings = [word for setting in [*TINY, f"steps={10_000_000}", "save_every_steps=1000000", "keep_last=3"] for word in ("--set", setting)]
        self.daemon = self.start("daemon", [BIN / "beit-daemon", "start", "--device", "cpu", "--ranks", "2", "--shards", self.told_shards, "--run", self.told_run,
                                            "--recipe", "pretrain-tiny-cpu", "--listen", "127.0.0.1:0", *settings], stdout=subprocess.PIPE, text=True)
        self.address = self.daemon.stdout.readline().strip().removeprefix("listening on http://")
        if not self.address:
            raise SystemExit(f"soak: the daemon did not start; see {self.out}/daemon.log")
        self.token = (self.run / "daemon.token").read_text().strip()
        config = (f"global:\n  scrape_interval: 1s\n  scrape_timeout: 900ms\nscrape_configs:\n"
                  f"  - job_name: beit\n    static_configs:\n      - targets: ['{self.address}']\n"
                  f"  - job_name: beit-shard\n    static_configs:\n      - targets: ['{self.watch_address}']\n")
        (self.out / "prometheus.yml").write_text(config)
        wait_for("the first steps", lambda: self.facts()["last"]["step"] > 3, 300)
        self.scrape()
        say(f"training at http://{self.address}/, Prometheus at http://{self.prometheus_address}/")

    def scrape(self):
        if not hasattr(self, "prometheus_address"):
            import socket
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.prometheus_address = f"127.0.0.1:{free.getsockname()[1]}"
        self.prometheus = self.start("prometheus", ["prometheus", f"--config.file={self.out}/prometheus.yml", f"--storage.tsdb.path={self.prometheus_data}",
                                                    f"--web.listen-address={self.prometheus_address}"])
        wait_for("Prometheus", lambda: "Ready" in get(f"http://{self.prometheus_address}/-/ready"))

    def manifest(self):
        return self.shards / "manifest.txt"

    def facts(self):
        return json.loads(get(f"http://{self.address}/api/v1/run"))

    def ask(self, what):
        request = urllib.request.Request(f"http://{self.address}/api/v1/{what}", method="POST", headers={"Authorization": f"Bearer {self.token}"})
        urllib.request.urlopen(request, timeout=10).close()

    # The faults.

    def kill_worker(self):
        pid = wait_for("a worker", lambda: self.facts()["worker_pid"])
        os.kill(pid, signal.SIGKILL)
        self.tell(f"killed worker {pid} (SIGKILL)")
        self.save_at = 0  # the next checkpoint as soon as a new worker trains, so that kills do not use up the budget

    def restart_prometheus(self):
        begun = time.time()
        self.prometheus.send_signal(signal.SIGTERM)
        self.prometheus.wait(60)
        self.scrape()
        self.down.append((begun, time.time()))
        self.tell("restarted Prometheus")

    def fill_disk(self):
        ballast = self.disk / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            block = bytes(1 << 20)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]
        self.tell(f"filled the disk: {shutil.disk_usage(self.disk).free} bytes free")
        self.ask("checkpoint")
        self.empty_at = time.monotonic() + self.args.full_seconds

    def empty_disk(self):
        (self.disk / "ballast").unlink()
        self.empty_at = None
        self.tell(f"freed the disk: {shutil.disk_usage(self.disk).free >> 20} MiB free")

    def corrupt_shard(self):
        before = self.manifest().read_bytes()
        self.ask("pause")
        wait_for("the pause", lambda: self.facts()["state"] == "paused", 60)
        for picture in sorted((self.out / "later").iterdir()):
            shutil.move(picture, self.images / "photos" / picture.name)
        wait_for("watch's new shard", lambda: self.manifest().read_bytes() != before, 120)
        shard = max(self.shards.glob("*.shard"))
        with open(shard, "r+b") as file:
            size = file.seek(0, 2)
            for _ in range(8):  # bits of payloads: the first half of a shard holds nothing else
                at = self.random.randrange(size // 10, size // 2)
                file.seek(at)
                byte = file.read(1)[0] ^ (1 << self.random.randrange(8))
                file.seek(at)
                file.write(bytes([byte]))
        self.tell(f"watch added {shard.name} ({size >> 10} KiB); flipped 8 bits in it")
        self.ask("resume")

    # The run.

    def work(self):
        seconds = self.args.minutes * 60
        begun = time.monotonic()
        plan = [((0.05 + 0.9 * (number + self.random.uniform(0.2, 0.8)) / self.args.kills) * seconds, self.kill_worker) for number in range(self.args.kills)]
        plan += [(0.25 * seconds, self.restart_prometheus), (0.45 * seconds, self.fill_disk), (0.62 * seconds, self.corrupt_shard)]
        plan.sort(key=lambda entry: entry[0])
        self.save_at = begun + self.args.save_seconds
        self.empty_at = None
        while (now := time.monotonic()) - begun < seconds:
            if self.daemon.poll() is not None:
                raise SystemExit(f"soak: the daemon ended with {self.daemon.returncode}; see {self.out}/daemon.log")
            if self.empty_at and now > self.empty_at:
                self.empty_disk()
            if plan and now - begun > plan[0][0]:
                plan.pop(0)[1]()
            if now > self.save_at and self.facts()["state"] == "running":
                self.ask("checkpoint")
                self.save_at = now + self.args.save_seconds
            facts = self.facts()
            self.memory.append({"at": time.time(), "state": facts["state"], "step": facts["last"]["step"], "worker_pid": facts["worker_pid"],
                                "supervisor": resident(self.daemon.pid), "worker": facts["worker_pid"] and resident(facts["worker_pid"]),
                                "watch": resident(self.watch.pid)})
            time.sleep(0.5)
        if plan:
            raise SystemExit(f"soak: {len(plan)} faults did not come to their turn; give it more minutes")

    def query(self, expression):
        url = f"http://{self.prometheus_address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        return [float(each["value"][1]) for each in json.loads(get(url, 30))["data"]["result"]]

    def judge(self):
        span = f"{int(self.args.minutes * 60 + 60)}s"
        time.sleep(3)  # the last scrape
        beit = '{job="beit"}'
        total = lambda series: sum(self.query(series))
        numbers = {
            "steps": self.facts()["last"]["step"],
            "restarts by signal": total('beit_daemon_restarts_total{cause="signal"}'),
            "restarts by anything else": total('beit_daemon_restarts_total{cause!="signal"}'),
            "failed checkpoints": total("beit_trainer_checkpoint_failures_total"),
            "checkpoints": total("beit_trainer_checkpoints_total"),
            "corrupt records": total("beit_loader_corrupt_samples_total"),
            "scrapes": total(f"count_over_time(up{beit}[{span}])"),
            "failed scrapes": total(f"count_over_time(up{beit}[{span}]) - sum_over_time(up{beit}[{span}])"),
            "counter resets": total(f"resets(beit_trainer_samples_total[{span}]) + resets(beit_trainer_steps_total[{span}])"),
        }
        ups = self.matrix(f'up{beit}[{span}]')
        gaps = [(a, b) for a, b in zip(ups, ups[1:]) if b - a > 5 and not any(a < end and b > begun for begun, end in self.down)]
        say("stopping")
        self.daemon.send_signal(signal.SIGTERM)
        status = self.daemon.wait(120)
        self.watch.send_signal(signal.SIGINT)
        watch_status = self.watch.wait(60)
        say("auditing")
        audit = subprocess.run([BIN / "beit-train", "audit", self.told_run, "--json"], cwd=self.out, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not audit.stdout:
            raise SystemExit(f"soak: the audit failed: {audit.stderr}")
        found = json.loads(audit.stdout.splitlines()[-1])
        ours = {self.daemon.pid, self.watch.pid, *(each["worker_pid"] for each in self.memory if each["worker_pid"])}
        left = [pid for pid in ours if resident(pid)] + sorted(set(os.listdir("/dev/shm")) - self.shared_memory)
        lives = {}
        for each in self.memory:
            if each["worker"]:
                lives.setdefault(each["worker_pid"], []).append(each["worker"])
        peaks = [max(life) for life in lives.values() if len(life) > 20]
        supervisor = [each["supervisor"] for each in self.memory if each["supervisor"]]
        quarter = len(supervisor) // 4
        mean = lambda values: sum(values) / max(len(values), 1)
        growth = mean(supervisor[-quarter:]) / mean(supervisor[quarter : 2 * quarter])
        worker_growth = mean(peaks[-5:]) / mean(peaks[1:6])
        mib = lambda number: f"{number / (1 << 20):.1f} MiB"
        checks = [
            ("kills counted", numbers["restarts by signal"] == self.args.kills, f"{numbers['restarts by signal']:.0f} of {self.args.kills}"),
            ("no other restart", numbers["restarts by anything else"] == 0, f"{numbers['restarts by anything else']:.0f}"),
            ("steps that saw anything else than the order says", found["different"] == 0, f"{found['different']} of {found['steps']}"),
            ("steps missing in the log", found["missing"] == 0, f"{found['missing']} of {found['steps']}"),
            ("samples lost", found["lost"] == 0, f"{found['lost']} of {found['samples']} in {found['whole_epochs']} whole epochs"),
            ("samples repeated", found["repeated"] == 0, f"{found['repeated']} of {found['samples']}"),
            ("steps computed again after a kill", found["computed_again"] > 0, f"{found['computed_again']}"),
            ("corrupt records named and replaced", found["corrupt"] > 0 and numbers["corrupt records"] >= found["corrupt"], f"{found['corrupt']}; {found['replaced']} times in whole epochs"),
            ("full disk: checkpoints that failed", numbers["failed checkpoints"] > 0, f"{numbers['failed checkpoints']:.0f} of {numbers['failed checkpoints'] + numbers['checkpoints']:.0f}"),
            ("scrapes that failed", numbers["failed scrapes"] == 0, f"{numbers['failed scrapes']:.0f} of {numbers['scrapes']:.0f}"),
            ("gaps over 5 s, Prometheus's own restart apart", not gaps, f"{len(gaps)}"),
            ("counters that went back", numbers["counter resets"] == 0, f"{numbers['counter resets']:.0f}"),
            ("supervisor's memory, last quarter over second", growth < 1.05, f"{growth:.3f} ({mib(supervisor[-1])})"),
            ("worker's peak, last five lives over first five", worker_growth < 1.1, f"{worker_growth:.3f} ({mib(mean(peaks[-5:]))})"),
            ("the daemon's exit status", status == 0, str(status)),
            ("watch's exit status", watch_status == 0, str(watch_status)),
            ("processes and shared memory left behind", not left, str(len(left))),
        ]
        report = {"minutes": self.args.minutes, "seed": self.args.seed, "numbers": numbers, "audit": found, "gaps": gaps, "events": self.told,
                  "checks": [{"what": what, "holds": holds, "found": text} for what, holds, text in checks], "memory": self.memory}
        (self.out / "report.json").write_text(json.dumps(report))
        table = "| what | found | holds |\n|---|---|---|\n" + "".join(f"| {what} | {text} | {'yes' if holds else '**NO**'} |\n" for what, holds, text in checks)
        (self.out / "report.md").write_text(table)
        print(table)
        return all(holds for _, holds, _ in checks)

    def matrix(self, expression):
        url = f"http://{self.prometheus_address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        return sorted(float(at) for each in json.loads(get(url, 30))["data"]["result"] for at, _ in each["values"])

    def end(self):
        for child in self.children:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(30)
                except subprocess.TimeoutExpired:
                    child.kill()
        if not self.args.disk and os.path.ismount(self.disk):
            for name in ("run", "photos.shards"):  # what an inquest would want; the disk goes
                if (self.disk / name).exists():
                    shutil.copytree(self.disk / name, self.out / name, dirs_exist_ok=True)
            subprocess.run(["umount", self.disk], check=False)


def main():
    args = arguments()
    if not args.disk and os.geteuid() != 0:
        raise SystemExit("soak: a small disk of its own needs root (a tmpfs is mounted); or give one with --disk")
    if not shutil.which("prometheus"):
        raise SystemExit("soak: prometheus is not installed; `make tools` does it")
    soak = Soak(args)
    try:
        soak.prepare()
        soak.begin()
        soak.work()
        return 0 if soak.judge() else 1
    finally:
        soak.end()


if __name__ == "__main__":
    sys.exit(main())
