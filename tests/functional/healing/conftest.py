"""Daemons of a test's own, ended with all they left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.functional.healing.backends import HealingDaemon


@pytest.fixture
def make() -> Iterator[Callable[..., HealingDaemon]]:
    """Build daemons, not started."""
    made: list[HealingDaemon] = []

    def build(names: str = "one", options: Mapping[str, Any] | None = None, **groups: Any) -> HealingDaemon:
        made.append(HealingDaemon(names, options, **groups))
        return made[-1]

    yield build
    for daemon in made:
        daemon.end()


@pytest.fixture
def start(make: Callable[..., HealingDaemon]) -> Callable[..., HealingDaemon]:
    """Start a daemon with fake backends 'one' (and others by ``names``); ``rules`` are for 'one'."""

    def begin(rules: Mapping[str, Any] | None = None, names: str = "one", **options: Any) -> HealingDaemon:
        daemon = make(names, options)
        if rules:
            daemon.one.script(**rules)
        daemon.start()
        return daemon

    return begin


@pytest.fixture
def start_file(make: Callable[..., HealingDaemon]) -> Callable[..., HealingDaemon]:
    """Build a daemon, not started, with the file driver as its backend 'disk' on ``root/disk``."""

    def build(environment: dict[str, str] | None = None, **options: Any) -> HealingDaemon:
        daemon = make("disk", {"reinit_driver_count": 0, **options}, disk={})
        daemon.groups["disk"] = {"file_store_path": daemon.root / "disk"}
        daemon.write()
        daemon.environment = environment or {}
        return daemon

    return build
