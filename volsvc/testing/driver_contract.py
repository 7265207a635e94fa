"""The contract of a volume driver, as tests to subclass.

Give a class derived from ``VolumeDriverContract`` a ``harness`` fixture, and pytest runs it::

    class TestMyDriver(VolumeDriverContract):
        @pytest.fixture
        def harness(self, tmp_path):
            yield MyHarness(tmp_path)

It knows the driver by its interface and the volumes by what a client reads and writes.  Each
method is also cut at each of its steps, as by a kill, and repeated on a driver built anew.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import NoWork, VolumeDriver
from volsvc.testing import cuts
from volsvc.testing.block_clients import BlockClient, open_connection

MIB = 1024**2
FAR = 700 * MIB  # well away from the first block
PATTERN = b"volsvc" * 700
KILL_ROUNDS = 39


class DriverHarness:
    """What the suite needs to know of one driver; every method may be called many times."""

    def new_driver(self) -> VolumeDriver:
        """A driver with its target, built but not set up, on the same storage as the one before."""
        raise NotImplementedError

    #: True when a client's requests fail after ``detach_volume``; otherwise it must raise while there is a client.
    can_sever = True
    #: False for storage in the memory of one process.
    survives_kill = True
    #: Data in the volume that is copied beside a writer: enough for the copy to take a while.
    bulk_bytes = 32 * MIB

    def swap_storage(self) -> contextlib.AbstractContextManager[None]:
        """During the block the storage has no marker, as when its disk isn't mounted."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """Temporary things on the storage."""
        return []

    def each_cut(self, error: int | None = None) -> Iterator[Any]:
        """Context managers that cut what runs in them at step 1, 2, 3... (see ``cuts.each_cut``)."""
        return cuts.each_cut(error)


@dataclass
class World:
    """A driver in use, with the records that a manager would keep."""

    harness: DriverHarness
    driver: VolumeDriver
    attached: dict[str, tuple[models.Volume, list[models.Attachment]]] = field(default_factory=dict)

    @classmethod
    def start(cls, harness: DriverHarness) -> World:
        world = cls(harness, harness.new_driver())
        world._set_up()
        return world

    def restart(self) -> None:
        """A new driver on the old storage, brought up as a manager does after a kill."""
        self.driver = self.harness.new_driver()
        self._set_up()
        for volume, attachments in self.attached.values():
            self.driver.ensure_export(volume, attachments)
        self.driver.remove_stale_exports(frozenset(self.attached))
        self.driver.remove_leftovers()

    def _set_up(self) -> None:
        self.driver.do_setup()
        self.driver.check_for_setup_error()
        if self.driver.read_identity() is None:
            self.driver.write_identity(str(uuid.uuid4()))

    def new_volume(self, size_gb: int = 1) -> models.Volume:
        return models.Volume(str(uuid.uuid4()), size_gb, "creating", "project", "user")

    def new_snapshot(self, volume: models.Volume) -> models.Snapshot:
        return models.Snapshot(str(uuid.uuid4()), volume.id, volume.size_gb, "creating", "project", "user")

    def new_attachment(self, volume: models.Volume, mode: str = "rw") -> models.Attachment:
        return models.Attachment(str(uuid.uuid4()), volume.id, "attaching", "project", attach_mode=mode)

    def create(self, size_gb: int = 1) -> models.Volume:
        volume = self.new_volume(size_gb)
        self.driver.create_volume(volume)
        return volume

    def create_written(self, seed: bytes = PATTERN) -> models.Volume:
        volume = self.create()
        with self.client(volume) as client:
            write_pattern(client, seed)
        return volume

    def snapshot(self, volume: models.Volume) -> models.Snapshot:
        snapshot = self.new_snapshot(volume)
        self.driver.create_snapshot(snapshot, volume, NoWork())
        return snapshot

    def note(self, volume: models.Volume, attachment: models.Attachment) -> None:
        self.attached.setdefault(volume.id, (volume, []))[1].append(attachment)

    def attach(self, volume: models.Volume, mode: str = "rw") -> tuple[models.Attachment, Any]:
        attachment = self.new_attachment(volume, mode)
        self.note(volume, attachment)
        return attachment, self.driver.initialize_connection(volume, attachment)

    def detach(self, volume: models.Volume, attachment: models.Attachment) -> None:
        self.driver.terminate_connection(volume, attachment)
        attachments = self.attached[volume.id][1]
        attachments.remove(attachment)
        if not attachments:
            del self.attached[volume.id]

    @contextlib.contextmanager
    def client(self, volume: models.Volume, mode: str = "rw") -> Iterator[BlockClient]:
        """A client of its own attachment, both gone afterwards."""
        attachment, info = self.attach(volume, mode)
        client = open_connection(info)
        try:
            yield client
        finally:
            client.close()
            self.detach(volume, attachment)

    def holds(self, volume: models.Volume, seed: bytes = PATTERN) -> bool:
        with self.client(volume, "ro") as client:
            return holds_pattern(client, seed)

    def clear(self) -> None:
        """End every attachment and delete everything that is stored."""
        for volume, attachments in list(self.attached.values()):
            for attachment in list(attachments):
                self.detach(volume, attachment)
        for name in self.driver.list_stored():
            kind, _, identifier = name.partition("-")
            volume = replace(self.new_volume(), id=identifier)
            if kind == "volume":
                self.driver.delete_volume(volume)
            else:
                self.driver.delete_snapshot(replace(self.new_snapshot(volume), id=identifier))


def write_pattern(client: BlockClient, seed: bytes = PATTERN) -> None:
    """Two far-apart runs of data with a hole between them."""
    client.write(0, seed)
    client.write(FAR, seed[::-1])
    client.flush()


def holds_pattern(client: BlockClient, seed: bytes = PATTERN) -> bool:
    size = len(seed)
    return (
        client.read(0, size) == seed
        and client.read(FAR, size) == seed[::-1]
        and not any(client.read(350 * MIB, 65536))
        and not any(client.read(client.size_bytes - 4096, 4096))
    )


@dataclass(frozen=True)
class Case:
    """One method in one situation: ``prepare`` gives what ``run`` and ``check`` work on."""

    name: str
    prepare: Callable[[World], Any]
    run: Callable[[World, Any], Any]
    check: Callable[[World, Any], None]
    ability: str | None = None
    is_cut: bool = True


def _prepare_pair(world: World) -> tuple[models.Volume, models.Volume]:
    return world.create_written(), world.new_volume(2)


def _prepare_attached_pair(world: World) -> tuple[models.Volume, models.Volume]:
    volume = world.create_written()
    world.attach(volume)
    return volume, world.new_volume(1)


def _prepare_snapshot(world: World) -> tuple[models.Volume, models.Snapshot]:
    volume = world.create_written()
    return volume, world.new_snapshot(volume)


def _prepare_attached_snapshot(world: World) -> tuple[models.Volume, models.Snapshot]:
    volume = world.create_written()
    world.attach(volume)
    return volume, world.new_snapshot(volume)


def _prepare_from_snapshot(world: World) -> tuple[models.Snapshot, models.Volume]:
    volume = world.create_written()
    return world.snapshot(volume), world.new_volume(2)


def _prepare_attachment(world: World) -> tuple[models.Volume, models.Attachment]:
    volume = world.create_written()
    attachment = world.new_attachment(volume)
    world.note(volume, attachment)
    return volume, attachment


def _prepare_connected(world: World) -> tuple[models.Volume, models.Attachment]:
    volume = world.create_written()
    return volume, world.attach(volume)[0]


def _check_second_volume(world: World, pair: Any) -> None:
    assert world.holds(pair[1])
    with world.client(pair[1], "ro") as client:
        assert client.size_bytes == pair[1].size_bytes


def _check_snapshot(world: World, pair: tuple[models.Volume, models.Snapshot]) -> None:
    volume = world.new_volume()
    world.driver.create_volume_from_snapshot(volume, pair[1], NoWork())
    assert world.holds(volume)


def _check_created(world: World, volume: models.Volume) -> None:
    with world.client(volume) as client:
        assert client.size_bytes == volume.size_bytes
        assert not any(client.read(0, 65536))
        assert not any(client.read(FAR, 65536))


def _check_extended(world: World, volume: models.Volume) -> None:
    assert world.holds(volume)
    with world.client(volume, "ro") as client:
        assert client.size_bytes == 3 * models.GIB


def _check_extended_attached(world: World, pair: Any) -> None:
    volume, attachment = pair
    client = open_connection(world.driver.initialize_connection(volume, attachment))
    assert client.size_bytes == 3 * models.GIB
    assert holds_pattern(client)
    client.close()


def _check_connected(world: World, pair: Any) -> None:
    client = open_connection(world.driver.initialize_connection(*pair))
    assert holds_pattern(client)
    client.close()


def _check_disconnected(world: World, pair: Any) -> None:
    assert pair[0].id not in world.driver.list_exported()


def _forget_and(run: Callable[[World, Any], Any]) -> Callable[[World, Any], Any]:
    """The record of the attachment is not to be restored once its end was asked for."""

    def disconnect(world: World, pair: Any) -> Any:
        world.attached.pop(pair[0].id, None)
        return run(world, pair)

    return disconnect


def _check_gone(name: str) -> Callable[[World, Any], None]:
    def check(world: World, pair: Any) -> None:
        resource = pair[1] if name == "snapshot" else pair
        assert f"{name}-{resource.id}" not in world.driver.list_stored()

    return check


CASES = (
    Case("create_volume", lambda w: w.new_volume(), lambda w, v: w.driver.create_volume(v), _check_created),
    Case(
        "create_volume_from_snapshot",
        _prepare_from_snapshot,
        lambda w, p: w.driver.create_volume_from_snapshot(p[1], p[0], NoWork()),
        _check_second_volume,
    ),
    Case(
        "create_cloned_volume",
        _prepare_pair,
        lambda w, p: w.driver.create_cloned_volume(p[1], p[0], NoWork()),
        _check_second_volume,
        "clone",
    ),
    Case(
        "create_cloned_volume of an attached one",
        _prepare_attached_pair,
        lambda w, p: w.driver.create_cloned_volume(p[1], p[0], NoWork()),
        _check_second_volume,
        "snapshot_attached",
        is_cut=False,  # the steps are those of a snapshot of an attached volume
    ),
    Case(
        "create_snapshot",
        _prepare_snapshot,
        lambda w, p: w.driver.create_snapshot(p[1], p[0], NoWork()),
        _check_snapshot,
    ),
    Case(
        "create_snapshot of an attached volume",
        _prepare_attached_snapshot,
        lambda w, p: w.driver.create_snapshot(p[1], p[0], NoWork()),
        _check_snapshot,
        "snapshot_attached",
    ),
    Case(
        "delete_volume",
        lambda w: w.create_written(),
        lambda w, v: w.driver.delete_volume(v),
        _check_gone("volume"),
    ),
    Case(
        "delete_snapshot",
        lambda w: (v := w.create_written(), w.snapshot(v)),
        lambda w, p: w.driver.delete_snapshot(p[1]),
        _check_gone("snapshot"),
    ),
    Case(
        "extend_volume",
        lambda w: w.create_written(),
        lambda w, v: w.driver.extend_volume(v, 3),
        _check_extended,
    ),
    Case(
        "extend_volume of an attached one",
        _prepare_connected,
        lambda w, p: w.driver.extend_volume(p[0], 3),
        _check_extended_attached,
        "extend_attached",
    ),
    Case(
        "initialize_connection",
        _prepare_attachment,
        lambda w, p: w.driver.initialize_connection(*p),
        _check_connected,
    ),
    Case(
        "terminate_connection",
        _prepare_connected,
        _forget_and(lambda w, p: w.driver.terminate_connection(*p)),
        _check_disconnected,
    ),
    Case(
        "detach_volume",
        _prepare_connected,
        _forget_and(lambda w, p: w.driver.detach_volume(*p)),
        _check_disconnected,
    ),
)


def _parametrize(cases: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(cases), ids=lambda case: case.name.replace(" ", "_"))


_each_case = _parametrize(CASES)
_each_cut_case = _parametrize(case for case in CASES if case.is_cut)


class VolumeDriverContract:
    """The tests; see the module's docstring."""

    @pytest.fixture
    def world(self, harness: DriverHarness) -> Iterator[World]:
        world = World.start(harness)
        yield world
        with contextlib.suppress(exc.VolsvcError):
            world.clear()
        world.driver.remove_stale_exports(frozenset())
        world.driver.close()

    def _require(self, world: World, ability: str | None) -> None:
        if ability is not None and ability not in world.driver.abilities:
            pytest.skip(f"the driver does not declare {ability!r}")

    # -- each method ------------------------------------------------------------------------

    @_each_case
    def test_method_does_its_work(self, world: World, case: Case) -> None:
        self._require(world, case.ability)
        subject = case.prepare(world)
        case.run(world, subject)
        case.check(world, subject)
        assert self._leftovers(world) == []

    @_each_case
    def test_method_may_be_repeated(self, world: World, case: Case) -> None:
        self._require(world, case.ability)
        subject = case.prepare(world)
        case.run(world, subject)
        case.run(world, subject)
        case.check(world, subject)

    @_each_cut_case
    def test_method_killed_at_each_step_is_completed_by_a_new_driver(self, world: World, case: Case) -> None:
        self._require(world, case.ability)
        for cut in world.harness.each_cut():
            subject = case.prepare(world)
            with contextlib.suppress(cuts.Cut), cut:
                case.run(world, subject)
            world.restart()
            assert self._leftovers(world) == []
            case.run(world, subject)
            case.check(world, subject)
            world.clear()

    @_each_cut_case
    def test_method_failing_at_each_step_says_so_in_its_own_error_and_may_be_repeated(
        self, world: World, case: Case
    ) -> None:
        self._require(world, case.ability)
        for cut in world.harness.each_cut(errno.ENOSPC):
            subject = case.prepare(world)
            with contextlib.suppress(exc.VolsvcError), cut:
                case.run(world, subject)
            case.run(world, subject)
            case.check(world, subject)
            world.driver.remove_leftovers()
            assert self._leftovers(world) == []
            world.clear()

    def test_methods_killed_at_random_moments_are_completed_by_a_new_driver(self, world: World) -> None:
        if not world.harness.survives_kill:
            pytest.skip("this storage lives and dies with the process")
        cases = [case for case in CASES if case.ability is None or case.ability in world.driver.abilities]
        chance = random.Random()
        for number in range(KILL_ROUNDS):
            case, delay_s = cases[number % len(cases)], chance.uniform(0, 0.05)
            subject = case.prepare(world)
            _run_and_kill(functools.partial(case.run, world, subject), delay_s)
            world.restart()
            assert self._leftovers(world) == [], f"{case.name} killed after {delay_s:.4f} s"
            case.run(world, subject)
            case.check(world, subject)
            world.clear()

    def _leftovers(self, world: World) -> list[str]:
        return world.harness.leftovers()

    # -- copies -----------------------------------------------------------------------------

    def test_copies_are_independent_and_deleted_in_any_order(self, world: World) -> None:
        volume = world.create_written()
        snapshot = world.snapshot(volume)
        copy, clone = world.new_volume(), world.new_volume()
        world.driver.create_volume_from_snapshot(copy, snapshot, NoWork())
        world.driver.create_cloned_volume(clone, volume, NoWork())
        with world.client(volume) as client:
            write_pattern(client, b"overwritten" * 300)
        assert world.holds(copy)
        world.driver.delete_volume(volume)
        world.driver.delete_snapshot(snapshot)
        assert world.holds(copy)
        assert world.holds(clone)
        world.driver.delete_volume(copy)
        assert world.holds(clone)
        world.driver.delete_volume(clone)
        assert world.driver.list_stored() == frozenset()

    def test_copy_of_a_volume_that_is_being_written_is_a_point_in_time(self, world: World) -> None:
        self._require(world, "snapshot_attached")
        volume = world.create()
        with world.client(volume) as client:
            for number in range(world.harness.bulk_bytes // MIB):
                client.write(64 * MIB + number * 16 * MIB, bytes([number + 1]) * MIB)
            with _stamping(client) as wait_for_stamps:
                for _ in range(4):
                    wait_for_stamps(20)
                    snapshot = world.snapshot(volume)
                    first, second = self._stamps(world, snapshot)
                    # Each stamp goes to the first block, then to the far one.
                    assert first - second in (0, 1), f"the blocks are of different instants: {first}, {second}"
                    assert second > 0

    def _stamps(self, world: World, snapshot: models.Snapshot) -> tuple[int, int]:
        copy = world.new_volume()
        world.driver.create_volume_from_snapshot(copy, snapshot, NoWork())
        with world.client(copy, "ro") as client:
            return _stamp_at(client, 0), _stamp_at(client, FAR)

    def test_copy_that_is_cancelled_leaves_nothing_and_disturbs_nobody(self, world: World) -> None:
        self._require(world, "snapshot_attached")
        volume = world.create_written()
        for error in (exc.OperationCancelled(id="1"), exc.OperationInterrupted(id="1")):
            with world.client(volume) as client:
                before = world.driver.list_stored()
                with pytest.raises(type(error)):
                    world.driver.create_snapshot(world.new_snapshot(volume), volume, _StoppedWork(error))
                assert holds_pattern(client)
            assert world.driver.list_stored() == before
            assert self._leftovers(world) == []

    @pytest.mark.parametrize("is_attached", [False, True], ids=["detached", "attached"])
    def test_superseded_copy_touches_nothing_and_gives_its_name_to_nothing(
        self, world: World, is_attached: bool
    ) -> None:
        volume = world.create_written()
        if is_attached:
            self._require(world, "snapshot_attached")
            world.attach(volume)
        snapshot = world.new_snapshot(volume)
        with pytest.raises(exc.OperationSuperseded):
            world.driver.create_snapshot(snapshot, volume, _StoppedWork(exc.OperationSuperseded(id="1")))
        assert f"snapshot-{snapshot.id}" not in world.driver.list_stored()
        world.driver.create_snapshot(snapshot, volume, NoWork())
        world.driver.remove_leftovers()
        assert self._leftovers(world) == []

    # -- connections ---------------------------------------------------------------------------

    def test_connecting_again_gives_the_same_answer_and_cuts_nobody(self, world: World) -> None:
        volume = world.create_written()
        attachment, info = world.attach(volume)
        client = open_connection(info)
        assert world.driver.initialize_connection(volume, attachment) == info
        assert holds_pattern(client)
        client.close()

    def test_detached_client_can_neither_go_on_nor_come_back(self, world: World) -> None:
        if not world.harness.can_sever:
            pytest.skip("the driver can't cut a client, and says so")
        volume = world.create_written()
        (severed, severed_info), (_, kept_info) = world.attach(volume), world.attach(volume)
        client, other = open_connection(severed_info), open_connection(kept_info)
        for _ in range(2):
            world.driver.detach_volume(volume, severed)
        with pytest.raises(OSError):
            client.write(0, b"too late" * 512)
            client.flush()
        with pytest.raises(OSError):
            open_connection(severed_info)
        assert holds_pattern(other), "severing one attachment harms no other, and the late write is nowhere"
        client.close()
        other.close()

    def test_inspection_says_what_is_there_and_who_may_connect(self, world: World) -> None:
        volume = world.create_written()
        snapshot = world.snapshot(volume)
        attachment, info = world.attach(volume)
        client = open_connection(info)
        try:
            view = world.driver.inspect_volume(volume)
            snapshot_view = world.driver.inspect_snapshot(snapshot)
        except NotImplementedError:
            pytest.skip("the driver can't say what its storage holds")
        finally:
            client.close()
        assert (view.exists, view.size_bytes, view.exports) == (True, volume.size_bytes, (attachment.id,))
        assert (snapshot_view.exists, snapshot_view.size_bytes) == (True, snapshot.size_bytes)
        world.driver.detach_volume(volume, attachment)
        after = world.driver.inspect_volume(volume)
        assert after.exists
        assert after.exports == ()
        assert after.clients in ((), None)
        assert not world.driver.inspect_volume(world.new_volume()).exists
        assert not world.driver.inspect_snapshot(world.new_snapshot(volume)).exists

    def test_restarted_driver_adopts_exports_without_cutting_clients(self, world: World) -> None:
        volume = world.create_written()
        _, info = world.attach(volume)
        client = open_connection(info)
        world.restart()
        assert holds_pattern(client)
        assert world.driver.list_exported() == {volume.id}
        client.close()

    def test_stale_exports_are_ended_and_named(self, world: World) -> None:
        kept, stale = world.create(), world.create()
        world.attach(kept)
        world.attach(stale)
        assert world.driver.remove_stale_exports(frozenset({kept.id})) == [stale.id]
        assert world.driver.list_exported() == {kept.id}
        assert world.driver.remove_stale_exports(frozenset({kept.id})) == []

    def test_ensuring_no_attachment_ends_the_export(self, world: World) -> None:
        volume = world.create_written()
        world.attach(volume)
        for _ in range(2):
            world.driver.ensure_export(volume, [])
            assert world.driver.list_exported() == frozenset()

    def test_deleting_an_exported_volume_ends_its_export(self, world: World) -> None:
        volume = world.create_written()
        world.attach(volume)
        world.driver.delete_volume(volume)
        world.attached.clear()
        assert world.driver.list_exported() == frozenset()

    # -- the storage -----------------------------------------------------------------------------

    def test_identity_is_kept_and_never_replaced(self, world: World) -> None:
        identity = world.driver.read_identity()
        assert identity is not None
        with pytest.raises(exc.BackendUnavailable):
            world.driver.write_identity(str(uuid.uuid4()))
        assert world.harness.new_driver() is not world.driver
        world.restart()
        assert world.driver.read_identity() == identity

    def test_nothing_is_touched_while_the_marker_is_missing(self, world: World) -> None:
        volume = world.create_written()
        snapshot = world.snapshot(volume)
        stored = world.driver.list_stored()
        calls: list[Callable[[], Any]] = [
            lambda: world.create(),
            lambda: world.snapshot(volume),
            lambda: world.driver.create_cloned_volume(world.new_volume(), volume, NoWork()),
            lambda: world.driver.create_volume_from_snapshot(world.new_volume(), snapshot, NoWork()),
            lambda: world.driver.extend_volume(volume, 2),
            lambda: world.driver.delete_snapshot(snapshot),
            lambda: world.driver.delete_volume(volume),
            lambda: world.driver.initialize_connection(volume, world.new_attachment(volume)),
            lambda: world.driver.get_volume_stats(),
        ]
        with world.harness.swap_storage():
            for call in calls:
                with pytest.raises(exc.BackendUnavailable):
                    call()
        assert world.driver.list_stored() == stored
        assert world.holds(volume)

    def test_stats_tell_capacity_and_abilities(self, world: World) -> None:
        world.create()
        stats = world.driver.get_volume_stats()
        assert stats.total_capacity_gb is None or stats.total_capacity_gb > 0
        assert set(stats.abilities) == set(world.driver.abilities)
        assert stats.extra["provisioned_capacity_gb"] == 1

    def test_names_that_are_no_uuids_are_refused(self, world: World) -> None:
        with pytest.raises(exc.InvalidInput):
            world.driver.create_volume(models.Volume("../escape", 1, "creating", "project", "user"))


def _run_and_kill(method: Callable[[], Any], delay_s: float) -> None:
    """Run the method in a process of its own and SIGKILL that after the delay."""
    pid = os.fork()
    if pid == 0:
        try:
            method()
        finally:
            os._exit(0)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class _StoppedWork:
    """Stops at the second checkpoint, in the middle of a copy."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._calls = 0

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        self._calls += 1
        # A copy that shares extents has one checkpoint only, the last.
        if self._calls >= 2 or (total_bytes and done_bytes == total_bytes):
            raise self._error


def _stamp_at(client: BlockClient, offset: int) -> int:
    return int.from_bytes(client.read(offset, 8), "big")


@contextlib.contextmanager
def _stamping(client: BlockClient) -> Iterator[Callable[[int], None]]:
    """A writer that puts the same growing number first here, then there; yields a wait for more stamps."""
    stop, written = threading.Event(), [0]
    failure: list[BaseException] = []

    def stamp() -> None:
        try:
            while not stop.is_set():
                number = written[0] + 1
                client.write(0, number.to_bytes(8, "big"))
                client.write(FAR, number.to_bytes(8, "big"))
                written[0] = number
        except BaseException as error:
            failure.append(error)

    def wait_for(count: int) -> None:
        goal, deadline = written[0] + count, time.monotonic() + 30
        while written[0] < goal:
            assert not failure, f"the writer failed: {failure[0]!r}"
            assert time.monotonic() < deadline, "the writer does not get on"
            time.sleep(0.001)

    thread = threading.Thread(target=stamp, name="stamping writer")
    thread.start()
    try:
        yield wait_for
    finally:
        stop.set()
        thread.join(30)
    assert not failure, f"the writer failed: {failure[0]!r}"
