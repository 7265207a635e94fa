"""Backups, restores and deletes as the backup manager does them, between fake storage and a fake store."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from tests.unit.backup_service.world import World
from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup import volumes
from volsvc.operations import RunnerSettings
from volsvc.ports import Correction, Query
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b


def test_a_volume_comes_back_as_it_was(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    backup = world.backup(volume)
    assert (backup.status, backup.size_gb, backup.is_stored, backup.fail_reason) == ("available", 1, True, None)
    assert backup.store_uuid == world.service.backend_uuid
    assert backup.service == "fake"
    assert backup.stored_bytes > 0
    assert backup.object_count > 1
    assert world.store.get_volume(volume.id).status == "available"
    world.fill(volume, seed=2)
    assert world.digest(volume.id) != before
    world.ended(world.restore(backup, volume))
    assert world.digest(volume.id) == before
    assert world.store.get_volume(volume.id).status == "available"
    assert world.store.get_backup(backup.id).restore_volume_id == volume.id
    world.nothing_is_lent()


def test_an_attached_volume_is_read_at_one_point_in_time(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.backend.attach(volume)
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    world.script.set("put", delay_s=0.2)
    operation = world.create(volume)
    wait_until(lambda: world.script.calls("put") > 0, "the backup to be stored")
    assert world.store.get_volume(volume.id).status == "backing-up"
    world.fill(volume, seed=2)
    backup = world.store.get_backup(world.ended(operation).resource_id)
    assert world.store.get_volume(volume.id).status == "in-use"
    _, restored = world.restore_to_new(backup)
    wait_until(lambda: world.store.get_volume(restored).status == "available", "the restore to end")
    assert world.digest(restored) == before
    assert backup.temp_snapshot_id is None
    world.nothing_is_lent()


def test_a_snapshot_is_backed_up_while_its_volume_is_used(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    wanted = b.snapshot_intent(volume)
    world.backend.do(wanted)
    world.fill(volume, seed=2)
    operation = world.ended(world.create(volume, "backup_create_from_snapshot", wanted.resource_id))
    assert world.store.get_snapshot(wanted.resource_id).status == "available"
    operation_id, restored = world.restore_to_new(world.store.get_backup(operation.resource_id))
    world.ended(operation_id)
    assert world.digest(restored) == before
    world.nothing_is_lent()


def test_a_larger_volume_ends_in_zeros_and_a_smaller_one_is_refused(world: World) -> None:
    world.serve()
    volume = world.backend.volume(size_gb=2)
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    backup = world.backup(volume)
    larger = world.backend.volume(size_gb=3)
    world.fill(larger, seed=3)
    world.ended(world.restore(backup, larger))
    assert world.digest(larger.id) == before
    smaller = world.backend.volume(size_gb=1)
    failed = world.ended(world.restore(backup, smaller), "failed")
    assert "has 1073741824" in str(failed.error)
    assert world.store.get_volume(smaller.id).status == "error_restoring"
    assert world.store.get_backup(backup.id).status == "available"
    assert "1073741824" in str(world.store.get_backup(backup.id).fail_reason)
    world.nothing_is_lent()


def test_a_full_store_fails_the_backup_at_any_object_and_keeps_nothing_of_it(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    for method in ("put", "put_if_absent"):
        count = 0
        while True:
            world.script.set(method, skip=count, fail=1, error="StorageFull", message="no room at all")
            operation = world.create(volume)
            wait_until(lambda: not world.store.get_operation(operation).is_open, "the backup to end")  # noqa: B023
            ended = world.store.get_operation(operation)
            if ended.state == "done":
                break
            backup = world.store.get_backup(ended.resource_id)
            assert (ended.error_class, backup.status, backup.is_stored) == ("StorageFull", "error", False)
            assert "no room at all" in str(backup.fail_reason)
            assert not {name for name in world.stored_names() if backup.id in name}
            assert world.store.get_volume(volume.id).status == "available"
            world.forget(backup)
            count += 1
        assert count >= 1, method
        world.script.clear()
    world.nothing_is_lent()


@pytest.mark.slow
def test_a_store_that_goes_away_at_any_call_is_waited_for_and_nothing_is_done_twice(world: World) -> None:
    world.serve(backend_loss_threshold=1)
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    for method in ("put", "put_if_absent", "get"):
        world.script.set(method, fail=1, error="BackendUnavailable", message="the cable is out")
        operation = world.ended(world.create(volume))
        assert operation.attempts <= 2
        world.script.clear()
        backup = world.store.get_backup(operation.resource_id)
        world.script.set("get_range", fail=1, error="BackendUnavailable", message="the cable is out")
        world.fill(volume, seed=2)
        world.ended(world.restore(backup, volume))
        world.script.set("delete", fail=1, error="BackendUnavailable", message="the cable is out")
        assert world.digest(volume.id) == before
        world.ended(world.delete(backup))
        assert world.stored_names() == set()
    assert world.service.losses >= 3
    world.nothing_is_lent()


def test_a_backup_that_meets_a_lost_store_was_never_there_and_can_be_deleted(world: World) -> None:
    world.serve(backend_loss_threshold=1)
    volume = world.backend.volume()
    world.backend.attach(volume)
    world.script.set("get", fail=1000, error="BackendUnavailable", message="the cable is out")
    operation_id = world.create(volume)
    wait_until(lambda: not world.service.is_up, "the loss to be noticed")
    wait_until(lambda: world.store.get_operation(operation_id).state == "queued", "the operation to wait")
    world.store.request_cancel(operation_id)
    backup = world.store.get_backup(world.ended(operation_id, "cancelled").resource_id)
    assert (backup.status, backup.is_stored, backup.temp_snapshot_id) == ("error", False, None)
    world.forget(backup)
    with pytest.raises(exc.BackupNotFound):
        world.store.get_backup(backup.id)
    assert world.store.get_volume(volume.id).status == "in-use"


def test_a_volume_that_is_cut_off_for_a_moment_is_connected_again(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    world.script.set("put_if_absent", hang=True)
    operation = world.create(volume)
    wait_until(lambda: world.script.calls("put_if_absent") > 0, "the backup to begin")
    with world.storage.transaction() as state:
        state["readers"].clear()
    world.script.clear()
    world.ended(operation)
    restored = world.backend.volume()
    world.ended(world.restore(world.store.get_backup(world.store.get_operation(operation).resource_id), restored))
    assert world.digest(restored.id) == before
    world.nothing_is_lent()


@pytest.mark.parametrize("expires_it", [False, True], ids=["daemon away", "backend broken"])
def test_a_volume_daemon_that_stays_away_is_waited_for_once(
    world: World, monkeypatch: pytest.MonkeyPatch, expires_it: bool
) -> None:
    """Not once for each try: the wait may be an hour, and it takes the place of another backup."""
    monkeypatch.setattr(volumes, "GIVE_BACK_TIMEOUT_S", 0.1)
    world.serve(queue_timeout_s=0.5)
    volume = world.backend.volume()
    if expires_it:
        world.backend.script.set("*", fail=True, error="BackendUnavailable")
        wait_until(lambda: any(row.state == "lost" for row in world.store.list_services()), "the backend to be lost")
    else:
        world.backend.managers[0].stop(2.0)
    failed = world.ended(world.create(volume), "failed")
    assert failed.error_class == "ServiceDown"
    asked = world.store.list_operations(Query(filters={"action": "volume_connect"})).items
    assert len(asked) == 1
    assert world.store.get_volume(volume.id).status == "available"


def test_force_delete_stops_a_backup_and_leaves_nothing(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.backend.attach(volume)
    world.fill(volume, seed=1)
    world.script.set("put", delay_s=1.0)
    operation = world.store.get_operation(world.create(volume))
    wait_until(lambda: world.script.calls("put") > 0, "the backup to be stored")
    backup = world.store.get_backup(operation.resource_id)
    delete = world.delete(backup, "backup_force_delete", cancel_open=True)
    world.script.clear()
    world.ended(delete)
    assert world.store.get_operation(operation.id).state in ("cancelled", "done")
    with pytest.raises(exc.BackupNotFound):
        world.store.get_backup(backup.id)
    assert world.stored_names() == set()
    assert world.store.get_volume(volume.id).status == "in-use"
    world.nothing_is_lent()


def test_deleting_a_backup_that_another_deletion_has_deleted_succeeds(world: World) -> None:
    backup = b.add_backup(world.store, world.backend.volume(), is_stored=False)
    first, second = world.delete(backup), world.delete(backup, "backup_force_delete")
    world.serve()
    world.ended(first)
    world.ended(second)
    with pytest.raises(exc.BackupNotFound):
        world.store.get_backup(backup.id)


def test_a_backup_that_waits_for_others_does_not_come_to_its_deadline(world: World) -> None:
    first, second = world.backend.volume(), world.backend.volume()
    world.fill(first, seed=1)
    world.serve(runner=RunnerSettings(workers=1, sweep_interval_s=0.05), queue_timeout_s=600.0)
    world.script.set("put", delay_s=1.0)
    running = world.create(first)
    wait_until(lambda: world.script.calls("put") > 0, "the first one to run")
    soon = b.utcnow() + dt.timedelta(seconds=10)
    wanted = dataclasses.replace(b.backup_intent(second, second_id=second.id), deadline_at=soon)
    waiting = b.submit(world.store, wanted)
    wait_until(
        lambda: (world.store.get_operation(waiting.id).deadline_at or soon) > soon + dt.timedelta(seconds=300),
        "its deadline to be renewed",
    )
    world.script.clear()
    world.ended(running)
    world.ended(waiting.id)


def test_journals_of_restores_that_ended_without_their_handler_are_removed(world: World) -> None:
    volume = world.backend.volume()
    backup = b.add_backup(world.store, volume)
    ended = world.restore(backup, volume)
    world.store.request_cancel(ended)
    waiting = world.restore(backup, volume)
    stale = [world.path / f"restore-{name}" for name in (f"{ended}.json", f"{ended}.json.new", f"{b.new_id()}.json")]
    kept = [world.path / f"restore-{waiting}.json", world.path / "another-file"]
    for path in (*stale, *kept):
        path.write_text("{}")
    world.script.set("do_setup", fail=100, error="BackendUnavailable")
    world.start()
    wait_until(lambda: not any(path.exists() for path in stale), "the stale journals to go")
    assert all(path.exists() for path in kept)


def test_a_restore_gives_its_own_volume_back_whatever_the_backup_has_left(world: World) -> None:
    world.serve(publish_interval_s=600.0)
    volume, target = world.backend.volume(), world.backend.volume()
    world.fill(volume, seed=1)
    backup = world.backup(volume)
    left = b.snapshot_intent(volume)
    world.backend.do(left)
    world.store.update_backup(backup.id, {"temp_snapshot_id": left.resource_id})
    world.ended(world.restore(backup, target))
    given_back = Query(filters={"action": "volume_disconnect", "resource_id": target.id})
    assert [each.state for each in world.store.list_operations(given_back).items] == ["done"]


def test_a_database_that_is_away_is_a_line_in_the_log_and_no_traceback(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(host: str) -> list[models.Backup]:
        raise exc.StoreUnavailable(reason="unplugged")

    monkeypatch.setattr(world.store, "backups_with_leftovers", away)
    world.serve()
    wait_until(lambda: "unplugged" in caplog.text, "the log to say it")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_backup_of_another_store_is_not_called_deleted(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    wanted = b.backup_intent(volume, second_id=volume.id)
    b.submit(world.store, wanted)
    wait_until(lambda: world.store.get_backup(wanted.resource_id).status == "available", "the backup")
    other = b.add_backup(world.store, volume, store_uuid=b.new_id())
    failed = world.ended(world.delete(other), "failed")
    assert failed.error_class == "InvalidBackup"
    assert world.store.get_backup(other.id).status == "error_deleting"
    assert str(other.store_uuid) in str(world.store.get_backup(other.id).fail_reason)


def test_a_backup_without_anything_in_the_store_is_deleted_without_asking_it(world: World) -> None:
    manager = world.serve()
    volume = world.backend.volume()
    world.script.set("put_if_absent", fail=1, error="StorageFull")
    failed = world.store.get_backup(world.ended(world.create(volume), "failed").resource_id)
    manager.stop(2.0)
    world.forget(failed)
    with pytest.raises(exc.BackupNotFound):
        world.store.get_backup(failed.id)


def test_events_tell_of_start_progress_and_end(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    backup = world.backup(volume)
    world.ended(world.delete(backup))
    world.script.set("put_if_absent", fail=1, error="StorageFull", message="full")
    world.ended(world.create(volume), "failed")
    names = [sent.event_type for sent in world.notifier.sent() if not sent.event_type.startswith("backup.driver")]
    assert names[0] == "backup.create.start"
    assert "backup.create.end" in names
    assert names[-2:] == ["backup.create.start", "backup.create.error"]
    assert [name for name in names if "delete" in name] == ["backup.delete.start", "backup.delete.end"]
    [error] = world.notifier.sent("backup.create.error")
    assert "full" in error.payload["fail_reason"]


class TestSuperseded:
    def test_a_handler_whose_daemon_was_replaced_touches_nothing_more(self, world: World) -> None:
        world.serve()
        volume = world.backend.volume()
        world.backend.attach(volume)
        world.fill(volume, seed=1)
        world.script.set("put", hang=True)
        operation = world.create(volume)
        wait_until(lambda: world.script.calls("put") > 0, "the backup to be stored")
        old = world.backup_managers[0]
        old.runner.stop_claiming()
        world.start()
        wait_until(lambda: world.store.get_operation(operation).attempts == 2, "the next daemon to take it over")
        world.script.clear()
        ended = world.ended(operation)
        assert ended.instance == "backup-1"
        assert world.store.get_backup(ended.resource_id).status == "available"
        wait_until(lambda: not old.runner.running(), "the old handler to stop")
        world.nothing_is_lent()

    def test_a_handler_that_fails_when_it_is_cut_off_deletes_nothing(self, world: World) -> None:
        """What is stored is another's by then, or a reset has called it what it is."""
        manager = world.serve()
        volume = world.backend.volume()
        world.fill(volume, seed=1)
        world.script.set("put", hang=True, fail=True, error="StorageFull")
        operation = world.create(volume)
        wait_until(lambda: world.script.calls("put") > 0, "the backup to be stored")
        stored = world.stored_names()
        assert stored
        backup_id = world.store.get_operation(operation).resource_id
        world.store.correct(b.intent("backup_reset", backup_id), Correction(status="error"), {})
        world.script.clear()
        wait_until(lambda: not manager.runner.running(), "the handler to stop")
        assert world.stored_names() == stored

    def test_what_a_reset_cut_off_is_given_back(self, world: World) -> None:
        world.serve()
        volume = world.backend.volume()
        world.backend.attach(volume)
        world.fill(volume, seed=1)
        world.script.set("put", hang=True)
        operation = world.create(volume)
        wait_until(lambda: world.script.calls("put") > 0, "the backup to be stored")
        world.store.correct(b.intent("volume_reset", volume.id), Correction(status="in-use"), {})
        world.script.clear()
        backup = world.store.get_backup(world.store.get_operation(operation).resource_id)
        assert backup.status == "error"
        wait_until(lambda: world.store.get_backup(backup.id).temp_snapshot_id is None, "its snapshot to be given back")
        world.ended(world.delete(backup))
        assert world.stored_names() == set()


class TestReset:
    def test_available_only_when_the_store_has_it_whole(self, world: World) -> None:
        world.serve()
        volume = world.backend.volume()
        world.fill(volume, seed=1)
        backup = world.backup(volume)
        world.store.correct(b.intent("backup_reset", backup.id), Correction(status="error"), {})
        world.ended(self._reset(world, backup.id))
        assert world.store.get_backup(backup.id).status == "available"
        pack = next(name for name in world.stored_names() if "data" in name or "pack" in name)
        data = world.objects.objects.pop(pack)
        world.store.correct(b.intent("backup_reset", backup.id), Correction(status="error"), {})
        failed = world.ended(self._reset(world, backup.id), "failed")
        assert failed.error_class == "ResetFailed"
        assert "missing" in str(failed.error)
        assert world.store.get_backup(backup.id).status == "error"
        world.ended(self._reset(world, backup.id, force="ignore"))
        assert world.store.get_backup(backup.id).status == "available"
        world.objects.objects[pack] = data

    def test_it_stops_what_runs_first(self, world: World) -> None:
        world.serve()
        volume = world.backend.volume()
        world.fill(volume, seed=1)
        backup = world.backup(volume)
        world.script.set("get_range", delay_s=0.3)
        restore = world.restore(backup, volume)
        wait_until(lambda: world.script.calls("get_range") > 0, "the restore to begin")
        world.ended(self._reset(world, backup.id))
        assert world.store.get_operation(restore).state == "cancelled"
        assert world.store.get_backup(backup.id).status == "available"
        assert world.store.get_volume(volume.id).status == "error_restoring"
        world.nothing_is_lent()

    def test_a_store_that_hangs_fails_it_in_time_and_its_late_answer_is_kept(self, world: World) -> None:
        world.serve(answer_timeout_s=1.0)
        volume = world.backend.volume()
        world.fill(volume, seed=1)
        backup = world.backup(volume)
        world.store.correct(b.intent("backup_reset", backup.id), Correction(status="error"), {})
        world.script.set("list", hang=True)
        failed = world.ended(self._reset(world, backup.id), "failed")
        assert "has not come back" in str(failed.error)
        held = world.ended(self._reset(world, backup.id, force="ignore"), "failed")
        assert held.error_class == "Conflict"
        assert world.store.get_backup(backup.id).status == "error"
        world.script.clear()
        wait_until(lambda: world.store.get_operation(failed.id).result.get("late"), "the late answer to be kept")
        assert world.store.get_operation(failed.id).result["late"][0]["error"] is None
        assert world.store.get_backup(backup.id).status == "error"
        world.ended(self._reset(world, backup.id))
        assert world.store.get_backup(backup.id).status == "available"

    @staticmethod
    def _reset(world: World, backup_id: str, force: str | None = None) -> str:
        arguments = {"status": "available", "attach_status": None, "migration_status": None, "force": force}
        return b.submit(world.store, b.intent("backup_reset", backup_id, host=b.BACKUP_HOST, args=arguments)).id


def test_a_record_is_imported_only_when_the_store_has_the_backup(world: World) -> None:
    world.serve()
    volume = world.backend.volume()
    world.fill(volume, seed=1)
    before = world.digest(volume.id)
    backup = world.backup(volume)
    world.lose_records(backup)
    wanted = b.backup_intent(volume, "backup_import")
    assert wanted.insert is not None
    failed = world.ended(b.submit(world.store, wanted).id, "failed")
    assert failed.error_class == "BackupNotFound"
    world.forget(world.store.get_backup(failed.resource_id))
    known = dataclasses.replace(
        wanted, resource_id=backup.id, insert=dataclasses.replace(wanted.insert, id=backup.id, size_gb=0)
    )
    world.ended(b.submit(world.store, known).id)
    found = world.store.get_backup(backup.id)
    assert (found.status, found.size_gb, found.stored_bytes) == ("available", 1, backup.stored_bytes)
    world.fill(volume, seed=2)
    world.ended(world.restore(found, volume))
    assert world.digest(volume.id) == before
