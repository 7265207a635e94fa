"""How soon a backend serves again, and what dead backends cost the living.

1. Recovery: the directory of a file backend goes away and comes back at a random moment of the publish
   interval; the time runs from its return to the first new volume being available.  Waiting for the
   next publish, by 'service reinit', and by SIGHUP; for a backend that was down at the start and for
   one that was lost later.
2. Beside the dead: creates on a healthy backend of one daemon alone, and of one whose other backends
   fail and hang, in turns.
3. Idle: CPU and threads of a daemon whose backends all fail, and of one whose backends are all ready.

Real daemons on the embedded default in private directories.  Nothing is asserted.  It ends by itself;
``--quick`` takes less than a minute.

Usage: python bench/recovery.py [--quick] [--interval S] [--rounds N] [--creates N] [--backends N] [--idle S]
       [--only recovery|neighbours|idle]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from volsvc.testing.daemon import Daemon, wait_until

BIN = pathlib.Path(sys.executable).parent
POLL_S = 0.005
RETRY_S = 0.05  # gentle, or the asking itself slows what is waited for
TICKS = os.sysconf("SC_CLK_TCK")

Table = list[tuple[str, ...]]


class Client:
    """One connection that stays open."""

    def __init__(self, url: str) -> None:
        address = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json", "OpenStack-API-Version": "volume 3.71"}
        self._connection.request(method, f"/v3/bench{path}", None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None

    def states(self) -> dict[str, str]:
        services = self.call("GET", "/os-services")[1]["services"]
        return {service["host"].partition("@")[2]: service["volsvc:init_state"] for service in services}

    def wait_states(self, *states: str) -> None:
        wait_until(lambda: set(self.states().values()) <= set(states), f"every backend to be {states}", 120, POLL_S)

    def create(self, *, retry: bool = False) -> tuple[float, float]:
        """Make a volume; returns the seconds until the answer and until it was available.

        ``retry``: ask again while no backend can take it.
        """
        started = time.perf_counter()
        while True:
            status, answer = self.call("POST", "/volumes", {"volume": {"size": 1}})
            if status == 202:
                break
            if not retry or status != 503:
                raise RuntimeError(f"POST /volumes: {status} {answer}")
            time.sleep(RETRY_S)
        answered = time.perf_counter()
        path = f"/volumes/{answer['volume']['id']}"
        while self.call("GET", path)[1]["volume"]["status"] != "available":
            time.sleep(POLL_S)
        return answered - started, time.perf_counter() - started


def make_daemon(groups: Mapping[str, Mapping[str, Any]], **options: Any) -> Daemon:
    daemon = Daemon(options={})
    paths = {name: dict(group) for name, group in groups.items()}
    for name, group in paths.items():
        if not group:
            group["file_store_path"] = daemon.root / name
    daemon.configure({"enabled_backends": ",".join(groups), "reinit_driver_count": 0, **options}, paths)
    return daemon


# -- 1. recovery ------------------------------------------------------------------------------


def wait_for_publish(daemon: Daemon, interval_s: float) -> None:
    time.sleep(random.uniform(0, interval_s))


def manage(daemon: Daemon, *arguments: str) -> None:
    command = [str(BIN / "volsvc-manage"), "--config-file", str(daemon.config), *arguments]
    subprocess.run(command, capture_output=True, timeout=60, check=False)


def reinit(daemon: Daemon, interval_s: float) -> None:
    threading.Thread(target=manage, args=(daemon, "service", "reinit", "node@disk")).start()


def hang_up(daemon: Daemon, interval_s: float) -> None:
    daemon.signal(signal.SIGHUP)


def measure_recovery(interval_s: int, long_s: int, rounds: int) -> Table:
    """Seconds from the storage's return to the first volume, by how the daemon hears of it."""
    rows: Table = [("how it is noticed", "was", "rounds", "interval", "median", "worst", "worst / interval")]
    cases: list[tuple[str, Callable[[Daemon, float], None], int]] = [
        ("the next publish", wait_for_publish, interval_s),
        ("service reinit", reinit, long_s),
        ("SIGHUP", hang_up, long_s),
    ]
    for what, act, pause_s in cases:
        with make_daemon({"disk": {}}, backend_stats_polling_interval=pause_s, backend_loss_threshold=1) as daemon:
            disk, away = daemon.root / "disk", daemon.root / "away"
            disk.mkdir()
            daemon.start()
            Client(daemon.url).wait_states("ready")
            retrying: list[float] = []
            lost: list[float] = []
            for _ in range(rounds):
                daemon.stop()
                disk.rename(away)
                daemon.start()
                client = Client(daemon.url)
                client.wait_states("retrying")
                retrying.append(_back(daemon, act, pause_s))
                client = Client(daemon.url)
                disk.rename(away)
                # Asking for a volume is what notices it before the next publish.
                client.call("POST", "/volumes", {"volume": {"size": 1}})
                client.wait_states("lost")
                _wait_failed(daemon, client)
                lost.append(_back(daemon, act, pause_s))
            for state, took in (("retrying", retrying), ("lost", lost)):
                rows.append(
                    (
                        what,
                        state,
                        str(rounds),
                        f"{pause_s} s",
                        f"{statistics.median(took):.2f} s",
                        f"{max(took):.2f} s",
                        f"{max(took) / pause_s:.3f}",
                    )
                )
    rows.append(("('service list' alone)", "", str(rounds), "", *_start_of_the_command(rounds), ""))
    return rows


def _start_of_the_command(rounds: int) -> tuple[str, str]:
    """What starting a tool takes by itself, median and worst: it is in the figures of reinit."""
    took = []
    with make_daemon({"disk": {}}) as daemon:
        daemon.start()
        for _ in range(rounds):
            started = time.perf_counter()
            manage(daemon, "service", "list")
            took.append(time.perf_counter() - started)
    return f"{statistics.median(took):.2f} s", f"{max(took):.2f} s"


def _wait_failed(daemon: Daemon, client: Client) -> None:
    """Until the attempt that follows a loss at once, if there is one, has failed as well."""

    def look() -> bool:
        (service,) = client.call("GET", "/os-services")[1]["services"]
        return bool(service["volsvc:init_attempts"]) or daemon_flaps(service)

    def daemon_flaps(service: Mapping[str, Any]) -> bool:
        return service["volsvc:init_step"] == "operation"

    wait_until(look, "the loss to be settled", 120, POLL_S)


def _back(daemon: Daemon, act: Callable[[Daemon, float], None], pause_s: float) -> float:
    """Bring the storage back; seconds until a volume is there."""
    if act is wait_for_publish:
        act(daemon, pause_s)
    client = Client(daemon.url)  # the server has closed one that said nothing for so long
    client.states()
    (daemon.root / "away").rename(daemon.root / "disk")
    started = time.perf_counter()
    if act is not wait_for_publish:
        act(daemon, pause_s)
    client.create(retry=True)
    return time.perf_counter() - started


# -- 2. beside the dead ---------------------------------------------------------------------------


def fake_group(root: pathlib.Path, name: str, rules: Mapping[str, Any]) -> dict[str, Any]:
    script = root / f"{name}.json"
    script.write_text(json.dumps(rules))
    return {"volume_driver": "fake", "target_helper": "fake", "fake_script_path": script}


def measure_neighbours(count: int) -> Table:
    """Milliseconds of a create, alone and beside backends that fail each second, fail slowly, and hang."""
    alone = make_daemon({"good": {}}, backend_stats_polling_interval=1)
    beside = make_daemon({"good": {}}, backend_stats_polling_interval=1)
    dead = {
        "failing": {"do_setup": {"fail": True, "error": "BackendUnavailable"}},
        "slow": {"check_for_setup_error": {"fail": True, "delay_s": 0.5}},
        "hanging": {"do_setup": {"hang": True}},
    }
    groups: dict[str, dict[str, Any]] = {"good": {"file_store_path": beside.root / "good"}}
    groups |= {name: fake_group(beside.root, name, rules) for name, rules in dead.items()}
    beside.configure(
        {
            "enabled_backends": ",".join(groups),
            "reinit_driver_count": 0,
            "backend_stats_polling_interval": 1,
            "driver_init_timeout": 2,
        },
        groups,
    )
    took: dict[str, list[tuple[float, float]]] = {"alone": [], "beside": []}
    try:
        clients = {}
        for name, daemon in (("alone", alone), ("beside", beside)):
            (daemon.root / "good").mkdir()
            daemon.start()
            clients[name] = Client(daemon.url)
            wait_until(lambda c=clients[name]: c.states().get("good") == "ready", "the good backend")  # type: ignore[misc]
        for client in clients.values():
            for _ in range(5):
                client.create()
        for number in range(count):
            # In turns and the other way round each time, so that neither has the quieter machine.
            for name in ("alone", "beside") if number % 2 else ("beside", "alone"):
                took[name].append(clients[name].create())
    finally:
        alone.end()
        beside.end()
    rows: Table = [("create", "count", "alone p50", "beside 3 dead p50", "ratio p50", "ratio mean")]
    for index, what in ((0, "answered"), (1, "available")):
        a, b = ([pair[index] * 1000 for pair in took[name]] for name in ("alone", "beside"))
        p50 = statistics.median(a), statistics.median(b)
        mean = statistics.fmean(b) / statistics.fmean(a)
        row = (what, str(count), f"{p50[0]:.2f} ms", f"{p50[1]:.2f} ms", f"{p50[1] / p50[0]:.2f}", f"{mean:.2f}")
        rows.append(row)
    return rows


# -- 3. idle ------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def status_of(pid: int, name: str) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


def measure_idle(backends: int, duration_s: float) -> Table:
    """CPU of a daemon at the default intervals that nobody asks anything of."""
    rows: Table = [("backends", "state", "over", "CPU of a core", "threads", "MiB")]
    for state in ("retrying", "ready"):
        names = [f"b{number}" for number in range(backends)]
        with make_daemon({name: {} for name in names}) as daemon:
            if state == "ready":
                for name in names:
                    (daemon.root / name).mkdir()
            daemon.start()
            Client(daemon.url).wait_states(state)
            before, started = cpu_s(daemon.pid), time.monotonic()
            time.sleep(duration_s)
            used, passed = cpu_s(daemon.pid) - before, time.monotonic() - started
            threads, memory = status_of(daemon.pid, "Threads"), status_of(daemon.pid, "VmRSS") / 1024
        row = (str(backends), state, f"{passed:.0f} s", f"{used / passed:.2%}", str(threads), f"{memory:.0f}")
        rows.append(row)
    return rows


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small figures, for seeing that it works")
    parser.add_argument("--interval", type=int, help="publish interval in seconds (default 10)")
    parser.add_argument("--rounds", type=int, help="outages for each row (default 6)")
    parser.add_argument("--creates", type=int, help="volumes made on each daemon (default 300)")
    parser.add_argument("--backends", type=int, help="backends of the idle daemon (default 20)")
    parser.add_argument("--idle", type=float, help="seconds to look at it (default 130)")
    parser.add_argument("--only", choices=("recovery", "neighbours", "idle"), help="one of the three")
    args = parser.parse_args()
    defaults = (2, 2, 30, 20, 8.0) if args.quick else (10, 6, 300, 20, 130.0)
    names = ("interval", "rounds", "creates", "backends", "idle")
    interval_s, rounds, creates, backends, idle_s = (
        getattr(args, name) or default for name, default in zip(names, defaults, strict=True)
    )
    if args.only in (None, "recovery"):
        rows = measure_recovery(interval_s, 60, rounds)
        print_table("From 'the storage is back' to 'a new volume is available'", rows)
    if args.only in (None, "neighbours"):
        print_table("A create on a healthy backend", measure_neighbours(creates))
    if args.only in (None, "idle"):
        print_table("A daemon that nobody asks anything of, at the default intervals", measure_idle(backends, idle_s))
    print(f"\nload of this machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
