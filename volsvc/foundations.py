"""What the parts of one process share: settings, the store, RPC, the notifier.

Here and in the parts adapters are put behind the ports.  The tools use the store alone, so RPC
is imported only where a process has parts.  A reload builds what changed beside what serves;
those who were handed the store, the doorbell or the notifier keep the object and get the new
adapter behind it.
"""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from volsvc import exceptions as exc
from volsvc.db import migrate
from volsvc.db.engine import create_engine, is_new_file
from volsvc.db.store import SqlStore
from volsvc.reloader import Change, Tick
from volsvc.settings import Settings

if TYPE_CHECKING:
    from volsvc.rpc.notifier import OsloNotifier


class Messaging:
    """One transport and the notifier that goes with it."""

    def __init__(self, settings: Settings) -> None:
        from volsvc.rpc.notifier import OsloNotifier
        from volsvc.rpc.transport import build_transport, load_messaging_options

        conf = load_messaging_options(settings.files, settings.dirs)
        url = settings.service.transport_url
        self.transport: Any = build_transport(conf, url)
        self.notifier = OsloNotifier(conf, url, publisher_id=f"volsvc.{settings.host}")

    def close(self) -> None:
        from volsvc.rpc.transport import close_transport

        self.notifier.close()
        close_transport(self.transport)


class NotifierSwitch:
    """A notifier whose adapter a reload may replace."""

    def __init__(self, adapter: OsloNotifier) -> None:
        self.adapter = adapter

    def info(self, event_type: str, payload: Mapping[str, Any]) -> None:
        self.adapter.info(event_type, payload)

    def error(self, event_type: str, payload: Mapping[str, Any]) -> None:
        self.adapter.error(event_type, payload)


class Foundations:
    """What the parts of one process are built on; ``close`` when they have stopped."""

    def __init__(self, settings: Settings) -> None:
        from volsvc.rpc.doorbell import RpcDoorbell
        from volsvc.rpc.local_doorbell import LocalDoorbell

        self.settings = settings
        self.instance = uuid.uuid4().hex
        prepare_directories(settings)
        self._engine = make_engine(settings)
        self.store = check_store(self._engine, settings)
        self.messaging = Messaging(settings)
        self.doorbell = LocalDoorbell(
            RpcDoorbell(self.messaging.transport, timeout_s=settings.service.rpc_response_timeout)
        )
        self.notifier = NotifierSwitch(self.messaging.notifier)
        #: During a reload that changes it: the transport that serves next.
        self.upcoming_transport: Any = None

    def close(self) -> None:
        self.messaging.close()

    # -- reload ---------------------------------------------------------------------

    def prepare(self, new: Settings, tick: Tick) -> Sequence[Change]:
        """A new engine and a new transport where their options changed; the settings themselves always.

        The settings come last, so that the other parts still compare with the old ones while they prepare.
        """
        changes: list[Change] = []
        database = self.settings.database.changed_names(new.database)
        if database:
            changes.append(_DatabaseChange(self, new, [f"[database] {name}" for name in database]))
        names = [f"[{name.replace('.', '] ')}" for name in self.settings.messaging.changed_names(new.messaging)]
        for name in ("transport_url", "rpc_response_timeout"):
            if self.settings.service[name] != new.service[name]:
                names.append(f"[DEFAULT] {name}")
        try:
            if names:
                changes.append(_MessagingChange(self, new, names))
        except BaseException:
            for change in changes:
                change.discard()
            raise
        return [*changes, _SettingsChange(self, new)]


class _SettingsChange:
    """The snapshot itself, and what is only a number in it."""

    part = "settings"
    is_slow = False

    def __init__(self, foundations: Foundations, new: Settings) -> None:
        self.options: Sequence[str] = [
            f"[DEFAULT] {name}" for name in foundations.settings.service.changed_names(new.service)
        ]
        self._foundations = foundations
        self._new = new

    def apply(self) -> None:
        self._foundations.settings = self._new
        self._foundations.store.set_service_down_time(self._new.service.service_down_time)

    def discard(self) -> None:
        return None

    def drain(self, timeout_s: float) -> None:
        return None


class _DatabaseChange:
    part = "database"
    is_slow = False

    def __init__(self, foundations: Foundations, new: Settings, options: Sequence[str]) -> None:
        self.options = options
        self._foundations = foundations
        self._engine = make_engine(new)
        try:
            check_store(self._engine, new)
        except BaseException:
            self._engine.dispose()
            raise
        self._old = foundations._engine

    def apply(self) -> None:
        self._foundations.store.swap_engine(self._engine)
        self._foundations._engine = self._engine

    def discard(self) -> None:
        self._engine.dispose()

    def drain(self, timeout_s: float) -> None:
        """Connections in use are closed when their transaction gives them back."""
        self._old.dispose()


class _MessagingChange:
    part = "messaging"
    is_slow = False

    def __init__(self, foundations: Foundations, new: Settings, options: Sequence[str]) -> None:
        self.options = options
        self._foundations = foundations
        self._timeout_s = new.service.rpc_response_timeout
        self._messaging = Messaging(new)
        self._old = foundations.messaging
        foundations.upcoming_transport = self._messaging.transport

    def apply(self) -> None:
        from volsvc.rpc.doorbell import RpcDoorbell

        self._foundations.messaging = self._messaging
        self._foundations.upcoming_transport = None
        self._foundations.doorbell.set_fallback(RpcDoorbell(self._messaging.transport, timeout_s=self._timeout_s))
        self._foundations.notifier.adapter = self._messaging.notifier

    def discard(self) -> None:
        self._foundations.upcoming_transport = None
        self._messaging.close()

    def drain(self, timeout_s: float) -> None:
        self._old.close()


def prepare_directories(settings: Settings) -> None:
    """Make the private directories; raises ``ConfigurationError`` naming the option that has to change."""
    for option in ("state_path", "runtime_path"):
        path = settings.service[option]
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise exc.ConfigurationError(
                reason=f"{option} is {path}, which can't be made ({error.strerror}); set it to a directory of yours"
            ) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise exc.ConfigurationError(
                reason=f"{option} is {path}, which this user can't write; set it to a directory of yours"
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


def check_store(engine: Engine, settings: Settings) -> SqlStore:
    """The store on this engine, its schema checked; a new SQLite file gets its schema at once.

    Raises ``SchemaMismatch``, ``StoreUnavailable``.
    """
    if engine.dialect.name == "sqlite" and migrate.current(engine) is None:
        migrate.sync(engine)
    migrate.check(engine, sync_command=sync_command(settings))
    return SqlStore(engine, service_down_time_s=settings.service.service_down_time)


def sync_command(settings: Settings) -> str:
    """The command that brings the database of these settings up to date, not that of the default ones."""
    command = ["volsvc-manage"]
    for option, paths in (("--config-file", settings.files), ("--config-dir", settings.dirs)):
        for path in paths:
            command += [option, os.path.abspath(path)]
    return shlex.join([*command, "db", "sync"])


def require_database(settings: Settings) -> None:
    """Raises ``ConfigurationError`` when the database is an SQLite file that isn't there yet."""
    connection = settings.database.connection
    if is_new_file(connection):
        files = ", ".join(settings.files) or "no configuration file; --config-file names one"
        raise exc.ConfigurationError(
            reason=f"there is no database at {connection} yet ({files}): a daemon makes it when it first starts; "
            "is this the right configuration?"
        )


def open_store(settings: Settings) -> SqlStore:
    """The store of these settings, for the tools; raises like ``check_store``, and ``ConfigurationError``.

    Unlike a daemon it makes no database: with the wrong file an empty list would look like an answer, and
    made by root it would be in the way of a service that runs as another user.
    """
    require_database(settings)
    return check_store(make_engine(settings), settings)
