"""The contract of a target, as tests to subclass.

Give a class derived from ``TargetContract`` a ``harness`` fixture (``TargetHarness``), and
pytest runs it.  It exports raw images and knows exports by what their clients can do.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import NoWork
from volsvc.targets.base import BaseTarget
from volsvc.testing.block_clients import BlockClient, open_connection

MIB = 1024**2
DEADLINE_S = 20


class TargetHarness:
    """What the suite needs to know of one target."""

    #: True when a client's requests fail after its attachment ended.
    can_sever = True
    #: True when an exporter is a process that can die.
    has_exporter = True

    def new_target(self) -> BaseTarget:
        """A target built but not checked, with the same options and runtime directory as the one before."""
        raise NotImplementedError

    def kill_exporter(self, volume: models.Volume) -> None:
        """The exporter dies without a word, and is dead when this returns."""
        raise NotImplementedError


class Subject:
    """An image that is exported as a volume."""

    def __init__(self, target: BaseTarget, path: pathlib.Path, size_mib: int = 64) -> None:
        self.target = target
        self.path = path
        self.volume = models.Volume(str(uuid.uuid4()), 1, "in-use", "project", "user")
        with path.open("wb") as file:
            file.truncate(size_mib * MIB)

    def attach(self, mode: str = "rw") -> tuple[models.Attachment, Mapping[str, Any]]:
        attachment = models.Attachment(str(uuid.uuid4()), self.volume.id, "attaching", "project", attach_mode=mode)
        return attachment, self.connect(attachment)

    def connect(self, attachment: models.Attachment) -> Mapping[str, Any]:
        return self.target.connect(self.volume, str(self.path), attachment)

    def ensure(self, *attachments: models.Attachment) -> None:
        self.target.ensure(self.volume, str(self.path), attachments)


def is_cut(client: BlockClient) -> bool:
    """True when this connection serves no more."""
    try:
        client.read(0, 4096)
    except OSError:
        return True
    return False


def is_refused(info: Mapping[str, Any]) -> bool:
    """True when nobody can connect so."""
    try:
        open_connection(info).close()
    except OSError:
        return True
    return False


class TargetContract:
    """The tests; see the module's docstring."""

    @pytest.fixture
    def target(self, harness: TargetHarness) -> Iterator[BaseTarget]:
        target = harness.new_target()
        target.check_for_setup_error()
        yield target
        for volume_id in target.list_exported():
            target.remove(volume_id)
        target.close()

    @pytest.fixture
    def subject(self, target: BaseTarget, tmp_path: pathlib.Path) -> Subject:
        return Subject(target, tmp_path / "image")

    def _restart(self, harness: TargetHarness, subject: Subject) -> None:
        subject.target = harness.new_target()
        subject.target.check_for_setup_error()

    def test_client_reads_back_what_it_wrote_and_the_image_holds_it(self, subject: Subject) -> None:
        _, info = subject.attach()
        client = open_connection(info)
        client.write(5 * MIB, b"written" * 1000)
        client.flush()
        assert client.read(5 * MIB, 7000) == b"written" * 1000
        client.close()
        with subject.path.open("rb") as file:
            file.seek(5 * MIB)
            assert file.read(7000) == b"written" * 1000

    def test_connecting_twice_gives_one_answer_and_cuts_nobody(self, subject: Subject) -> None:
        attachment, info = subject.attach()
        client = open_connection(info)
        assert subject.connect(attachment) == info
        assert not is_cut(client)
        client.close()

    def test_read_only_attachment_refuses_writes(self, subject: Subject) -> None:
        _, info = subject.attach("ro")
        client = open_connection(info)
        with pytest.raises(OSError):
            client.write(0, b"x" * 4096)
            client.flush()
        client.close()
        assert subject.path.read_bytes()[:1] == b"\0"

    def test_two_writers_see_each_other(self, subject: Subject) -> None:
        (_, first_info), (_, second_info) = subject.attach(), subject.attach()
        first, second = open_connection(first_info), open_connection(second_info)
        first.write(0, b"1" * 4096)
        second.write(MIB, b"2" * 4096)
        assert second.read(0, 4096) == b"1" * 4096
        assert first.read(MIB, 4096) == b"2" * 4096
        first.close()
        second.close()

    def test_one_attachment_is_severed_alone_and_the_last_ends_the_export(
        self, harness: TargetHarness, subject: Subject
    ) -> None:
        (first, first_info), (second, second_info) = subject.attach(), subject.attach()
        first_client, second_client = open_connection(first_info), open_connection(second_info)
        subject.target.disconnect(subject.volume, first)
        if harness.can_sever:
            assert is_cut(first_client)
            assert is_refused(first_info)
        assert not is_cut(second_client)
        assert subject.target.is_exporting(subject.volume)
        subject.target.disconnect(subject.volume, second)
        if harness.can_sever:
            assert is_cut(second_client)
        assert not subject.target.is_exporting(subject.volume)
        assert subject.target.list_exported() == frozenset()
        first_client.close()
        second_client.close()

    def test_disconnecting_and_removing_twice_succeeds(self, subject: Subject) -> None:
        attachment, _ = subject.attach()
        for _ in range(2):
            subject.target.disconnect(subject.volume, attachment)
        subject.attach()
        for _ in range(2):
            subject.target.remove(subject.volume.id)
        assert subject.target.list_exported() == frozenset()

    def test_severed_client_is_cut_for_good_and_alone(self, harness: TargetHarness, subject: Subject) -> None:
        if not harness.can_sever:
            pytest.skip("this target can't cut a client")
        (first, first_info), (second, second_info) = subject.attach(), subject.attach()
        first_client, second_client = open_connection(first_info), open_connection(second_info)
        for _ in range(2):
            subject.target.sever(subject.volume, first)
        with pytest.raises(OSError):
            first_client.write(0, b"x" * 4096)
            first_client.flush()
        assert is_refused(first_info)
        assert not is_cut(second_client)
        subject.target.sever(subject.volume, second)
        assert is_cut(second_client)
        assert not subject.target.is_exporting(subject.volume)
        assert subject.target.inspect(subject.volume, str(subject.path))[0] == ()
        first_client.close()
        second_client.close()

    def test_inspection_names_the_exports_and_changes_nothing(self, subject: Subject) -> None:
        assert subject.target.inspect(subject.volume, str(subject.path)) in (((), ()), ((), None))
        assert not subject.target.is_exporting(subject.volume)
        (first, info), (second, _) = subject.attach(), subject.attach("ro")
        client = open_connection(info)
        exports, _ = subject.target.inspect(subject.volume, str(subject.path))
        assert set(exports) == {first.id, second.id}
        assert not is_cut(client)
        client.close()

    def test_severing_what_has_no_exporter_any_more_succeeds(self, harness: TargetHarness, subject: Subject) -> None:
        if not harness.has_exporter:
            pytest.skip("this target has no exporter that could die")
        attachment, _ = subject.attach()
        harness.kill_exporter(subject.volume)
        subject.target.sever(subject.volume, attachment)
        assert subject.target.inspect(subject.volume, str(subject.path)) == ((), ())

    def test_ensure_adopts_what_runs_and_cuts_only_what_is_not_asked_for(
        self, harness: TargetHarness, subject: Subject
    ) -> None:
        (kept, kept_info), (_, other_info) = subject.attach(), subject.attach()
        client = open_connection(kept_info)
        other = open_connection(other_info)
        self._restart(harness, subject)
        subject.ensure(kept)
        assert not is_cut(client)
        if harness.can_sever:
            assert is_cut(other)
            assert is_refused(other_info)
        assert subject.target.list_exported() == {subject.volume.id}
        client.close()
        other.close()

    def test_ensure_without_attachments_ends_the_export(self, subject: Subject) -> None:
        subject.attach()
        subject.ensure()
        assert not subject.target.is_exporting(subject.volume)

    def test_dead_exporter_is_noticed_and_started_again_at_the_same_address(
        self, harness: TargetHarness, subject: Subject
    ) -> None:
        if not harness.has_exporter:
            pytest.skip("this target has no exporter that could die")
        attachment, info = subject.attach()
        client = open_connection(info)
        client.write(0, b"kept" * 1024)
        client.flush()
        harness.kill_exporter(subject.volume)
        assert not subject.target.is_exporting(subject.volume)
        assert subject.target.list_exported() == frozenset()
        self._restart(harness, subject)
        subject.ensure(attachment)
        again = open_connection(info)
        assert again.read(0, 4096) == b"kept" * 1024
        client.close()
        again.close()

    def test_disconnecting_from_a_dead_exporter_succeeds(self, harness: TargetHarness, subject: Subject) -> None:
        if not harness.has_exporter:
            pytest.skip("this target has no exporter that could die")
        attachment, _ = subject.attach()
        harness.kill_exporter(subject.volume)
        subject.target.disconnect(subject.volume, attachment)
        assert not subject.target.is_exporting(subject.volume)

    def test_grown_image_is_seen_by_clients(self, subject: Subject) -> None:
        _, info = subject.attach()
        _, read_only_info = subject.attach("ro")
        client = open_connection(info)
        os.truncate(subject.path, 128 * MIB)
        for _ in range(2):
            subject.target.resize(subject.volume, 128 * MIB)
            if subject.target.growth == "reconnect":
                client.close()
                client = open_connection(info)
            assert client.size_bytes == 128 * MIB
        client.write(100 * MIB, b"x" * 4096)
        reader = open_connection(read_only_info)
        assert reader.read(100 * MIB, 4096) == b"x" * 4096
        client.close()
        reader.close()

    def test_resizing_what_is_not_exported_does_nothing(self, subject: Subject) -> None:
        subject.target.resize(subject.volume, 128 * MIB)

    def test_exports_are_told_apart_by_backend_and_volume(self, subject: Subject, tmp_path: pathlib.Path) -> None:
        other = Subject(subject.target, tmp_path / "other")
        subject.attach()
        attachment, _ = other.attach()
        assert subject.target.list_exported() == {subject.volume.id, other.volume.id}
        subject.target.remove(subject.volume.id)
        assert subject.target.list_exported() == {other.volume.id}
        other.target.disconnect(other.volume, attachment)


class PointInTimeContract:
    """Further tests, for targets that copy a volume while its clients write."""

    @pytest.fixture
    def copying(self, harness: TargetHarness, tmp_path: pathlib.Path) -> Iterator[Subject]:
        target = harness.new_target()
        target.check_for_setup_error()
        subject = Subject(target, tmp_path / "image", 256)
        with subject.path.open("r+b") as file:
            for number in range(0, 256, 8):
                file.seek(number * MIB)
                file.write(bytes([number + 1]) * MIB)
        yield subject
        target.remove(subject.volume.id)
        target.close()

    @pytest.fixture
    def destination(self, copying: Subject) -> pathlib.Path:
        path = copying.path.with_name("destination")
        path.write_bytes(b"")
        os.truncate(path, 256 * MIB)
        return path

    def test_copy_is_whole_and_as_sparse_as_its_source(self, copying: Subject, destination: pathlib.Path) -> None:
        copying.attach()
        copying.target.copy_point_in_time(copying.volume, str(destination), NoWork())
        assert destination.read_bytes() == copying.path.read_bytes()
        assert destination.stat().st_blocks <= copying.path.stat().st_blocks + 64

    def test_copy_reports_progress_up_to_the_total(self, copying: Subject, destination: pathlib.Path) -> None:
        copying.attach()
        work = RecordingWork()
        copying.target.copy_point_in_time(copying.volume, str(destination), work)
        done = [done for done, total in work.reports if total]
        assert done == sorted(done)
        assert work.reports[-1][0] <= work.reports[-1][1]

    def test_cancelled_copy_leaves_the_exporter_as_it_was(self, copying: Subject, destination: pathlib.Path) -> None:
        _, info = copying.attach()
        client = open_connection(info)
        for _ in range(3):
            with pytest.raises(exc.OperationCancelled):
                copying.target.copy_point_in_time(copying.volume, str(destination), StoppingWork())
        client.write(0, b"after" * 100)
        assert client.read(0, 500) == b"after" * 100
        os.truncate(destination, 0)
        os.truncate(destination, 256 * MIB)
        copying.target.copy_point_in_time(copying.volume, str(destination), NoWork())
        assert destination.read_bytes()[:500] == b"after" * 100
        client.close()

    def test_abandoned_copy_is_ended_by_the_next_service(
        self, harness: TargetHarness, copying: Subject, destination: pathlib.Path
    ) -> None:
        _, info = copying.attach()
        client = open_connection(info)
        with pytest.raises(exc.OperationSuperseded):
            copying.target.copy_point_in_time(
                copying.volume, str(destination), StoppingWork(exc.OperationSuperseded(id="1"))
            )
        target = harness.new_target()
        target.check_for_setup_error()
        for _ in range(2):
            target.end_abandoned_copies()
        os.unlink(destination)
        assert not is_cut(client)
        target.resize(copying.volume, 256 * MIB)
        client.close()

    def test_copy_that_a_thread_works_on_is_not_abandoned(self, copying: Subject, destination: pathlib.Path) -> None:
        copying.attach()
        work = PausingWork()
        errors: list[BaseException] = []

        def copy() -> None:
            try:
                copying.target.copy_point_in_time(copying.volume, str(destination), work)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=copy, name="copying")
        thread.start()
        try:
            assert work.is_inside.wait(DEADLINE_S)
            copying.target.end_abandoned_copies()
        finally:
            work.go_on.set()
            thread.join(DEADLINE_S)
        assert errors == []
        assert destination.read_bytes() == copying.path.read_bytes()

    def test_copies_of_one_volume_take_turns(self, copying: Subject, destination: pathlib.Path) -> None:
        copying.attach()
        second = destination.with_name("second")
        second.write_bytes(b"")
        os.truncate(second, 256 * MIB)
        errors: list[BaseException] = []

        def copy(path: pathlib.Path) -> None:
            try:
                copying.target.copy_point_in_time(copying.volume, str(path), NoWork())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=copy, args=(path,)) for path in (destination, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert errors == []
        assert destination.read_bytes() == second.read_bytes() == copying.path.read_bytes()

    def test_copy_fails_with_an_error_of_ours_when_the_exporter_dies(
        self, harness: TargetHarness, copying: Subject, destination: pathlib.Path
    ) -> None:
        copying.attach()
        work = CallingWork(lambda: harness.kill_exporter(copying.volume))
        with pytest.raises(exc.DriverError):
            copying.target.copy_point_in_time(copying.volume, str(destination), work)


class RecordingWork:
    def __init__(self) -> None:
        self.reports: list[tuple[int, int]] = []

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        self.reports.append((done_bytes, total_bytes))


class StoppingWork:
    """Raises at the first checkpoint, which a copy has however short it is."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error or exc.OperationCancelled(id="1")

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        raise self._error


class PausingWork:
    """Stays in its first checkpoint until it is told to go on."""

    def __init__(self) -> None:
        self.is_inside = threading.Event()
        self.go_on = threading.Event()

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        self.is_inside.set()
        assert self.go_on.wait(DEADLINE_S)


class CallingWork:
    """Calls something once, at the first checkpoint."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def checkpoint(self, done_bytes: int, total_bytes: int) -> None:
        if self._call is not None:
            call, self._call = self._call, None
            call()


@contextlib.contextmanager
def writing(client: BlockClient, offsets: list[int], block: bytes) -> Iterator[list[BaseException]]:
    """A client that writes ``block`` round and round at ``offsets``; yields the list of its failures."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not stop.is_set():
                for offset in offsets:
                    client.write(offset, block)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write, name="writing client")
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(DEADLINE_S)


def wait_until(condition: Any, deadline_s: float = DEADLINE_S) -> None:
    """Return when ``condition()`` is true; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
