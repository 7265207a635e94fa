"""A backup service that doesn't see the volumes' files: it reads and writes them over the network.

It runs in a mount namespace of its own, in which their directory is empty, as on another host.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.functional.user import MIB, Connection, User
from volsvc.testing.daemon import Daemon, wait_until

pytestmark = pytest.mark.slow

DATA_MIB = 192


class Hosts(NamedTuple):
    """The volumes' host with its API, and the backup service of the other one."""

    volume: Daemon
    backup: Daemon
    user: User

    @property
    def keys(self) -> list[pathlib.Path]:
        return list(self.volume.root.glob("**/keys.psk"))

    def readers(self) -> list[int]:
        """Pids of the exporters that serve the network."""
        found = []
        for pidfile in self.volume.root.glob("run/rdr-*/*/pid"):
            with contextlib.suppress(OSError, ValueError):
                found.append(int(pidfile.read_text()))
        return found

    def back_up(self, volume: Any, **arguments: Any) -> str:
        return str(self.user.cinder.backups.create(volume.id, force=True, **arguments).id)

    def wait_available(self, backup_id: str) -> Any:
        def look() -> Any:
            backup = self.user.cinder.backups.get(backup_id)
            assert backup.status in ("creating", "available"), f"{backup.status}: {backup.fail_reason}"
            return backup if backup.status == "available" else None

        return wait_until(look, "the backup to be available", 90)

    def wait_running(self, backup_id: str) -> None:
        """Until some of it is read."""

        def look() -> bool:
            [operation] = [o for o in self.user.operations(backup_id) if o["action"].startswith("backup_create")]
            assert operation["state"] in ("queued", "running"), "it ended before it could be disturbed"
            return bool(operation["progress"]["done_bytes"]) and bool(self.readers())

        wait_until(look, "the backup to get on", 60, pause_s=0.005)

    def restore(self, backup_id: str) -> Any:
        return self.user.wait_volume(self.user.cinder.restores.restore(backup_id).volume_id, timeout_s=90)

    def require_nothing_left(self) -> None:
        self.user.wait_idle()
        wait_until(lambda: not self.readers() and not self.keys, "what the reader was given to be gone")
        assert not self.user.cinder.volume_snapshots.list(), "a temporary snapshot is left"


@pytest.fixture
def hosts(make_daemon: Callable[..., Daemon]) -> Hosts:
    backends = {"backend_defaults": {"target_ip_address": "127.0.0.1"}}
    volume = make_daemon(program="volsvc-volume", groups=backends).start()
    api = make_daemon(volume.root, program="volsvc-api").start()
    backup = make_daemon(volume.root, program="volsvc-backup")
    backup.wrapper = elsewhere(volume.volumes)
    backup.start()
    api.wait_ready()
    return Hosts(volume, backup, User(api))


def elsewhere(hidden: pathlib.Path) -> tuple[str, ...]:
    """A command that runs another with nothing in the directory ``hidden``."""
    as_root = () if os.geteuid() == 0 else ("--map-root-user",)
    command = ("unshare", "--mount", *as_root, "--", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden))
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this user may not have a mount namespace here")
    return command


def written(hosts: Hosts) -> tuple[Any, bytes]:
    """An available volume with random data at its beginning and a little at its end."""
    volume = hosts.user.create(1)
    data = random.Random(7).randbytes(DATA_MIB * MIB)
    connection = hosts.user.connect(volume)
    with connection.open() as nbd:
        for offset in range(0, len(data), 16 * MIB):
            nbd.write(offset, data[offset : offset + 16 * MIB])
        nbd.write(1023 * MIB, b"end" * 1000)
        nbd.flush()
    hosts.user.disconnect(connection)
    return hosts.user.wait_volume(volume.id), data


def holds(hosts: Hosts, volume: Any, data: bytes) -> bool:
    connection = hosts.user.connect(volume)
    with connection.open() as nbd:
        same = all(nbd.read(at, 16 * MIB) == data[at : at + 16 * MIB] for at in range(0, len(data), 16 * MIB))
        same = same and nbd.read(1023 * MIB, 3000) == b"end" * 1000 and not any(nbd.read(512 * MIB, MIB))
    hosts.user.disconnect(connection)
    return same


def test_volumes_of_another_host_are_backed_up_and_restored_over_the_network(hosts: Hosts) -> None:
    user = hosts.user
    volume, data = written(hosts)
    connection: Connection = user.connect(volume)
    attached = hosts.back_up(volume)
    hosts.wait_available(attached)
    user.disconnect(connection)
    volume = user.wait_volume(volume.id)
    detached = hosts.back_up(volume)
    hosts.wait_available(detached)
    connects = [
        operation
        for operation in user.get("/operations?all_tenants=1&limit=1000")["operations"]
        if operation["action"] in ("volume_connect", "snapshot_connect")
    ]
    assert len(connects) == 4, "each was asked for a path first"
    for operation in connects:
        assert (operation["state"], operation["result"]) == ("done", {"connection_info": "***"})
    assert "psk_key" not in hosts.backup.run("volsvc-manage", "operation", "list", "--all", "-f", "json").stdout
    for backup in (attached, detached):
        assert holds(hosts, hosts.restore(backup), data)
    hosts.require_nothing_left()
    assert "keys.psk" not in hosts.volume.words() + hosts.backup.words()


@pytest.mark.parametrize("victim", ["backup service", "exporter", "volume service"])
def test_a_backup_of_another_hosts_volume_outlives_a_kill(hosts: Hosts, victim: str) -> None:
    volume, data = written(hosts)
    backup = hosts.back_up(volume)
    hosts.wait_running(backup)
    if victim == "exporter":
        for pid in hosts.readers():
            os.kill(pid, signal.SIGKILL)
    else:
        daemon = hosts.backup if victim == "backup service" else hosts.volume
        daemon.kill()
        daemon.start()
    hosts.wait_available(backup)
    hosts.user.daemon.wait_ready()
    assert holds(hosts, hosts.restore(backup), data)
    hosts.require_nothing_left()


def test_a_restore_to_another_hosts_volume_outlives_a_kill(hosts: Hosts) -> None:
    volume, data = written(hosts)
    backup = hosts.back_up(volume)
    hosts.wait_available(backup)
    hosts.user.wait_idle()
    restored = hosts.user.cinder.restores.restore(backup).volume_id
    wait_until(hosts.readers, "the restore to begin", 60, pause_s=0.005)
    hosts.backup.kill()
    hosts.backup.start()
    found = hosts.user.wait_volume(restored, timeout_s=90)
    assert holds(hosts, found, data)
    hosts.require_nothing_left()
