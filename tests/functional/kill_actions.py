"""What the daemon is doing when it is killed: each request, its start, and what must be true afterwards."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cinderclient import exceptions

from tests.functional.user import CONNECTOR, GIB, MIB, Connection, User, fill
from tests.functional.writer import StampWriter, read_stamps


class Request:
    """One request in a thread of its own, because the daemon may die before it answers."""

    def __init__(self, send: Callable[[], Any]) -> None:
        self.answer: Any = None
        self.error: Exception | None = None
        self._send = send
        self._thread = threading.Thread(target=self._run, name="request", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._send()
        except Exception as error:
            self.error = error

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def ended_well(self) -> bool:
        """Whether it was answered with success; waits for its end."""
        self._thread.join(90)
        assert not self._thread.is_alive(), "the request hangs although its daemon is gone"
        # Refused by the service is a bug of the test; cut off by the kill is what it is about.
        assert not isinstance(self.error, exceptions.ClientException) or self.error.code is None, self.error
        return self.error is None


class Action:
    """Something a user asks for: ``prepare`` its start, ``ask`` for it, ``check`` that it is finished.

    ``window_s``: about how long the daemon is busy with it.
    """

    window_s = 0.06

    def __init__(self, user: User, rng: random.Random, source: Any, source_data: Mapping[int, bytes]) -> None:
        self.user = user
        self.rng = rng
        self.source = source
        self.source_data = source_data
        self.prepare()

    def prepare(self) -> None:
        """What must be there before."""

    def ask(self) -> Any:
        raise NotImplementedError

    def check(self, was_answered: bool) -> None:
        raise NotImplementedError

    def found(self, kind: str, name: str) -> Any:
        """The volume or snapshot of that name, if the request reached the records."""
        manager = self.user.cinder.volumes if kind == "volume" else self.user.cinder.volume_snapshots
        listed = manager.list(search_opts={"name": name})
        return listed[0] if listed else None

    def require_source_data(self, volume: Any) -> None:
        connection = self.user.connect(volume)
        with connection.open() as nbd:
            for offset, data in self.source_data.items():
                assert nbd.read(offset, len(data)) == data, f"{volume.id} differs from its source at {offset}"
        self.user.disconnect(connection)


class Create(Action):
    def ask(self) -> Any:
        return self.user.cinder.volumes.create(1, name="made")

    def check(self, was_answered: bool) -> None:
        made = self.found("volume", "made")
        assert made or not was_answered, "a volume that was promised is lost"
        if made:
            assert made.status == "available"
            assert os.path.getsize(self.user.file_of(made)) == GIB


class CopySnapshot(Action):
    window_s = 0.25

    def prepare(self) -> None:
        self.snapshot = self.user.snapshot(self.source)

    def ask(self) -> Any:
        return self.user.cinder.volumes.create(1, name="made", snapshot_id=self.snapshot.id)

    def check(self, was_answered: bool) -> None:
        made = self.found("volume", "made")
        assert made or not was_answered, "a volume that was promised is lost"
        if made:
            self.require_source_data(made)


class Clone(CopySnapshot):
    def prepare(self) -> None:
        """The source is there already."""

    def ask(self) -> Any:
        return self.user.cinder.volumes.create(2, name="made", source_volid=self.source.id)


class Extend(Action):
    def prepare(self) -> None:
        self.volume = self.user.create(1)

    def ask(self) -> Any:
        return self.user.cinder.volumes.extend(self.volume, 2)

    def check(self, was_answered: bool) -> None:
        volume = self.user.cinder.volumes.get(self.volume.id)
        assert volume.status == "available"
        assert volume.size == 2 or not was_answered
        assert os.path.getsize(self.user.file_of(volume)) == volume.size * GIB


class ExtendAttached(Action):
    def prepare(self) -> None:
        self.volume = self.user.create(1)
        self.connection = self.user.connect(self.volume)
        self.writer = StampWriter(self.connection, can_reconnect=True)
        self.writer.__enter__()

    def ask(self) -> Any:
        return self.user.cinder.volumes.extend(self.volume, 2)

    def check(self, was_answered: bool) -> None:
        self.writer.wait_more(20)
        self.writer.__exit__(None, None, None)
        volume = self.user.cinder.volumes.get(self.volume.id)
        assert volume.status == "in-use"
        assert volume.size == 2 or not was_answered
        with self.connection.open() as nbd:
            assert nbd.size_bytes == volume.size * GIB
        assert read_stamps(self.connection) == (self.writer.count, self.writer.count)


class Delete(Action):
    def prepare(self) -> None:
        self.volume = self.user.create(1)

    def ask(self) -> Any:
        return self.user.cinder.volumes.delete(self.volume)

    def check(self, was_answered: bool) -> None:
        state = self.user.state()
        if self.volume.id in state.volumes:
            assert not was_answered, "a volume whose deletion was promised is there"
            assert state.volumes[self.volume.id]["status"] == "available"


class SnapshotDetached(Action):
    window_s = 0.25

    def ask(self) -> Any:
        return self.user.cinder.volume_snapshots.create(self.source.id, name="made", force=True)

    def check(self, was_answered: bool) -> None:
        made = self.found("snapshot", "made")
        assert made or not was_answered, "a snapshot that was promised is lost"
        if made:
            assert made.status == "available"
            self.require_source_data(self.user.create(1, snapshot_id=made.id))


class SnapshotAttached(Action):
    window_s = 0.25

    def prepare(self) -> None:
        self.volume = self.user.create(1)
        self.connection = self.user.connect(self.volume)
        fill(self.connection, {at + 16 * MIB: data for at, data in self.source_data.items()})
        self.writer = StampWriter(self.connection)
        self.writer.__enter__()

    def ask(self) -> Any:
        return self.user.cinder.volume_snapshots.create(self.volume.id, name="made", force=True)

    def check(self, was_answered: bool) -> None:
        self.writer.wait_more(20)
        self.writer.__exit__(None, None, None)
        made = self.found("snapshot", "made")
        assert made or not was_answered, "a snapshot that was promised is lost"
        if made:
            assert made.status == "available"
            first, second = read_stamps(self.user.connect(self.user.create(1, snapshot_id=made.id)))
            assert 0 <= first - second <= 1, f"stamps {first} and {second} are of two times"


class DeleteSnapshot(Action):
    def prepare(self) -> None:
        self.snapshot = self.user.snapshot(self.source)

    def ask(self) -> Any:
        return self.user.cinder.volume_snapshots.delete(self.snapshot)

    def check(self, was_answered: bool) -> None:
        state = self.user.state()
        if self.snapshot.id in state.snapshots:
            assert not was_answered, "a snapshot whose deletion was promised is there"
            assert state.snapshots[self.snapshot.id]["status"] == "available"


class Attach(Action):
    def prepare(self) -> None:
        self.volume = self.user.create(1)

    def ask(self) -> Any:
        return self.user.cinder.attachments.create(self.volume.id, CONNECTOR)

    def check(self, was_answered: bool) -> None:
        """What was recorded is a connection that its client can use, complete or give back."""
        found = self.user.cinder.attachments.list(search_opts={"volume_id": self.volume.id}, detailed=True)
        volume = self.user.cinder.volumes.get(self.volume.id)
        assert found or not was_answered, "an attachment that was promised is lost"
        if not found:
            assert volume.status == "available"
            return
        assert (found[0].status, volume.status) == ("attaching", "attaching")
        shown = self.user.cinder.attachments.show(found[0].id)
        Connection(shown.id, shown.connection_info["uri"]).write(0, b"it serves")
        if self.rng.randrange(2):
            self.user.cinder.attachments.complete(shown.id)
            assert self.user.cinder.volumes.get(self.volume.id).status == "in-use"
        else:
            self.user.cinder.attachments.delete(shown.id)
            assert self.user.cinder.volumes.get(self.volume.id).status == "available"


class Detach(Action):
    def prepare(self) -> None:
        self.volume = self.user.create(1)
        self.connection = self.user.connect(self.volume)

    def ask(self) -> Any:
        return self.user.disconnect(self.connection)

    def check(self, was_answered: bool) -> None:
        volume = self.user.cinder.volumes.get(self.volume.id)
        if volume.status == "in-use":
            assert not was_answered, "a detach that was promised did not happen"
            self.connection.read(0, 512)
            self.user.disconnect(self.connection)
        else:
            assert volume.status == "available"
            with pytest.raises(OSError):
                self.connection.open()


ACTIONS: tuple[type[Action], ...] = (
    *(Create, CopySnapshot, Clone, Extend, ExtendAttached, Delete),
    *(SnapshotDetached, SnapshotAttached, DeleteSnapshot, Attach, Detach),
)
