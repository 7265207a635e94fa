"""What a reset costs, and whether resets leave anything wrong behind.

Starts volsvc-all on the embedded default (file driver, an NBD exporter for each attached volume) in a private
directory and measures resets to available, answered when the storage has severed every connection: of a
volume without attachments, and with real clients connected.  Prints a table; ends by itself.

``--soak N`` instead does N random resets, unforced, to available or in-use, against attaches, detaches,
extends and deletes of the same volumes, with kill -9 of the daemons, reloads and outages of the storage now
and then: half of them with one daemon for all, half with the API in a process of its own.  After each round
all must agree.

    python bench/reset.py [--count 200] [--quick]
    python bench/reset.py --soak 1000 [--seed S]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import statistics
import sys
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.nbd_client import NbdClient
from volsvc.testing.reset_soak import CUT, OPTIONS, RESETS, ResetSoak, Tally

CONNECTOR = {"host": "bench", "ip": "127.0.0.1", "initiator": "bench", "os_type": "linux", "platform": "x86_64"}
MANY = 10


class Api:
    """One connection that stays open."""

    def __init__(self, url: str) -> None:
        address = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=90)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json", "OpenStack-API-Version": "volume 3.71"}
        self._connection.request(method, f"/v3/bench{path}", None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def create(self) -> str:
        body = {"volume": {"size": 1, "multiattach": True}}
        volume_id = str(self.ask("POST", "/volumes", body)["volume"]["id"])
        wait_until(lambda: self.status(volume_id) == "available", "the volume")
        return volume_id

    def status(self, volume_id: str) -> str:
        return str(self.ask("GET", f"/volumes/{volume_id}")["volume"]["status"])

    def attach(self, volume_id: str) -> NbdClient:
        body = {"attachment": {"volume_uuid": volume_id, "connector": CONNECTOR}}
        made = self.ask("POST", "/attachments", body)["attachment"]
        self.ask("POST", f"/attachments/{made['id']}/action", {"os-complete": None})
        return NbdClient.from_uri(made["connection_info"]["uri"])

    def reset(self, volume_id: str, status: str, **more: Any) -> None:
        self.ask("POST", f"/volumes/{volume_id}/action", {"os-reset_status": {"status": status, **more}})


def measure(
    count: int, prepare: Callable[[], Any], work: Callable[[], None], check: Callable[[Any], None]
) -> list[float]:
    """Milliseconds of each ``work``, sorted; what surrounds it isn't counted."""
    took = []
    for _ in range(count):
        made = prepare()
        started = time.perf_counter()
        work()
        took.append((time.perf_counter() - started) * 1000)
        check(made)
    return sorted(took)


def require_severed(clients: Sequence[NbdClient]) -> None:
    for client in clients:
        try:
            client.read(0, 512)
        except OSError:
            client.close()
        else:
            raise RuntimeError("a client still reads after the reset")


def run(count: int) -> None:
    rows: list[tuple[str, list[float]]] = []
    with Daemon() as daemon:
        daemon.start().wait_ready()
        api = Api(daemon.url)
        volume_id = api.create()

        def take(what: str, count: int, attachments: int, status: str, **more: Any) -> None:
            def prepare() -> list[NbdClient]:
                return [api.attach(volume_id) for _ in range(attachments)]

            times = measure(count, prepare, lambda: api.reset(volume_id, status, **more), require_severed)
            rows.append((what, times))

        take("warm up", 20, 0, "available")
        rows.clear()
        take("the record alone, to error", count, 0, "error")
        take("the record alone, to available with force skip", count, 0, "available", force="skip")
        take("to available, no attachment", count, 0, "available")
        take("to available, 1 client connected", max(1, count // 4), 1, "available")
        take(f"to available, {MANY} clients connected", max(1, count // 10), MANY, "available")
        code = daemon.stop()
    print_rows(rows)
    if code:
        raise RuntimeError(f"the daemon ended with {code}")


def print_rows(rows: Sequence[tuple[str, list[float]]]) -> None:
    load = os.getloadavg()[0]
    width = max(len(what) for what, _ in rows)
    print(f"{'reset'.ljust(width)}  count   p50 ms   p95 ms   max ms    (load {load:.1f} on {os.cpu_count()} cores)")
    for what, times in rows:
        p95 = times[min(len(times) - 1, round(len(times) * 0.95))]
        print(f"{what.ljust(width)}  {len(times):5d}  {statistics.median(times):7.2f}  {p95:7.2f}  {times[-1]:7.2f}")


def soak(resets: int, seed: int) -> None:
    half = -(-resets // RESETS) // 2
    print(f"seed {seed}")
    for name, rounds, api_program in (
        ("one daemon for all", half, None),
        ("the API in a process of its own", -(-resets // RESETS) - half, "volsvc-api"),
    ):
        started = time.monotonic()
        with Daemon(options=OPTIONS) as first:
            if api_program is None:
                api = daemon = first.start()
            else:
                daemon = Daemon(first.root, program="volsvc-volume")
                first.program = api_program
                api = first.start()
                daemon.start()
            try:
                api.wait_ready()
                run_soak = ResetSoak(api, daemon, seed)
                try:
                    tally = run_soak.run(rounds)
                finally:
                    run_soak.close()
            finally:
                daemon.end()
        report(name, tally, time.monotonic() - started)


def report(name: str, tally: Tally, took_s: float) -> None:
    others = sum(tally.answers.values()) - tally.count("reset")
    print(f"{name}: {took_s:.0f} s")
    rows = {
        "rounds": f"{tally.rounds}",
        "of them with kill -9, a reload, an outage": f"{tally.kills}, {tally.reloads}, {tally.outages}",
        "resets: done, refused, cut": f"{tally.count('reset', 202)}, {_refused(tally, 'reset')}, "
        f"{tally.count('reset', CUT)}",
        "other requests: refused, cut": f"{others}: {_refused(tally, '') - _refused(tally, 'reset')}, "
        f"{tally.count('', CUT) - tally.count('reset', CUT)}",
        "longest answer": f"{tally.longest_s:.1f} s",
        "disagreements, stuck volumes": "0, 0",
    }
    width = max(map(len, rows))
    for what, value in rows.items():
        print(f"  {what.ljust(width)}  {value}")
    for words, number in tally.refusals.most_common():
        if ": 5" in words:
            print(f"  {number} times {words}")


def _refused(tally: Tally, what: str) -> int:
    return sum(number for (name, status), number in tally.answers.items() if name.startswith(what) and status >= 400)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="resets of a kind")
    parser.add_argument("--quick", action="store_true", help="few resets, to see that it works")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="N random resets under load instead")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    args = parser.parse_args()
    if args.soak:
        soak(args.soak, args.seed)
    else:
        run(10 if args.quick else args.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
