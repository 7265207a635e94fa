"""Backup services of two hosts on one store: each serves what the other made, while that one is away."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any

from tests.functional.user import MIB, User
from volsvc.testing.daemon import Daemon, wait_until


def states(user: User) -> dict[str, str]:
    return {s.host: s.state for s in user.cinder.services.list(binary="cinder-backup")}


def host_of(daemon: Daemon, action: str, resource_id: str) -> str:
    done = daemon.run("volsvc-manage", "operation", "list", "--all", "-f", "json")
    [found] = [o for o in json.loads(done.stdout) if (o["action"], o["resource_id"]) == (action, resource_id)]
    return str(found["host"])


def test_a_backup_is_restored_and_deleted_by_another_service_that_has_its_store(
    make_daemon: Callable[..., Daemon],
) -> None:
    one = make_daemon()
    store = one.root / "store"
    store.mkdir()
    options: dict[str, Any] = {"backup_posix_path": store, "periodic_interval": 1}
    one.configure({"host": "one", **options}, {})
    (one.root / "other").mkdir()
    other = make_daemon(one.root / "other", program="volsvc-backup")
    other.configure({"host": "other", "state_path": one.state, "runtime_path": one.root / "run", **options}, {})
    user = User(one.start().wait_ready())
    other.start()
    wait_until(lambda: states(user) == {"one": "up", "other": "up"}, "both to be up")

    user.cinder.services.disable("one", "cinder-backup")
    volume = user.create(1)
    data = random.Random(3).randbytes(5 * MIB)
    connection = user.connect(volume)
    connection.write(MIB, data)
    user.disconnect(connection)
    backup = user.cinder.backups.create(user.wait_volume(volume.id).id).id
    wait_until(lambda: user.cinder.backups.get(backup).status == "available", "the backup")
    assert host_of(one, "backup_create", backup) == "other"

    assert other.stop() == 0
    wait_until(lambda: states(user)["other"] == "down", "the service that made it to be down")
    restored = user.wait_volume(user.cinder.restores.restore(backup).volume_id)
    assert host_of(one, "backup_restore_to_new", backup) == "one"
    connection = user.connect(restored)
    assert connection.read(MIB, len(data)) == data
    user.disconnect(connection)
    user.cinder.backups.delete(backup)
    wait_until(lambda: not user.cinder.backups.list(), "the backup to be deleted")
    left = [name for _, _, names in os.walk(store) for name in names]
    assert left == ["volsvc-store.json"]
