"""The contract of stores, on SQLite, and what is SQLite's own."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.testing.store_contract import StoreContract


def open_sqlite(path: str, *, service_down_time_s: float = 60.0) -> SqlStore:
    # What survives a loss of power isn't tested here, and the disk's syncs are most of the time.
    engine = create_engine(f"sqlite:///{path}", is_synchronous=False)
    return SqlStore(engine, service_down_time_s=service_down_time_s)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, migrated once and copied for each test."""
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    migrate.sync(engine)
    engine.dispose()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path / "volsvc.sqlite"))


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def open_store(self, database: Path) -> Callable[..., SqlStore]:
        return functools.partial(open_sqlite, str(database))


@pytest.fixture
def engine(database: Path) -> Iterator[sa.Engine]:
    engine = create_engine(f"sqlite:///{database}", busy_timeout_s=0.2)
    yield engine
    engine.dispose()
