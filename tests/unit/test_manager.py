"""The volume manager with the fake driver and the real store: what each action does, and what a start restores."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.drivers.base import DriverContext
from volsvc.drivers.fake import FakeDriver
from volsvc.drivers.fake_script import Script
from volsvc.manager import ManagerSettings, VolumeManager
from volsvc.operations import RunnerSettings
from volsvc.ports import Intent, Query
from volsvc.targets.base import TargetContext
from volsvc.targets.fake import FakeClient, FakeTarget
from volsvc.testing.daemon import wait_until
from volsvc.testing.notifier import RecordingNotifier
from volsvc.testing.snapshots import options_of
from volsvc.testing.stores import builders as b

DEADLINE_S = 10.0


class Backend:
    """One backend: a store, a storage that outlives managers, a script, and the managers on it."""

    def __init__(self, path: pathlib.Path, store: SqlStore) -> None:
        self.store = store
        self.script = Script()
        self.notifier = RecordingNotifier()
        self.drivers: list[FakeDriver] = []
        self.managers: list[VolumeManager] = []
        self._path = str(path)
        self._storage = {"fake_state_path": str(path / "fake.json")}

    def build(self) -> FakeDriver:
        """A blueprint's only method: the manager builds its driver by it."""
        target = FakeTarget(TargetContext("backend", b.HOST, options_of(FakeTarget, **self._storage), self._path))
        options = options_of(FakeDriver, **self._storage)
        context = DriverContext("backend", b.HOST, options, self._path, self._path, target, {"script": self.script})
        self.drivers.append(FakeDriver(context))
        return self.drivers[-1]

    def start(self, **settings: Any) -> VolumeManager:
        """A manager that has begun; ``serve`` waits until it is ready."""
        manager = VolumeManager(
            host=b.HOST,
            instance=f"instance-{len(self.managers)}",
            store=self.store,
            notifier=self.notifier,
            load_blueprint=lambda: self,
            settings=ManagerSettings(
                **{"publish_interval_s": 0.1, "runner": RunnerSettings(sweep_interval_s=0.05), **settings}
            ),
        )
        self.managers.append(manager)
        manager.start()
        return manager

    def serve(self, **settings: Any) -> VolumeManager:
        manager = self.start(**settings)
        wait_until(lambda: self.service.is_up, "the backend to be up", DEADLINE_S)
        return manager

    @property
    def service(self) -> models.Service:
        [service] = self.store.list_services()
        self.store.beat([service.id])
        return self.store.list_services()[0]

    @property
    def stored(self) -> dict[str, Any]:
        with self.drivers[-1].store.transaction() as state:
            return dict(state["files"])

    @property
    def exports(self) -> dict[str, Any]:
        with self.drivers[-1].store.transaction() as state:
            return dict(state["exports"])

    def do(self, *intents: Intent, state: str = "done") -> models.Operation:
        """Record intents and wait for the last one's end."""
        operation = self.store.submit(*intents)[-1]
        return self.wait_ended(operation, state)

    def wait_ended(self, operation: models.Operation, state: str = "done") -> models.Operation:
        wait_until(lambda: not self.store.get_operation(operation.id).is_open, f"{operation.action} to end", DEADLINE_S)
        ended = self.store.get_operation(operation.id)
        assert ended.state == state, ended.error
        return ended

    def volume(self, **fields: Any) -> models.Volume:
        record = b.volume_record(**fields)
        self.do(b.create_intent(record))
        return self.store.get_volume(record.id)

    def attach(self, volume: models.Volume) -> models.Attachment:
        wanted = b.attach_intent(volume)
        self.do(wanted)
        self.store.submit(b.intent("attachment_complete", wanted.resource_id))
        return self.store.get_attachment(wanted.resource_id)


@pytest.fixture
def backend(tmp_path: pathlib.Path) -> Iterator[Backend]:
    engine = create_engine(f"sqlite:///{tmp_path}/volsvc.sqlite")
    migrate.sync(engine)
    made = Backend(tmp_path, SqlStore(engine))
    yield made
    made.script.clear()
    for manager in made.managers:
        manager.stop(5.0)
    engine.dispose()


# -- a start ---------------------------------------------------------------------------------------


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


# -- volumes and snapshots ---------------------------------------------------------------------------


def test_volumes_are_created_copied_extended_and_deleted(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume(size_gb=2)
    assert (volume.status, volume.size_gb, volume.launched_at is not None) == ("available", 2, True)
    clone = b.volume_record(size_gb=3)
    backend.do(b.create_intent(clone, action="volume_clone", second_id=volume.id))
    taken = b.snapshot_intent(volume)
    backend.do(taken)
    snapshot = backend.store.get_snapshot(taken.resource_id)
    assert (snapshot.status, snapshot.progress) == ("available", "100%")
    copy = b.volume_record(size_gb=2)
    backend.do(b.create_intent(copy, action="volume_create_from_snapshot", second_id=snapshot.id))
    backend.do(b.intent("volume_extend", volume.id, args={"new_size_gb": 5}))
    assert backend.store.get_volume(volume.id).size_gb == 5
    assert {name: file["size"] // models.GIB for name, file in backend.stored.items()} == {
        f"volume-{volume.id}": 5,
        f"volume-{clone.id}": 3,
        f"volume-{copy.id}": 2,
        f"snapshot-{snapshot.id}": 2,
    }
    backend.do(b.intent("snapshot_delete", snapshot.id))
    for made in (volume, clone, copy):
        backend.do(b.intent("volume_delete", made.id))
    assert backend.stored == {}
    assert not backend.store.list_volumes(Query()).items


@pytest.mark.parametrize(
    ("method", "action", "status"),
    [
        ("create_volume", "volume_create", "error"),
        ("create_cloned_volume", "volume_clone", "error"),
        ("create_volume_from_snapshot", "volume_create_from_snapshot", "error"),
        ("extend_volume", "volume_extend", "error_extending"),
        ("delete_volume", "volume_delete", "error_deleting"),
        ("create_snapshot", "snapshot_create", "error"),
        ("delete_snapshot", "snapshot_delete", "error_deleting"),
    ],
)
def test_a_driver_that_fails_leaves_the_status_of_the_table_and_its_reason(
    backend: Backend, method: str, action: str, status: str
) -> None:
    backend.serve()
    volume = backend.volume()
    taken = b.snapshot_intent(volume)
    backend.do(taken)
    backend.script.set(method, fail=True, message="the disk is on holiday")
    new = b.volume_record()
    second = {"volume_clone": volume.id, "volume_create_from_snapshot": taken.resource_id}.get(action)
    intents = {
        "volume_extend": b.intent("volume_extend", volume.id, args={"new_size_gb": 2}),
        "volume_delete": b.intent("volume_delete", volume.id),
        "snapshot_create": b.snapshot_intent(volume),
        "snapshot_delete": b.intent("snapshot_delete", taken.resource_id),
    }
    if action == "volume_delete":
        backend.do(b.intent("snapshot_delete", taken.resource_id))
    wanted = intents.get(action) or b.create_intent(new, action=action, second_id=second)
    ended = backend.do(wanted, state="failed")
    assert (ended.error, ended.error_class) == ("the disk is on holiday", "DriverError")
    kind = "snapshot" if action.startswith("snapshot") else "volume"
    found: Any = getattr(backend.store, f"get_{kind}")(wanted.resource_id)
    assert found.status == status
    assert backend.service.is_up, "an operation that fails says nothing about its backend"


def test_an_extend_of_an_attached_volume_that_fails_leaves_it_in_use(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.attach(volume)
    backend.script.set("extend_volume", fail=1)
    extend = b.intent("volume_extend_attached", volume.id, args={"new_size_gb": 2})
    backend.do(extend, state="failed")
    assert (backend.store.get_volume(volume.id).status, backend.store.get_volume(volume.id).size_gb) == ("in-use", 1)
    backend.do(extend)
    assert (backend.store.get_volume(volume.id).status, backend.store.get_volume(volume.id).size_gb) == ("in-use", 2)


@pytest.mark.parametrize("what", ["snapshot", "attachment"])
def test_a_forced_delete_never_touches_the_storage_of_a_volume_that_is_needed(backend: Backend, what: str) -> None:
    """The API refuses it before; the manager looks again, because much may pass between the two."""
    backend.serve()
    volume = backend.volume()
    if what == "snapshot":
        backend.do(b.snapshot_intent(volume))
    else:
        backend.attach(volume)
    ended = backend.do(b.intent("volume_force_delete", volume.id), state="failed")
    assert "snapshots" in (ended.error or "") or "attached" in (ended.error or "")
    assert f"volume-{volume.id}" in backend.stored
    assert backend.script.calls("delete_volume") == 0


def test_a_backend_that_goes_away_within_an_operation_finishes_it_when_it_is_back(backend: Backend) -> None:
    backend.serve()
    backend.script.set("create_volume", fail=1, error="BackendUnavailable", message="cable pulled")
    volume = backend.volume()
    assert volume.status == "available"
    [operation] = backend.store.list_operations(Query(filters={"resource_id": volume.id})).items
    assert (operation.state, operation.attempts) == ("done", 1)
    wait_until(lambda: backend.service.is_up, "the backend to be back", DEADLINE_S)
    assert backend.service.losses == 1
    assert len(backend.drivers) == 2
    wait_until(lambda: backend.drivers[0].is_closed, "the lost driver to be closed", DEADLINE_S)


# -- attachments -----------------------------------------------------------------------------------------


def test_a_connection_is_written_down_and_serves_until_it_is_ended(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    attachment = backend.attach(volume)
    assert (attachment.status, attachment.attached_at is not None) == ("attached", True)
    assert backend.store.get_volume(volume.id).status == "in-use"
    client = FakeClient(attachment.connection_info["data"])
    client.write(0, b"data")
    backend.do(b.intent("attachment_disconnect", attachment.id))
    with pytest.raises(ConnectionError):
        client.read(0, 4)
    assert (backend.store.get_volume(volume.id).status, backend.exports) == ("available", {})
    with pytest.raises(exc.AttachmentNotFound):
        backend.store.get_attachment(attachment.id)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_fails_leaves_no_attachment_and_no_export(backend: Backend, when: str) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", fail=1, when=when, message="no socket left")
    wanted = b.attach_intent(volume)
    ended = backend.do(wanted, state="failed")
    assert ended.error == "no socket left"
    assert (backend.exports, backend.store.get_volume(volume.id).status) == ({}, "available")
    with pytest.raises(exc.AttachmentNotFound):
        backend.store.get_attachment(wanted.resource_id)
    backend.attach(volume)


def test_undoing_a_connection_that_fails_too_still_says_why_it_failed(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", fail=1, message="no socket left")
    backend.script.set("terminate_connection", fail=1, message="and no end of it")
    assert backend.do(b.attach_intent(volume), state="failed").error == "no socket left"


def test_a_superseded_connection_is_left_to_whoever_holds_it_now(backend: Backend) -> None:
    """The old handler must not cut the connection that the newer one has made meanwhile."""
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", hang=True, when="after", fail=True)
    operation = backend.store.submit(b.attach_intent(volume))[0]
    wait_until(lambda: backend.exports, "the export", DEADLINE_S)
    backend.managers[-1].runner.stop_claiming()
    backend.store.take_back(b.HOST, "a-newer-instance", 0)
    b.claim(backend.store, operation, "a-newer-instance")
    backend.script.set("initialize_connection", fail=True, when="after")
    wait_until(lambda: not backend.managers[-1].runner.running(), "the old handler to end", DEADLINE_S)
    assert set(backend.exports) == {volume.id}
    assert backend.store.get_operation(operation.id).state == "running"


def test_a_detach_that_fails_keeps_the_volume_in_use_and_may_be_repeated(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    attachment = backend.attach(volume)
    backend.script.set("terminate_connection", fail=1, message="it holds on")
    backend.do(b.intent("attachment_disconnect", attachment.id), state="failed")
    assert backend.store.get_attachment(attachment.id).status == "error_detaching"
    assert backend.store.get_volume(volume.id).status == "in-use"
    backend.do(b.intent("attachment_disconnect", attachment.id))
    assert backend.store.get_volume(volume.id).status == "available"


def test_a_backend_that_goes_away_within_a_connect_has_it_done_again_and_nothing_undone(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.script.set("initialize_connection", fail=1, when="after", error="BackendUnavailable")
    wanted = b.attach_intent(volume)
    backend.do(wanted)
    assert backend.script.calls("terminate_connection") == 0
    FakeClient(backend.store.get_attachment(wanted.resource_id).connection_info["data"]).write(0, b"served")


def test_a_start_exports_nothing_for_what_is_only_reserved(backend: Backend) -> None:
    backend.serve()
    volume = backend.volume()
    backend.store.submit(b.attach_intent(volume, action="attachment_reserve"))
    backend.managers[-1].stop(DEADLINE_S)
    backend.serve()
    assert backend.exports == {}
    assert backend.store.get_volume(volume.id).status == "reserved"
