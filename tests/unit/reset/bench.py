"""A whole backend in one process: real store, manager and requests, the fake driver on the fake target."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from volsvc import models
from volsvc.db import schema
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.drivers.base import DriverContext
from volsvc.drivers.fake import FakeDriver
from volsvc.drivers.fake_script import Script
from volsvc.manager import ManagerSettings, VolumeManager
from volsvc.operations import RunnerSettings
from volsvc.ports import Query
from volsvc.reset_work import ResetSettings
from volsvc.rpc.local_doorbell import LocalDoorbell
from volsvc.states import Resource
from volsvc.targets.base import TargetContext
from volsvc.targets.fake import FakeClient, FakeTarget
from volsvc.testing.daemon import wait_until
from volsvc.testing.notifier import RecordingNotifier
from volsvc.testing.snapshots import options_of
from volsvc.testing.stores import builders as b
from volsvc.volume_api import ApiSettings, VolumeAPI

ADMIN = models.RequestContext("admin", "project", is_admin=True, request_id="req-1")
CONNECTOR = {"host": "client", "ip": "192.0.2.1", "initiator": "iqn.test"}
#: What a reset may call; everything else that a driver is asked meanwhile is somebody else's.
RESET_CALLS = ("inspect_volume", "inspect_snapshot", "detach_volume", "initialize_connection", "ensure_export")


class RecordingDriver(FakeDriver):
    """The fake driver, with what a reset called in order."""

    def __init__(self, context: DriverContext, calls: list[str]) -> None:
        super().__init__(context)
        self.recorded = calls

    def __getattribute__(self, name: str) -> Any:
        if name in RESET_CALLS:
            self.recorded.append(name)
        return super().__getattribute__(name)


class Backend:
    """``manager`` serves as soon as ``start`` returns; ``script`` steers its driver."""

    def __init__(self, database: pathlib.Path, path: pathlib.Path, **settings: Any) -> None:
        self.path = path
        copied = shutil.copy(database, path / "volsvc.sqlite")
        self.engine = create_engine(f"sqlite:///{copied}", is_synchronous=False)
        self.store = SqlStore(self.engine)
        self.script = Script()
        self.calls: list[str] = []
        self.answer_timeout_s: float = settings.pop("answer_timeout_s", 20.0)
        self.detach_timeout_s: float = settings.pop("detach_timeout_s", 10.0)
        self._settings = settings
        self.doorbell = LocalDoorbell()
        self.api = VolumeAPI(self.store, self.doorbell, ApiSettings(response_timeout_s=self.answer_timeout_s))
        self.instances = 0
        self.manager = self._new_manager()

    def start(self) -> Backend:
        self.doorbell.register(b.HOST, self.manager.runner)
        self.manager.start()
        self.manager.publish_service_capabilities()
        wait_until(lambda: self.manager.initializer.is_ready, "the fake backend to be ready")
        service = next(s for s in self.store.list_services() if s.host == b.HOST)
        self.store.beat([service.id])
        return self

    def stop(self) -> None:
        self.script.clear()
        self.manager.stop(5.0)
        self.engine.dispose()

    def _new_manager(self) -> VolumeManager:
        self.instances += 1
        return VolumeManager(
            host=b.HOST,
            instance=f"instance-{self.instances}",
            store=self.store,
            notifier=RecordingNotifier(),
            load_blueprint=lambda: self,
            settings=ManagerSettings(
                publish_interval_s=3600.0,
                runner=RunnerSettings(sweep_interval_s=0.2),
                reset=ResetSettings(answer_timeout_s=self.answer_timeout_s, detach_timeout_s=self.detach_timeout_s),
                **self._settings,
            ),
        )

    def build(self) -> FakeDriver:
        """As a blueprint does."""
        runtime = str(self.path)
        target = FakeTarget(TargetContext("backend", b.HOST, options_of(FakeTarget), runtime))
        target.script = self.script
        context = DriverContext(
            "backend", b.HOST, options_of(FakeDriver), runtime, runtime, target, {"script": self.script}
        )
        return RecordingDriver(context, self.calls)

    @property
    def driver(self) -> FakeDriver:
        with self.manager._generations.use() as driver:
            assert isinstance(driver, FakeDriver)
            return driver

    # -- what a user does -----------------------------------------------------------------

    def create(self, size_gb: int = 1, **fields: Any) -> models.Volume:
        volume = self.api.create(ADMIN, size_gb=size_gb, **fields)
        return self.wait(lambda: self.store.get_volume(volume.id), "available")

    def snapshot(self, volume: models.Volume) -> models.Snapshot:
        made = self.api.create_snapshot(ADMIN, volume.id, force=True)
        return self.wait(lambda: self.store.get_snapshot(made.id), "available")

    def attach(self, volume: models.Volume, *, complete: bool = True) -> tuple[models.Attachment, FakeClient]:
        attachment = self.api.create_attachment(ADMIN, volume.id, connector=CONNECTOR)
        if complete:
            self.api.complete_attachment(ADMIN, attachment.id)
        return self.store.get_attachment(attachment.id), FakeClient(attachment.connection_info["data"])

    def reset(self, volume: models.Volume, status: str | None = "available", **more: Any) -> None:
        self.api.reset_status(ADMIN, volume.id, status=status, **more)

    def inspect(self, volume: models.Volume) -> dict[str, Any]:
        return self.api.inspect(ADMIN, volume.id)

    def wait(self, look: Callable[[], Any], status: str) -> Any:
        return wait_until(lambda: found if (found := look()).status == status else None, f"status {status}")

    # -- looking and meddling ------------------------------------------------------------------

    def row(self, volume: models.Volume) -> models.Volume:
        return self.store.get_volume(volume.id)

    def attachments(self, volume: models.Volume) -> list[models.Attachment]:
        return self.store.attachments_of([volume.id]).get(volume.id, [])

    def exports(self, volume: models.Volume) -> set[str]:
        with self.driver.store.transaction() as state:
            return set(state["exports"].get(volume.id, {}).get("attachments", {}))

    def operations(self, resource_id: str, action: str | None = None) -> list[models.Operation]:
        """Newest first."""
        filters: dict[str, Any] = {"resource_id": resource_id}
        if action is not None:
            filters["action"] = action
        return list(self.store.list_operations(Query(filters=filters, sort=(("seq", "desc"),))).items)

    def last_reset(self, volume: models.Volume) -> models.Operation:
        return self.operations(volume.id, "volume_reset")[0]

    def set_status(self, resource: Resource, resource_id: str, status: str, **columns: Any) -> None:
        """What no code of the service may do: write a status past the gate."""
        table = schema.TABLE_OF[resource]
        with self.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == resource_id).values(status=status, **columns))

    def as_stored(self, volume: models.Volume) -> tuple[models.Volume, list[models.Attachment]]:
        """Everything of the record that a reset may change, without its times."""
        return replace(self.row(volume), updated_at=None), [
            replace(attachment, updated_at=None) for attachment in self.attachments(volume)
        ]
