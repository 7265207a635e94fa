"""What tests of the core share: runners and managers on a database of the test's own."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.unit.fake_backend import Backend
from tests.unit.runner_bench import Bench
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore


@pytest.fixture
def sql_store(tmp_path: pathlib.Path) -> Iterator[SqlStore]:
    """An empty database with the schema."""
    engine = create_engine(f"sqlite:///{tmp_path}/volsvc.sqlite")
    migrate.sync(engine)
    yield SqlStore(engine)
    engine.dispose()


@pytest.fixture
def bench(sql_store: SqlStore) -> Iterator[Bench]:
    made = Bench(sql_store)
    yield made
    for runner in made.runners:
        runner.stop(5.0)


@pytest.fixture
def backend(tmp_path: pathlib.Path, sql_store: SqlStore) -> Iterator[Backend]:
    made = Backend(tmp_path, sql_store)
    yield made
    made.script.clear()
    for manager in made.managers:
        manager.stop(5.0)
