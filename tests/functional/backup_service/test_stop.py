"""SIGTERM while a backup runs, or waits for a volume daemon."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.functional.backup_service.daemon import BackupDaemon
from tests.functional.user import User
from volsvc.ports import Query
from volsvc.testing.daemon import Daemon, wait_until

SOON_S = 30.0  # well before graceful_shutdown_timeout


def open_operations(daemon: BackupDaemon) -> list[str]:
    query = Query(filters={"state": ["queued", "running"]})
    return [operation.action for operation in daemon.records.list_operations(query).items]


def test_a_backup_that_runs_is_finished_and_gives_back_the_volume_before_the_exit(
    make_backups: Callable[..., BackupDaemon],
) -> None:
    daemon = make_backups("volsvc-all", backup_driver="fake")
    script = daemon.root / "script.json"
    daemon.write(backup_fake_script=script)
    script.write_text("{}")
    user = User(daemon.start().wait_ready())
    volume = user.create(1)
    counts = daemon.root / "script.json.counts"
    before = json.loads(counts.read_text())["put_if_absent"]
    script.write_text(json.dumps({"put_if_absent": {"hang": True}}))
    backup = user.cinder.backups.create(volume.id)
    wait_until(lambda: json.loads(counts.read_text())["put_if_absent"] > before, "the backup to be stored")
    position = daemon.log.stat().st_size
    assert daemon.process is not None
    daemon.process.terminate()
    daemon.wait_for_log("stopping; what runs has", position)
    script.write_text("{}")
    assert daemon.process.wait(SOON_S) == 0
    assert daemon.records.get_backup(backup.id).status == "available"
    assert open_operations(daemon) == []
    assert "Traceback" not in daemon.words(position)


def test_a_backup_that_waits_for_its_volume_daemon_keeps_nobody_from_stopping_and_goes_on_later(
    make_backups: Callable[..., BackupDaemon], make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_backups()
    daemon.store.mkdir()
    daemon.start()
    volumes = make_daemon(daemon.root, program="volsvc-volume").start()
    api = make_daemon(daemon.root, program="volsvc-api").start().wait_ready()
    user = User(api)
    volume = user.create(1)
    assert volumes.stop() == 0
    backup = user.cinder.backups.create(volume.id)
    wait_until(lambda: "volume_connect" in open_operations(daemon), "the backup to ask for the volume")
    assert daemon.stop(SOON_S) == 0
    assert daemon.records.get_backup(backup.id).status == "creating"
    daemon.start()
    volumes.start()
    wait_until(lambda: user.cinder.backups.get(backup.id).status == "available", "the backup")
    wait_until(lambda: not open_operations(daemon), "everything to be given back")
