from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.unit.backup_service.world import World
from volsvc.db.store import SqlStore


@pytest.fixture
def world(tmp_path: pathlib.Path, sql_store: SqlStore) -> Iterator[World]:
    made = World(tmp_path, sql_store)
    yield made
    made.close()
