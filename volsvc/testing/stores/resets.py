"""Contract: what stands ahead of the queue or beside it, and what a correction writes."""

from __future__ import annotations

import datetime as dt

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Correction, Intent, Outcome, Query, Store
from volsvc.testing.stores import builders as b

EXPRESS = models.express_host(b.HOST)
FREE = Correction(status="available", deletes_attachments=True)


def reset_intent(volume: models.Volume, **fields: object) -> Intent:
    return b.intent("volume_reset", volume.id, **fields)


def correct(store: Store, volume: models.Volume, correction: Correction) -> tuple[models.Operation, list[str]]:
    return store.correct(reset_intent(volume, host=None), correction, {"noted": 1})


class QueueOfResetsContract:
    """Who waits for whom."""

    def test_what_is_out_of_line_is_recorded_beside_the_queue_and_changes_no_status(self, store: Store) -> None:
        volume = b.add_volume(store)
        for action in ("volume_reset", "volume_inspect"):
            operation = b.submit(store, b.intent(action, volume.id))
            assert (operation.host, operation.previous_status) == (EXPRESS, "available")
        assert store.get_volume(volume.id) == volume
        assert store.claimable(b.HOST, 10) == []
        assert [o.action for o in store.claimable(EXPRESS, 10)] == ["volume_reset", "volume_inspect"]

    def test_everything_of_the_volume_waits_for_its_reset_whichever_came_first(self, store: Store) -> None:
        volume = b.add_volume(store)
        first = b.submit(store, b.snapshot_intent(volume))
        reset = b.submit(store, reset_intent(volume))
        later = b.submit(store, b.intent("volume_extend", volume.id))
        attach = b.add_volume(store)
        assert [o.id for o in store.claimable(b.HOST, 10)] == []
        assert store.claim(first.id, b.INSTANCE) is None
        claimed = b.claim(store, reset)
        assert store.claimable(b.HOST, 10) == []
        store.finish(claimed, Outcome("failed", error="no"))
        assert [o.id for o in store.claimable(b.HOST, 10)] == [first.id]
        assert later.is_open
        assert attach.status == "available"

    def test_a_reset_does_not_wait_for_what_runs(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.claim(store, b.submit(store, b.intent("volume_extend", volume.id)))
        reset = b.submit(store, reset_intent(volume))
        assert b.claim(store, reset).id == reset.id

    def test_resets_of_one_volume_take_turns(self, store: Store) -> None:
        volume = b.add_volume(store)
        first, second = (b.submit(store, reset_intent(volume)) for _ in range(2))
        assert [o.id for o in store.claimable(EXPRESS, 10)] == [first.id]
        claimed = b.claim(store, first)
        assert store.claim(second.id, b.INSTANCE) is None
        store.finish(claimed, Outcome("done", correction=FREE))
        assert b.claim(store, second).id == second.id

    def test_an_inspection_waits_for_nobody_and_nobody_for_it(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.claim(store, b.submit(store, b.intent("volume_inspect", volume.id)))
        reset = b.claim(store, b.submit(store, reset_intent(volume)))
        assert b.claim(store, b.submit(store, b.intent("volume_inspect", volume.id)))
        store.finish(reset, Outcome("done", correction=FREE))
        assert b.claim(store, b.submit(store, b.intent("volume_extend", volume.id)))

    def test_an_operation_that_ends_beside_a_reset_writes_its_own_status(self, store: Store) -> None:
        volume = b.add_volume(store)
        extend = b.claim(store, b.submit(store, b.intent("volume_extend", volume.id)))
        reset = b.submit(store, reset_intent(volume))
        store.finish(extend, Outcome("done", first={"size_gb": 2}))
        assert (store.get_volume(volume.id).status, store.get_volume(volume.id).size_gb) == ("available", 2)
        assert store.get_operation(reset.id).previous_status == "extending"

    @pytest.mark.parametrize("end", ["withdraw", "cancel", "fail", "expire", "interrupt"])
    def test_a_reset_that_is_not_done_leaves_everything(self, store: Store, end: str) -> None:
        volume = b.add_volume(store)
        b.submit(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 2}))
        before = store.get_volume(volume.id)
        reset = b.submit(store, reset_intent(volume, deadline_at=b.utcnow() - dt.timedelta(seconds=1)))
        if end == "withdraw":
            assert store.withdraw(reset.id)
        elif end == "cancel":
            store.request_cancel(reset.id)
        elif end == "expire":
            assert [o.id for o in store.expire_queued(b.HOST)] == [reset.id]
        elif end == "interrupt":
            store.release(b.claim(store, reset), "stopping")
            assert store.withdraw(reset.id)
        else:
            store.finish(b.claim(store, reset), Outcome("failed", error="no"))
        assert not store.get_operation(reset.id).is_open
        assert store.get_volume(volume.id) == before
        assert b.claim(store, store.claimable(b.HOST, 1)[0])

    def test_a_forced_delete_leaves_the_reset_to_find_out(self, store: Store) -> None:
        volume = b.add_volume(store)
        reset = b.claim(store, b.submit(store, reset_intent(volume)))
        seen = store.look("volume", volume.id)
        delete = b.submit(store, b.intent("volume_force_delete", volume.id, cancel_open=True))
        with pytest.raises(exc.Conflict):
            store.finish(reset, Outcome("done", correction=Correction(status="available", seen=seen)))
        assert store.get_operation(reset.id).state == "running", "its handler decides what to do now"
        assert store.get_volume(volume.id).status == "deleting"
        assert delete.previous_status == "available"
        store.finish(reset, Outcome("failed", error="no"))
        assert store.get_volume(volume.id).status == "deleting"


class CorrectionContract:
    """What is written, and what it ends."""

    def test_looking_shows_what_a_reset_is_about(self, store: Store) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        snapshot = b.submit(store, b.snapshot_intent(volume))
        detach = b.submit(store, b.intent("attachment_disconnect", attachment.id))
        b.submit(store, reset_intent(volume))
        b.submit(store, b.intent("volume_inspect", volume.id))
        found = store.look("volume", volume.id)
        assert found.resource == store.get_volume(volume.id)
        assert [a.status for a in found.attachments] == ["detaching"]
        assert [o.id for o in found.open_operations] == [snapshot.id, detach.id]
        of_snapshot = store.look("snapshot", snapshot.resource_id)
        assert (of_snapshot.resource.id, of_snapshot.attachments) == (snapshot.resource_id, ())
        assert [o.id for o in of_snapshot.open_operations] == [snapshot.id]
        with pytest.raises(exc.VolumeNotFound):
            store.look("volume", b.new_id())

    def test_a_record_only_reset_is_one_step_with_its_own_history(self, store: Store) -> None:
        volume = b.add_volume(store)
        operation, cancelled = correct(store, volume, Correction(status="maintenance"))
        assert store.get_volume(volume.id).status == "maintenance"
        assert (operation.state, operation.host, operation.previous_status) == ("done", None, "available")
        assert (operation.result, cancelled) == ({"noted": 1, "cancelled": []}, [])
        assert store.get_operation(operation.id) == operation

    def test_what_is_open_is_cancelled_and_its_handler_superseded(self, store: Store) -> None:
        volume = b.add_volume(store)
        running = b.claim(store, b.submit(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 2})))
        operation, cancelled = correct(store, volume, Correction(status="error"))
        assert cancelled == [running.id]
        ended = store.get_operation(running.id)
        assert (ended.state, ended.claim_epoch, ended.error_class) == ("cancelled", 2, "OperationCancelled")
        assert operation.id in (ended.error or "")
        for late in (
            lambda: store.report_progress(running, 1, 2),
            lambda: store.finish(running, Outcome("done", first={"size_gb": 2})),
            lambda: store.release(running, "x"),
        ):
            with pytest.raises(exc.OperationSuperseded):
                late()
        found = store.get_volume(volume.id)
        assert (found.status, found.size_gb, found.claimed_gb) == ("error", 1, 1)

    def test_those_that_only_read_the_volume_go_on(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshot = b.submit(store, b.snapshot_intent(volume))
        _, cancelled = correct(store, volume, Correction(status="error"))
        assert cancelled == []
        assert store.get_operation(snapshot.id).is_open

    def test_attachments_are_deleted_with_what_was_asked_of_them(self, store: Store) -> None:
        volume = b.add_volume(store, is_multiattach=True)
        attachment = b.add_attachment(store, volume)
        b.add_attachment(store, volume)
        detach = b.submit(store, b.intent("attachment_disconnect", attachment.id))
        _, cancelled = correct(store, volume, FREE)
        assert cancelled == [detach.id]
        assert store.attachments_of([volume.id]) == {}
        found = store.get_volume(volume.id)
        assert (found.status, found.attach_status) == ("available", "detached")

    def test_attachments_that_stay_end_as_the_table_says_when_their_operation_is_cancelled(self, store: Store) -> None:
        volume = b.add_volume(store, is_multiattach=True)
        queued, begun = b.add_attachment(store, volume), b.add_attachment(store, volume)
        b.submit(store, b.intent("attachment_disconnect", queued.id))
        _, cancelled = correct(store, volume, Correction(status="error"))
        assert len(cancelled) == 1
        b.claim(store, b.submit(store, b.intent("attachment_disconnect", begun.id)))
        being_made = b.submit(store, b.attach_intent(b.add_volume(store)))
        correct(store, volume, Correction(status="error"))
        statuses = {a.id: a.status for a in store.attachments_of([volume.id])[volume.id]}
        assert statuses == {queued.id: "attached", begun.id: "error_detaching"}
        assert store.get_volume(volume.id).attach_status == "attached"
        other = store.get_volume(store.get_attachment(being_made.resource_id).volume_id)
        correct(store, other, Correction(status="error"))
        assert store.attachments_of([other.id]) == {}, "nobody has made it, so it isn't there"

    def test_an_attachment_that_several_wait_for_is_what_it_was_before_the_first(self, store: Store) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        for _ in range(2):
            b.submit(store, b.intent("attachment_disconnect", attachment.id))
        correct(store, volume, Correction(status="error"))
        assert store.get_attachment(attachment.id).status == "attached"

    def test_attachments_can_be_written_too(self, store: Store) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        info = {"driver_volume_type": "fake", "data": {"again": 1}}
        correct(store, volume, Correction(attachments={attachment.id: {"status": "attached", "connection_info": info}}))
        assert store.get_attachment(attachment.id).connection_info == info

    def test_without_a_status_only_what_attachments_decide_is_computed(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.add_attachment(store, volume)
        correct(store, volume, Correction(attach_status="detached", deletes_attachments=True))
        assert store.get_volume(volume.id).status == "available"
        extending = b.submit(store, b.intent("volume_extend", volume.id))
        correct(store, volume, Correction(attach_status="detached", deletes_attachments=True))
        assert store.get_volume(volume.id).status == "extending"
        assert store.get_operation(extending.id).is_open

    def test_the_migration_status_alone_changes_nothing_else(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.submit(store, b.intent("volume_extend", volume.id))
        for word, expected in (("error", "error"), ("none", None)):
            correct(store, volume, Correction(migration_status=word))
            found = store.get_volume(volume.id)
            assert (found.migration_status, found.status) == (expected, "extending")

    def test_a_snapshot_is_corrected_too(self, store: Store) -> None:
        snapshot = b.add_snapshot(store, b.add_volume(store))
        deleting = b.claim(store, b.submit(store, b.intent("snapshot_delete", snapshot.id)))
        intent = b.intent("snapshot_reset", snapshot.id, host=None)
        _, cancelled = store.correct(intent, Correction(status="error_deleting"), {})
        assert cancelled == [deleting.id]
        assert store.get_snapshot(snapshot.id).status == "error_deleting"

    def test_a_reset_that_is_done_writes_its_correction_with_its_end(self, store: Store) -> None:
        volume = b.add_volume(store)
        b.add_attachment(store, volume)
        extend = b.submit(store, b.intent("volume_extend_attached", volume.id, changes={"claimed_gb": 2}))
        reset = b.claim(store, b.submit(store, reset_intent(volume)))
        seen = store.look("volume", volume.id)
        correction = Correction(status="available", columns={"size_gb": 2}, deletes_attachments=True, seen=seen)
        ended = store.finish(reset, Outcome("done", correction=correction, result={"calls": []}))
        assert ended.result == {"calls": [], "cancelled": [extend.id]}
        found = store.get_volume(volume.id)
        assert (found.status, found.size_gb, found.claimed_gb, found.attach_status) == ("available", 2, 2, "detached")
        assert store.get_operation(extend.id).state == "cancelled"

    @pytest.mark.parametrize("change", ["status", "attachment", "operation"])
    def test_nothing_is_written_when_what_was_seen_has_changed(self, store: Store, change: str) -> None:
        volume = b.add_volume(store)
        seen = store.look("volume", volume.id)
        if change == "status":
            correct(store, volume, Correction(status="maintenance"))
        elif change == "attachment":
            b.do(store, b.attach_intent(volume, "attachment_reserve"))
        else:
            b.submit(store, b.snapshot_intent(volume))
        before = store.look("volume", volume.id)
        history = store.list_operations(Query()).items
        with pytest.raises(exc.Conflict, match=volume.id):
            correct(store, volume, Correction(status="error", seen=seen))
        assert store.look("volume", volume.id) == before
        assert store.list_operations(Query()).items == history

    def test_what_comes_to_light_late_is_added_to_the_result(self, store: Store) -> None:
        volume = b.add_volume(store)
        operation, _ = correct(store, volume, Correction(status="error"))
        for number in range(2):
            store.append_result(operation.id, "late", {"number": number})
        assert store.get_operation(operation.id).result == {
            "noted": 1,
            "cancelled": [],
            "late": [{"number": 0}, {"number": 1}],
        }
        store.append_result(b.new_id(), "late", {})

    def test_what_is_stuck_is_found_and_nothing_else(self, store: Store) -> None:
        def reset(volume: models.Volume, status: str) -> models.Volume:
            correct(store, volume, Correction(status=status))
            return volume

        stuck = {reset(b.add_volume(store), status).id for status in ("creating", "deleting", "attaching", "in-use")}
        attached = b.add_volume(store)
        b.add_attachment(store, attached)
        stuck.add(reset(attached, "available").id)
        snapshot = b.add_snapshot(store, b.add_volume(store))
        store.correct(b.intent("snapshot_reset", snapshot.id, host=None), Correction(status="creating"), {})
        stuck.add(snapshot.id)
        for status in ("error", "maintenance", "error_deleting"):
            reset(b.add_volume(store), status)
        b.submit(store, b.create_intent(b.volume_record()))
        b.submit(store, b.intent("volume_extend", b.add_volume(store).id))
        b.add_attachment(store, b.add_volume(store))
        waiting_for_its_client = b.add_volume(store)
        b.do(
            store,
            b.attach_intent(waiting_for_its_client),
            first={"connection_info": {"driver_volume_type": "fake", "data": {}}},
        )
        assert {situation.resource.id for situation in store.list_stuck()} == stuck
