"""Contract: what recording an intent and ending its operation do to the statuses."""

from __future__ import annotations

import pytest

from volsvc import exceptions as exc
from volsvc.ports import CapacityClaim, Guards, Outcome, Store
from volsvc.testing.stores import builders as b


class RecordingContract:
    """``submit``: all or nothing, and only from where the table allows."""

    def test_create_records_the_volume_and_its_operation_together(self, store: Store) -> None:
        volume = b.volume_record(size_gb=3, metadata={"k": "v"}, provider={"path": "x"})
        operation = b.submit(store, b.create_intent(volume, args={"n": [1, 2]}))
        found = store.get_volume(volume.id)
        assert (found.status, found.size_gb, found.claimed_gb) == ("creating", 3, 3)
        assert (found.metadata, found.provider, found.attach_status) == ({"k": "v"}, {"path": "x"}, "detached")
        assert found.created_at is not None
        assert store.get_operation(operation.id) == operation
        assert (operation.state, operation.host, operation.previous_status) == ("queued", b.HOST, None)
        assert operation.args == {"n": [1, 2]}
        assert (operation.request_id, operation.user_id, operation.project_id) == ("req-1", "user", "project")

    def test_a_later_operation_has_a_greater_number(self, store: Store) -> None:
        numbers = [b.submit(store, b.create_intent(b.volume_record())).seq for _ in range(3)]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 0

    def test_a_status_that_the_table_does_not_allow_is_refused_by_name(self, store: Store) -> None:
        volume = b.volume_record()
        b.submit(store, b.create_intent(volume))
        with pytest.raises(exc.StatusConflict) as caught:
            b.submit(store, b.intent("volume_extend", volume.id))
        words = str(caught.value)
        assert all(part in words for part in (volume.id, "Volume", "'creating'", "volume_extend", "available"))
        assert caught.value.status == "creating"

    def test_one_refused_intent_undoes_those_before_it(self, store: Store) -> None:
        volume = b.add_volume(store)
        other = b.volume_record()
        with pytest.raises(exc.VolumeNotFound):
            store.submit(
                b.create_intent(other),
                b.intent("volume_extend", volume.id, changes={"claimed_gb": 9}),
                b.intent("volume_delete", b.new_id()),
            )
        assert store.get_volume(volume.id) == volume
        with pytest.raises(exc.VolumeNotFound):
            store.get_volume(other.id)

    def test_what_does_not_exist_is_named(self, store: Store) -> None:
        volume = b.add_volume(store)
        with pytest.raises(exc.SnapshotNotFound):
            b.submit(store, b.intent("snapshot_delete", b.new_id()))
        with pytest.raises(exc.AttachmentNotFound):
            b.submit(store, b.intent("attachment_disconnect", b.new_id()))
        with pytest.raises(exc.VolumeNotFound):
            b.submit(store, b.snapshot_intent(b.volume_record()))
        with pytest.raises(exc.SnapshotNotFound):
            wanted = b.volume_record(snapshot_id=b.new_id())
            b.submit(store, b.create_intent(wanted, action="volume_create_from_snapshot", second_id=wanted.snapshot_id))
        with pytest.raises(exc.VolumeTypeNotFound):
            b.submit(store, b.create_intent(b.volume_record(volume_type_id=b.new_id())))
        with pytest.raises(exc.Conflict):
            b.submit(store, b.create_intent(volume))

    def test_a_column_that_only_the_gate_writes_is_refused(self, store: Store) -> None:
        volume = b.add_volume(store)
        with pytest.raises(ValueError, match="status"):
            b.submit(store, b.intent("volume_extend", volume.id, changes={"status": "error"}))
        assert store.get_volume(volume.id) == volume

    def test_a_source_keeps_its_status_and_must_be_usable(self, store: Store) -> None:
        volume = b.add_volume(store)
        clone = b.volume_record(source_volid=volume.id)
        operation = b.submit(store, b.create_intent(clone, action="volume_clone", second_id=volume.id))
        assert store.get_volume(volume.id).status == "available"
        assert operation.second_previous_status == "available"
        b.run(store, operation)
        b.submit(store, b.intent("volume_delete", volume.id))
        again = b.volume_record(source_volid=volume.id)
        with pytest.raises(exc.StatusConflict, match=volume.id):
            b.submit(store, b.create_intent(again, action="volume_clone", second_id=volume.id))

    def test_capacity_counts_what_is_claimed_and_not_what_is_used(self, store: Store) -> None:
        def claim(add_gb: int) -> Guards:
            return Guards(capacity=CapacityClaim(b.HOST, add_gb, 10))

        volume = b.add_volume(store, size_gb=4)
        b.add_volume(store, size_gb=50, host="host@other#pool")
        operation = b.submit(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 8}, guards=claim(4)))
        with pytest.raises(exc.CapacityExceeded, match="3 GiB more"):
            b.submit(store, b.create_intent(b.volume_record(size_gb=3), guards=claim(3)))
        b.run(store, operation, "failed")
        assert store.get_volume(volume.id).claimed_gb == 4
        b.submit(store, b.create_intent(b.volume_record(size_gb=6), guards=claim(6)))

    def test_a_backend_with_a_similar_name_is_another_backend(self, store: Store) -> None:
        b.add_volume(store, size_gb=9, host="host@back_nd#pool")
        b.add_volume(store, size_gb=9, host="host@backend2")
        guards = Guards(capacity=CapacityClaim(b.HOST, 5, 5))
        mine = b.volume_record(size_gb=5)
        b.submit(store, b.create_intent(mine, guards=guards))
        assert [volume.id for volume in store.volumes_on(b.HOST)] == [mine.id]

    def test_a_volume_with_snapshots_is_not_deleted_unless_they_go_first(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshot = b.add_snapshot(store, volume)
        delete = b.intent("volume_delete", volume.id, guards=Guards(no_snapshots=volume.id))
        with pytest.raises(exc.InvalidVolume, match="1 dependent snapshot"):
            b.submit(store, delete)
        assert store.get_volume(volume.id).status == "available"
        operations = store.submit(b.intent("snapshot_delete", snapshot.id), delete)
        for operation in operations:
            b.run(store, operation)
        with pytest.raises(exc.VolumeNotFound):
            store.get_volume(volume.id)

    def test_a_volume_whose_snapshot_could_not_be_deleted_keeps_its_record(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshot = b.add_snapshot(store, volume)
        operations = store.submit(b.intent("snapshot_delete", snapshot.id), b.intent("volume_delete", volume.id))
        b.run(store, operations[0], "failed", error="busy")
        ended = b.run(store, operations[1])
        assert (ended.state, ended.error_class) == ("failed", "InvalidVolume")
        assert store.get_volume(volume.id).status == "error_deleting"
        assert store.get_snapshot(snapshot.id).status == "error_deleting"

    def test_an_attached_volume_is_not_deleted(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.add_attachment(store, volume)
        with pytest.raises(exc.InvalidVolume, match="1 attachment"):
            b.submit(store, b.intent("volume_force_delete", volume.id, guards=Guards(no_attachments=volume.id)))
        assert store.get_volume(volume.id).status == "in-use"

    def test_a_second_attachment_needs_multiattach(self, store: Store) -> None:
        single, multi = b.add_volume(store), b.add_volume(store, is_multiattach=True)
        for volume in (single, multi):
            b.submit(store, b.attach_intent(volume, "attachment_reserve"))
        with pytest.raises(exc.InvalidVolume, match="not multiattach"):
            b.submit(store, b.attach_intent(single, "attachment_reserve"))
        with pytest.raises(exc.InvalidVolume, match="not multiattach"):
            guards = Guards(single_attachment=single.id)
            b.submit(store, b.attach_intent(single, "attachment_create", guards=guards))
        b.submit(store, b.attach_intent(multi, "attachment_reserve"))
        assert len(store.attachments_of([multi.id])[multi.id]) == 2

    def test_record_only_is_done_at_once(self, store: Store) -> None:
        volume = b.add_volume(store)
        wanted = b.attach_intent(volume, "attachment_reserve")
        operation = b.submit(store, wanted)
        assert (operation.state, operation.host) == ("done", None)
        assert operation.finished_at is not None
        assert store.claimable(b.HOST, 10) == []
        assert store.get_attachment(wanted.resource_id).status == "reserved"
        found = store.get_volume(volume.id)
        assert (found.status, found.attach_status) == ("reserved", "reserved")
        b.submit(store, b.intent("attachment_release", wanted.resource_id))
        with pytest.raises(exc.AttachmentNotFound):
            store.get_attachment(wanted.resource_id)
        found = store.get_volume(volume.id)
        assert (found.status, found.attach_status) == ("available", "detached")


class EndingContract:
    """``finish``: the table's statuses, under the claim, in one transaction."""

    def test_success_and_failure_write_the_statuses_of_the_table(self, store: Store) -> None:
        for state, status in (("done", "available"), ("failed", "error"), ("cancelled", "error")):
            volume = b.volume_record()
            ended = b.do(store, b.create_intent(volume), state=state, error="why", error_class="StorageFull")
            assert (ended.state, ended.error, ended.error_class) == (state, "why", "StorageFull")
            assert ended.finished_at is not None
            assert store.get_operation(ended.id) == ended
            assert store.get_volume(volume.id).status == status

    def test_finish_writes_the_columns_of_both_resources(self, store: Store) -> None:
        volume = b.add_volume(store)
        wanted = b.snapshot_intent(volume)
        b.do(store, wanted, first={"provider": {"a": 1}}, second={"provider": {"b": 2}}, result={"c": 3})
        assert store.get_snapshot(wanted.resource_id).provider == {"a": 1}
        assert store.get_volume(volume.id).provider == {"b": 2}
        assert store.get_volume(volume.id).status == "available"

    def test_finish_refuses_a_status_among_the_columns_and_changes_nothing(self, store: Store) -> None:
        volume = b.volume_record()
        operation = b.claim(store, b.submit(store, b.create_intent(volume)))
        with pytest.raises(ValueError, match="status"):
            store.finish(operation, Outcome("done", first={"status": "in-use"}))
        assert store.get_operation(operation.id).state == "running"
        assert store.get_volume(volume.id).status == "creating"

    def test_extend_writes_the_size_and_claims_no_more(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.do(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 5}), first={"size_gb": 5})
        found = store.get_volume(volume.id)
        assert (found.status, found.size_gb, found.claimed_gb) == ("available", 5, 5)
        b.do(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 9}), state="failed")
        found = store.get_volume(volume.id)
        assert (found.status, found.size_gb, found.claimed_gb) == ("error_extending", 5, 5)

    def test_deleting_takes_the_row_and_its_attachments(self, store: Store) -> None:
        volume = b.add_volume(store, metadata={"a": "b"})
        attachment = b.add_attachment(store, volume)
        ended = b.do(store, b.intent("volume_force_delete", volume.id))
        assert ended.state == "done"
        for missing in (lambda: store.get_volume(volume.id), lambda: store.get_attachment(attachment.id)):
            with pytest.raises(exc.NotFound):
                missing()
        assert store.get_operation(ended.id).resource_id == volume.id

    def test_only_the_current_claim_may_finish(self, store: Store) -> None:
        volume = b.volume_record()
        first = b.claim(store, b.submit(store, b.create_intent(volume)))
        store.release(first, "interrupted")
        second = b.claim(store, first)
        with pytest.raises(exc.OperationSuperseded):
            store.finish(first, Outcome("failed"))
        assert store.get_volume(volume.id).status == "creating"
        store.finish(second, Outcome("done"))
        with pytest.raises(exc.OperationSuperseded):
            store.finish(second, Outcome("failed"))
        assert store.get_volume(volume.id).status == "available"

    def test_a_forced_delete_recorded_meanwhile_keeps_its_status_and_learns_what_the_storage_is(
        self, store: Store
    ) -> None:
        volume = b.volume_record()
        create = b.claim(store, b.submit(store, b.create_intent(volume)))
        delete = b.submit(store, b.intent("volume_force_delete", volume.id, cancel_open=True))
        assert store.report_progress(create, 1, 2) is True
        store.finish(create, Outcome("done", first={"provider": {"path": "x"}}))
        found = store.get_volume(volume.id)
        assert (found.status, found.provider) == ("deleting", {"path": "x"})
        assert store.withdraw(delete.id)
        assert store.get_volume(volume.id).status == "available"

    def test_two_forced_deletes_of_which_the_first_fails(self, store: Store) -> None:
        volume = b.add_volume(store)
        first = b.claim(store, b.submit(store, b.intent("volume_force_delete", volume.id)))
        second = b.submit(store, b.intent("volume_force_delete", volume.id))
        store.finish(first, Outcome("failed"))
        assert store.get_volume(volume.id).status == "deleting"
        b.run(store, second)
        with pytest.raises(exc.VolumeNotFound):
            store.get_volume(volume.id)

    def test_a_failed_connect_leaves_the_attachment_to_the_disconnect_behind_it(self, store: Store) -> None:
        volume = b.add_volume(store)
        wanted = b.attach_intent(volume)
        connect = b.claim(store, b.submit(store, wanted))
        disconnect = b.submit(store, b.intent("attachment_disconnect", wanted.resource_id))
        store.finish(connect, Outcome("failed"))
        assert store.get_attachment(wanted.resource_id).status == "detaching"
        b.run(store, disconnect)
        assert store.get_volume(volume.id).status == "available"
        assert store.attachments_of([volume.id]) == {}

    def test_ending_after_the_row_has_gone_records_the_end_only(self, store: Store) -> None:
        volume = b.add_volume(store)
        first, second = (b.submit(store, b.intent("volume_force_delete", volume.id)) for _ in range(2))
        b.run(store, first)
        assert b.run(store, second).state == "done"
        with pytest.raises(exc.VolumeNotFound):
            store.get_volume(volume.id)
