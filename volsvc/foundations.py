"""What the parts of one process share: settings, the store, RPC, the notifier.

Here and in ``service`` adapters are put behind the ports.  The tools use the store alone, so RPC
is imported only where a process has parts.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

from oslo_config import cfg
from sqlalchemy import Engine

from volsvc import exceptions as exc
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Notifier, Store
from volsvc.settings import Settings


class Foundations:
    """What the parts of one process are built on; ``close`` when they have stopped."""

    def __init__(self, settings: Settings, oslo_conf: cfg.ConfigOpts) -> None:
        from volsvc.rpc.doorbell import RpcDoorbell
        from volsvc.rpc.local_doorbell import LocalDoorbell
        from volsvc.rpc.notifier import OsloNotifier
        from volsvc.rpc.transport import build_transport

        self.settings = settings
        self.instance = uuid.uuid4().hex
        prepare_directories(settings)
        self.store: Store = open_store(settings)
        url = settings.service.transport_url
        self.transport: Any = build_transport(oslo_conf, url)
        self.doorbell = LocalDoorbell(RpcDoorbell(self.transport, timeout_s=settings.service.rpc_response_timeout))
        self._oslo_notifier = OsloNotifier(oslo_conf, url, publisher_id=f"volsvc.{settings.host}")
        self.notifier: Notifier = self._oslo_notifier

    def close(self) -> None:
        from volsvc.rpc.transport import close_transport

        self._oslo_notifier.close()
        close_transport(self.transport)


def prepare_directories(settings: Settings) -> None:
    """Make the private directories; raises ``ConfigurationError`` naming the option that has to change."""
    for option in ("state_path", "runtime_path"):
        path = settings.service[option]
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise exc.ConfigurationError(
                reason=f"{option} is {path}, and can't be made ({error.strerror}); set {option} to a one of yours"
            ) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise exc.ConfigurationError(
                reason=f"{option} is {path}, which this user can't write; set {option} to a directory of yours"
            )


def make_engine(settings: Settings) -> Engine:
    """The database engine of these settings; nothing is read or checked yet."""
    database = settings.database
    return create_engine(
        database.connection,
        busy_timeout_s=database.sqlite_busy_timeout,
        is_synchronous=database.sqlite_synchronous,
        pool_size=database.max_pool_size,
        max_overflow=database.max_overflow,
    )


def open_store(settings: Settings) -> SqlStore:
    """The store, its schema checked; a new SQLite file gets its schema at once.

    Raises ``SchemaMismatch``, ``StoreUnavailable``, ``ConfigurationError``.
    """
    engine = make_engine(settings)
    if engine.dialect.name == "sqlite" and migrate.current(engine) is None:
        migrate.sync(engine)
    migrate.check(engine)
    return SqlStore(engine, service_down_time_s=settings.service.service_down_time)
