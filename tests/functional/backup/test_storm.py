"""Everything that can be asked of backups, at once and at random, while the daemon is killed; then nothing is left."""

from __future__ import annotations

import collections
import http.client
import json
import pathlib
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.backup.backing import QUICK
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Query
from volsvc.testing.daemon import Daemon, wait_until

THREADS, KILLS = 4, 5
BETWEEN_KILLS_S = (0.5, 3.0)
VOLUMES, BACKUPS, SNAPSHOTS = 4, 16, 5
CUT = -1  # instead of an HTTP status: the daemon died before it answered
REQUESTS = {"back up", "restore", "delete", "reset", "cancel", "snapshot", "attach", "create volume", "delete volume"}
OPEN = Query(filters={"state": ["queued", "running"]})
CONNECTOR = {"host": "storm", "ip": "127.0.0.1"}

Answer = tuple[int, Any]


class Storm:
    """Requests at a daemon that may die, from several threads; what was answered is kept."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._guard = threading.Lock()
        self.answers: collections.Counter[tuple[str, int]] = collections.Counter()
        self.wrong: list[str] = []
        self.is_over = threading.Event()

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {"Content-Type": "application/json", "OpenStack-API-Version": "volume 3.71"}
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self._daemon.url).netloc, timeout=60)
        try:
            connection.request(method, f"/v3/storm{path}", None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.is_over.wait(0.05)
            return CUT, None
        finally:
            connection.close()
        return response.status, json.loads(text) if text else None

    def ask(self, what: str, method: str, path: str, body: Any = None) -> Answer:
        status, answer = self.call(method, path, body)
        # A reset says so when the store hasn't the backup, or something doesn't stop for it.
        is_right = status < 500 or status == 503 or (what == "reset" and "was not reset" in str(answer))
        with self._guard:
            self.answers[what, status] += 1
            if not is_right:
                self.wrong.append(f"{what} {path}: {status} {answer}")
        return status, answer

    def find(self, collection: str) -> list[dict[str, Any]]:
        status, answer = self.call("GET", f"/{collection}" + ("/detail" if collection != "operations" else ""))
        return list(answer[collection]) if status == 200 else []

    def run(self, seed: int) -> None:
        """One thread's share of the requests."""
        rng = random.Random(seed)
        steps: list[Callable[[random.Random], None]] = [
            *(self._volume, self._snapshot, self._attachment, self._cancel),
            *(self._backup, self._backup, self._backup_of_snapshot, self._restore, self._delete, self._reset),
        ]
        while not self.is_over.is_set():
            rng.choice(steps)(rng)

    def answered(self) -> set[str]:
        """What was done at least once."""
        with self._guard:
            return {what for (what, status) in self.answers if 200 <= status < 300}

    # -- what is asked ---------------------------------------------------------------------

    def _pick(self, rng: random.Random, collection: str) -> str:
        found = self.find(collection)
        return str(rng.choice(found)["id"]) if found else "none"

    def _volume(self, rng: random.Random) -> None:
        if len(self.find("volumes")) < VOLUMES:
            self.ask("create volume", "POST", "/volumes", {"volume": {"size": 1}})
        elif rng.random() < 0.5:
            self.ask("delete volume", "DELETE", f"/volumes/{self._pick(rng, 'volumes')}")
        else:
            path = f"/volumes/{self._pick(rng, 'volumes')}/action"
            if rng.random() < 0.5:
                self.ask("delete volume", "POST", path, {"os-force_delete": {}})
            else:
                self.ask("reset", "POST", path, {"os-reset_status": {"status": "available"}})

    def _snapshot(self, rng: random.Random) -> None:
        if len(self.find("snapshots")) < SNAPSHOTS:
            self.ask("snapshot", "POST", "/snapshots", {"snapshot": {"volume_id": self._pick(rng, "volumes")}})
        else:
            self.ask("delete snapshot", "DELETE", f"/snapshots/{self._pick(rng, 'snapshots')}")

    def _attachment(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            body = {"attachment": {"volume_uuid": self._pick(rng, "volumes"), "connector": CONNECTOR}}
            self.ask("attach", "POST", "/attachments", body)
        else:
            self.ask("detach", "DELETE", f"/attachments/{self._pick(rng, 'attachments')}")

    def _cancel(self, rng: random.Random) -> None:
        going_on = [found["id"] for found in self.find("operations") if found["state"] in ("queued", "running")]
        if going_on:
            self.ask("cancel", "POST", f"/operations/{rng.choice(going_on)}/action", {"os-cancel": {}})

    def _backup(self, rng: random.Random) -> None:
        if len(self.find("backups")) < BACKUPS:
            body = {"backup": {"volume_id": self._pick(rng, "volumes"), "force": True}}
            self.ask("back up", "POST", "/backups", body)

    def _backup_of_snapshot(self, rng: random.Random) -> None:
        found = self.find("snapshots")
        if found and len(self.find("backups")) < BACKUPS:
            chosen = rng.choice(found)
            body = {"backup": {"volume_id": chosen["volume_id"], "snapshot_id": chosen["id"]}}
            status, answer = self.ask("back up", "POST", "/backups", body)
            if status == 202 and rng.random() < 0.5:
                self.ask("delete", "POST", f"/backups/{answer['backup']['id']}/action", {"os-force_delete": {}})

    def _restore(self, rng: random.Random) -> None:
        target = None if len(self.find("volumes")) < VOLUMES else self._pick(rng, "volumes")
        path = f"/backups/{self._pick(rng, 'backups')}"
        status, _ = self.ask("restore", "POST", f"{path}/restore", {"restore": {"volume_id": target}})
        if status == 202 and rng.random() < 0.3:
            self.ask("delete", "POST", f"{path}/action", {"os-force_delete": {}})

    def _delete(self, rng: random.Random) -> None:
        path = f"/backups/{self._pick(rng, 'backups')}"
        if rng.random() < 0.5:
            self.ask("delete", "DELETE", path)
        else:
            self.ask("delete", "POST", f"{path}/action", {"os-force_delete": {}})

    def _reset(self, rng: random.Random) -> None:
        body = {"os-reset_status": {"status": rng.choice(["available", "error"])}}
        self.ask("reset", "POST", f"/backups/{self._pick(rng, 'backups')}/action", body)


def is_up(daemon: Daemon) -> bool:
    return all(service.state == "up" for service in daemon.cinder().services.list())


def files_under(path: pathlib.Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_a_storm_nothing_goes_on_and_nothing_is_left(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(options=QUICK).start().wait_ready()
    before = {path: files_under(path) for path in (daemon.volumes, daemon.state / "backup")}
    store = SqlStore(create_engine(f"sqlite:///{daemon.state}/volsvc.sqlite"))
    storm = Storm(daemon)
    threads = [threading.Thread(target=storm.run, args=(number,), name=f"storm-{number}") for number in range(THREADS)]
    for thread in threads:
        thread.start()
    rng = random.Random(0)
    for _ in range(KILLS):
        time.sleep(rng.uniform(*BETWEEN_KILLS_S))  # not a wait: any moment is one to die in
        daemon.kill()
        daemon.start()
    wait_until(lambda: storm.answered() >= REQUESTS, "all to be asked", 60)
    storm.is_over.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: is_up(daemon), "the daemon to be ready")
    wait_until(lambda: not store.list_operations(OPEN).items, "everything to end", 90)

    assert storm.wrong == []
    assert store.list_stuck() == []
    temporary = [found for found in store.list_snapshots(Query()).items if (found.name or "").startswith("backup_")]
    assert temporary == []
    wait_until(lambda: not files_under(daemon.state / "backup-journals"), "the journals of all restores to go")

    for backup in store.list_backups(Query()).items:
        storm.ask("delete", "POST", f"/backups/{backup.id}/action", {"os-force_delete": {}})
    for attachment in store.list_attachments(Query()).items:
        storm.ask("detach", "DELETE", f"/attachments/{attachment.id}")
    for volume in store.list_volumes(Query()).items:
        storm.ask("delete volume", "POST", f"/volumes/{volume.id}/action", {"os-reset_status": {"status": "error"}})
        storm.ask("delete volume", "DELETE", f"/volumes/{volume.id}?cascade=true&force=true")
    wait_until(lambda: not store.list_operations(OPEN).items, "everything to be deleted", 60)
    left = [
        *store.list_backups(Query()).items,
        *store.list_snapshots(Query()).items,
        *store.list_volumes(Query()).items,
    ]
    assert left == []
    assert storm.wrong == []
    assert {path: files_under(path) for path in before} == before
