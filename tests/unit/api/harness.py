"""The API over a real store in a directory of the test; a doorbell that works at once stands in for the daemon."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import falcon.testing
from oslo_config import cfg

from volsvc import models
from volsvc.api.app import build_app
from volsvc.api.auth import Authenticator
from volsvc.api.policies import Policy
from volsvc.conf import api as api_conf
from volsvc.options import Options
from volsvc.ports import Correction, Outcome, Query, Store
from volsvc.volume_api import ApiSettings, VolumeAPI

HOST = "node@file"
BACKUP_HOST = "node"
STORE_UUID = "5107e0dd-0000-4000-8000-000000000000"
CAPABILITIES = {
    "total_capacity_gb": 1000.0,
    "free_capacity_gb": 900.0,
    "reserved_percentage": 0,
    "max_over_subscription_ratio": 20.0,
    "thin_provisioning_support": True,
    "multiattach": True,
    "online_extend_support": True,
    "storage_protocol": "nbd",
    "volume_backend_name": "file",
}
CONNECTION = {"driver_volume_type": "nbd", "data": {"export": "volume", "server": "unix:/socket"}}


def api_options(**values: Any) -> Options:
    """The API's options with their defaults, and these."""
    conf = cfg.ConfigOpts()
    conf.register_opts(api_conf.OPTS)
    conf(args=[], default_config_files=[], default_config_dirs=[])
    return Options({opt.dest: conf[opt.dest] for opt in api_conf.OPTS}).replace(**values)


class WorkingDoorbell:
    """Whoever waits for an operation does it; what is only rung for stays queued."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ring(self, host: str) -> None:
        return None

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        work(self._store)


def work(store: Store, *, state: str = "done", error: str | None = None) -> int:
    """Be the daemon: end every queued operation; returns how many."""
    count = 0
    hosts = [*map(models.express_host, (HOST, BACKUP_HOST)), HOST, BACKUP_HOST]
    while True:
        claimable = store.claimable(hosts, 100)
        if not claimable:
            return count
        for queued in claimable:
            claimed = store.claim(queued.id, "daemon")
            if claimed is None:
                continue
            first: dict[str, Any] = {}
            if state == "done" and claimed.action in ("attachment_create", "attachment_connect"):
                first = {"connection_info": CONNECTION, "attached_at": dt.datetime(2024, 1, 2, 3, 4, 5)}
            if state == "done" and claimed.action.startswith("volume_extend"):
                first = {"size_gb": claimed.args["new_size_gb"]}
            if state == "done" and claimed.action in ("backup_create", "backup_create_from_snapshot", "backup_import"):
                first = {"service": "posix", "store_uuid": STORE_UUID, "is_stored": True, "object_count": 3}
            correction = None
            if state == "done" and claimed.action == "backup_reset":
                correction = Correction(status=claimed.args["status"])
            outcome = Outcome(
                state=state,
                first=first,
                error=error,
                error_class="StorageFull" if error else None,
                correction=correction,
            )
            store.finish(claimed, outcome)
            count += 1


@dataclass
class Answer:
    """A response, its body parsed."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(repr=False)

    @property
    def fault(self) -> tuple[str, str]:
        """The name of the fault and its message."""
        ((name, fault),) = self.body.items()
        assert fault["code"] == self.status
        return name, fault["message"]


class ApiHarness:
    """Requests without a network, on everything that is real below."""

    def __init__(
        self,
        store: Store,
        *,
        policy: Policy | None = None,
        authenticator: Authenticator | None = None,
        **options: Any,
    ) -> None:
        self.store = store
        self.volume_api = VolumeAPI(store, WorkingDoorbell(store), ApiSettings(response_timeout_s=0.2))
        self.settings = api_options(**options)
        self.app = build_app(self.volume_api, self.settings, policy=policy, authenticator=authenticator)
        self.client = falcon.testing.TestClient(self.app)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        version: int | str | None = 71,
        token: str | None = "user:project",
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if version is not None:
            sent["OpenStack-API-Version"] = f"volume 3.{version}" if isinstance(version, int) else version
        if token is not None:
            sent["X-Auth-Token"] = token
        data = raw if raw is not None else (json.dumps(body).encode() if body is not None else None)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        path, _, query = path.partition("?")
        result = self.client.simulate_request(method, path, body=data, headers=sent, query_string=query or None)
        parsed = json.loads(result.content) if result.content else None
        return Answer(result.status_code, parsed, result.headers)

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Answer:
        return self.request("POST", path, body, **more)

    def put(self, path: str, body: Any, **more: Any) -> Answer:
        return self.request("PUT", path, body, **more)

    def delete(self, path: str, **more: Any) -> Answer:
        return self.request("DELETE", path, **more)

    # -- the ordinary things a test begins with --------------------------------------

    def work(self, **how: Any) -> int:
        return work(self.store, **how)

    def new_volume(self, **fields: Any) -> dict[str, Any]:
        """An available volume, as the API shows it."""
        more = {key: fields.pop(key) for key in ("token",) if key in fields}
        answer = self.post("/v3/volumes", {"volume": {"size": 1, **fields}}, **more)
        assert answer.status == 202, answer
        self.work()
        shown: dict[str, Any] = self.get(f"/v3/volumes/{answer.body['volume']['id']}").body["volume"]
        assert shown["status"] == "available"
        return shown

    def new_snapshot(self, volume_id: str, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v3/snapshots", {"snapshot": {"volume_id": volume_id, **fields}})
        assert answer.status == 202, answer
        self.work()
        shown: dict[str, Any] = self.get(f"/v3/snapshots/{answer.body['snapshot']['id']}").body["snapshot"]
        return shown

    def new_backup(self, volume_id: str, **fields: Any) -> dict[str, Any]:
        """An available backup, as the API shows it."""
        answer = self.post("/v3/backups", {"backup": {"volume_id": volume_id, **fields}})
        assert answer.status == 202, answer
        self.work()
        shown: dict[str, Any] = self.get(f"/v3/backups/{answer.body['backup']['id']}").body["backup"]
        assert shown["status"] == "available"
        return shown

    def operations(self) -> list[models.Operation]:
        return list(self.store.list_operations(Query(limit=1000)).items)


def add_service(store: Store, host: str = HOST, *, state: str = "ready", **fields: Any) -> models.Service:
    service = store.register_service(host, "volsvc-volume", {"state": state, "capabilities": CAPABILITIES, **fields})
    store.beat([service.id])
    return service


def add_backup_service(
    store: Store, host: str = BACKUP_HOST, *, state: str = "ready", backend_uuid: str | None = STORE_UUID, **fields: Any
) -> models.Service:
    told = {"state": state, "backend_uuid": backend_uuid, **fields}
    service = store.register_service(host, "cinder-backup", told)
    store.beat([service.id])
    return service
