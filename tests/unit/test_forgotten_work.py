"""Work whose daemon is gone ends at its deadline; work of a daemon that lives is left to it."""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from volsvc import models
from volsvc.db import migrate, schema
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.forgotten_work import ForgottenWork
from volsvc.testing.stores import builders as b

DOWN_S = 60.0


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[sa.Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/volsvc.sqlite", is_synchronous=False)
    migrate.sync(engine)
    yield engine
    engine.dispose()


def waiting_delete(store: SqlStore, late_s: float) -> tuple[models.Volume, models.Operation]:
    """A delete that was recorded while its backend was up, and whose deadline passed ``late_s`` ago."""
    volume = b.add_volume(store)
    deadline_at = b.utcnow() - dt.timedelta(seconds=late_s)
    return volume, b.submit(store, b.intent("volume_delete", volume.id, deadline_at=deadline_at))


def silence(engine: sa.Engine, age_s: float) -> None:
    with engine.begin() as connection:
        beat_at = b.utcnow() - dt.timedelta(seconds=age_s)
        connection.execute(sa.update(schema.services).values(heartbeat_at=beat_at))


@pytest.mark.parametrize(
    ("state", "age_s", "is_ended"),
    [
        ("ready", 0, False),
        ("retrying", 0, False),
        ("unrecoverable", 30, False),
        ("stopped", 0, True),
        ("ready", 120, True),
        ("retrying", 120, True),
        ("starting", 120, True),
    ],
)
def test_only_what_waits_for_an_absent_daemon_is_ended(
    engine: sa.Engine, state: str, age_s: float, is_ended: bool
) -> None:
    store = SqlStore(engine, service_down_time_s=DOWN_S)
    store.register_service(b.HOST, "cinder-volume", {"state": state})
    silence(engine, age_s)
    volume, operation = waiting_delete(store, late_s=1)
    ForgottenWork(store, interval_s=lambda: 10, down_time_s=lambda: DOWN_S).look()
    if is_ended:
        assert store.get_volume(volume.id).status == "available"
        assert "deadline" in (store.get_operation(operation.id).error or "")
    else:
        assert store.get_volume(volume.id).status == "deleting"


def test_what_has_time_left_goes_on_waiting(engine: sa.Engine) -> None:
    store = SqlStore(engine, service_down_time_s=DOWN_S)
    store.register_service(b.HOST, "cinder-volume", {"state": "stopped"})
    volume, _ = waiting_delete(store, late_s=-60)
    ForgottenWork(store, interval_s=lambda: 10, down_time_s=lambda: DOWN_S).look()
    assert store.get_volume(volume.id).status == "deleting"
