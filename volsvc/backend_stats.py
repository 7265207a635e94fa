"""What a driver says of its storage: read within a time, checked, made ready to publish.

Placement counts with these numbers for every request, so what has another shape is refused here
and says so in the backend's state.  A read that hangs can't be ended: it stays on its thread, and
nothing of the same driver is read beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import VolumeDriver

_NUMBERS = ("reserved_percentage", "max_over_subscription_ratio")
_CAPACITIES = ("total_capacity_gb", "free_capacity_gb")
_FLAGS = ("thin_provisioning_support", "multiattach", "online_extend_support")
_WORDS = ("storage_protocol", "vendor_name", "driver_version")


def checked_stats(stats: Any) -> models.BackendStats:
    """What a driver returned as its stats; raises ``DriverError`` that names what is wrong with them."""
    if not isinstance(stats, models.BackendStats):
        raise exc.DriverError(reason=f"get_volume_stats returned {type(stats).__name__}, not BackendStats")
    for name in _NUMBERS:
        _require(_is_amount(getattr(stats, name)), stats, name, "a number that is not negative")
    for name in _CAPACITIES:
        value = getattr(stats, name)
        _require(value is None or _is_amount(value), stats, name, "None or a number of GiB that is not negative")
    for name in _FLAGS:
        _require(isinstance(getattr(stats, name), bool), stats, name, "True or False")
    for name in _WORDS:
        _require(isinstance(getattr(stats, name), str), stats, name, "a string")
    _require(stats.pool_name is None or isinstance(stats.pool_name, str), stats, "pool_name", "None or a string")
    abilities_are_words = isinstance(stats.abilities, tuple | list | frozenset | set) and all(
        isinstance(ability, str) for ability in stats.abilities
    )
    _require(abilities_are_words, stats, "abilities", "a tuple of strings")
    try:
        json.dumps(dict(stats.extra), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise exc.DriverError(reason=f"get_volume_stats gave an extra that is no JSON object: {error}") from error
    return stats


def capabilities_of(stats: models.BackendStats, backend_name: str) -> dict[str, Any]:
    """The capabilities to publish: the driver's extras, the stats, the backend's name."""
    published = dict(stats.extra)
    published |= {field.name: getattr(stats, field.name) for field in dataclasses.fields(stats)}
    del published["extra"]
    published["volume_backend_name"] = backend_name
    published["abilities"] = sorted(stats.abilities)
    return published


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _require(is_right: bool, stats: models.BackendStats, name: str, wanted: str) -> None:
    if not is_right:
        raise exc.DriverError(reason=f"get_volume_stats gave {name} = {getattr(stats, name)!r}; it must be {wanted}")


class _Read:
    """One call of ``get_volume_stats`` on a thread of its own."""

    def __init__(self, name: str, use: Callable[[], AbstractContextManager[VolumeDriver]]) -> None:
        self.driver: VolumeDriver | None = None
        self.ended = threading.Event()
        self._error: BaseException | None = None
        self._stats: models.BackendStats | None = None
        self._use = use
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            with self._use() as driver:
                self.driver = driver
                self._stats = checked_stats(driver.get_volume_stats())
        except BaseException as error:  # noqa: BLE001 - whatever a driver raises is handed on by ``result``
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> models.BackendStats:
        if self._stats is None:
            raise self._error or exc.DriverError(reason="get_volume_stats gave nothing")
        return self._stats


class StatsReader:
    """Reads the stats of whatever driver ``use`` gives; ``backend`` names the threads."""

    def __init__(self, backend: str, use: Callable[[], AbstractContextManager[VolumeDriver]]) -> None:
        self._backend = backend
        self._use = use
        self._hanging: _Read | None = None

    def read(self, timeout_s: float) -> models.BackendStats:
        """The stats now, checked.  Called by one thread at a time.

        Raises ``BackendUnavailable`` when they don't come within ``timeout_s`` or an earlier read of
        the same driver still hangs, else whatever the driver raised.
        """
        if self._hanging is not None and not self._hanging.ended.is_set():
            with self._use() as driver:
                if self._hanging.driver in (driver, None):
                    raise exc.BackendUnavailable(reason="get_volume_stats has still not come back")
        self._hanging = None
        read = _Read(f"stats-{self._backend}", self._use)
        if not read.ended.wait(timeout_s):
            self._hanging = read
            raise exc.BackendUnavailable(reason=f"get_volume_stats has not come back within {timeout_s:.0f} s")
        return read.result()
