"""A volume or backup that is reset, and a store that a reload changes, in the middle of a backup or a restore."""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cinderclient import exceptions

from tests.functional.backup.backing import BackupUser, ScriptedBackups, list_files, require_store
from tests.functional.reload.reloading import reload_ended
from volsvc.testing.daemon import Daemon, wait_until


def slow_backup(scripted: ScriptedBackups, user: BackupUser, *, is_attached: bool) -> tuple[Any, Any]:
    """A volume and its backup, which is in the middle."""
    volume = user.filled(seed=1, mib=40)
    if is_attached:
        user.connect(volume)
    scripted.write({"put_pack": {"delay_s": 0.5}})
    number = scripted.calls("put_pack")
    backup = user.cinder.backups.create(volume.id, force=is_attached)
    scripted.wait_call("put_pack", number + 2)
    return volume, backup


@pytest.mark.parametrize("is_attached", [False, True])
def test_a_volume_that_is_reset_in_the_middle_of_its_backup_is_free_and_the_backup_is_an_error(
    scripted: ScriptedBackups, scripted_user: BackupUser, is_attached: bool
) -> None:
    user = scripted_user
    volume, backup = slow_backup(scripted, user, is_attached=is_attached)
    before = user.digest(volume)
    user.cinder.volumes.reset_state(volume, "available")
    assert user.cinder.volumes.get(volume.id).status == "available"
    assert not user.cinder.attachments.list(search_opts={"volume_id": volume.id})
    user.wait_backup(backup.id, "error")
    assert "cancelled" in user.fail_reason(backup.id)
    scripted.write({})
    wait_until(lambda: not user.cinder.volume_snapshots.list(), "the temporary snapshot to be gone")
    user.cinder.backups.delete(backup.id)
    user.wait_backups_gone(backup)
    user.require_nothing_lent()
    user.require_store(scripted.store)
    again = user.back_up(volume)
    assert user.digest(user.restore(again)) == before


def test_a_volume_that_is_reset_without_its_daemon_cuts_its_backup_off_and_says_so(
    scripted: ScriptedBackups, scripted_user: BackupUser
) -> None:
    """The store hangs, so the backup can't be asked to stop."""
    user = scripted_user
    volume = user.filled(seed=1, mib=24)
    number = scripted.hang("put_pack")
    backup = user.cinder.backups.create(volume.id)
    scripted.wait_call("put_pack", number)
    body = {"os-reset_status": {"status": "available", "force": "skip"}}
    assert user.call("POST", f"/volumes/{volume.id}/action", body)[0] == 202
    assert user.cinder.volumes.get(volume.id).status == "available"
    assert user.cinder.backups.get(backup.id).status == "error"
    assert user.fail_reason(backup.id) == f"cancelled by a reset of {volume.id}"
    scripted.write({})
    user.cinder.backups.delete(backup.id)
    user.wait_backups_gone(backup)
    user.require_nothing_lent()
    user.require_store(scripted.store)


@pytest.mark.parametrize("what", ["volume", "backup"])
def test_what_is_reset_in_the_middle_of_a_restore_ends_it(
    scripted: ScriptedBackups, scripted_user: BackupUser, what: str
) -> None:
    user = scripted_user
    volume = user.filled(seed=1, mib=40)
    before = user.digest(volume)
    backup = user.back_up(volume)
    target = user.filled(seed=2)
    scripted.write({"get_pack": {"delay_s": 0.5}})
    number = scripted.calls("get_pack")
    user.cinder.restores.restore(backup.id, target.id)
    scripted.wait_call("get_pack", number + 2)
    if what == "volume":
        user.cinder.volumes.reset_state(target, "available")
        assert user.cinder.volumes.get(target.id).status == "available"
        user.wait_backup(backup.id)
    else:
        user.cinder.backups.reset_state(backup, "available")
        assert user.cinder.backups.get(backup.id).status == "available"
        user.wait_volume(target.id, "error_restoring")
        user.cinder.volumes.reset_state(target, "available")
    scripted.write({})
    user.require_nothing_lent()
    user.require_store(scripted.store)
    user.restore(backup, target)
    assert user.digest(target) == before


def test_a_backup_is_reset_to_available_only_when_the_store_has_it_whole(user: BackupUser) -> None:
    volume = user.filled(seed=1)
    backup = user.back_up(volume)
    store = user.daemon.state / "backup"
    pack = next((store / "data" / backup.id).glob("d-*"))
    user.cinder.backups.reset_state(backup, "error")
    aside = pack.with_name(".aside")
    pack.rename(aside)
    with pytest.raises(exceptions.ClientException, match="missing") as caught:
        user.cinder.backups.reset_state(backup, "available")
    assert caught.value.code in (400, 409, 500)
    assert user.cinder.backups.get(backup.id).status == "error"
    aside.rename(pack)
    user.cinder.backups.reset_state(backup, "available")
    assert user.digest(user.restore(backup)) == user.digest(volume)


# -- reloads -----------------------------------------------------------------------------------------


def reload(daemon: Daemon, **options: Any) -> dict[str, Any]:
    """Write options over the daemon's file, have it reloaded, and return how that ended."""
    lines = [line for line in daemon.config.read_text().splitlines() if line.partition("=")[0].strip() not in options]
    at = lines.index("[DEFAULT]") + 1
    daemon.config.write_text("\n".join(lines[:at] + [f"{k} = {v}" for k, v in options.items()] + lines[at:]) + "\n")
    position = daemon.log.stat().st_size
    daemon.signal(signal.SIGHUP)
    return reload_ended(daemon, position)


@pytest.fixture
def own(make_daemon: Callable[..., Daemon]) -> ScriptedBackups:
    scripted = ScriptedBackups(make_daemon())
    scripted.daemon.start().wait_ready()
    return scripted


def test_a_backup_that_runs_while_a_reload_changes_the_driver_ends_on_the_old_one_and_nobody_waits(
    own: ScriptedBackups,
) -> None:
    user = BackupUser(own.daemon)
    volume, other = user.filled(seed=1, mib=40), user.filled(seed=2)
    number = own.hang("put_pack", 2)
    backup = user.cinder.backups.create(volume.id)
    own.wait_call("put_pack", number)
    assert reload(own.daemon, backup_driver="posix")["error"] is None
    quick = user.back_up(other)
    assert user.cinder.backups.get(backup.id).status == "creating"
    assert quick.status == "available"
    own.write({})
    user.wait_backup(backup.id)
    require_store(own.store, {backup.id, quick.id})
    assert user.digest(user.restore(backup)) == user.digest(volume)
    user.require_nothing_lent()


@pytest.mark.parametrize("method", ["open_blocks", "put_pack"])
def test_a_reload_to_another_store_is_refused_while_a_backup_is_made(
    own: ScriptedBackups, tmp_path: pathlib.Path, method: str
) -> None:
    user = BackupUser(own.daemon)
    volume = user.filled(seed=1)
    number = own.hang(method)
    backup = user.cinder.backups.create(volume.id)
    own.wait_call(method, number)
    assert "no marker" in str(reload(own.daemon, backup_posix_path=tmp_path)["error"])
    assert user.service()["state"] == "up"
    own.write({})
    user.wait_backup(backup.id)
    user.require_store(own.store)
    assert list_files(tmp_path) == []
