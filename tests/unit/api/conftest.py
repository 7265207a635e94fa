from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.unit.api.harness import ApiHarness, add_service
from volsvc.db import migrate
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import Store


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    engine = create_engine(f"sqlite:///{tmp_path}/volsvc.sqlite")
    migrate.sync(engine)
    yield SqlStore(engine)
    engine.dispose()


@pytest.fixture
def api(store: Store) -> ApiHarness:
    add_service(store)
    return ApiHarness(store)
