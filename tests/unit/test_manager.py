"""The volume manager's start and stop with the fake driver and the real store: what is shown, what is restored."""

from __future__ import annotations

from tests.unit.fake_backend import DEADLINE_S, Backend
from volsvc import models
from volsvc.targets.fake import FakeClient
from volsvc.testing.daemon import wait_until
from volsvc.testing.stores import builders as b


def test_a_backend_that_comes_up_says_so_in_its_row_and_a_notification(backend: Backend) -> None:
    backend.serve(backend_name="gold", availability_zone="here", version="9")
    service = backend.service
    assert (service.host, service.binary, service.state, service.version) == (b.HOST, "cinder-volume", "ready", "9")
    assert (service.reason, service.step, service.attempts) == (None, None, 0)
    assert service.availability_zone == "here"
    assert service.capabilities["volume_backend_name"] == "gold"
    assert service.capabilities["total_capacity_gb"] == 1000
    assert "clone" in service.capabilities["abilities"]
    assert service.backend_uuid == backend.drivers[0].read_identity()
    [sent] = backend.notifier.wait_for("volume.driver.init.end")
    assert (sent.priority, sent.payload["host"], sent.payload["backend"]) == ("info", b.HOST, "backend")


def test_a_stop_closes_the_driver_and_shows_as_stopped(backend: Backend) -> None:
    manager = backend.serve()
    assert manager.stop(DEADLINE_S)
    assert backend.drivers[0].is_closed
    assert (backend.service.state, backend.service.is_up) == ("stopped", False)


def test_one_that_stops_when_another_has_its_name_does_not_call_that_one_stopped(backend: Backend) -> None:
    """A standby on another machine that began too early would be refused every request for ever."""
    first = backend.serve()
    backend.start()
    wait_until(lambda: len(backend.notifier.sent("volume.driver.init.end")) == 2, "both to be ready", DEADLINE_S)
    assert first.stop(DEADLINE_S)
    assert (backend.service.instance, backend.service.state) == ("instance-1", "ready")


def test_what_the_driver_publishes_later_is_seen(backend: Backend) -> None:
    backend.serve()
    before = backend.service.capabilities["provisioned_capacity_gb"]
    backend.volume(size_gb=3)
    wait_until(
        lambda: backend.service.capabilities["provisioned_capacity_gb"] == before + 3, "it to be published", DEADLINE_S
    )


def test_a_start_adopts_exports_that_are_needed_and_ends_those_that_are_not(backend: Backend) -> None:
    backend.serve()
    kept, died, stale = (backend.volume() for _ in range(3))
    attachments = [backend.attach(volume) for volume in (kept, died)]
    backend.managers[-1].stop(DEADLINE_S)
    target = backend.drivers[-1].target
    target.kill_exporter(died.id)
    target.connect(stale, f"volume-{stale.id}", models.Attachment(b.new_id(), stale.id, "attached", "project"))
    assert set(backend.exports) == {kept.id, stale.id}
    backend.serve()
    assert set(backend.exports) == {kept.id, died.id}
    for attachment in attachments:
        FakeClient(attachment.connection_info["data"]).write(0, b"served")


def test_what_a_handler_that_was_cut_off_has_left_is_removed_while_the_backend_serves(backend: Backend) -> None:
    """A reset by 'error' or by force lets it touch nothing more, and the next start may be months away."""
    backend.serve()
    wait_until(lambda: backend.script.calls("remove_abandoned") > 1, "the storage to be swept", DEADLINE_S)


def test_an_exporter_that_dies_while_the_backend_serves_is_started_again(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    attachment = backend.attach(volume)
    backend.drivers[-1].target.kill_exporter(volume.id)
    wait_until(lambda: volume.id in backend.exports, "the exporter to be started again", DEADLINE_S)
    FakeClient(attachment.connection_info["data"]).write(0, b"served")


def test_an_export_that_cannot_be_restored_does_not_keep_the_backend_down(backend: Backend) -> None:
    backend.serve()
    backend.attach(backend.volume())
    backend.managers[-1].stop(DEADLINE_S)
    backend.script.set("ensure_export", fail=True, error="DriverError", message="this one is broken")
    backend.serve()
    backend.volume()


def test_a_backend_that_is_away_while_exports_are_restored_is_tried_again(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.attach(volume)
    backend.managers[-1].stop(DEADLINE_S)
    backend.drivers[-1].target.kill_exporter(volume.id)
    backend.script.set("ensure_export", fail=1, error="BackendUnavailable", message="not yet")
    backend.serve()
    [failed] = backend.notifier.sent("volume.driver.init.error")
    assert (failed.payload["step"], "not yet" in failed.payload["reason"]) == ("exports", True)
    assert set(backend.exports) == {volume.id}


def test_work_that_an_earlier_instance_began_is_done_again(backend: Backend) -> None:
    volume = b.volume_record()
    operation = b.submit(backend.store, b.create_intent(volume))
    b.claim(backend.store, operation, "it was killed")
    backend.serve()
    assert backend.wait_ended(operation).attempts == 2
    assert set(backend.stored) == {f"volume-{volume.id}"}


def test_storage_of_another_backend_is_refused(backend: Backend) -> None:
    backend.serve()
    backend.managers[-1].stop(DEADLINE_S)
    identity = backend.service.backend_uuid
    other = backend.store.register_service("host@other", "cinder-volume", {"instance": "x", "pid": 1})
    mine = next(s for s in backend.store.list_services() if s.host == b.HOST)
    backend.store.report_service(mine.id, {"backend_uuid": None})
    backend.store.report_service(other.id, {"backend_uuid": identity})
    manager = backend.start()
    wait_until(lambda: manager.initializer.status.state == "unrecoverable", "the refusal", DEADLINE_S)
    assert "belongs to the backend host@other" in (manager.initializer.status.reason or "")


def test_a_start_exports_nothing_for_what_is_only_reserved(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.store.submit(b.attach_intent(volume, action="attachment_reserve"))
    backend.managers[-1].stop(DEADLINE_S)
    backend.serve()
    assert backend.exports == {}
    assert backend.store.get_volume(volume.id).status == "reserved"
