"""One backend for a test that leaves it as it was, one for each that doesn't."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.reset.bench import Backend
from volsvc.db import migrate
from volsvc.db.engine import create_engine


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("reset") / "empty.sqlite"
    engine = create_engine(f"sqlite:///{path}", is_synchronous=False)
    migrate.sync(engine)
    engine.dispose()
    return path


@pytest.fixture
def make_backend(empty_database: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Callable[..., Backend]]:
    made: list[Backend] = []

    def make(**settings: Any) -> Backend:
        path = tmp_path / str(len(made))
        path.mkdir()
        made.append(Backend(empty_database, path, **settings))
        return made[-1].start()

    yield make
    for backend in made:
        backend.stop()


@pytest.fixture
def backend(make_backend: Callable[..., Backend]) -> Backend:
    return make_backend()
