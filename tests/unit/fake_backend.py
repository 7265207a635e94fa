"""One backend of the fake driver on the real store, and the volume managers that serve it one after the other."""

from __future__ import annotations

import pathlib
from typing import Any

from volsvc import models
from volsvc.db.store import SqlStore
from volsvc.drivers.base import DriverContext
from volsvc.drivers.fake import FakeDriver
from volsvc.drivers.fake_script import Script
from volsvc.manager import ManagerSettings, VolumeManager
from volsvc.operations import RunnerSettings
from volsvc.ports import Intent
from volsvc.targets.base import TargetContext
from volsvc.targets.fake import FakeTarget
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
