"""The doorbell inside one process, alone and in front of another."""

from __future__ import annotations

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.rpc.local_doorbell import LocalDoorbell


class Bell:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def ring(self) -> None:
        self.calls.append("ring")

    def wait_ended(self, operation_id: str, timeout_s: float) -> bool:
        self.calls.append((operation_id, timeout_s))
        return True


class OtherDoorbell:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def ring(self, host: str) -> None:
        self.calls.append(host)

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        self.calls.append((operation.id, timeout_s))


def operation(host: str | None) -> models.Operation:
    return models.Operation("op", 1, "volume_create", "volume", "v", "queued", host=host)


@pytest.mark.parametrize("host", ["node@fast", "node@fast#pool"])
def test_registered_host_is_rung_and_waited_for_here(host: str) -> None:
    bell, other = Bell(), OtherDoorbell()
    doorbell = LocalDoorbell(other)
    doorbell.register("node@fast", bell)
    doorbell.ring(host)
    doorbell.wait_for(operation(host), 3.0)
    assert bell.calls == ["ring", "ring", ("op", 3.0)]
    assert other.calls == []


def test_other_hosts_are_left_to_the_other_doorbell() -> None:
    bell, other = Bell(), OtherDoorbell()
    doorbell = LocalDoorbell(other)
    doorbell.register("node@fast", bell)
    doorbell.ring("far@fast")
    doorbell.wait_for(operation("far@fast"), 3.0)
    assert other.calls == ["far@fast", ("op", 3.0)]
    assert bell.calls == []


def test_without_another_doorbell_an_unknown_host_is_down_and_a_ring_is_lost() -> None:
    doorbell = LocalDoorbell()
    doorbell.ring("far@fast")
    with pytest.raises(exc.ServiceDown, match="far@fast"):
        doorbell.wait_for(operation("far@fast"), 3.0)


def test_unregistered_host_is_not_rung_any_more() -> None:
    bell = Bell()
    doorbell = LocalDoorbell()
    doorbell.register("node@fast", bell)
    doorbell.unregister("node@fast")
    doorbell.unregister("node@fast")
    doorbell.ring("node@fast")
    assert bell.calls == []


def test_operation_without_a_host_is_not_waited_for() -> None:
    LocalDoorbell().wait_for(operation(None), 3.0)
