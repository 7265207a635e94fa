"""What a volume driver says of its storage: checked, made ready to publish.

Placement counts with these numbers for every request, so what has another shape is refused here
and says so in the backend's state.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.drivers.base import VolumeDriver

_NUMBERS = ("reserved_percentage", "max_over_subscription_ratio")
_CAPACITIES = ("total_capacity_gb", "free_capacity_gb")
_FLAGS = ("thin_provisioning_support", "multiattach", "online_extend_support")
_WORDS = ("storage_protocol", "vendor_name", "driver_version")


def read_stats(driver: VolumeDriver) -> models.BackendStats:
    """The driver's stats now, checked; raises like ``checked_stats``, and whatever the driver raises."""
    return checked_stats(driver.get_volume_stats())


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
