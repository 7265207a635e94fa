"""What a reload costs those who use the service meanwhile.

One real daemon: a fake backend with slow operations in flight all the time, a file backend with an
attached client that writes all the time, and a steady stream of requests.  Then reloads, each
changing an option of the file backend.  Prints one table; ends by itself.

    python bench/reload.py [--reloads 20] [--rate 50] [--slow 20] [--quick]
    python bench/reload.py --soak 1000
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import signal
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.nbd_client import NbdClient

CONNECTOR = {"host": "bench", "ip": "127.0.0.1", "initiator": "iqn.bench"}
SLOW_S = 5.0


@dataclass
class Request:
    at: float
    took_s: float
    status: int


@dataclass
class Load:
    """Threads that use the service until told to stop, and what they saw."""

    daemon: Daemon
    stop: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    writes: int = 0
    write_errors: list[str] = field(default_factory=list)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    threads: list[threading.Thread] = field(default_factory=list)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self.daemon.url}/v3/demo{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Auth-Token": "demo:demo", "Content-Type": "application/json"},
        )
        started = time.monotonic()
        status, answer = 0, None
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text = response.status, response.read()
                answer = json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            status = error.code
            self.errors[error.read().decode(errors="replace")[:300]] += 1
        except OSError as error:
            status = -1
            self.errors[str(error)] += 1
        self.requests.append(Request(started, time.monotonic() - started, status))
        return status, answer

    def create(self, volume_type: str) -> None:
        status, answer = self.call("POST", "/volumes", {"volume": {"size": 1, "volume_type": volume_type}})
        if status == 202:
            self.created.append(answer["volume"]["id"])

    def start(self, rate: float, slow: int, uri: str) -> None:
        workers = 5
        targets = [lambda: self._stream(workers / rate)] * workers
        targets += [lambda: self._keep_slow(slow), lambda: self._write(uri)]
        for target in targets:
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self.threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(90)

    def _stream(self, pause_s: float) -> None:
        number = 0
        while not self.stop.wait(pause_s):
            number += 1
            if number % 10 == 0:
                self.create("disk")
            else:
                self.call("GET", "/volumes?limit=5")

    def _keep_slow(self, slow: int) -> None:
        while not self.stop.is_set():
            for _ in range(slow):
                self.create("slow")
            self.stop.wait(SLOW_S)

    def _write(self, uri: str) -> None:
        try:
            with NbdClient.from_uri(uri) as nbd:
                while not self.stop.is_set():
                    nbd.write((self.writes % 1024) * 65536, b"x" * 65536)
                    self.writes += 1
        except OSError as error:
            self.write_errors.append(str(error))


def build(slow: int) -> tuple[Daemon, dict[str, dict[str, Any]]]:
    daemon = Daemon(options={})
    script = daemon.root / "script.json"
    script.write_text(json.dumps({"create_volume": {"delay_s": SLOW_S}}))
    groups: dict[str, dict[str, Any]] = {
        "disk": {"file_store_path": daemon.root / "disk", "reserved_percentage": 0},
        "slow": {
            "volume_driver": "fake",
            "target_helper": "fake",
            "fake_script_path": script,
            "fake_capacity_gb": 10**6,
        },
    }
    (daemon.root / "disk").mkdir()
    configure(daemon, groups, slow)
    return daemon, groups


def configure(daemon: Daemon, groups: dict[str, dict[str, Any]], slow: int) -> None:
    # One port for good, as an operator has: 0 would be another one after each change of the file.
    options = {"enabled_backends": "disk,slow", "operation_workers": slow + 4}
    daemon.configure(options, groups)


def reload_once(daemon: Daemon) -> float:
    """Seconds from SIGHUP to 'applied'; raises when it was refused."""
    position = daemon.log.stat().st_size
    started = time.monotonic()
    daemon.signal(signal.SIGHUP)
    pattern = re.compile(r"service\.reload\.(applied|error) ")
    while True:
        found = pattern.search(daemon.words(position))
        if found:
            took = time.monotonic() - started
            if found[1] == "error":
                raise RuntimeError(f"a reload was refused: {daemon.words(position)}")
            return took
        if time.monotonic() - started > 60:
            raise RuntimeError("a reload has not ended within 60 s")
        time.sleep(0.002)


def prepare(daemon: Daemon) -> str:
    """Types that choose the backends, and an attached volume: its NBD address."""
    daemon.start().wait_ready()
    cinder = daemon.cinder()
    for name in ("disk", "slow"):
        cinder.volume_types.create(name).set_keys({"volume_backend_name": name})
    volume = cinder.volumes.create(1, volume_type="disk")
    wait_until(lambda: cinder.volumes.get(volume.id).status == "available", "the attached volume")
    return str(cinder.attachments.create(volume.id, CONNECTOR)["connection_info"]["uri"])


def run(reloads: int, rate: float, slow: int, pause_s: float) -> None:
    daemon, groups = build(slow)
    with daemon:
        uri = prepare(daemon)
        load = Load(daemon)
        load.start(rate, slow, uri)
        time.sleep(SLOW_S)
        calm_from = time.monotonic()
        time.sleep(reloads * pause_s)
        calm_to = time.monotonic()
        times, windows = [], []
        for number in range(1, reloads + 1):
            groups["disk"]["reserved_percentage"] = number % 5
            configure(daemon, groups, slow)
            begun = time.monotonic()
            times.append(reload_once(daemon))
            windows.append((begun - 0.05, time.monotonic() + 0.2))
            time.sleep(pause_s)
        load.end()
        lost = wait_for_all(load)
        report(load, times, windows, (calm_from, calm_to), lost)


def wait_for_all(load: Load) -> int:
    """How many accepted creates did not end as 'available'."""
    cinder = load.daemon.cinder()

    def left() -> list[str]:
        statuses = {volume.id: volume.status for volume in cinder.volumes.list(search_opts={"all_tenants": 1})}
        return [volume for volume in load.created if statuses.get(volume) != "available"]

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not left(), "every create to end", 120, 0.5)
    return len(left())


def report(
    load: Load, times: list[float], windows: list[tuple[float, float]], calm: tuple[float, float], lost: int
) -> None:
    def in_reload(request: Request) -> bool:
        return any(start <= request.at + request.took_s and request.at <= end for start, end in windows)

    during = [r.took_s for r in load.requests if in_reload(r)]
    without = [r.took_s for r in load.requests if calm[0] <= r.at <= calm[1]]
    bad = [r.status for r in load.requests if not 200 <= r.status < 300]
    rows = [
        ("reloads", f"{len(times)}"),
        ("SIGHUP to applied: median, max", f"{statistics.median(times):.3f} s, {max(times):.3f} s"),
        ("requests in all, not answered 2xx", f"{len(load.requests)}, {len(bad)} {sorted(set(bad)) or ''}"),
        ("operations accepted, not done", f"{len(load.created)}, {lost}"),
        ("writes of the attached client, errors", f"{load.writes}, {len(load.write_errors)}"),
        ("requests during a reload / without", f"{len(during)} / {len(without)}"),
        ("  median", f"{statistics.median(during) * 1000:.1f} ms / {statistics.median(without) * 1000:.1f} ms"),
        ("  slowest", f"{max(during) * 1000:.1f} ms / {max(without) * 1000:.1f} ms"),
        ("  slowest, ratio", f"{max(during) / max(without):.2f}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name.ljust(width)}  {value}")
    for error, count in load.errors.most_common(5):
        print(f"{count} times: {error}")


def usage(pid: int) -> tuple[float, int, int]:
    proc = pathlib.Path(f"/proc/{pid}")
    rss = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(rss.split()[1]) / 1024, len(os.listdir(proc / "task")), len(os.listdir(proc / "fd"))


def soak(count: int, rate: float, slow: int) -> None:
    daemon, groups = build(slow)
    with daemon:
        uri = prepare(daemon)
        load = Load(daemon)
        load.start(rate, slow, uri)
        print("reloads   RSS MiB   threads   files")
        for number in range(count + 1):
            if number % max(1, count // 10) == 0:
                rss, threads, files = usage(daemon.pid)
                print(f"{number:7d}   {rss:7.1f}   {threads:7d}   {files:5d}", flush=True)
            groups["disk"]["reserved_percentage"] = number % 5
            configure(daemon, groups, slow)
            reload_once(daemon)
        load.end()
        lost = wait_for_all(load)
        bad = [r.status for r in load.requests if not 200 <= r.status < 300]
        print(f"{len(load.requests)} requests, {len(bad)} not 2xx; {len(load.created)} operations, {lost} not done; ")
        print(f"{load.writes} writes of the attached client, {len(load.write_errors)} errors")
        for error, count in load.errors.most_common(5):
            print(f"{count} times: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--slow", type=int, default=20, help="slow operations in flight")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between reloads")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="N reloads in a row under load instead")
    parser.add_argument("--quick", action="store_true", help="5 reloads, short pauses")
    args = parser.parse_args()
    if args.soak:
        soak(args.soak, args.rate, args.slow)
    elif args.quick:
        run(5, args.rate, args.slow, 0.5)
    else:
        run(args.reloads, args.rate, args.slow, args.pause)
    return 0


if __name__ == "__main__":
    sys.exit(main())
