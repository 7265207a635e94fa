"""A store describes itself: after the database is lost its backups are found, recorded again and restored."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.user import User
from volsvc.testing.daemon import Daemon, wait_until

pytestmark = pytest.mark.slow


def scan(daemon: Daemon, *more: str) -> subprocess.CompletedProcess[str]:
    return daemon.run("volsvc-manage", "backup", "scan", *more)


def rows(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(scan(daemon, "-f", "json").stdout)
    return found


def wait_available(user: User, backup_id: str) -> None:
    wait_until(lambda: user.cinder.backups.get(backup_id).status == "available", "the backup to be available")


def test_backups_survive_the_loss_of_the_database(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    user = User(daemon.start().wait_ready())
    volume = user.create(1)
    connection = user.connect(volume)
    connection.write(4096, b"kept" * 1024)
    user.cinder.attachments.delete(connection.id)
    backup = user.cinder.backups.create(volume.id, name="Tagsüber ☀", metadata={"k": "v"}).id
    wait_available(user, backup)
    assert [(row["id"], row["state"]) for row in rows(daemon)] == [(backup, "recorded, available")]
    assert scan(daemon).returncode == 0
    daemon.stop()
    for name in os.listdir(daemon.state):
        if name.startswith("volsvc.sqlite"):
            os.unlink(daemon.state / name)
    user = User(daemon.start().wait_ready())
    assert user.cinder.backups.list() == []
    [row] = rows(daemon)
    assert (row["state"], row["name"], row["volume_id"]) == ("not recorded", "Tagsüber ☀", volume.id)
    assert scan(daemon).returncode == 1
    done = scan(daemon, "--import")
    assert done.returncode == 0, done.stderr
    wait_available(user, backup)
    found = user.cinder.backups.get(backup)
    assert (found.name, found.size, found.volume_id) == ("Tagsüber ☀", 1, volume.id)
    restored = user.cinder.restores.restore(backup).volume_id
    connection = user.connect(user.wait_volume(restored))
    assert connection.read(4096, 4096) == b"kept" * 1024
    (daemon.state / "backup").rename(daemon.state / "elsewhere")
    (daemon.state / "backup").mkdir(mode=0o700)
    done = scan(daemon)
    assert done.returncode == 1
    assert "has no marker" in done.stderr
