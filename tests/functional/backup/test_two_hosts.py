"""A backup service that can't see the volumes' files: it reads and writes them over NBD with TLS.

It has another host name, state of its own, and a mount namespace in which the volumes' directory is
empty, as on another machine; the database and the message bus are shared.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.functional.backup.backing import BackupUser, ScriptedBackups, list_files, require_store
from tests.functional.writer import StampWriter, read_stamps
from volsvc.testing.daemon import Daemon, exporters_under, wait_until

pytestmark = pytest.mark.slow

BIN = pathlib.Path(sys.executable).parent


@dataclass
class Hosts:
    user: BackupUser
    near: Daemon
    far: Daemon
    scripted: ScriptedBackups

    def readers(self) -> list[int]:
        """Exporters that serve the far host."""
        return [pid for pid in exporters_under(self.near.root) if '"endpoint": "server"' in command_of(pid)]

    def bridges(self) -> list[int]:
        return [pid for pid in exporters_under(self.near.root) if '"driver": "nbd"' in command_of(pid)]

    def require_over_the_network(self, position: int) -> None:
        assert "reads over the network" in self.far.words(position)

    def require_well(self) -> None:
        self.user.require_nothing_lent()
        assert not self.readers()
        assert not self.bridges()
        assert not list_files(self.far.state / "backup-journals")
        require_store(self.scripted.store, {row["id"] for row in self.user.backups()})


def command_of(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def hidden(program: str, directory: pathlib.Path, wrapper: pathlib.Path) -> str:
    """A program that runs ``program`` where ``directory`` is empty; skips the test where that isn't allowed."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", str(directory)], check=False).returncode:
        pytest.skip("this machine gives no mount namespace")
    inner = f'mount -t tmpfs none "{directory}" && exec "{BIN / program}" "$@"'
    wrapper.write_text(f"#!/bin/sh\nexec {' '.join(unshare)} sh -c '{inner}' sh \"$@\"\n")
    wrapper.chmod(0o700)
    return str(wrapper)


@pytest.fixture
def hosts(make_daemon: Callable[..., Daemon], tmp_path: pathlib.Path) -> Hosts:
    for tool in ("unshare", "qemu-storage-daemon"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    volumes = make_daemon(program="volsvc-volume")
    ScriptedBackups(volumes)
    volumes.start()
    api = make_daemon(volumes.root, program="volsvc-api")
    api.environment = volumes.environment
    api.start()
    far = make_daemon(program=hidden("volsvc-backup", volumes.volumes, tmp_path / "volsvc-backup"))
    shared = {"runtime_path": volumes.root / "run", "host": "far"}
    scripted = ScriptedBackups(far, **shared)
    with far.config.open("a") as file:
        file.write(f"[database]\nconnection = sqlite:///{volumes.state}/volsvc.sqlite\n")
    far.start()
    user = BackupUser(api.wait_ready())
    assert user.service()["host"] == "far"
    return Hosts(user, volumes, far, scripted)


def test_a_volume_of_another_host_is_backed_up_at_one_moment_and_restored_over_tls(hosts: Hosts) -> None:
    user, position = hosts.user, len(hosts.far.words())
    volume = user.filled(seed=1, mib=24)
    idle = user.digest(volume)
    of_idle = user.back_up(volume)
    hosts.require_over_the_network(position)
    connection = user.connect(volume)
    with StampWriter(connection) as writer:
        number = hosts.scripted.hang("put_pack")
        backup = user.cinder.backups.create(volume.id, force=True)
        hosts.scripted.wait_call("put_pack", number)
        assert len(hosts.readers()) == len(hosts.bridges()) == 1
        writer.wait_more(50)
        hosts.scripted.write({})
        user.wait_backup(backup.id)
    user.disconnect(connection)
    assert not hosts.readers()
    restored = user.restore(backup)
    connection = user.connect(restored)
    first, second = read_stamps(connection)
    user.disconnect(connection)
    assert 0 <= first - second <= 1
    assert second > 0
    user.restore(of_idle, restored)
    assert user.digest(restored) == idle
    hosts.require_well()


@pytest.mark.parametrize("method", ["put_pack", "get_pack"])
def test_killed_while_it_reads_or_writes_another_hosts_volume_it_goes_on(hosts: Hosts, method: str) -> None:
    """The backup daemon, then the exporter that serves it, then the volume daemon."""
    user = hosts.user
    volume = user.filled(seed=1, mib=40)
    before = user.digest(volume)
    kept, target = user.back_up(volume), user.create(1)

    def ask() -> str:
        if method == "get_pack":
            user.cinder.restores.restore(kept.id, target.id)
            return str(kept.id)
        return str(user.cinder.backups.create(volume.id).id)

    for victim in ("far", "exporter", "near"):
        number = hosts.scripted.hang(method, 2)
        backup_id = ask()
        hosts.scripted.wait_call(method, number)
        if victim == "exporter":
            [pid] = hosts.readers()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not hosts.readers(), "the exporter to be gone")
        else:
            (hosts.far if victim == "far" else hosts.near).kill()
        hosts.scripted.write({})
        if victim != "exporter":
            (hosts.far if victim == "far" else hosts.near).start()
        backup = user.wait_backup(backup_id)
        user.daemon.wait_ready()
        made = target if method == "get_pack" else user.restore(backup)
        user.wait_volume(made.id)
        assert user.digest(made) == before, victim
        hosts.require_well()
