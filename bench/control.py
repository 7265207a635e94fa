"""How quick the control path is: latencies, throughputs, start-up time and memory of one service.

Starts volsvc-all on the embedded default in a private directory, asks it with plain HTTP over
connections that stay open, from 1 and from 8 threads, and prints tables.  When work was done is read
from the operations' own times, so that no polling is in the figures.  Nothing is asserted.
It ends by itself; ``--quick`` takes some seconds and is too small for comparing releases.

Usage: python bench/control.py [--quick] [--count N] [--json]
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import os
import pathlib
import statistics
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from volsvc.testing.daemon import Daemon, wait_until

CONNECTOR = {"host": "bench", "ip": "127.0.0.1", "initiator": "bench", "os_type": "linux", "platform": "x86_64"}
LISTED = 100  # volumes that the list's answer holds
POLL_S = 0.02


@dataclass(frozen=True)
class Row:
    """One line: times in milliseconds, throughput in operations a second."""

    what: str
    threads: int
    count: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    per_s: float


@dataclass(frozen=True)
class Process:
    """What the daemon takes at one moment; sizes in MiB."""

    when: str
    rss_mib: float
    pss_mib: float
    threads: int
    open_files: int


class Api:
    """One client thread's connection."""

    def __init__(self, url: str) -> None:
        address = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json", "OpenStack-API-Version": "volume 3.71"}
        self._connection.request(method, f"/v3/bench{path}", None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.call(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def create(self) -> str:
        return str(self.ask("POST", "/volumes", {"volume": {"size": 1}})["volume"]["id"])

    def delete(self, volume_id: str) -> None:
        self.ask("DELETE", f"/volumes/{volume_id}")

    def wait_idle(self) -> None:
        for state in ("queued", "running"):
            path = f"/operations?state={state}&limit=1"
            wait_until(lambda p=path: not self.ask("GET", p)["operations"], "work to end", 120, POLL_S)

    def operations(self, action: str) -> list[dict[str, Any]]:
        """The newest operations of a kind, newest first."""
        found: list[dict[str, Any]] = self.ask("GET", f"/operations?action={action}&limit=1000")["operations"]
        return found

    def attach(self, volume_id: str) -> str:
        body = {"attachment": {"volume_uuid": volume_id, "connector": CONNECTOR}}
        return str(self.ask("POST", "/attachments", body)["attachment"]["id"])

    def detach(self, attachment_id: str) -> None:
        self.ask("DELETE", f"/attachments/{attachment_id}")


class Bench:
    """The measurements on one running service; ``count`` operations of a kind for each number of threads."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self.rows: list[Row] = []

    def run(self, threads: int) -> None:
        """Take ``count`` volumes through their life, each step by all threads at once."""
        count = self._count
        volumes = self._measure("create, answered", threads, count, lambda api, _: api.create())
        self._note_done("create, done", threads, "volume_create")
        self._measure("show", threads, count * 5, lambda api, i: api.ask("GET", f"/volumes/{volumes[i % count]}"))
        self._measure(f"list {LISTED} with details", threads, count, lambda api, _: list_volumes(api))
        attachments = self._measure("attach", threads, count, lambda api, i: api.attach(volumes[i]))
        self._measure("detach", threads, count, lambda api, i: api.detach(attachments[i]))
        self._measure("delete, answered", threads, count, lambda api, i: api.delete(volumes[i]))
        self._note_done("delete, done", threads, "volume_delete")

    def _note_done(self, what: str, threads: int, action: str) -> None:
        """A line of how long the work took that was just asked for, from its record to its end."""
        api = Api(self._url)
        api.wait_idle()
        spans = [
            (dt.datetime.fromisoformat(o["created_at"]), dt.datetime.fromisoformat(o["finished_at"]))
            for o in api.operations(action)[: self._count]
        ]
        took_ms = [(end - start).total_seconds() * 1000 for start, end in spans]
        elapsed = max(end for _, end in spans) - min(start for start, _ in spans)
        self.rows.append(summarise(what, threads, took_ms, elapsed.total_seconds()))

    def _measure(self, what: str, threads: int, count: int, work: Callable[[Api, int], Any]) -> list[Any]:
        """Do ``work`` for 0..count-1 from that many threads; returns what it returned, in order."""
        results: list[Any] = [None] * count
        took_ms: list[float] = [0.0] * count
        errors: list[BaseException] = []
        numbers = iter(range(count))
        guard = threading.Lock()
        barrier = threading.Barrier(threads + 1)

        def client() -> None:
            api = Api(self._url)
            api.ask("GET", "/limits")  # the connection is open before the clock runs
            barrier.wait()
            while not errors:
                with guard:
                    number = next(numbers, None)
                if number is None:
                    return
                started = time.perf_counter()
                try:
                    results[number] = work(api, number)
                except BaseException as error:
                    errors.append(error)
                    return
                took_ms[number] = (time.perf_counter() - started) * 1000

        clients = [threading.Thread(target=client, name=f"client-{i}", daemon=True) for i in range(threads)]
        for thread in clients:
            thread.start()
        barrier.wait()
        started = time.perf_counter()
        for thread in clients:
            thread.join()
        elapsed_s = time.perf_counter() - started
        if errors:
            raise errors[0]
        self.rows.append(summarise(what, threads, took_ms, elapsed_s))
        return results


def list_volumes(api: Api) -> None:
    found = len(api.ask("GET", f"/volumes/detail?limit={LISTED}")["volumes"])
    if found != LISTED:
        raise RuntimeError(f"the list has {found} volumes instead of {LISTED}")


def summarise(what: str, threads: int, took_ms: Sequence[float], elapsed_s: float) -> Row:
    ordered = sorted(took_ms)
    p95 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.95))]
    return Row(
        what,
        threads,
        len(ordered),
        round(statistics.median(ordered), 2),
        round(p95, 2),
        round(ordered[-1], 2),
        round(len(ordered) / elapsed_s, 1),
    )


def measure_process(when: str, pid: int) -> Process:
    """From proc(5): smaps_rollup has the proportional share of what is mapped."""
    root = pathlib.Path(f"/proc/{pid}")
    fields: dict[str, int] = {}
    for file in ("status", "smaps_rollup"):
        for line in (root / file).read_text().splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdigit():
                fields[name] = int(words[0])
    return Process(
        when,
        round(fields["VmRSS"] / 1024, 1),
        round(fields["Pss"] / 1024, 1),
        fields["Threads"],
        len(os.listdir(root / "fd")),
    )


def start_and_time(daemon: Daemon) -> dict[str, float]:
    """Seconds from the process's start to its API's first answer and to its backend being ready."""
    started = time.perf_counter()
    daemon.start()
    api_s = time.perf_counter() - started
    api = Api(daemon.url)
    wait_until(
        lambda: all(s["state"] == "up" for s in api.ask("GET", "/os-services")["services"]),
        "the backend to be ready",
        pause_s=0.002,
    )
    return {"serving_s": round(api_s, 3), "ready_s": round(time.perf_counter() - started, 3)}


def print_table(rows: Sequence[Any]) -> None:
    columns = list(asdict(rows[0]))
    cells = [columns, *([str(value) for value in asdict(row).values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print(
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        )
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run of some seconds, to see that it works")
    parser.add_argument("--count", type=int, help="operations of each kind (default 200, with --quick 20)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    count = args.count or (20 if args.quick else 200)
    processes = []
    with Daemon() as daemon:
        starts = [start_and_time(daemon)]
        daemon.stop()
        starts.append(start_and_time(daemon))  # the second one finds its schema and its files
        processes.append(measure_process("idle", daemon.pid))
        fill = Api(daemon.url)
        for _ in range(LISTED):
            fill.create()
        fill.wait_idle()
        bench = Bench(daemon.url, count)
        for threads in (1, 8):
            bench.run(threads)
            processes.append(measure_process(f"after {threads} thread{'s' if threads > 1 else ''}", daemon.pid))
        stopped = time.perf_counter()
        code = daemon.stop()
        stop_s = round(time.perf_counter() - stopped, 3)
    if args.json:
        rows = [asdict(row) for row in bench.rows]
        print(
            json.dumps({"starts": starts, "stop_s": stop_s, "rows": rows, "processes": [asdict(p) for p in processes]})
        )
        return code
    print_table(bench.rows)
    print_table(processes)
    for name, start in zip(("first start", "second start"), starts, strict=True):
        print(f"{name}: serving after {start['serving_s']:.2f} s, backend ready after {start['ready_s']:.2f} s")
    print(f"stop: {stop_s:.2f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
