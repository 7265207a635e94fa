"""Contract: operations on two resources, as backups and restores are, and what a daemon notes while they run."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Correction, Guards, Intent, Outcome, Store
from volsvc.testing.stores import builders as b


def claimable(store: Store, *hosts: str) -> set[str]:
    return {operation.id for operation in store.claimable(hosts, 100)}


def restore_to_new(store: Store, backup: models.Backup) -> tuple[models.Operation, models.Operation]:
    """The pair that makes a volume and restores to it: (create, restore), recorded together."""
    volume = b.volume_record()
    create, restore = store.submit(
        b.create_intent(volume, action="volume_create_to_restore"),
        Intent("backup_restore_to_new", b.CONTEXT, backup.id, second_id=volume.id, host=b.BACKUP_HOST),
    )
    return create, restore


class BackupContract:
    def test_a_backup_shows_on_its_volume_until_it_ends(self, store: Store) -> None:
        volume = b.add_volume(store)
        operation = b.submit(store, b.backup_intent(volume, second_id=volume.id))
        assert store.get_backup(operation.resource_id).status == "creating"
        assert store.get_volume(volume.id).status == "backing-up"
        with pytest.raises(exc.StatusConflict):
            b.submit(store, b.backup_intent(volume, second_id=volume.id))
        b.run(store, operation, first={"is_stored": True, "stored_bytes": 5})
        backup = store.get_backup(operation.resource_id)
        assert (backup.status, backup.is_stored, backup.stored_bytes) == ("available", True, 5)
        assert store.get_volume(volume.id).status == "available"

    def test_a_failed_backup_gives_the_volume_back_to_its_attachments(self, store: Store) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        operation = b.claim(store, b.submit(store, b.backup_intent(volume, second_id=volume.id)))
        b.do(store, b.intent("attachment_disconnect", attachment.id))
        assert store.get_volume(volume.id).status == "backing-up"
        store.finish(operation, Outcome("failed", first={"fail_reason": "no room"}))
        assert store.get_volume(volume.id).status == "available"
        backup = store.get_backup(operation.resource_id)
        assert (backup.status, backup.fail_reason) == ("error", "no room")

    def test_a_backup_that_no_handler_ends_says_why_all_the_same(self, store: Store) -> None:
        volume = b.add_volume(store)
        late = dataclasses.replace(b.backup_intent(volume, second_id=volume.id), deadline_at=b.utcnow())
        operation = b.claim(store, b.submit(store, late))
        store.release(operation, "the store is away")
        [expired] = store.expire_queued(b.BACKUP_HOST)
        backup = store.get_backup(operation.resource_id)
        assert (backup.status, backup.fail_reason) == ("error", expired.error)
        assert "the store is away" in str(backup.fail_reason)

    def test_giving_a_temporary_snapshot_back_waits_for_its_backend_however_long(self, store: Store) -> None:
        """The backup that knew of it may be gone by then, and its status keeps everybody else from deleting it."""
        snapshot = b.add_snapshot(store, b.add_volume(store))
        wanted = b.intent("backup_snapshot_delete", snapshot.id, second_id=snapshot.volume_id, host=b.HOST)
        operation = b.submit(store, dataclasses.replace(wanted, deadline_at=b.utcnow() - dt.timedelta(hours=1)))
        assert store.expire_queued(b.HOST) == []
        b.run(store, operation)
        with pytest.raises(exc.SnapshotNotFound):
            store.get_snapshot(snapshot.id)

    def test_nobody_waits_for_a_backup_of_a_volume(self, store: Store) -> None:
        """Its temporary snapshot least of all, which it waits for itself."""
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        b.claim(store, b.submit(store, b.backup_intent(volume, second_id=volume.id)))
        snapshot = b.submit(store, dataclasses.replace(b.snapshot_intent(volume), action="backup_snapshot_create"))
        assert claimable(store, b.HOST) == {snapshot.id}
        b.run(store, snapshot)
        assert store.get_snapshot(snapshot.resource_id).status == "backing-up"
        with pytest.raises(exc.StatusConflict):
            b.submit(store, b.intent("snapshot_delete", snapshot.resource_id))
        detach = b.submit(store, b.intent("attachment_disconnect", attachment.id))
        assert claimable(store, b.HOST) == {detach.id}

    def test_what_asks_for_blocks_waits_for_nobody(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        b.claim(store, b.submit(store, b.intent("backup_restore", backup.id, second_id=volume.id)))
        connect = b.submit(store, b.intent("volume_connect", volume.id))
        assert claimable(store, models.express_host(b.HOST)) == {connect.id}

    def test_a_restore_shows_on_both_and_holds_the_volume(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        restore = b.submit(store, b.intent("backup_restore", backup.id, second_id=volume.id, host=b.BACKUP_HOST))
        assert store.get_backup(backup.id).status == "restoring"
        assert store.get_volume(volume.id).status == "restoring-backup"
        force = b.submit(store, b.intent("volume_force_delete", volume.id))
        assert claimable(store, b.HOST, b.BACKUP_HOST) == {restore.id}
        b.run(store, restore, "failed")
        assert store.get_backup(backup.id).status == "available"
        assert store.get_volume(volume.id).status == "deleting"
        assert claimable(store, b.HOST) == {force.id}

    def test_a_failed_restore_says_so_on_the_volume(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        b.do(store, b.intent("backup_restore", backup.id, second_id=volume.id), state="failed")
        assert store.get_volume(volume.id).status == "error_restoring"
        b.do(store, b.intent("volume_delete", volume.id))

    def test_a_restore_to_a_new_volume_waits_for_it(self, store: Store) -> None:
        backup = b.add_backup(store, b.add_volume(store))
        create, restore = restore_to_new(store, backup)
        assert store.get_volume(create.resource_id).status == "restoring-backup"
        assert claimable(store, b.HOST, b.BACKUP_HOST) == {create.id}
        with pytest.raises(exc.StatusConflict):
            b.submit(store, b.intent("backup_restore", backup.id, second_id=create.resource_id))
        b.run(store, create)
        assert store.get_volume(create.resource_id).status == "restoring-backup"
        b.run(store, restore)
        assert store.get_volume(create.resource_id).status == "available"

    def test_a_restore_whose_volume_could_not_be_made_leaves_its_error(self, store: Store) -> None:
        backup = b.add_backup(store, b.add_volume(store))
        create, restore = restore_to_new(store, backup)
        b.run(store, create, "failed")
        b.run(store, restore, "failed")
        assert store.get_volume(create.resource_id).status == "error"
        assert store.get_backup(backup.id).status == "available"

    def test_a_restore_to_a_new_volume_that_is_taken_back_leaves_nothing_going_on(self, store: Store) -> None:
        backup = b.add_backup(store, b.add_volume(store))
        create, restore = restore_to_new(store, backup)
        b.run(store, create)
        store.request_cancel(restore.id)
        assert store.get_volume(create.resource_id).status == "error_restoring"
        assert store.get_backup(backup.id).status == "available"

    def test_force_deleting_a_volume_cancels_the_restore_to_it(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        running = b.claim(store, b.submit(store, b.intent("backup_restore", backup.id, second_id=volume.id)))
        force = b.submit(store, b.intent("volume_force_delete", volume.id, cancel_open=True))
        assert store.report_progress(running, 1, 2) is True
        store.finish(running, Outcome("cancelled"))
        assert claimable(store, b.HOST) == {force.id}
        assert store.get_volume(volume.id).status == "deleting"

    def test_force_deleting_a_volume_ends_a_restore_that_has_not_begun(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        restore = b.submit(store, b.intent("backup_restore", backup.id, second_id=volume.id))
        force = b.submit(store, b.intent("volume_force_delete", volume.id, cancel_open=True))
        assert store.get_operation(restore.id).state == "cancelled"
        assert store.get_backup(backup.id).status == "available"
        b.run(store, force)

    def test_force_deleting_a_volume_that_is_made_for_a_restore_ends_both(self, store: Store) -> None:
        backup = b.add_backup(store, b.add_volume(store))
        create, restore = restore_to_new(store, backup)
        force = b.submit(store, b.intent("volume_force_delete", create.resource_id, cancel_open=True))
        assert store.get_operation(restore.id).state == "cancelled"
        assert store.get_operation(create.id).state == "cancelled"
        b.run(store, force)
        assert store.get_backup(backup.id).status == "available"

    def test_force_deleting_a_backup_that_was_not_begun_gives_back_what_it_was_to_read(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshot = b.add_snapshot(store, volume)
        of_volume = b.backup_intent(volume, second_id=volume.id)
        of_snapshot = b.backup_intent(volume, "backup_create_from_snapshot", snapshot.id)
        store.submit(of_volume, of_snapshot)
        for wanted in (of_volume, of_snapshot):
            b.submit(store, b.intent("backup_force_delete", wanted.resource_id, host=b.BACKUP_HOST, cancel_open=True))
        assert store.get_volume(volume.id).status == "available"
        assert store.get_snapshot(snapshot.id).status == "available"

    @pytest.mark.parametrize(("was_begun", "status"), [(False, "available"), (True, "error_restoring")])
    def test_force_deleting_a_backup_whose_restore_waits_gives_the_volume_back(
        self, store: Store, was_begun: bool, status: str
    ) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        restore = b.submit(store, b.intent("backup_restore", backup.id, second_id=volume.id))
        if was_begun:
            store.release(b.claim(store, restore), "the daemon stops")
        force = b.submit(store, b.intent("backup_force_delete", backup.id, host=b.BACKUP_HOST, cancel_open=True))
        assert store.get_volume(volume.id).status == status
        b.run(store, force)
        assert store.get_volume(volume.id).status == status

    def test_a_handler_notes_what_must_be_known_before_it_acts(self, store: Store) -> None:
        volume = b.add_volume(store)
        operation = b.claim(store, b.submit(store, b.backup_intent(volume, second_id=volume.id)))
        snapshot_id = b.new_id()
        store.note(operation, {"is_stored": True, "temp_snapshot_id": snapshot_id})
        backup = store.get_backup(operation.resource_id)
        assert (backup.is_stored, backup.temp_snapshot_id, backup.status) == (True, snapshot_id, "creating")
        store.release(operation, "again")
        with pytest.raises(exc.OperationSuperseded):
            store.note(operation, {"is_stored": False})
        with pytest.raises(ValueError, match="status"):
            store.note(b.claim(store, store.get_operation(operation.id)), {"status": "available"})

    def test_only_what_never_reached_a_store_is_forgotten_without_it(self, store: Store) -> None:
        volume = b.add_volume(store)
        for is_stored in (True, False):
            wanted = b.backup_intent(volume, second_id=volume.id)
            b.do(store, wanted, state="failed", first={"is_stored": is_stored})
            forget = b.intent("backup_forget", wanted.resource_id, guards=Guards(never_stored=wanted.resource_id))
            if is_stored:
                with pytest.raises(exc.InvalidBackup, match=wanted.resource_id):
                    b.submit(store, forget)
            else:
                assert b.submit(store, forget).state == "done"
                with pytest.raises(exc.BackupNotFound):
                    store.get_backup(wanted.resource_id)

    def test_a_backup_outlives_its_volume(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        b.do(store, b.intent("volume_delete", volume.id))
        assert store.get_backup(backup.id).volume_id == volume.id

    def test_a_corrected_volume_leaves_its_backup_an_end(self, store: Store) -> None:
        volume = b.add_volume(store)
        running = b.claim(store, b.submit(store, b.backup_intent(volume, second_id=volume.id)))
        _, cancelled = store.correct(b.intent("volume_reset", volume.id), Correction(status="available"), {})
        assert cancelled == [running.id]
        assert store.get_volume(volume.id).status == "available"
        assert store.get_backup(running.resource_id).status == "error"
        with pytest.raises(exc.OperationSuperseded):
            store.finish(running, Outcome("done"))

    def test_a_corrected_backup_leaves_the_volume_of_its_restore_an_end(self, store: Store) -> None:
        volume = b.add_volume(store)
        backup = b.add_backup(store, volume)
        b.claim(store, b.submit(store, b.intent("backup_restore", backup.id, second_id=volume.id)))
        assert [o.action for o in store.look("backup", backup.id).open_operations] == ["backup_restore"]
        store.correct(b.intent("backup_reset", backup.id), Correction(status="error"), {})
        assert store.get_backup(backup.id).status == "error"
        assert store.get_volume(volume.id).status == "error_restoring"
