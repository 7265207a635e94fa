"""What drivers say of their storage: the shapes that are refused, and reads that hang."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models, placement
from volsvc.backend_stats import capabilities_of, checked_stats, read_stats
from volsvc.driver_probe import DriverProbe
from volsvc.drivers.base import DriverContext, VolumeDriver
from volsvc.options import Options

GOOD = models.BackendStats(total_capacity_gb=10.0, free_capacity_gb=4, abilities=("clone",), extra={"tier": "gold"})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"total_capacity_gb": None, "free_capacity_gb": None},
        {"free_capacity_gb": 0},
        {"abilities": frozenset({"clone"})},
        {"pool_name": "p", "extra": {"nested": {"list": [1, None, "x"]}}},
    ],
)
def test_good_stats_pass_and_can_be_published_and_placed_by(changes: dict[str, Any]) -> None:
    stats = dataclasses.replace(GOOD, **changes)
    assert checked_stats(stats) is stats
    published = capabilities_of(stats, "fast")
    assert json.loads(json.dumps(published)) == published
    assert published["volume_backend_name"] == "fast"
    placement.limit_gb(published)


@pytest.mark.parametrize("returned", [None, {}, [], {"total_capacity_gb": 1}, "stats", models.BackendStats])
def test_what_is_no_stats_is_refused_by_its_type(returned: Any) -> None:
    with pytest.raises(exc.DriverError, match="not BackendStats"):
        checked_stats(returned)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_capacity_gb", "infinite"),
        ("total_capacity_gb", float("inf")),
        ("free_capacity_gb", -1),
        ("free_capacity_gb", True),
        ("reserved_percentage", None),
        ("max_over_subscription_ratio", float("nan")),
        ("max_over_subscription_ratio", "20.0"),
        ("multiattach", "no"),
        ("thin_provisioning_support", 1),
        ("online_extend_support", None),
        ("storage_protocol", None),
        ("vendor_name", 3),
        ("driver_version", 1.0),
        ("pool_name", 0),
        ("abilities", 3),
        ("abilities", "clone"),
        ("abilities", (1,)),
        ("extra", {"a": {1}}),
        ("extra", {"a": float("nan")}),
        ("extra", 3),
    ],
)
def test_a_field_of_the_wrong_shape_is_named(name: str, value: Any) -> None:
    with pytest.raises(exc.DriverError, match=name):
        checked_stats(dataclasses.replace(GOOD, **{name: value}))


def test_a_drivers_extras_do_not_replace_what_placement_counts_with() -> None:
    stats = dataclasses.replace(GOOD, extra={"total_capacity_gb": 99, "volume_backend_name": "other", "tier": "gold"})
    published = capabilities_of(stats, "fast")
    assert (published["total_capacity_gb"], published["volume_backend_name"]) == (10.0, "fast")
    assert published["tier"] == "gold"


# -- reading within a time -----------------------------------------------------------------


class SlowDriver(VolumeDriver):
    def __init__(self) -> None:
        super().__init__(DriverContext("one", "node@one", Options({}), "/nowhere", "/nowhere"))
        self.gate = threading.Event()
        self.calls = 0
        self.error: BaseException | None = None

    def get_volume_stats(self) -> models.BackendStats:
        self.calls += 1
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return GOOD


class Serving:
    """Whatever driver serves now."""

    def __init__(self) -> None:
        self.driver = SlowDriver()
        self.left = threading.Semaphore(0)

    @contextlib.contextmanager
    def use(self) -> Iterator[VolumeDriver]:
        try:
            yield self.driver
        finally:
            self.left.release()


def probe(serving: Serving) -> DriverProbe[VolumeDriver, models.BackendStats]:
    return DriverProbe("stats-one", serving.use, read_stats, "get_volume_stats")


def test_stats_that_come_in_time_are_returned() -> None:
    serving = Serving()
    serving.driver.gate.set()
    assert probe(serving).read(5) is GOOD


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("no")])
def test_what_a_driver_raises_is_handed_on(error: BaseException) -> None:
    serving = Serving()
    serving.driver.error = error
    serving.driver.gate.set()
    with pytest.raises(type(error)):
        probe(serving).read(5)


def test_a_read_that_hangs_is_said_to_and_none_runs_beside_it() -> None:
    serving = Serving()
    reader = probe(serving)
    with pytest.raises(exc.BackendUnavailable, match="within 0 s"):
        reader.read(0.05)
    with pytest.raises(exc.BackendUnavailable, match="still not come back"):
        reader.read(5)
    assert serving.driver.calls == 1
    serving.driver.gate.set()
    for _ in range(2):
        assert serving.left.acquire(timeout=10)
    while threading.active_count() > 1 and any(thread.name == "stats-one" for thread in threading.enumerate()):
        next(t for t in threading.enumerate() if t.name == "stats-one").join(10)
    assert reader.read(5) is GOOD


def test_a_read_that_hangs_in_an_old_driver_is_not_held_against_its_successor() -> None:
    serving = Serving()
    old = serving.driver
    reader = probe(serving)
    with pytest.raises(exc.BackendUnavailable):
        reader.read(0.05)
    serving.driver = SlowDriver()
    serving.driver.gate.set()
    assert reader.read(5) is GOOD
    old.gate.set()
