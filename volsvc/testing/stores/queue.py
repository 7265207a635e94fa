"""Contract: who may claim what and when, and the ways an operation ends other than by its handler."""

from __future__ import annotations

import datetime as dt

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Outcome, Query, Store
from volsvc.testing.stores import builders as b

PAST = dt.datetime(2001, 2, 3, 4, 5, 6, 789)


def claimable_ids(store: Store, limit: int = 100, host: str = b.HOST) -> list[str]:
    return [operation.id for operation in store.claimable(host, limit)]


class ClaimContract:
    """``claimable`` and ``claim``: oldest first, one at a time for what isn't shared."""

    def test_oldest_first_of_this_host_up_to_the_limit(self, store: Store) -> None:
        mine = [b.submit(store, b.create_intent(b.volume_record())) for _ in range(3)]
        b.submit(store, b.create_intent(b.volume_record(host="host@backend2#p")))
        assert store.claimable(b.HOST, 2) == mine[:2]
        assert claimable_ids(store) == [operation.id for operation in mine]

    def test_a_claim_raises_the_epoch_and_is_had_once(self, store: Store) -> None:
        operation = b.submit(store, b.create_intent(b.volume_record()))
        claimed = store.claim(operation.id, "me")
        assert claimed is not None
        assert (claimed.state, claimed.claim_epoch, claimed.attempts, claimed.instance) == ("running", 1, 1, "me")
        assert claimed.started_at is not None
        assert store.get_operation(operation.id) == claimed
        assert store.claim(operation.id, "me") is None
        assert store.claim(operation.id, "other") is None
        assert claimable_ids(store) == []

    def test_claiming_what_is_not_there_gives_none(self, store: Store) -> None:
        assert store.claim(b.new_id(), "me") is None

    def test_operations_of_one_volume_wait_for_each_other(self, store: Store) -> None:
        volume = b.volume_record()
        create = b.submit(store, b.create_intent(volume))
        delete = b.submit(store, b.intent("volume_force_delete", volume.id))
        assert claimable_ids(store) == [create.id]
        assert store.claim(delete.id, "me") is None
        claimed = b.claim(store, create)
        assert claimable_ids(store) == []
        assert store.claim(delete.id, "me") is None
        store.finish(claimed, Outcome("done"))
        assert claimable_ids(store) == [delete.id]

    def test_what_only_reads_a_volume_shares_it(self, store: Store) -> None:
        volume = b.add_volume(store)
        clones = [
            b.submit(store, b.create_intent(b.volume_record(), action="volume_clone", second_id=volume.id))
            for _ in range(2)
        ]
        snapshot = b.submit(store, b.snapshot_intent(volume))
        assert claimable_ids(store) == [clones[0].id, clones[1].id, snapshot.id]
        extend = b.submit(store, b.intent("volume_extend", volume.id))
        later = b.volume_record()
        assert extend.id not in claimable_ids(store)
        for operation in (*clones, snapshot):
            assert store.claim(extend.id, "me") is None
            b.run(store, operation)
        assert claimable_ids(store) == [extend.id]
        with pytest.raises(exc.StatusConflict):
            b.submit(store, b.create_intent(later, action="volume_clone", second_id=volume.id))

    def test_a_reader_waits_for_the_creation_of_its_source(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshot_intent = b.snapshot_intent(volume)
        b.do(store, snapshot_intent)
        copy = b.create_intent(
            b.volume_record(), action="volume_create_from_snapshot", second_id=snapshot_intent.resource_id
        )
        copying = b.submit(store, copy)
        delete = b.submit(store, b.intent("snapshot_delete", snapshot_intent.resource_id))
        assert claimable_ids(store) == [copying.id]
        b.run(store, copying)
        assert claimable_ids(store) == [delete.id]

    def test_snapshots_of_one_volume_are_deleted_side_by_side_and_the_volume_after_them(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshots = [b.add_snapshot(store, volume) for _ in range(3)]
        operations = store.submit(
            *(b.intent("snapshot_delete", snapshot.id) for snapshot in snapshots),
            b.intent("volume_delete", volume.id),
        )
        assert claimable_ids(store) == [operation.id for operation in operations[:3]]
        for operation in operations[:3]:
            b.run(store, operation)
        assert claimable_ids(store) == [operations[3].id]

    def test_two_attachments_of_one_volume_take_turns(self, store: Store) -> None:
        volume = b.add_volume(store, is_multiattach=True)
        first, second = (b.submit(store, b.attach_intent(volume)) for _ in range(2))
        assert claimable_ids(store) == [first.id]
        assert store.claim(second.id, "me") is None

    def test_a_deadline_alone_keeps_nothing_from_being_done(self, store: Store) -> None:
        operation = b.submit(store, b.create_intent(b.volume_record(), deadline_at=PAST))
        assert claimable_ids(store) == [operation.id]
        assert store.claim(operation.id, "me") is not None

    def test_operations_of_several_hosts_are_found_together(self, store: Store) -> None:
        one, other = (b.submit(store, b.reinit_intent(host)) for host in ("node@one", "node@other"))
        assert [o.id for o in store.claimable(["control:node@one", "control:node@other"], 9)] == [one.id, other.id]
        assert claimable_ids(store, host="control:node@one") == [one.id]

    def test_an_operation_on_a_service_changes_no_status(self, store: Store) -> None:
        operation = b.submit(store, b.reinit_intent("node@one"))
        claimed = b.claim(store, operation)
        ended = store.finish(claimed, Outcome("done", result={"state": "ready"}))
        assert (ended.state, ended.resource_type, ended.resource_id) == ("done", "service", "node@one")

    def test_progress_is_written_under_the_claim_and_says_when_to_stop(self, store: Store) -> None:
        claimed = b.claim(store, b.submit(store, b.create_intent(b.volume_record())))
        assert store.report_progress(claimed, 5 * models.GIB, 9 * models.GIB) is False
        found = store.get_operation(claimed.id)
        assert (found.progress_done, found.progress_total) == (5 * models.GIB, 9 * models.GIB)
        asked = store.request_cancel(claimed.id)
        assert (asked.state, asked.is_cancel_requested) == ("running", True)
        assert store.report_progress(claimed, 6, 9) is True
        store.release(claimed, "stop")
        with pytest.raises(exc.OperationSuperseded):
            store.report_progress(claimed, 7, 9)

    def test_what_is_done_has_all_its_progress(self, store: Store) -> None:
        one, other = (b.claim(store, b.submit(store, b.create_intent(b.volume_record()))) for _ in range(2))
        for claimed, state in ((one, "done"), (other, "failed")):
            store.report_progress(claimed, 5, 9)
            store.finish(claimed, Outcome(state))
        assert [store.get_operation(claimed.id).progress_done for claimed in (one, other)] == [9, 5]

    def test_a_release_counts_the_attempt_only_when_asked(self, store: Store) -> None:
        operation = b.submit(store, b.create_intent(b.volume_record()))
        claimed = b.claim(store, operation)
        store.release(claimed, "the disk is away")
        found = store.get_operation(operation.id)
        assert (found.state, found.attempts, found.error, found.instance) == ("queued", 0, "the disk is away", None)
        again = b.claim(store, operation)
        assert (again.claim_epoch, again.attempts) == (2, 1)
        store.release(again, "again", count_attempt=True)
        assert store.get_operation(operation.id).attempts == 1
        with pytest.raises(exc.OperationSuperseded):
            store.release(again, "too late")


class TakeBackContract:
    """What a daemon that died has left, what waited too long, and what is no longer wanted."""

    def test_what_an_earlier_instance_left_running_is_queued_again(self, store: Store) -> None:
        left, mine, elsewhere = (
            b.submit(store, b.create_intent(b.volume_record(host=host))) for host in (b.HOST, b.HOST, "other@x")
        )
        old = b.claim(store, left, "old")
        b.claim(store, mine, "new")
        b.claim(store, elsewhere, "old")
        again, given_up = store.take_back(b.HOST, "new", 3)
        assert ([operation.id for operation in again], given_up) == ([left.id], [])
        assert store.get_operation(left.id) == again[0]
        assert (again[0].state, again[0].attempts) == ("queued", 1)
        assert store.get_operation(elsewhere.id).state == "running"
        with pytest.raises(exc.OperationSuperseded):
            store.finish(old, Outcome("done"))
        assert b.claim(store, left, "new").claim_epoch == 2
        assert store.take_back(b.HOST, "new", 3) == ([], [])

    def test_what_kills_the_daemon_each_time_is_given_up_with_the_failure_statuses(self, store: Store) -> None:
        volume = b.add_volume(store)
        operation = b.submit(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 7}))
        for number in range(2):
            b.claim(store, operation, f"instance-{number}")
            again, given_up = store.take_back(b.HOST, "next", 2)
        assert again == []
        assert [(o.id, o.state, o.error_class) for o in given_up] == [(operation.id, "failed", "TooManyAttempts")]
        assert "2 times" in (given_up[0].error or "")
        found = store.get_volume(volume.id)
        assert (found.status, found.claimed_gb) == ("error_extending", 1)

    def test_expired_work_goes_back_unless_it_is_new(self, store: Store) -> None:
        volume = b.add_volume(store)
        attached = b.add_volume(store)
        attachment = b.add_attachment(store, attached)
        new = b.volume_record()
        wanted = b.attach_intent(b.add_volume(store), deadline_at=PAST)
        for intent in (
            b.intent("volume_extend", volume.id, changes={"claimed_gb": 7}, deadline_at=PAST),
            b.intent("attachment_disconnect", attachment.id, deadline_at=PAST),
            b.create_intent(new, deadline_at=PAST),
            wanted,
        ):
            b.submit(store, intent)
        waiting = b.submit(store, b.create_intent(b.volume_record(), deadline_at=b.utcnow() + dt.timedelta(hours=1)))
        assert store.expire_queued("host@other") == []
        ended = store.expire_queued(b.HOST)
        assert [operation.action for operation in ended] == [
            "volume_extend",
            "attachment_disconnect",
            "volume_create",
            "attachment_create",
        ]
        assert {(operation.state, operation.error_class) for operation in ended} == {("failed", "OperationTimeout")}
        found = store.get_volume(volume.id)
        assert (found.status, found.claimed_gb) == ("available", 1)
        assert store.get_attachment(attachment.id).status == "attached"
        assert store.get_volume(attached.id).status == "in-use"
        assert store.get_volume(new.id).status == "error"
        with pytest.raises(exc.AttachmentNotFound):
            store.get_attachment(wanted.resource_id)
        assert store.get_operation(waiting.id).state == "queued"

    def test_a_deadline_is_renewed_when_half_of_it_is_over(self, store: Store) -> None:
        hour = 3600.0
        now = b.utcnow()
        wanted = {
            minutes: b.submit(
                store, b.create_intent(b.volume_record(), deadline_at=now + dt.timedelta(minutes=minutes))
            )
            for minutes in (-5, 20, 40)
        }
        endless = b.submit(store, b.create_intent(b.volume_record()))
        beside = b.submit(store, b.intent("volume_inspect", b.add_volume(store).id, deadline_at=PAST))
        assert store.renew_deadlines("host@other", hour) == 0
        assert store.renew_deadlines(b.HOST, hour) == 2
        assert store.renew_deadlines(b.HOST, hour) == 0
        for minutes, operation in wanted.items():
            deadline = store.get_operation(operation.id).deadline_at
            assert deadline is not None
            assert (deadline - now > dt.timedelta(minutes=55)) == (minutes < 30)
        assert store.get_operation(endless.id).deadline_at is None
        assert [operation.id for operation in store.expire_queued(b.HOST)] == [beside.id]

    def test_expired_work_that_was_begun_once_may_have_changed_the_storage(self, store: Store) -> None:
        volume = b.add_volume(store)
        operation = b.submit(
            store, b.intent("volume_delete", volume.id, deadline_at=b.utcnow() + dt.timedelta(seconds=1))
        )
        store.release(b.claim(store, operation), "the disk went away")
        deadline = b.utcnow() + dt.timedelta(seconds=20)
        ended: list[models.Operation] = []
        while not ended and b.utcnow() < deadline:
            ended = store.expire_queued(b.HOST)
        assert "the disk went away" in (ended[0].error or "")
        assert store.get_volume(volume.id).status == "error_deleting"

    def test_withdrawn_work_leaves_everything_as_before(self, store: Store) -> None:
        volume = b.add_volume(store)
        before = store.get_volume(volume.id)
        wanted = b.attach_intent(volume)
        assert store.withdraw(b.submit(store, wanted).id) is True
        with pytest.raises(exc.AttachmentNotFound):
            store.get_attachment(wanted.resource_id)
        new = b.volume_record()
        assert store.withdraw(b.submit(store, b.create_intent(new)).id) is True
        with pytest.raises(exc.VolumeNotFound):
            store.get_volume(new.id)
        extend = b.submit(store, b.intent("volume_extend", volume.id, changes={"claimed_gb": 7}))
        assert store.withdraw(extend.id) is True
        after = store.get_volume(volume.id)
        assert (after.status, after.attach_status, after.claimed_gb) == (before.status, before.attach_status, 1)
        assert store.get_operation(extend.id).state == "cancelled"
        assert store.withdraw(extend.id) is False
        with pytest.raises(exc.OperationNotFound):
            store.withdraw(b.new_id())

    def test_withdrawn_work_that_was_begun_once_may_have_changed_the_storage(self, store: Store) -> None:
        volume, new = b.add_volume(store), b.volume_record()
        for intent in (b.intent("volume_delete", volume.id), b.create_intent(new)):
            operation = b.submit(store, intent)
            store.release(b.claim(store, operation), "the disk went away")
            assert store.withdraw(operation.id) is True
        assert store.get_volume(volume.id).status == "error_deleting"
        assert store.get_volume(new.id).status == "error"

    def test_what_runs_is_not_withdrawn(self, store: Store) -> None:
        operation = b.submit(store, b.create_intent(b.volume_record()))
        b.claim(store, operation)
        assert store.withdraw(operation.id) is False
        assert store.get_operation(operation.id).state == "running"

    def test_a_queued_operation_is_cancelled_at_once(self, store: Store) -> None:
        volume = b.add_volume(store)
        cancelled = store.request_cancel(b.submit(store, b.intent("volume_delete", volume.id)).id)
        assert (cancelled.state, cancelled.is_cancel_requested) == ("cancelled", True)
        assert store.get_volume(volume.id).status == "available"
        new = b.volume_record()
        operation = store.request_cancel(b.submit(store, b.create_intent(new)).id)
        assert store.get_volume(new.id).status == "error"
        assert store.request_cancel(operation.id) == operation
        with pytest.raises(exc.OperationNotFound):
            store.request_cancel(b.new_id())

    def test_cancel_open_ends_the_queued_and_asks_the_running(self, store: Store) -> None:
        volume = b.volume_record()
        running = b.claim(store, b.submit(store, b.create_intent(volume)))
        queued = b.submit(store, b.intent("volume_force_delete", volume.id))
        last = b.submit(store, b.intent("volume_force_delete", volume.id, cancel_open=True))
        assert store.get_operation(queued.id).state == "cancelled"
        assert store.get_operation(running.id).is_cancel_requested
        assert store.get_volume(volume.id).status == "deleting"
        assert store.get_operation(last.id).previous_status == "creating"
        store.finish(running, Outcome("cancelled"))
        assert store.get_volume(volume.id).status == "deleting"
        assert store.withdraw(last.id)
        assert store.get_volume(volume.id).status == "error"

    def test_cancel_open_of_a_queued_connect_lets_the_disconnect_through(self, store: Store) -> None:
        volume = b.add_volume(store)
        wanted = b.attach_intent(volume)
        connect = b.submit(store, wanted)
        disconnect = b.submit(store, b.intent("attachment_disconnect", wanted.resource_id, cancel_open=True))
        assert store.get_operation(connect.id).state == "cancelled"
        assert claimable_ids(store) == [disconnect.id]
        b.run(store, disconnect)
        assert store.get_volume(volume.id).status == "available"

    def test_history_is_purged_by_age_and_open_work_never(self, store: Store) -> None:
        volume = b.add_volume(store)
        extend = b.submit(store, b.intent("volume_extend", volume.id))
        assert store.purge_operations(1) == 0
        assert store.purge_operations(-1) == 1
        assert [operation.id for operation in store.list_operations(Query()).items] == [extend.id]
        assert b.submit(store, b.create_intent(b.volume_record())).seq > extend.seq
