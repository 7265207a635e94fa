"""Whether records, storage, processes and clients agree about every volume of a service that has nothing to do.

``inspect`` is asked first, and then what no code of the service says: the exporters that run, the files
that are there, and clients that connect as each attachment says they may, or as one said that is gone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from volsvc import models
from volsvc.ports import Query, Store
from volsvc.testing.daemon import Daemon, exporters_under
from volsvc.testing.nbd_client import NbdClient

CLIENT_TIMEOUT_S = 10.0


@dataclass
class _Client:
    volume_id: str
    uri: str
    connection: NbdClient | None


class Clients:
    """NBD clients by the attachment that they hold."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._clients: dict[str, _Client] = {}

    def connect(self, attachment_id: str, volume_id: str, uri: str) -> None:
        """Connect, and stay so; an attachment that has been severed by now is only remembered."""
        connection = None
        with contextlib.suppress(OSError):
            connection = NbdClient.from_uri(uri, CLIENT_TIMEOUT_S)
        with self._guard:
            self._clients[attachment_id] = _Client(volume_id, uri, connection)

    def find_served(self, left: Iterable[str]) -> list[str]:
        """Those who are served although their attachment isn't among ``left``; they are forgotten."""
        wrong = []
        for attachment_id in set(self._clients) - set(left):
            client = self._clients.pop(attachment_id)
            with contextlib.suppress(OSError):
                NbdClient.from_uri(client.uri, CLIENT_TIMEOUT_S).close()
                wrong.append(f"{attachment_id} of {client.volume_id} is gone, and can be connected to")
            if client.connection is None:
                continue
            with contextlib.suppress(OSError):
                client.connection.read(0, 512)
                wrong.append(f"{attachment_id} of {client.volume_id} is gone, and its client still reads")
            client.connection.close()
        return wrong

    def close(self) -> None:
        for client in self._clients.values():
            if client.connection is not None:
                client.connection.close()
        self._clients.clear()


class Agreement:
    """Of one service on the file driver and the NBD target; ``inspect`` gives an inspection's report."""

    def __init__(
        self, store: Store, daemon: Daemon, inspect: Callable[[str], Mapping[str, Any]], clients: Clients
    ) -> None:
        self._store = store
        self._daemon = daemon
        self._inspect = inspect
        self._clients = clients

    def find_wrong(self) -> list[str]:
        """What doesn't agree, each in a sentence."""
        volumes = {volume.id: volume for volume in self._store.list_volumes(Query()).items}
        attachments = {attachment.id: attachment for attachment in self._store.list_attachments(Query()).items}
        wrong = [
            f"{situation.resource.id} is stuck in {situation.resource.status}" for situation in self._store.list_stuck()
        ]
        for volume in volumes.values():
            wrong += self._against_inspection(volume)
        wrong += self._against_files(volumes)
        wrong += self._against_processes(attachments.values())
        for attachment in attachments.values():
            wrong += _against_client(volumes[attachment.volume_id], attachment)
        return wrong + self._clients.find_served(attachments)

    def _against_inspection(self, volume: models.Volume) -> list[str]:
        report = self._inspect(volume.id)
        wrong = [f"{volume.id}: {words}" for words in report["disagreements"]]
        if report["storage"] is None:
            wrong.append(f"{volume.id} could not be inspected: {report['storage_error']}")
        if volume.status.startswith("error"):
            wrong.append(f"{volume.id} is {volume.status}")
        return wrong

    def _against_files(self, volumes: Iterable[str]) -> list[str]:
        known = {f"volume-{volume_id}" for volume_id in volumes}
        files = {name for name in os.listdir(self._daemon.volumes) if not name.startswith(".volsvc")}
        return [f"the storage has {name}, which no record knows" for name in sorted(files - known)]

    def _against_processes(self, attachments: Iterable[models.Attachment]) -> list[str]:
        exported = {attachment.volume_id for attachment in attachments if attachment.needs_export}
        exporters = len(exporters_under(self._daemon.root))
        if exporters == len(exported):
            return []
        return [f"{exporters} exporters run for {len(exported)} exported volumes"]


def _against_client(volume: models.Volume, attachment: models.Attachment) -> list[str]:
    """Whether an attachment that is recorded serves who comes with it."""
    if not attachment.needs_export:
        return []
    try:
        with NbdClient.from_uri(attachment.connection_info["data"]["uri"], CLIENT_TIMEOUT_S) as client:
            size_bytes = client.size_bytes
            client.read(0, 512)
    except OSError as error:
        return [f"{attachment.id} of {volume.id} ({attachment.status}) does not serve: {error}"]
    if size_bytes != volume.size_bytes:
        return [f"{attachment.id} serves {size_bytes} bytes of {volume.id}, which has {volume.size_bytes}"]
    return []
