from __future__ import annotations

from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.placement import Wish, choose, limit_gb, matches


def service(name: str, **fields: Any) -> models.Service:
    capabilities = {
        "total_capacity_gb": 100.0,
        "free_capacity_gb": 80.0,
        "thin_provisioning_support": True,
        "max_over_subscription_ratio": 2.0,
        "reserved_percentage": 0,
        "multiattach": True,
        "volume_backend_name": name,
    } | fields.pop("capabilities", {})
    return models.Service(
        id=1, host=f"node@{name}", binary="cinder-volume", state=fields.pop("state", "ready"),
        is_up=fields.pop("is_up", True), capabilities=capabilities, **fields,
    )  # fmt: skip


def hosts(services: list[models.Service], **wish: Any) -> list[str]:
    wish.setdefault("size_gb", 1)
    wish.setdefault("extra_specs", {})
    return [chosen.host for chosen, _ in choose(services, Wish(**wish))]


def test_the_emptiest_backend_comes_first() -> None:
    assert hosts([service("a", allocated_gb=50), service("b", allocated_gb=10)]) == ["node@b", "node@a"]


def test_a_backend_that_is_down_or_disabled_gets_nothing_new() -> None:
    services = [
        service("a", is_up=False, state="retrying", step="do_setup", reason="refused"),
        service("b", is_disabled=True, disabled_reason="cleaning"),
    ]
    with pytest.raises(exc.NoBackendReady) as raised:
        hosts(services)
    assert "do_setup: refused" in str(raised.value)
    assert "cleaning" in str(raised.value)


def test_thin_promises_are_limited_by_the_ratio() -> None:
    assert hosts([service("a", allocated_gb=150)], size_gb=50)
    with pytest.raises(exc.CapacityExceeded, match=r"150 GiB of 200\.0 GiB"):
        hosts([service("a", allocated_gb=150)], size_gb=51)


def test_thick_promises_are_limited_by_what_is_there() -> None:
    thick = {"thin_provisioning_support": False, "reserved_percentage": 10}
    assert limit_gb(service("a", capabilities=thick).capabilities) == 90
    assert hosts([service("a", capabilities=thick)], size_gb=70)
    with pytest.raises(exc.CapacityExceeded):
        hosts([service("a", capabilities=thick)], size_gb=71)


def test_a_backend_that_does_not_tell_its_size_is_not_counted() -> None:
    assert hosts([service("a", capabilities={"total_capacity_gb": None})], size_gb=10_000)


def test_a_source_ties_the_volume_to_its_backend() -> None:
    services = [service("a"), service("b")]
    assert hosts(services, only_host="node@b") == ["node@b"]
    with pytest.raises(exc.NoBackendReady, match="not enabled any more"):
        hosts(services, only_host="node@gone")


def test_extra_specs_and_zone_choose() -> None:
    services = [service("a"), service("b", availability_zone="west")]
    assert hosts(services, extra_specs={"volume_backend_name": "a"}) == ["node@a"]
    assert hosts(services, availability_zone="west") == ["node@b"]
    assert hosts(services, extra_specs={"vendor:thing": "x"}, size_gb=1), "other scopes are the driver's"
    with pytest.raises(exc.NoBackendReady):
        hosts(services, extra_specs={"capabilities:volume_backend_name": "c"})


def test_a_backup_service_gets_no_volumes() -> None:
    backups = models.Service(id=2, host="node", binary="cinder-backup", state="ready", is_up=True)
    assert hosts([backups, service("a")]) == ["node@a"]
    with pytest.raises(exc.NoBackendReady, match="is volsvc-volume running"):
        hosts([backups])


def test_nothing_has_reported() -> None:
    with pytest.raises(exc.NoBackendReady, match="is volsvc-volume running"):
        hosts([])


@pytest.mark.parametrize(
    ("actual", "wanted", "expected"),
    [
        (True, "<is> True", True),
        (False, "<is> true", False),
        (None, "<is> False", True),
        ("abc", "<in> b", True),
        ("abc", "<in> d", False),
        ("x", "<or> x <or> y", True),
        ("z", "<or> x <or> y", False),
        ("a", "s== a", True),
        ("a", "s!= a", False),
        (5, "= 5", True),
        (6, "= 5", True),
        (4, ">= 5", False),
        ("many", ">= 5", False),
        (True, "true", True),
        ("nfs", "nfs", True),
        (["a", "b"], "b", True),
        (None, "x", False),
    ],
)
def test_operators_of_extra_specs(actual: Any, wanted: str, expected: bool) -> None:
    assert matches(actual, wanted) is expected
