"""kill -9 of the daemon in the middle of everything it does.

After the next start all that was promised is finished, nothing is in between, records, files and
exporters agree, and whoever writes to an attached volume has noticed nothing.
"""

from __future__ import annotations

import collections
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cinderclient import exceptions

from tests.functional.scripted import ScriptedDaemon
from tests.functional.user import CONNECTOR, GIB, MIB, Connection, User, expected_files, fill
from tests.functional.writer import StampWriter, read_stamps
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Query
from volsvc.testing.daemon import Daemon, wait_until

SEED_VARIABLE = "VOLSVC_TEST_SEED"
OPEN = Query(filters={"state": ["queued", "running"]})
BLOCKS = {at * MIB: 4 * MIB for at in range(0, 640, 20)}  # 128 MiB of data, scattered


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


def require_agreement(user: User) -> None:
    """Nothing is in between, and records, files, exporters and promised capacity agree."""
    state = user.state()
    assert state.stuck() == []
    bad = {**state.volumes, **state.snapshots, **state.attachments}
    assert [key for key, row in bad.items() if row["status"].startswith("error")] == []
    assert set(state.files) == expected_files(state)
    connected = {row["volume_id"] for row in state.attachments.values() if row["connection_info"]}
    exporting = {path.parent.name for path in user.daemon.root.glob("run/qsd-*/*/pid")}
    assert exporting == {key.replace("-", "") for key in connected}
    assert len(state.exporters) == len(connected)
    store = SqlStore(create_engine(f"sqlite:///{user.daemon.state}/volsvc.sqlite"))
    assert store.list_services()[0].allocated_gb == sum(row["size"] for row in state.volumes.values())


def clear(user: User) -> None:
    """Delete all but what the rounds share."""
    state = user.state()
    for key, row in state.attachments.items():
        if state.volumes[row["volume_id"]]["name"] not in ("source", "witness"):
            user.cinder.attachments.delete(key)
    for key in state.snapshots:
        user.cinder.volume_snapshots.delete(key)
    wait_until(lambda: not user.cinder.volume_snapshots.list(), "the snapshots to be gone")
    for key, row in state.volumes.items():
        if row["name"] not in ("source", "witness"):
            user.cinder.volumes.delete(key)
    wait_until(lambda: len(user.cinder.volumes.list()) == 2, "the volumes to be gone")


def wait_for_work(store: SqlStore, request: Request) -> None:
    """Until an operation is recorded, without a pause, or the request has ended without."""
    wait_until(lambda: store.list_operations(OPEN).items or request.has_ended, "work to begin", pause_s=0)


def run_rounds(daemon: Daemon, rounds: int) -> None:
    seed = int(os.environ.get(SEED_VARIABLE, secrets.randbelow(2**32)))
    print(f"{SEED_VARIABLE}={seed}")
    rng = random.Random(seed)
    user = User(daemon.start().wait_ready())
    source = user.create(1, name="source")
    source_data = {offset: rng.randbytes(length) for offset, length in BLOCKS.items()}
    connection = user.connect(source)
    fill(connection, source_data)
    user.disconnect(connection)
    witness = user.connect(user.create(1, name="witness"))
    store = SqlStore(create_engine(f"sqlite:///{daemon.state}/volsvc.sqlite"))
    caught: collections.Counter[str] = collections.Counter()
    plan: list[type[Action]] = []
    with StampWriter(witness) as writer:
        for number in range(rounds):
            if not plan:
                plan = rng.sample(ACTIONS, len(ACTIONS))
            kind = plan.pop()
            action = kind(user, rng, source, source_data)
            moment_s, is_after_claim = rng.uniform(0, kind.window_s), bool(rng.randrange(2))
            request = Request(action.ask)
            if is_after_claim:
                wait_for_work(store, request)
            time.sleep(moment_s)
            daemon.kill()
            open_ones = [f"{operation.action} {operation.state}" for operation in store.list_operations(OPEN).items]
            caught["in the middle" if open_ones else "before or after"] += 1
            was_answered = request.ended_well()
            since = "its record" if is_after_claim else "the request"
            answer = "answered" if was_answered else "not answered"
            print(f"round {number}: {kind.__name__}, {moment_s * 1000:.0f} ms after {since}, {open_ones}, {answer}")
            if not rng.randrange(3):
                killed_again_s = rng.uniform(0.3, 1.2)
                print(f"  and {killed_again_s:.3f} s after its next start")
                daemon.start(wait=False)
                time.sleep(killed_again_s)
                daemon.kill()
            user = User(daemon.start().wait_ready())
            action.user = user
            user.wait_idle()
            action.check(was_answered)
            require_agreement(user)
            clear(user)
            writer.wait_more(5)
    print(dict(caught))
    assert read_stamps(witness) == (writer.count, writer.count)


def test_killed_at_random_moments_it_finishes_what_it_promised(make_daemon: Callable[..., Daemon]) -> None:
    run_rounds(make_daemon(), rounds=3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_thirty_times_at_random_moments_it_finishes_what_it_promised(make_daemon: Callable[..., Daemon]) -> None:
    run_rounds(make_daemon(), rounds=33)


# -- in the middle of each of a driver's methods -----------------------------------------------------

METHODS = (
    *("create_volume", "create_volume_from_snapshot", "create_cloned_volume", "extend_volume", "delete_volume"),
    *("create_snapshot", "delete_snapshot", "initialize_connection", "terminate_connection"),
)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_within_every_method_of_a_driver_at_once_it_runs_each_again(
    make_daemon: Callable[..., Daemon], when: str
) -> None:
    """``after``: the method did its work, the daemon dies before it can write that down."""
    scripted = ScriptedDaemon(make_daemon())
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    volumes = [user.create(1, name=f"v{i}") for i in range(7)]
    snapshots = [user.snapshot(volumes[i]) for i in range(2)]
    attached = user.cinder.attachments.create(volumes[5].id, CONNECTOR)["id"]
    before = scripted.calls()
    scripted.write({method: {"hang": True, "when": when} for method in METHODS})
    made = user.cinder.volumes.create(1, name="made")
    copied = user.cinder.volumes.create(1, name="copied", snapshot_id=snapshots[0].id)
    cloned = user.cinder.volumes.create(1, name="cloned", source_volid=volumes[0].id)
    user.cinder.volumes.extend(volumes[6], 2)
    user.cinder.volumes.delete(volumes[2])
    taken = user.cinder.volume_snapshots.create(volumes[3].id)
    user.cinder.volume_snapshots.delete(snapshots[1])
    requests = [
        Request(lambda: user.cinder.attachments.create(volumes[4].id, CONNECTOR)),
        Request(lambda: user.cinder.attachments.delete(attached)),
    ]
    wait_until(lambda: all(scripted.calls().get(m, 0) > before.get(m, 0) for m in METHODS), "every method to be called")
    daemon.kill()
    assert not any(request.ended_well() for request in requests)
    scripted.write({})
    user = User(daemon.start().wait_ready())
    user.wait_idle()
    state = user.state()
    assert {row["status"] for row in state.volumes.values()} == {"available", "attaching"}
    assert {state.volumes[v.id]["status"] for v in (made, copied, cloned, volumes[0], volumes[3], volumes[6])} == {
        "available"
    }
    assert state.volumes[volumes[6].id]["size"] == 2
    assert volumes[2].id not in state.volumes
    assert {key: row["status"] for key, row in state.snapshots.items()} == {
        snapshots[0].id: "available",
        taken.id: "available",
    }
    [attachment] = state.attachments.values()
    assert attachment["volume_id"] == volumes[4].id
    assert attachment["connection_info"]["driver_volume_type"] == "fake"
    stored = scripted.stored()
    assert set(stored["files"]) == expected_files(state) - {".volsvc-backend.json"}
    assert set(stored["exports"]) == {volumes[4].id}
    attempts = {o["action"]: o["attempts"] for o in user.get("/operations?all_tenants=1&limit=9")["operations"]}
    assert set(attempts.values()) == {2}, attempts


def test_work_that_kills_the_daemon_each_time_is_given_up_with_that_reason(make_daemon: Callable[..., Daemon]) -> None:
    scripted = ScriptedDaemon(make_daemon(), operation_max_attempts=2)
    daemon = scripted.daemon
    user = User(daemon.start().wait_ready())
    scripted.write({"create_volume": {"hang": True}})
    volume = user.cinder.volumes.create(1)
    for attempt in (1, 2):
        wait_until(lambda n=attempt: scripted.calls().get("create_volume", 0) >= n, "the driver to be called")
        daemon.kill()
        user = User(daemon.start().wait_ready())
    assert user.wait_volume(volume.id, "error").status == "error"
    assert "2 times" in user.last_error(volume.id)
    scripted.write({})
    user.create(1)


def test_the_volume_daemon_killed_within_an_attach_answers_it_after_its_restart(
    make_daemon: Callable[..., Daemon],
) -> None:
    """The API is a process of its own and goes on waiting for the operation's end."""
    volume_daemon = make_daemon(program="volsvc-volume", options={})
    scripted = ScriptedDaemon(volume_daemon)
    volume_daemon.start()
    api = make_daemon(volume_daemon.root, program="volsvc-api").start().wait_ready()
    user = User(api)
    volume = user.create(1)
    scripted.write({"initialize_connection": {"hang": True}})
    request = Request(lambda: user.cinder.attachments.create(volume.id, CONNECTOR))
    wait_until(lambda: scripted.calls().get("initialize_connection"), "the driver to be called")
    volume_daemon.kill()
    scripted.write({})
    volume_daemon.start()
    assert request.ended_well(), request.error
    assert request.answer["connection_info"]["driver_volume_type"] == "fake"
