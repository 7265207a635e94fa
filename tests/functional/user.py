"""A user of a running service: real clients, and the waiting that a user does.

Tests say what a user does and sees; what is read behind the user's back (files, exporters) is in
``State``, to compare before and after.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volsvc.testing.daemon import Daemon, exporters_under, wait_until
from volsvc.testing.nbd_client import NbdClient

MIB = 1024**2
GIB = 1024**3
CONNECTOR = {"host": "client", "ip": "127.0.0.1", "initiator": "iqn.test", "os_type": "linux", "platform": "x86_64"}
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Connection:
    """An attachment as its client holds it."""

    id: str
    uri: str

    def open(self) -> NbdClient:
        return NbdClient.from_uri(self.uri)

    def read(self, offset: int, length: int) -> bytes:
        with self.open() as nbd:
            return nbd.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        with self.open() as nbd:
            nbd.write(offset, data)
            nbd.flush()


@dataclass(frozen=True)
class State:
    """All that a request may change: records of every project, files, exporters."""

    volumes: dict[str, dict[str, Any]]
    snapshots: dict[str, dict[str, Any]]
    attachments: dict[str, dict[str, Any]]
    operations: frozenset[str]
    files: dict[str, int]
    exporters: frozenset[int]

    def stuck(self) -> list[str]:
        """Resources in a status that only a running operation explains."""
        rows = {**self.volumes, **self.snapshots, **self.attachments}
        return [f"{key} is {row['status']}" for key, row in rows.items() if is_passing(row["status"])]


class User:
    """One project on one service."""

    def __init__(self, daemon: Daemon, project: str = "demo") -> None:
        self.daemon = daemon
        self.project = project
        self.cinder = daemon.cinder(project)

    # -- raw HTTP ---------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, version: str = "3.71") -> tuple[int, Any]:
        """One request without a client's opinion on it: status and decoded body."""
        address = urllib.parse.urlsplit(self.daemon.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=90)
        headers = {
            "X-Auth-Token": f"{self.project}:{self.project}",
            "Content-Type": "application/json",
            "OpenStack-API-Version": f"volume {version}",
        }
        try:
            raw = body if isinstance(body, str) or body is None else json.dumps(body)
            connection.request(method, f"/v3/{self.project}{path}", raw, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return response.status, json.loads(text) if text else None

    def get(self, path: str) -> Any:
        status, body = self.call("GET", path)
        assert status == 200, body
        return body

    # -- what a user does -------------------------------------------------------------

    def create(self, size_gb: int | None = 1, **fields: Any) -> Any:
        """A volume that is available."""
        return self.wait_volume(self.cinder.volumes.create(size_gb, **fields).id)

    def snapshot(self, volume: Any, **fields: Any) -> Any:
        """A snapshot that is available."""
        made = self.cinder.volume_snapshots.create(volume.id, force=True, **fields)
        return self.wait_snapshot(made.id)

    def connect(self, volume: Any, *, mode: str = "rw", complete: bool = True) -> Connection:
        made = self.cinder.attachments.create(volume.id, {**CONNECTOR, "mode": mode}, mode=mode)
        if complete:
            self.cinder.attachments.complete(made["id"])
        return Connection(made["id"], made["connection_info"]["uri"])

    def disconnect(self, connection: Connection) -> None:
        self.cinder.attachments.delete(connection.id)

    # -- waiting ------------------------------------------------------------------------

    def wait_volume(self, volume_id: str, status: str = "available", timeout_s: float = DEADLINE_S) -> Any:
        return self._wait(self.cinder.volumes, volume_id, status, timeout_s)

    def wait_snapshot(self, snapshot_id: str, status: str = "available", timeout_s: float = DEADLINE_S) -> Any:
        return self._wait(self.cinder.volume_snapshots, snapshot_id, status, timeout_s)

    def _wait(self, manager: Any, item_id: str, status: str, timeout_s: float) -> Any:
        def look() -> Any:
            item = manager.get(item_id)
            if item.status.startswith("error") and not status.startswith("error"):
                raise AssertionError(f"{item_id} is {item.status}: {self.last_error(item_id)}")
            return item if item.status == status else None

        return wait_until(look, f"{item_id} to be {status}", timeout_s)

    def wait_gone(self, *items: Any, timeout_s: float = DEADLINE_S) -> None:
        """Until volumes or snapshots are deleted."""
        ids = {item.id for item in items}

        def look() -> bool:
            state = self.state()
            left = ids & (state.volumes.keys() | state.snapshots.keys())
            bad = [i for i in left if (state.volumes | state.snapshots)[i]["status"].startswith("error")]
            assert not bad, [self.last_error(i) for i in bad]
            return not left

        wait_until(look, f"{len(ids)} to be gone", timeout_s)

    def wait_idle(self, timeout_s: float = DEADLINE_S) -> None:
        """Until no operation of anybody is queued or running."""
        wait_until(lambda: not self.open_operations(), "every operation to end", timeout_s)

    # -- looking -------------------------------------------------------------------------

    def operations(self, resource_id: str) -> list[dict[str, Any]]:
        """What was asked of a resource, newest first."""
        found: list[dict[str, Any]] = self.get(f"/operations?all_tenants=1&resource_id={resource_id}")["operations"]
        return found

    def open_operations(self) -> list[dict[str, Any]]:
        found = self.get("/operations?all_tenants=1&limit=1000")["operations"]
        return [operation for operation in found if operation["state"] in ("queued", "running")]

    def last_error(self, resource_id: str) -> str:
        operations = self.operations(resource_id)
        return str(operations[0]["error"]) if operations else "no operation"

    def state(self) -> State:
        def rows(path: str, key: str) -> dict[str, dict[str, Any]]:
            return {row["id"]: row for row in self.get(f"{path}?all_tenants=1")[key]}

        return State(
            volumes=rows("/volumes/detail", "volumes"),
            snapshots=rows("/snapshots/detail", "snapshots"),
            attachments=rows("/attachments/detail", "attachments"),
            operations=frozenset(rows("/operations", "operations")),
            files=files_in(self.daemon.volumes),
            exporters=frozenset(exporters_under(self.daemon.root)),
        )

    def file_of(self, item: Any, kind: str = "volume") -> str:
        """Path of a volume's or a snapshot's file on the embedded default."""
        return str(self.daemon.volumes / f"{kind}-{item.id}")


def is_passing(status: str) -> bool:
    """Whether it is one that only lasts as long as an operation."""
    return status.endswith("ing") and not status.startswith("error")


def files_in(directory: os.PathLike[str]) -> dict[str, int]:
    """Name and size of each file, temporary ones included."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
    except FileNotFoundError:
        return {}


def expected_files(state: State) -> set[str]:
    """What must be in the directory of a file backend, by the records."""
    names = {f"volume-{key}" for key in state.volumes} | {f"snapshot-{key}" for key in state.snapshots}
    return names | {".volsvc-backend.json"}


def fill(connection: Connection, blocks: Mapping[int, bytes]) -> None:
    """Write each block at its offset, durably."""
    with connection.open() as nbd:
        for offset, data in blocks.items():
            nbd.write(offset, data)
        nbd.flush()
