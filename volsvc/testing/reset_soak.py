"""Random resets beside everything else that is asked of volumes, daemons killed now and then; then all must agree.

A round is a burst of requests from several threads at a few volumes, often cut by kill -9, or beside a reload
or an outage of the storage.  When it is over and the daemons have finished what was recorded, ``Agreement``
is asked.  Tests run some rounds, the benchmark many; a seed gives the same requests again, though not the
same moments.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import random
import signal
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.drivers.marker import MARKER_NAME
from volsvc.ports import Query
from volsvc.testing.agreement import Agreement, Clients
from volsvc.testing.daemon import Daemon, wait_until

CONNECTOR = {"host": "soak", "ip": "127.0.0.1", "initiator": "iqn.soak", "os_type": "linux", "platform": "x86_64"}
OPEN = Query(filters={"state": ["queued", "running"]})
SETTLE_S = 90.0
CUT = -1  # instead of an HTTP status: the daemon died before it answered

RESETS = 4  # in a round, from one thread
STEPS = 4  # of each of the others
OTHERS = 3
VOLUMES = 4
MAX_GB = 40
KILLS, RELOADS, OUTAGES = 0.3, 0.2, 0.2  # of the rounds
OPTIONS = {"backend_stats_polling_interval": 1}  # of the daemons, so that a lost backend is soon back

Step = tuple[str, str, random.Random]  # what, of which volume, and its choices


class SoakFailed(AssertionError):
    """Something doesn't agree; the text says what, and what had been asked."""


@dataclass
class Tally:
    """What was asked and answered: ``answers`` by (request, HTTP status), ``refusals`` in words."""

    rounds: int = 0
    kills: int = 0
    reloads: int = 0
    outages: int = 0
    answers: collections.Counter[tuple[str, int]] = field(default_factory=collections.Counter)
    refusals: collections.Counter[str] = field(default_factory=collections.Counter)
    longest_s: float = 0.0

    def count(self, what: str, *statuses: int) -> int:
        """How many requests that begin so, with those answers or any."""
        return sum(
            number
            for (name, status), number in self.answers.items()
            if name.startswith(what) and (not statuses or status in statuses)
        )


class ResetSoak:
    """``api`` serves the requests and ``daemon`` the storage, both started on one directory; they may be one.

    On the embedded default (the file driver, NBD exports, SQLite) and ``OPTIONS``.
    """

    def __init__(self, api: Daemon, daemon: Daemon, seed: int) -> None:
        self._api = api
        self._daemon = daemon
        self._rng = random.Random(seed)
        self._store = SqlStore(create_engine(f"sqlite:///{daemon.state}/volsvc.sqlite"))
        self._guard = threading.Lock()
        self._volumes: list[str] = []
        self._clients = Clients()
        self._agreement = Agreement(self._store, daemon, self._inspect, self._clients)
        self._words: list[str] = []
        self.tally = Tally()

    def run(self, rounds: int) -> Tally:
        """Raises ``SoakFailed`` after the first round that leaves something wrong."""
        for _ in range(rounds):
            self._words = []
            self._fill()
            self._round()
            self._settle()
            wrong = self._agreement.find_wrong()
            if wrong:
                raise self._failed(wrong)
            self.tally.rounds += 1
        return self.tally

    def close(self) -> None:
        """Hang up all clients."""
        self._clients.close()

    # -- a round --------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Have as many volumes as a round needs: new ones for those that are gone or too big."""
        sizes = {volume.id: volume.size_gb for volume in self._store.list_volumes(Query()).items}
        self._volumes = [volume_id for volume_id in self._volumes if sizes.get(volume_id, MAX_GB) < MAX_GB]
        while len(self._volumes) < VOLUMES:
            body = {"volume": {"size": 1, "multiattach": self._rng.random() < 0.5}}
            status, answer = self._call("POST", "/volumes", body)
            if status != 202:
                raise SoakFailed(f"no volume could be made: {status} {answer}")
            self._volumes.append(str(answer["volume"]["id"]))
        for volume_id in self._volumes:
            wait_until(
                lambda i=volume_id: self._store.get_volume(i).status != "creating",  # type: ignore[misc]
                "a new volume",
                SETTLE_S,
            )

    def _round(self) -> None:
        plans = [self._plan(["available", "in-use"], [3, 2], RESETS)]
        others = ["attach", "detach", "extend", "delete"]
        plans += [self._plan(others, [9, 3, 2, 1], STEPS) for _ in range(OTHERS)]
        threads = [threading.Thread(target=self._follow, args=(plan,), name="soak", daemon=True) for plan in plans]
        disturb = self._choose_disturbance()
        for thread in threads:
            thread.start()
        disturb()
        for thread in threads:
            thread.join(SETTLE_S)
            if thread.is_alive():
                raise self._failed(["a request has not been answered"])

    def _take_storage_away(self, moment_s: float, away_s: float) -> None:
        """By its marker: the backend is lost, and initialised again beside what runs."""
        time.sleep(moment_s)
        self.tally.outages += 1
        self._note(f"the storage is away for {away_s} s, {moment_s:.3f} s after the start")
        marker, away = self._daemon.volumes / MARKER_NAME, self._daemon.root / "marker"
        marker.rename(away)
        time.sleep(away_s)
        away.rename(marker)

    def _choose_disturbance(self) -> Callable[[], None]:
        draw, moment_s = self._rng.random(), self._rng.uniform(0, 0.25)
        victims = [self._daemon]
        if self._api is not self._daemon:
            victims = self._rng.choice([[self._daemon], [self._daemon], [self._api], [self._api, self._daemon]])
        away_s = self._rng.choice([0.0, 0.05, 0.3])
        if draw < KILLS:
            return lambda: self._kill(victims, moment_s, away_s)
        if draw < KILLS + RELOADS:
            return lambda: self._reload(moment_s)
        if draw < KILLS + RELOADS + OUTAGES:
            return lambda: self._take_storage_away(moment_s, away_s)
        return lambda: None

    def _kill(self, victims: list[Daemon], moment_s: float, away_s: float) -> None:
        time.sleep(moment_s)
        for victim in victims:
            victim.kill()
        self.tally.kills += 1
        self._note(f"killed {' and '.join(victim.program for victim in victims)}, {moment_s:.3f} s after the start")
        time.sleep(away_s)
        for victim in victims:
            victim.start()

    def _reload(self, moment_s: float) -> None:
        """Give the backend another driver."""
        time.sleep(moment_s)
        self.tally.reloads += 1
        self._daemon.configure(OPTIONS, {"file": {"reserved_percentage": self.tally.reloads % 10}})
        self._daemon.signal(signal.SIGHUP)
        self._note(f"reloaded, {moment_s:.3f} s after the start")

    def _plan(self, wanted: list[str], weights: list[int], count: int) -> list[Step]:
        """Half of what one thread asks is about one volume."""
        favourite = self._rng.choice(self._volumes)
        plan = []
        for what in self._rng.choices(wanted, weights, k=count):
            volume_id = favourite if self._rng.random() < 0.5 else self._rng.choice(self._volumes)
            plan.append((what, volume_id, random.Random(self._rng.random())))
        return plan

    def _follow(self, plan: list[Step]) -> None:
        steps: dict[str, Callable[[str, random.Random], object]] = {
            "available": lambda volume_id, _: self._reset(volume_id, "available"),
            "in-use": lambda volume_id, _: self._reset(volume_id, "in-use"),
            "attach": self._attach,
            "detach": self._detach,
            "extend": self._extend,
            "delete": lambda volume_id, _: self._ask("delete", "DELETE", f"/volumes/{volume_id}"),
        }
        for what, volume_id, rng in plan:
            time.sleep(rng.choice([0, 0, rng.uniform(0, 0.05)]))
            steps[what](volume_id, rng)

    # -- requests -------------------------------------------------------------------------------

    def _reset(self, volume_id: str, status: str) -> None:
        body = {"os-reset_status": {"status": status}}
        self._ask(f"reset to {status}", "POST", f"/volumes/{volume_id}/action", body)

    def _attach(self, volume_id: str, rng: random.Random) -> None:
        mode = rng.choice(["rw", "rw", "ro"])
        body = {"attachment": {"volume_uuid": volume_id, "connector": CONNECTOR, "mode": mode}}
        status, answer = self._ask("attach", "POST", "/attachments", body)
        if status != 200:
            return
        attachment = answer["attachment"]
        self._clients.connect(attachment["id"], volume_id, attachment["connection_info"]["uri"])
        if rng.random() < 0.7:
            self._ask("complete", "POST", f"/attachments/{attachment['id']}/action", {"os-complete": None})

    def _detach(self, volume_id: str, rng: random.Random) -> None:
        status, answer = self._ask("list", "GET", f"/attachments?volume_id={volume_id}")
        if status == 200 and answer["attachments"]:
            self._ask("detach", "DELETE", f"/attachments/{rng.choice(answer['attachments'])['id']}")

    def _extend(self, volume_id: str, rng: random.Random) -> None:
        status, answer = self._ask("show", "GET", f"/volumes/{volume_id}")
        if status == 200:
            body = {"os-extend": {"new_size": answer["volume"]["size"] + 1}}
            self._ask("extend", "POST", f"/volumes/{volume_id}/action", body)

    def _inspect(self, volume_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"/volumes/{volume_id}/inspect")[1]["inspection"])

    def _ask(self, what: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        started = time.monotonic()
        status, answer = CUT, None
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = self._call(method, path, body)
        took_s = time.monotonic() - started
        refusal = str(next(iter(answer.values()))["message"]) if answer and status >= 400 else ""
        with self._guard:
            self.tally.answers[what, status] += 1
            self.tally.longest_s = max(self.tally.longest_s, took_s)
            if refusal:
                self.tally.refusals[_without_ids(f"{what}: {status} {refusal}")] += 1
        self._note(f"{what} {path}: {status} after {took_s:.3f} s {refusal}")
        return status, answer

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        address = urllib.parse.urlsplit(self._api.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=SETTLE_S)
        headers = {"Content-Type": "application/json", "OpenStack-API-Version": "volume 3.71"}
        try:
            connection.request(method, f"/v3/soak{path}", None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return response.status, json.loads(text) if text else None

    # -- afterwards -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Until nothing is queued or running."""
        self._api.wait_ready(SETTLE_S)
        try:
            wait_until(lambda: not self._store.list_operations(OPEN).items, "every operation to end", SETTLE_S)
        except TimeoutError:
            left = self._store.list_operations(OPEN).items
            raise self._failed([f"{o.action} of {o.resource_id} is {o.state}: {o.error}" for o in left]) from None

    def _note(self, words: str) -> None:
        with self._guard:
            self._words.append(f"{time.strftime('%H:%M:%S')} {words}")

    def _failed(self, wrong: list[str]) -> SoakFailed:
        newest = self._store.list_operations(Query(sort=(("seq", "desc"),), limit=80)).items
        lines = [*("WRONG:", *wrong), f"ASKED, in round {self.tally.rounds}:", *self._words, "RECORDED, newest first:"]
        for o in newest:
            result = dict(o.result) if o.action == "volume_reset" else ""
            lines.append(
                f"{o.seq} {o.action} {o.resource_id} of {o.second_id}: {o.state}, epoch {o.claim_epoch}, "
                f"attempts {o.attempts}, was {o.previous_status}, {o.error or ''} {result}"
            )
        return SoakFailed("\n".join(lines))


def _without_ids(words: str) -> str:
    return " ".join("ID" if part.count("-") == 4 else part for part in words.split())[:160]
