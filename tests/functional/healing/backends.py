"""A real daemon whose backends fail to order, and what an admin and a user see of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Query
from volsvc.testing.daemon import Daemon, wait_until

BIN = pathlib.Path(sys.executable).parent
GONE = {"*": {"fail": True, "error": "BackendUnavailable", "message": "gone"}}


class FakeBackend:
    """A backend of the real daemon whose driver does what a file says."""

    def __init__(self, root: pathlib.Path, name: str) -> None:
        self.name = name
        self.path = root / f"{name}.json"
        self.group: dict[str, Any] = {
            "volume_driver": "fake",
            "target_helper": "fake",
            "fake_script_path": self.path,
            "fake_state_path": root / f"{name}.state",
        }

    def script(self, **rules: Mapping[str, Any]) -> None:
        """From now on it does this; without rules it does well."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.path)

    def calls(self, method: str) -> int:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(json.loads(pathlib.Path(f"{self.path}.counts").read_text()).get(method, 0))
        return 0


class HealingDaemon(Daemon):
    """volsvc-all that publishes each second, with backends called by name."""

    def __init__(self, names: str = "one", options: Mapping[str, Any] | None = None, **groups: Mapping[str, Any]):
        super().__init__(options={})
        self.backends = {name: FakeBackend(self.root, name) for name in names.split(",") if name not in groups}
        self.settings: dict[str, Any] = {
            "enabled_backends": names,
            "backend_stats_polling_interval": 1,
            **(options or {}),
        }
        self.groups = {name: backend.group for name, backend in self.backends.items()} | dict(groups)
        self.write()

    def write(self, **options: Any) -> None:
        """Write the configuration, some options changed."""
        self.settings |= options
        self.configure(self.settings, self.groups)

    @property
    def one(self) -> FakeBackend:
        return self.backends["one"]

    # -- what an admin sees -------------------------------------------------------------

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "volsvc-manage"), "--config-file", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def services(self) -> dict[str, dict[str, Any]]:
        """The rows that 'volsvc-manage service list' shows, without a process for each look."""
        store = SqlStore(create_engine(f"sqlite:///{self.state}/volsvc.sqlite"))
        return {row.host.partition("@")[2]: dataclasses.asdict(row) for row in store.list_services() if "@" in row.host}

    def wait_state(self, name: str, *states: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = self.services().get(name)
            return row if row and row["state"] in states else None

        try:
            return wait_until(look, f"{name} to be {' or '.join(states)}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is {self.services().get(name)}") from error

    def wait_reason(self, name: str, *words: str) -> dict[str, Any]:
        """Until the reason shown has all these words."""

        def look() -> dict[str, Any] | None:
            row = self.services()[name]
            return row if all(word in (row["reason"] or "") for word in words) else None

        try:
            return wait_until(look, f"{name} to say {words}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is {self.services().get(name)}") from error

    def wait_calls(self, method: str, count: int, name: str = "one") -> None:
        wait_until(lambda: self.backends[name].calls(method) >= count, f"{count} calls of {method}")

    def notifications(self, event_type: str) -> list[dict[str, Any]]:
        """Payloads that its log shows, in order."""
        found = []
        for line in self.words().splitlines():
            _, separator, rest = line.partition(f"oslo.messaging.notification.{event_type} ")
            if separator:
                found.append(json.loads(rest[rest.index("{") : rest.rindex("}") + 1])["payload"])
        return found

    def wait_log_again(self, pattern: str) -> str:
        """Wait for words that are logged after this call."""
        return self.wait_for_log(pattern, self.log.stat().st_size)

    # -- what a user sees ------------------------------------------------------------------

    def wait_volume(self, volume_id: str, status: str) -> Any:
        cinder = self.cinder()

        def look() -> Any:
            volume = cinder.volumes.get(volume_id)
            return volume if volume.status == status else None

        return wait_until(look, f"volume {volume_id} to be {status}")

    def operations_of(self, resource_id: str) -> list[dict[str, Any]]:
        """What was asked of a resource, newest first."""
        store = SqlStore(create_engine(f"sqlite:///{self.state}/volsvc.sqlite"))
        found = store.list_operations(Query(filters={"resource_id": resource_id}, sort=(("seq", "desc"),)))
        return [dataclasses.asdict(operation) for operation in found.items]

    def new_volume(self) -> Any:
        """One that is available."""
        return self.wait_volume(self.cinder().volumes.create(1).id, "available")
