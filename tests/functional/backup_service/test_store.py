"""The real backup daemon on a store that is missing, another, read-only or hung: down with the reason, and back."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.functional.backup_service.daemon import BackupDaemon, marker
from tests.functional.reload.reloading import reload, reload_ended
from tests.functional.user import User
from volsvc.testing.daemon import Daemon, wait_until
from volsvc.testing.filesystems import mounted_tmpfs

pytestmark = pytest.mark.slow

Make = Callable[..., BackupDaemon]


def test_a_missing_store_is_down_with_the_reason_until_a_sighup_finds_it(make_backups: Make) -> None:
    daemon = make_backups().start()
    row = daemon.wait_state("exhausted")
    assert (row.is_up, row.step, row.attempts) == (False, "check", 1)
    _, listed = daemon.manage("service", "list")
    assert "cinder-backup" in listed
    assert f"check: The backend is unavailable: the directory {daemon.store} is not there" in listed
    code, words = daemon.manage("service", "reinit", "node")
    assert (code, str(daemon.store) in words) == (1, True), words
    daemon.store.mkdir()
    assert reload(daemon)["error"] is None
    assert daemon.wait_state("ready").is_up
    assert json.loads(marker(daemon.store))["uuid"] == daemon.row.backend_uuid
    assert daemon.manage("service", "reinit", "node") == (0, "node: ready already\n")
    assert "backup.driver.init.error" in daemon.words()
    assert "backup.driver.init.end" in daemon.words()
    assert daemon.stop() == 0


def test_a_missing_store_is_served_when_it_appears_with_periodic_initialization(make_backups: Make) -> None:
    daemon = make_backups(backup_periodic_initialization=True, reinit_driver_count=0).start()
    daemon.wait_state("retrying")
    wait_until(lambda: daemon.row.attempts >= 3, "some attempts")
    daemon.store.mkdir()
    daemon.wait_state("ready")


def test_a_store_that_goes_away_takes_only_the_backups_down_and_comes_back_by_itself(make_backups: Make) -> None:
    daemon = make_backups("volsvc-all")
    daemon.store.mkdir()
    daemon.start().wait_ready()
    kept = marker(daemon.store)
    away = daemon.root / "away"
    # As after an unmount: the directory is there, but it is another one.
    daemon.store.rename(away)
    daemon.store.mkdir()
    daemon.wait_state("lost")
    user = User(daemon)
    (backups,) = user.cinder.services.list(binary="cinder-backup")
    (volumes,) = user.cinder.services.list(binary="cinder-volume")
    assert (backups.host, backups.state, volumes.state) == ("node", "down", "up")
    assert "marker" in getattr(backups, "volsvc:init_reason")
    user.create(1)
    assert os.listdir(daemon.store) == [], "nothing is written to a wrong store"
    daemon.store.rmdir()
    away.rename(daemon.store)
    daemon.wait_ready()
    assert marker(daemon.store) == kept
    assert daemon.row.losses == 1


def test_another_store_in_its_place_is_refused_at_the_start_until_told_so(make_backups: Make) -> None:
    daemon = make_backups(backup_periodic_initialization=True, reinit_driver_count=0)
    daemon.store.mkdir()
    daemon.start()
    daemon.wait_state("ready")
    assert daemon.stop() == 0
    text = marker(daemon.store)
    other = text.replace(json.loads(text)["uuid"], "11111111-1111-4111-8111-111111111111")
    (daemon.store / "volsvc-store.json").write_text(other)
    daemon.start()
    row = daemon.wait_state("retrying")
    assert row.step == "identity"
    assert "this is another store" in (row.reason or "")
    assert "forget-storage node" in (row.reason or "")
    assert daemon.manage("service", "forget-storage", "node")[0] == 0
    assert daemon.wait_state("ready").backend_uuid == "11111111-1111-4111-8111-111111111111"
    assert marker(daemon.store) == other


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written_is_down_until_it_may(make_backups: Make) -> None:
    daemon = make_backups()
    daemon.store.mkdir()
    daemon.start()
    daemon.wait_state("ready")
    daemon.store.chmod(0o500)
    assert str(daemon.store) in (daemon.wait_state("lost").reason or "")
    daemon.store.chmod(0o700)
    daemon.wait_state("ready")


def test_a_store_that_is_mounted_read_only_is_down_until_it_is_not(make_backups: Make) -> None:
    daemon = make_backups()
    with mounted_tmpfs(daemon.store, 8) as store:
        daemon.start()
        daemon.wait_state("ready")
        remount(store, "ro")
        assert "ead-only" in (daemon.wait_state("lost").reason or "")
        remount(store, "rw")
        daemon.wait_state("ready")
        assert daemon.stop() == 0


def remount(path: pathlib.Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], check=True, timeout=60)


def test_a_store_that_hangs_is_shown_and_stops_neither_a_reload_nor_the_end(make_backups: Make) -> None:
    daemon = make_backups(backup_driver="fake", backup_initialization_timeout=1)
    script = daemon.root / "script.json"
    daemon.write(backup_fake_script=script)
    script.write_text(json.dumps({"check": {"hang": True}}))
    daemon.start()
    row = daemon.wait_state("exhausted")
    assert (row.step, row.hanging_since is not None) == ("check", True)
    assert "hanging since" in daemon.manage("service", "list")[1]
    assert reload(daemon)["error"] is None
    assert daemon.stop() == 0
    script.write_text("{}")
    daemon.start()
    daemon.wait_state("ready")


def test_a_wrong_option_is_unrecoverable_and_a_reload_with_the_right_one_serves(make_backups: Make) -> None:
    daemon = make_backups(backup_driver="s3").start()
    row = daemon.wait_state("unrecoverable")
    assert "backup_s3_store_access_key" in (row.reason or "")
    daemon.store.mkdir()
    daemon.write(backup_driver="cinder.backup.drivers.posix.PosixBackupDriver")
    assert reload(daemon)["error"] is None
    assert daemon.wait_state("ready").capabilities["driver"] == "posix"
    code, words = daemon.manage("config", "check")
    assert code == 0, words
    daemon.write(backup_driver="tape")
    code, words = daemon.manage("config", "check")
    assert (code, "must be one of fake, posix, s3" in words) == (1, True), words
    assert "must be one of" in reload(daemon)["error"]
    assert daemon.row.is_up
    assert "must be one of" in (daemon.row.config_error or "")


def test_a_reload_moves_to_another_store_only_while_there_are_no_backups(make_backups: Make) -> None:
    daemon = make_backups("volsvc-all")
    daemon.store.mkdir()
    daemon.start().wait_ready()
    other, third = daemon.root / "other", daemon.root / "third"
    daemon.write(backup_posix_path=other)
    assert str(other) in reload(daemon)["error"], "it is not there"
    other.mkdir()
    payload = reload(daemon)
    assert (payload["error"], payload["parts"]) == (None, ["backup driver"])
    assert payload["options"] == ["[DEFAULT] backup_posix_path"]
    assert daemon.row.backend_uuid == json.loads(marker(other))["uuid"]
    user = User(daemon)
    volume = user.create(1)
    backup = user.cinder.backups.create(volume.id)
    wait_until(lambda: user.cinder.backups.get(backup.id).status == "available", "the backup")
    third.mkdir()
    daemon.write(backup_posix_path=third)
    assert "no marker" in reload(daemon)["error"]
    assert os.listdir(third) in ([], [".part"])
    assert daemon.row.is_up
    assert daemon.stop() == 0
    code, words = daemon.manage("service", "forget-storage", "node")
    assert (code, "has backups" in words) == (1, True), words


def test_the_admins_reload_reaches_the_backup_daemon(make_backups: Make) -> None:
    daemon = make_backups()
    daemon.store.mkdir()
    daemon.start()
    daemon.wait_state("ready")
    daemon.write(periodic_interval=2, backup_max_operations=1)
    position = daemon.log.stat().st_size
    assert daemon.manage("reload", "node") == (0, "node: the new settings serve\n")
    payload = reload_ended(daemon, position)
    assert payload["options"] == ["[DEFAULT] backup_max_operations", "[DEFAULT] periodic_interval"]
    assert daemon.manage("config", "check", "--diff", "node")[1].endswith("runs on the same settings\n")


def test_a_reload_takes_it_to_another_database_and_transport(
    make_backups: Make, make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_backups()
    daemon.store.mkdir()
    daemon.start()
    first = daemon.wait_state("ready").backend_uuid
    daemon.database = "new.sqlite"
    connection = f"sqlite:///{daemon.state}/{daemon.database}"
    daemon.write({"database": {"connection": connection}}, transport_url=f"unix://{daemon.root}/other")
    assert reload(daemon)["error"] is None
    row = daemon.row
    assert (row.is_up, row.backend_uuid, row.state) == (True, first, "ready")
    assert daemon.manage("service", "reinit", "node") == (0, "node: ready already\n")
    make_daemon(daemon.root, program="volsvc-volume").start()
    user = User(make_daemon(daemon.root, program="volsvc-api").start().wait_ready())
    volume = user.create(1)
    backup = user.cinder.backups.create(volume.id)
    wait_until(lambda: user.cinder.backups.get(backup.id).status == "available", "the backup")


def test_one_backup_daemon_serves_a_host_and_its_successor_starts_at_once_after_a_kill(
    make_backups: Make, make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_backups()
    daemon.store.mkdir()
    daemon.start()
    daemon.wait_state("ready")
    code, words = make_daemon(daemon.root, program="volsvc-all").start_in_vain()
    assert code == 1
    assert f"backup:node is already served by the process {daemon.pid}" in words
    volumes = make_daemon(daemon.root, program="volsvc-volume").start()
    api = make_daemon(daemon.root, program="volsvc-api").start().wait_ready()
    first = daemon.row.instance
    daemon.kill()
    daemon.start()
    wait_until(lambda: daemon.row.instance != first and daemon.row.is_up, "its successor")
    api.wait_ready()
    assert volumes.stop() == daemon.stop() == 0
    (backups,) = api.cinder().services.list(binary="cinder-backup")
    assert (backups.state, getattr(backups, "volsvc:init_state")) == ("down", "stopped")


def test_a_storm_of_sighups_leaves_it_ready_and_one_in_a_reload_makes_one_more(make_backups: Make) -> None:
    daemon = make_backups()
    daemon.store.mkdir()
    daemon.start()
    daemon.wait_state("ready")
    for _ in range(50):
        daemon.signal(signal.SIGHUP)
    daemon.write(reinit_driver_count=7)
    assert reload(daemon)["error"] is None
    row = daemon.row
    assert (row.is_up, row.losses) == (True, 0)
    assert daemon.stop() == 0
