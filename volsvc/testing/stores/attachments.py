"""Contract: a volume's status follows its attachments, unless something else decides it."""

from __future__ import annotations

import pytest

from volsvc import exceptions as exc
from volsvc.ports import Outcome, Store
from volsvc.testing.stores import builders as b


class AttachmentContract:
    """A volume's status follows its attachments, unless something else decides it."""

    def test_the_way_of_an_attachment(self, store: Store) -> None:
        volume = b.add_volume(store)

        def statuses() -> tuple[str, str]:
            found = store.get_volume(volume.id)
            return found.status, found.attach_status

        wanted = b.attach_intent(volume)
        connect = b.submit(store, wanted)
        assert statuses() == ("attaching", "attaching")
        b.run(store, connect)
        assert statuses() == ("attaching", "attaching")
        b.submit(store, b.intent("attachment_complete", wanted.resource_id))
        assert statuses() == ("in-use", "attached")
        disconnect = b.submit(store, b.intent("attachment_disconnect", wanted.resource_id))
        assert statuses() == ("detaching", "detaching")
        b.run(store, disconnect, "failed")
        assert store.get_attachment(wanted.resource_id).status == "error_detaching"
        assert statuses() == ("in-use", "attached")
        b.do(store, b.intent("attachment_disconnect", wanted.resource_id))
        assert statuses() == ("available", "detached")

    def test_a_failed_connect_of_a_reserved_attachment_can_be_repeated(self, store: Store) -> None:
        volume = b.add_volume(store)
        wanted = b.attach_intent(volume, "attachment_reserve")
        b.submit(store, wanted)
        b.do(
            store,
            b.intent("attachment_connect", wanted.resource_id, changes={"connector": {"host": "h"}}),
            state="failed",
        )
        found = store.get_attachment(wanted.resource_id)
        assert (found.status, found.connector) == ("error_attaching", {"host": "h"})
        assert store.get_volume(volume.id).status == "reserved"
        b.do(store, b.intent("attachment_connect", wanted.resource_id))
        assert store.get_attachment(wanted.resource_id).status == "attaching"

    def test_a_failed_new_connection_leaves_no_attachment(self, store: Store) -> None:
        volume = b.add_volume(store)
        wanted = b.attach_intent(volume)
        b.do(store, wanted, state="failed")
        with pytest.raises(exc.AttachmentNotFound):
            store.get_attachment(wanted.resource_id)
        assert store.get_volume(volume.id).status == "available"

    def test_one_of_two_attachments_leaves_the_volume_in_use(self, store: Store) -> None:
        volume = b.add_volume(store, is_multiattach=True)
        first = b.add_attachment(store, volume)
        b.add_attachment(store, volume)
        b.do(store, b.intent("attachment_disconnect", first.id))
        assert store.get_volume(volume.id).status == "in-use"

    @pytest.mark.parametrize("state", ["done", "failed"])
    def test_a_detach_recorded_during_an_extend_waits_and_shows_after_it(self, store: Store, state: str) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        extend = b.claim(store, b.submit(store, b.intent("volume_extend_attached", volume.id)))
        detach = b.submit(store, b.intent("attachment_disconnect", attachment.id))
        assert store.get_volume(volume.id).status == "extending"
        assert store.claim(detach.id, b.INSTANCE) is None
        store.finish(extend, Outcome(state))
        assert store.get_volume(volume.id).status == "detaching"
        b.run(store, detach)
        assert store.get_volume(volume.id).status == "available"

    def test_an_extend_recorded_during_a_detach_ends_as_the_attachments_are_then(self, store: Store) -> None:
        volume = b.add_volume(store, is_multiattach=True)
        attachments = [b.add_attachment(store, volume) for _ in range(2)]
        detaches = [b.submit(store, b.intent("attachment_disconnect", attachments[0].id))]
        extend = b.submit(store, b.intent("volume_extend_attached", volume.id))
        detaches.append(b.submit(store, b.intent("attachment_disconnect", attachments[1].id)))
        b.run(store, detaches[0])
        assert store.get_volume(volume.id).status == "extending"
        b.run(store, extend)
        assert store.get_volume(volume.id).status == "detaching"
        b.run(store, detaches[1])
        assert store.get_volume(volume.id).status == "available"

    def test_a_withdrawn_extend_goes_back_to_what_the_attachments_say(self, store: Store) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        detach = b.claim(store, b.submit(store, b.intent("attachment_disconnect", attachment.id)))
        assert store.get_volume(volume.id).status == "detaching"
        with pytest.raises(exc.StatusConflict):
            b.submit(store, b.intent("volume_extend_attached", volume.id))
        store.finish(detach, Outcome("failed"))
        extend = b.submit(store, b.intent("volume_extend_attached", volume.id))
        b.submit(store, b.intent("attachment_disconnect", attachment.id))
        assert store.withdraw(extend.id)
        assert store.get_volume(volume.id).status == "detaching"

    def test_an_attachment_does_not_overwrite_another_status(self, store: Store) -> None:
        volume = b.add_volume(store)
        attachment = b.add_attachment(store, volume)
        b.do(store, b.intent("volume_force_delete", volume.id), state="failed")
        assert store.get_volume(volume.id).status == "error_deleting"
        b.do(store, b.intent("attachment_disconnect", attachment.id))
        found = store.get_volume(volume.id)
        assert (found.status, found.attach_status) == ("error_deleting", "detached")

    @pytest.mark.parametrize("state", ["done", "failed"])
    def test_completing_does_not_overtake_the_connection(self, store: Store, state: str) -> None:
        volume = b.add_volume(store)
        wanted = b.attach_intent(volume)
        connect = b.claim(store, b.submit(store, wanted))
        complete = b.intent("attachment_complete", wanted.resource_id)
        with pytest.raises(exc.StatusConflict, match=connect.id):
            b.submit(store, complete)
        store.finish(connect, Outcome(state))
        if state == "done":
            b.submit(store, complete)
        assert store.get_volume(volume.id).status == ("in-use" if state == "done" else "available")
