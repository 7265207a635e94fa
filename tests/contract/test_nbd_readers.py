"""Volumes on the network: what the NBD target serves to readers of other hosts, and the bridge on their side."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup import bridge
from volsvc.backup.access import open_sink, open_source
from volsvc.drivers.readers import Reader
from volsvc.nbd.client import NbdConnection
from volsvc.targets.base import TargetContext
from volsvc.targets.nbd import NbdTarget
from volsvc.targets.qsd_process import QsdProcess
from volsvc.testing.filesystems import mounted_tmpfs
from volsvc.testing.snapshots import options_of
from volsvc.testing.target_contract import MIB, wait_until

LOOPBACK = "127.0.0.1"


class Subject:
    """An image, and the target that serves it to one reader."""

    def __init__(self, runtime_path: str, path: pathlib.Path, **options: Any) -> None:
        self.runtime_path = runtime_path
        self.bridges = os.path.join(runtime_path, "bridges")
        self.path = path
        self.reader = Reader(str(uuid.uuid4()), connector={"local": False})
        with path.open("wb") as file:
            file.write(b"first" * 1000)
            file.truncate(64 * MIB)
        self.target = self.new_target(**options)
        self.target.check_for_setup_error()

    def new_target(self, **options: Any) -> NbdTarget:
        values = options_of(NbdTarget, **{"target_ip_address": LOOPBACK} | options)
        return NbdTarget(TargetContext("backend", "host@backend", values, self.runtime_path))

    def open(self, mode: str = "ro") -> Mapping[str, Any]:
        return self.target.open_remotely(str(self.path), Reader(self.reader.id, mode == "ro"))

    @property
    def process(self) -> QsdProcess:
        return self.target._readers._process(self.reader.id)

    def kill(self) -> None:
        pid = self.process.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.process.is_alive)

    def bridge_pids(self) -> list[int]:
        """Processes that have something in the bridges' directory among their arguments."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.fsencode(f"--pidfile={self.bridges}/") in pathlib.Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(int(entry))
        return found


@pytest.fixture
def subject(runtime_path: str, tmp_path: pathlib.Path) -> Iterator[Subject]:
    made = Subject(runtime_path, tmp_path / "image")
    yield made
    for reader_id in made.target.list_readers():
        made.target.close_reader(reader_id)
    assert bridge.end_leftovers(made.bridges) == [], "a bridge outlived its owner"


def with_data(info: Mapping[str, Any], **changes: Any) -> Mapping[str, Any]:
    return {**info, "data": {**info["data"], **changes}}


def first_bytes(source: Any) -> bytes:
    buffer = bytearray(5)
    source.read_into(0, memoryview(buffer))
    return bytes(buffer)


# -- who gets in ---------------------------------------------------------------------------------------


def test_the_right_key_opens_and_every_reader_has_another_one(subject: Subject) -> None:
    info = subject.open()
    with contextlib.closing(open_source(info, subject.bridges)) as source:
        assert (source.size_bytes, first_bytes(source)) == (64 * MIB, b"first")
    other = subject.target.open_remotely(str(subject.path), Reader(str(uuid.uuid4())))
    assert other["data"]["psk_key"] != info["data"]["psk_key"]
    stolen = with_data(other, psk_key=info["data"]["psk_key"], psk_identity=info["data"]["psk_identity"])
    with pytest.raises(exc.VolumeAccessError, match="TLS"):
        open_source(stolen, subject.bridges)


@pytest.mark.parametrize("change", [{"psk_key": "00" * 32}, {"psk_identity": str(uuid.uuid4())}, {"export": "other"}])
def test_another_key_name_or_export_is_refused(subject: Subject, change: dict[str, str]) -> None:
    info = subject.open()
    with pytest.raises(exc.VolumeAccessError, match="can't be opened: "):
        open_source(with_data(info, **change), subject.bridges)
    assert os.listdir(subject.bridges) == []


def test_without_tls_nobody_gets_in(subject: Subject) -> None:
    data = subject.open()["data"]
    with pytest.raises(OSError):
        NbdConnection((data["host"], data["port"]), data["export"], 5.0)


def test_nothing_listens_when_the_reader_is_gone(subject: Subject) -> None:
    data = subject.open()["data"]
    subject.target.close_reader(subject.reader.id)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((data["host"], data["port"]), 5.0)


def test_read_only_is_the_servers_word_and_not_the_clients(subject: Subject) -> None:
    info = with_data(subject.open(), access_mode="rw")
    with pytest.raises(exc.VolumeAccessError):
        open_sink(info, subject.bridges)
    assert subject.path.read_bytes()[:5] == b"first"


def test_reader_that_may_write_now_gets_another_export_and_the_old_key_opens_nothing(subject: Subject) -> None:
    before = subject.open()
    now = subject.open("rw")
    with pytest.raises(exc.VolumeAccessError):
        open_source(before, subject.bridges)
    with contextlib.closing(open_sink(now, subject.bridges)) as sink:
        sink.write(0, memoryview(b"other"))
        sink.sync()
    assert subject.path.read_bytes()[:5] == b"other"


def test_keys_are_private_files_that_go_with_their_export_and_stand_nowhere_else(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    info = subject.open()
    key = info["data"]["psk_key"]
    assert len(key) == 64
    with contextlib.closing(open_source(info, subject.bridges)):
        keys = list(pathlib.Path(subject.runtime_path).glob("**/keys.psk"))
        assert len(keys) == 2, "the server's and the bridge's"
        for path in keys:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for pid in (subject.process.pid(), *subject.bridge_pids()):
            assert key.encode() not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    subject.target.close_reader(subject.reader.id)
    assert list(pathlib.Path(subject.runtime_path).glob("**/keys.psk")) == []
    assert key not in caplog.text


# -- addresses and ports ----------------------------------------------------------------------------------


def test_ports_are_those_of_the_option_and_one_that_is_taken_is_passed_over(
    runtime_path: str, tmp_path: pathlib.Path
) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        subject = Subject(runtime_path, tmp_path / "image", nbd_remote_ports=f"{port}-{port}")
        with pytest.raises(exc.DriverError, match="nbd_remote_ports"):
            subject.open()
        assert subject.target.list_readers() == frozenset()
    assert subject.open()["data"]["port"] == port
    subject.target.close_reader(subject.reader.id)


@pytest.mark.parametrize("ports", ["70000-70001", "20-10", "some", "0-5", "5-"])
def test_ports_that_make_no_sense_are_a_configuration_error(
    runtime_path: str, tmp_path: pathlib.Path, ports: str
) -> None:
    with pytest.raises(exc.DriverConfigurationError, match="nbd_remote_ports"):
        Subject(runtime_path, tmp_path / "image", nbd_remote_ports=ports)


def test_address_that_is_nobodys_is_a_configuration_error(runtime_path: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(exc.DriverConfigurationError, match="target_ip_address"):
        Subject(runtime_path, tmp_path / "image", target_ip_address="0.0.0.0")


@pytest.mark.parametrize("address", ["203.0.113.9", "no.such.name.invalid"])
def test_address_that_this_host_has_not_is_named_in_the_error(
    runtime_path: str, tmp_path: pathlib.Path, address: str
) -> None:
    subject = Subject(runtime_path, tmp_path / "image", target_ip_address=address)
    with pytest.raises(exc.DriverError, match="target_ip_address") as error:
        subject.open()
    assert address in str(error.value)
    assert subject.target.list_readers() == frozenset()


def test_a_reset_sees_the_readers_of_a_volume_and_severs_them(subject: Subject) -> None:
    volume = models.Volume(str(uuid.uuid4()), 1, "restoring-backup", "project", "user")
    info = subject.open("rw")
    assert subject.target.inspect(volume, str(subject.path)) == ((subject.reader.id,), ())
    severed = models.Attachment(subject.reader.id, volume.id, "attached", "project")
    with contextlib.closing(open_sink(info, subject.bridges, reconnect_s=0)) as sink:
        subject.target.sever(volume, severed)
        with pytest.raises(exc.VolumeAccessError):
            sink.write(0, memoryview(b"late"))
    assert subject.target.inspect(volume, str(subject.path)) == ((), ())


# -- processes that die ---------------------------------------------------------------------------------


def test_exporter_that_is_killed_is_an_error_of_the_volume_and_can_be_opened_again(subject: Subject) -> None:
    info = subject.open()
    with contextlib.closing(open_source(info, subject.bridges, reconnect_s=0)) as source:
        assert first_bytes(source) == b"first"
        subject.kill()
        with pytest.raises(exc.VolumeAccessError, match=subject.reader.id):
            first_bytes(source)
        again = subject.open()
        assert again["data"]["psk_key"] != info["data"]["psk_key"]
        with contextlib.closing(open_source(again, subject.bridges)) as second:
            assert first_bytes(second) == b"first"


def test_killed_exporter_of_a_writer_makes_no_write_a_success(subject: Subject) -> None:
    info = subject.open("rw")
    with contextlib.closing(open_sink(info, subject.bridges, reconnect_s=0)) as sink:
        sink.write(MIB, memoryview(b"x" * 4096))
        subject.kill()
        for attempt in (lambda: sink.write(0, memoryview(b"y" * 4096)), sink.sync):
            with pytest.raises(exc.VolumeAccessError):
                attempt()


def test_bridge_that_is_killed_is_an_error_of_the_volume(subject: Subject) -> None:
    with contextlib.closing(open_source(subject.open(), subject.bridges)) as source:
        [pid] = subject.bridge_pids()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(exc.VolumeAccessError):
            first_bytes(source)
    assert os.listdir(subject.bridges) == []


def test_bridge_that_hangs_is_ended_by_closing_it(subject: Subject) -> None:
    source = open_source(subject.open(), subject.bridges)
    [pid] = subject.bridge_pids()
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        source.close()
    assert subject.bridge_pids() == []
    assert os.listdir(subject.bridges) == []


READER = textwrap.dedent(
    """
    import json, sys
    from volsvc.backup.access import open_source
    source = open_source(json.loads(sys.argv[1]), sys.argv[2])
    print(source.size_bytes, flush=True)
    sys.stdin.read()
    """
)


@contextlib.contextmanager
def reading_process(subject: Subject, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the volume open."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, json.dumps(subject.open()), subject.bridges],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == 64 * MIB
        yield process
    finally:
        process.kill()
        process.communicate()


def test_bridge_of_a_reader_that_is_killed_ends_with_it(subject: Subject) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed: leftovers are ended at the next start")
    with reading_process(subject) as process:
        assert len(subject.bridge_pids()) == 1
        process.kill()
        wait_until(lambda: subject.bridge_pids() == [])
    assert len(bridge.end_leftovers(subject.bridges)) == 1, "its files, the key among them"
    assert os.listdir(subject.bridges) == []


def test_what_a_killed_reader_left_is_ended_at_the_next_start_and_a_living_ones_is_not(
    subject: Subject, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "bin").mkdir()
    found = shutil.which("qemu-storage-daemon")
    assert found is not None
    (tmp_path / "bin" / "qemu-storage-daemon").symlink_to(found)
    with (
        contextlib.closing(open_source(subject.open(), subject.bridges)) as living,
        reading_process(subject, PATH=str(tmp_path / "bin")) as process,
    ):
        process.kill()
        process.wait()
        assert len(subject.bridge_pids()) == 2, "without setpriv nobody tells it"
        assert len(bridge.end_leftovers(subject.bridges)) == 1
        assert len(subject.bridge_pids()) == 1
        assert first_bytes(living) == b"first"
        assert bridge.end_leftovers(subject.bridges) == []


def test_bridge_that_has_no_room_for_its_files_says_so(subject: Subject, tmp_path: pathlib.Path) -> None:
    info = subject.open()
    with mounted_tmpfs(tmp_path / "full", 1) as path:
        with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        with pytest.raises(exc.VolumeAccessError, match="room"):
            open_source(info, str(path))


def test_missing_program_is_named_with_its_package(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    info = subject.open()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(exc.MissingDriverLibrary, match="qemu-system-common"):
        open_source(info, subject.bridges)
    assert not os.path.exists(subject.bridges)


@pytest.mark.parametrize(
    "info",
    [{}, {"driver_volume_type": "rbd", "data": {}}, {"driver_volume_type": "nbd+tls", "data": {"host": "here"}}, None],
)
def test_connections_that_this_program_can_not_open_are_said_to_be_so(info: Any, tmp_path: pathlib.Path) -> None:
    for opener in (open_source, open_sink):
        with pytest.raises(exc.VolumeAccessError):
            opener(info, str(tmp_path))
