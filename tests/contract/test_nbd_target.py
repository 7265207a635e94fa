"""The NBD target keeps the contract, and what only it has: processes, sockets, full disks."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import NoWork
from volsvc.targets import point_in_time, qsd, qsd_process
from volsvc.targets.base import TargetContext
from volsvc.targets.nbd import NbdTarget
from volsvc.testing.block_clients import open_connection
from volsvc.testing.filesystems import mounted_tmpfs
from volsvc.testing.nbd_client import NbdClient
from volsvc.testing.snapshots import options_of
from volsvc.testing.target_contract import (
    MIB,
    PointInTimeContract,
    Subject,
    TargetContract,
    TargetHarness,
    is_cut,
    wait_until,
    writing,
)


class NbdHarness(TargetHarness):
    def __init__(self, runtime_path: str) -> None:
        self.runtime_path = runtime_path

    def new_target(self, **options: Any) -> NbdTarget:
        context = TargetContext("backend", "host@backend", options_of(NbdTarget, **options), self.runtime_path)
        return NbdTarget(context)

    def exporter(self, volume: models.Volume) -> qsd.Exporter:
        return self.new_target()._exporter(volume.id)

    def kill_exporter(self, volume: models.Volume) -> None:
        exporter = self.exporter(volume)
        pid = exporter.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not exporter.is_alive)


@pytest.fixture
def harness(runtime_path: str) -> NbdHarness:
    return NbdHarness(runtime_path)


@pytest.fixture
def target(harness: NbdHarness) -> Iterator[NbdTarget]:
    target = harness.new_target()
    target.check_for_setup_error()
    yield target
    for volume_id in target.list_exported():
        target.remove(volume_id)


class TestNbdTarget(TargetContract):
    def test_a_hanging_exporter_is_killed_to_sever_its_clients(
        self, harness: NbdHarness, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(qsd_process, "MONITOR_TIMEOUT_S", 0.2)
        attachment, info = subject.attach()
        client = open_connection(info)
        client.write(0, b"x" * 4096)
        client.flush()
        pid = harness.exporter(subject.volume).pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        subject.target.sever(subject.volume, attachment)
        assert is_cut(client)
        assert not harness.exporter(subject.volume).is_alive
        client.close()

    def test_connected_clients_are_named_by_their_process(self, subject: Subject) -> None:
        _, info = subject.attach()
        assert subject.target.inspect(subject.volume, str(subject.path))[1] == ()
        first, second = open_connection(info), open_connection(info)
        name = pathlib.Path("/proc/self/comm").read_text().strip()
        expected = f"unix:pid {os.getpid()} ({name})"
        assert subject.target.inspect(subject.volume, str(subject.path))[1] == (expected, expected)
        first.close()
        wait_until(lambda: subject.target.inspect(subject.volume, str(subject.path))[1] == (expected,))
        second.close()


class TestNbdTargetCopies(PointInTimeContract):
    pass


class TestNbdTargetCopiesOnTmpfs(PointInTimeContract):
    @pytest.fixture
    def tmp_path(self, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
        with mounted_tmpfs(tmp_path / "tmpfs", 256) as path:
            yield path


# -- a full disk -----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with mounted_tmpfs(tmp_path / "small", 32) as path:
        yield path


@pytest.mark.parametrize("is_scratch_full", [True, False], ids=["no room for old blocks", "no room for the copy"])
def test_full_disk_fails_the_copy_and_never_the_clients_writes(
    target: NbdTarget,
    tmp_path: pathlib.Path,
    small_disk: pathlib.Path,
    is_scratch_full: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = Subject(target, tmp_path / "image", 256)
    with subject.path.open("r+b") as file:
        for _ in range(192):
            file.write(os.urandom(MIB))
    destination = (tmp_path if is_scratch_full else small_disk) / "destination"
    destination.write_bytes(b"")
    if is_scratch_full:
        # Only the scratch file is on the small disk, and the copy is slow enough for it to fill.
        real = point_in_time._add_scratch
        monkeypatch.setattr(
            point_in_time, "_add_scratch", lambda qmp, path, size: real(qmp, str(small_disk / "scratch"), size)
        )
        monkeypatch.setattr(point_in_time, "MIRROR_SPEED_BYTES", 8 * MIB)
    _, info = subject.attach()
    client = open_connection(info)
    with writing(client, [number * MIB for number in range(191, 0, -1)], os.urandom(MIB)) as failures:
        with pytest.raises(exc.DriverError) as caught:
            target.copy_point_in_time(subject.volume, str(destination), NoWork())
        assert failures == []
    if not is_scratch_full:
        assert isinstance(caught.value, exc.StorageFull)
    assert failures == []
    assert not is_cut(client)
    client.close()
    # What filled the disk is given back with the scratch file.
    if is_scratch_full:
        assert os.listdir(small_disk) == []
        assert os.statvfs(small_disk).f_bfree == os.statvfs(small_disk).f_blocks


# -- the process -------------------------------------------------------------------------


def test_exporter_has_its_own_session_and_no_parent_of_ours(target: NbdTarget, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    subject.attach()
    pid = target._exporter(subject.volume.id).pid()
    assert pid is not None
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    parent, session = int(fields[1]), int(fields[3])
    assert parent != os.getpid()
    assert session != os.getsid(0)


def test_pid_that_is_another_process_is_not_believed_nor_killed(target: NbdTarget, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    attachment, _ = subject.attach()
    exporter = target._exporter(subject.volume.id)
    target.remove(subject.volume.id)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        os.makedirs(exporter.paths.control)
        pathlib.Path(exporter.paths.pidfile).write_text(f"{stranger.pid}\n")
        assert not target.is_exporting(subject.volume)
        target.remove(subject.volume.id)
        assert stranger.poll() is None
        os.makedirs(exporter.paths.control)
        pathlib.Path(exporter.paths.pidfile).write_text(f"{stranger.pid}\n")
        subject.ensure(attachment)
        assert exporter.pid() not in (None, stranger.pid)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_exporter_that_does_not_answer_is_ended_by_force(
    target: NbdTarget, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(target, tmp_path / "image")
    subject.attach()
    exporter = target._exporter(subject.volume.id)
    pid = exporter.pid()
    assert pid is not None
    monkeypatch.setattr(qsd_process, "MONITOR_TIMEOUT_S", 0.2)
    monkeypatch.setattr(qsd_process, "TERM_TIMEOUT_S", 0.2)
    os.kill(pid, signal.SIGSTOP)
    target.remove(subject.volume.id)
    assert not exporter.is_alive


def test_files_of_an_ended_exporter_are_gone(target: NbdTarget, harness: NbdHarness, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    attachment, _ = subject.attach()
    target.disconnect(subject.volume, attachment)
    left = [str(p) for p in pathlib.Path(harness.runtime_path).rglob("*") if not p.is_dir()]
    assert left == []


def test_dead_exporters_files_are_swept(target: NbdTarget, harness: NbdHarness, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    subject.attach()
    harness.kill_exporter(subject.volume)
    target.end_abandoned_copies()
    assert [p for p in pathlib.Path(harness.runtime_path).rglob("*") if not p.is_dir()] == []


def test_image_that_can_not_be_opened_fails_with_the_exporters_words(target: NbdTarget, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    subject.path.unlink()
    with pytest.raises(exc.DriverError, match="No such file or directory"):
        subject.attach()
    assert target.list_exported() == frozenset()


def test_missing_program_names_the_package(harness: NbdHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(exc.MissingDriverLibrary, match="qemu-system-common"):
        harness.new_target().check_for_setup_error()


def test_program_that_is_too_old_is_not_supported(
    harness: NbdHarness, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "qemu-storage-daemon"
    old.write_text("#!/bin/sh\necho qemu-storage-daemon version 6.2.0\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(exc.DriverNotSupported, match=r"6\.2"):
        harness.new_target().check_for_setup_error()


# -- sockets -----------------------------------------------------------------------------


def test_runtime_path_that_is_too_long_for_sockets_names_the_option(tmp_path: pathlib.Path) -> None:
    target = NbdHarness(str(tmp_path / ("x" * 90))).new_target()
    with pytest.raises(exc.DriverConfigurationError, match="runtime_path"):
        target.check_for_setup_error()


def test_unknown_group_is_a_configuration_error(harness: NbdHarness) -> None:
    with pytest.raises(exc.DriverConfigurationError, match="nbd_socket_group"):
        harness.new_target(nbd_socket_group="no-such-group").check_for_setup_error()


def test_sockets_have_the_configured_directory_mode_and_group(
    harness: NbdHarness, runtime_path: str, tmp_path: pathlib.Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another group needs root")
    directory = os.path.join(runtime_path, "outside")
    target = harness.new_target(
        nbd_socket_directory=directory,
        nbd_socket_directory_mode="0710",
        nbd_socket_mode="0660",
        nbd_socket_group="daemon",
    )
    target.check_for_setup_error()
    subject = Subject(target, tmp_path / "image")
    _, info = subject.attach()
    found = os.stat(info["data"]["socket"])
    assert os.path.dirname(info["data"]["socket"]) == directory
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == os.stat(directory).st_gid == 1
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o710
    target.remove(subject.volume.id)


def test_control_sockets_are_for_the_service_alone(target: NbdTarget, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    subject.attach()
    control = pathlib.Path(target._exporter(subject.volume.id).paths.control)
    assert stat.S_IMODE(control.stat().st_mode) == 0o700
    assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700


# -- exports -----------------------------------------------------------------------------


def test_attachment_that_becomes_read_only_loses_its_writable_export(target: NbdTarget, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    attachment, info = subject.attach()
    client = open_connection(info)
    read_only = models.Attachment(attachment.id, subject.volume.id, "attaching", "project", attach_mode="ro")
    again = open_connection(subject.connect(read_only))
    assert is_cut(client)
    assert isinstance(again, NbdClient)
    assert again.is_read_only
    again.close()
    client.close()


def test_attachment_severed_after_a_cut_resize_does_not_come_back(
    target: NbdTarget, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(target, tmp_path / "image")
    (first, first_info), (_, second_info) = subject.attach(), subject.attach()
    os.truncate(subject.path, 128 * MIB)

    class Killed(BaseException):
        pass

    def die(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("volsvc.targets.nbd_exports.Exports._add", die)
        target.resize(subject.volume, 128 * MIB)
    target.disconnect(subject.volume, first)
    assert target.is_exporting(subject.volume)
    target.resize(subject.volume, 128 * MIB)
    with pytest.raises(OSError):
        open_connection(first_info)
    client = open_connection(second_info)
    assert client.size_bytes == 128 * MIB
    client.close()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_uri_is_understood_by_qemu(target: NbdTarget, tmp_path: pathlib.Path) -> None:
    subject = Subject(target, tmp_path / "image")
    _, info = subject.attach()
    result = subprocess.run(
        ["qemu-img", "info", "-f", "raw", info["data"]["uri"]], capture_output=True, text=True, timeout=30, check=False
    )
    assert "67108864 bytes" in result.stdout, result.stderr
