"""The doorbell over the embedded transport: rings get through, waits end, nobody is held up."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.rpc import doorbell as doorbell_module
from volsvc.rpc.doorbell import DoorbellServer, RpcDoorbell, build_transport, close_transport
from volsvc.rpc.library import messaging
from volsvc.rpc.transport import load_messaging_options

HOST = "node@fast"
DEADLINE_S = 10.0


class FakeBell:
    """A runner's two methods; ``end`` ends an operation, ``error`` is raised to who waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ended: set[str] = set()
        self.rings = 0
        self.waiting = 0
        self.error: Exception | None = None

    def ring(self) -> None:
        with self._changed:
            self.rings += 1
            self._changed.notify_all()

    def wait_ended(self, operation_id: str, timeout_s: float) -> bool:
        with self._changed:
            if self.error is not None:
                raise self.error
            self.waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: operation_id in self._ended, timeout_s)
            return operation_id in self._ended

    def end(self, operation_id: str) -> None:
        with self._changed:
            self._ended.add(operation_id)
            self._changed.notify_all()

    def wait_for_rings(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.rings >= count, DEADLINE_S), f"{self.rings} rings, not {count}"

    def wait_for_waiters(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= count, DEADLINE_S), f"{self.waiting} wait"


@pytest.fixture
def transport(rpc_directory: Path) -> Iterator[Any]:
    transport = build_transport(load_messaging_options(), f"unix://{rpc_directory}")
    yield transport
    close_transport(transport)


@pytest.fixture
def bell() -> FakeBell:
    return FakeBell()


@pytest.fixture
def server(transport: Any, bell: FakeBell) -> Iterator[DoorbellServer]:
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def doorbell(transport: Any) -> RpcDoorbell:
    return RpcDoorbell(transport, timeout_s=5.0)


def operation(identity: str = "op-1", host: str | None = HOST) -> models.Operation:
    return models.Operation(
        id=identity,
        seq=1,
        action="volume_create",
        resource_type="volume",
        resource_id="v-1",
        state="queued",
        host=host,
        request_id="req-1",
        user_id="u",
        project_id="p",
    )


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("host", [HOST, HOST + "#pool"])
def test_ring_reaches_the_backend_s_bell(doorbell: RpcDoorbell, bell: FakeBell, host: str) -> None:
    doorbell.ring(host)
    bell.wait_for_rings(1)


def test_rings_reach_their_own_backend_only(transport: Any, doorbell: RpcDoorbell) -> None:
    bells = {host: FakeBell() for host in ("node@a", "node@b")}
    servers = [DoorbellServer(transport, host, bell) for host, bell in bells.items()]
    for server in servers:
        server.start()
    for _ in range(3):
        doorbell.ring("node@b")
    bells["node@b"].wait_for_rings(3)
    for server in servers:
        assert server.stop()
    assert bells["node@a"].rings == 0


def test_ring_where_nobody_listens_warns_once_until_it_works_again(
    transport: Any, doorbell: RpcDoorbell, bell: FakeBell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=doorbell_module.__name__)
    for _ in range(3):
        doorbell.ring(HOST)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    doorbell.ring(HOST)
    server.stop()
    caplog.clear()
    doorbell.ring(HOST)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_ring_never_raises_even_for_a_name_that_can_t_be_a_socket(doorbell: RpcDoorbell) -> None:
    doorbell.ring("h" * 200)


@pytest.mark.usefixtures("server")
def test_wait_rings_and_returns_when_the_operation_has_ended(doorbell: RpcDoorbell, bell: FakeBell) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(doorbell.wait_for, operation(), DEADLINE_S)
        bell.wait_for_waiters(1)
        assert bell.rings == 1
        assert not waiting.done()
        bell.end("op-1")
        begun = time.monotonic()
        waiting.result(DEADLINE_S)
        assert time.monotonic() - begun < DEADLINE_S / 2


@pytest.mark.usefixtures("server")
def test_wait_comes_back_when_its_time_is_over(doorbell: RpcDoorbell) -> None:
    begun = time.monotonic()
    doorbell.wait_for(operation(), 0.7)
    assert 0.6 < time.monotonic() - begun < 4.0


def test_wait_comes_back_when_the_daemon_doesn_t_answer(transport: Any) -> None:
    class DeafBell(FakeBell):
        def wait_ended(self, operation_id: str, timeout_s: float) -> bool:
            return super().wait_ended(operation_id, DEADLINE_S)

    bell = DeafBell()
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    begun = time.monotonic()
    RpcDoorbell(transport, timeout_s=0.2).wait_for(operation(), 0.1)
    assert time.monotonic() - begun < DEADLINE_S / 2
    bell.end("op-1")
    assert server.stop()


def test_wait_where_nobody_listens_says_that_the_service_is_down(doorbell: RpcDoorbell) -> None:
    begun = time.monotonic()
    with pytest.raises(exc.ServiceDown, match=HOST) as caught:
        doorbell.wait_for(operation(), DEADLINE_S)
    assert time.monotonic() - begun < DEADLINE_S / 2
    assert caught.value.code == 503


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("error", [exc.StoreUnavailable(reason="gone"), ValueError("a slip")])
def test_wait_that_fails_there_leaves_it_to_the_record(
    doorbell: RpcDoorbell, bell: FakeBell, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bell.error = error
    doorbell.wait_for(operation(), DEADLINE_S)
    assert "op-1" in caplog.text
    assert bell.rings == 1


@pytest.mark.usefixtures("server")
def test_service_that_says_that_it_is_down_is_down(doorbell: RpcDoorbell, bell: FakeBell) -> None:
    bell.error = exc.ServiceDown(host=HOST, reason="it is draining")
    with pytest.raises(exc.ServiceDown) as caught:
        doorbell.wait_for(operation(), DEADLINE_S)
    assert str(caught.value) == f"The service {HOST} is down: it is draining"


def test_wait_for_an_operation_that_no_daemon_runs_returns(doorbell: RpcDoorbell) -> None:
    doorbell.wait_for(operation(host=None), DEADLINE_S)


@pytest.mark.usefixtures("server")
def test_bell_that_can_t_know_is_not_asked_over_and_over(doorbell: RpcDoorbell, bell: FakeBell) -> None:
    asked = []

    def wait_ended(operation_id: str, timeout_s: float) -> bool:
        asked.append(timeout_s)
        return False

    bell.wait_ended = wait_ended  # type: ignore[method-assign]
    doorbell.wait_for(operation(), DEADLINE_S)
    assert len(asked) == 1


@pytest.mark.usefixtures("server")
def test_request_s_context_arrives_with_the_wait(doorbell: RpcDoorbell, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=doorbell_module.__name__)
    doorbell.wait_for(operation(), 0.05)
    assert "request req-1 waits" in caplog.text


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("method", ["_wait", "target", "bell", "stop"])
def test_nothing_but_the_two_methods_can_be_called(transport: Any, method: str) -> None:
    client = messaging.get_rpc_client(
        transport,
        messaging.Target(topic=doorbell_module.TOPIC, server=HOST, version=doorbell_module.VERSION),
        serializer=doorbell_module.ContextSerializer(),
    )
    with pytest.raises(messaging.RemoteError):
        client.prepare(timeout=DEADLINE_S).call(models.RequestContext("u", "p"), method)


def test_ring_gets_through_while_as_many_wait_as_may(transport: Any, bell: FakeBell) -> None:
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    doorbell = RpcDoorbell(transport, timeout_s=5.0)
    many = doorbell_module.MAX_WAITERS
    with ThreadPoolExecutor(many) as threads:
        waiting = [threads.submit(doorbell.wait_for, operation(f"op-{n}"), DEADLINE_S) for n in range(many)]
        bell.wait_for_waiters(many)
        doorbell.wait_for(operation("one-too-many"), DEADLINE_S)  # comes back at once, without knowing
        rings = bell.rings
        doorbell.ring(HOST)
        bell.wait_for_rings(rings + 1)
        assert not any(one.done() for one in waiting)
        assert server.stop()
        for one in waiting:
            one.result(DEADLINE_S)


def test_stop_passes_on_accepted_rings_and_answers_who_waits_without_waiting_long(
    transport: Any, doorbell: RpcDoorbell, bell: FakeBell
) -> None:
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(doorbell.wait_for, operation(), 60.0)
        bell.wait_for_waiters(1)
        for _ in range(100):
            doorbell.ring(HOST)
        begun = time.monotonic()
        assert server.stop()
        assert time.monotonic() - begun < 3.0
        assert bell.rings == 101
        waiting.result(DEADLINE_S)
    assert server.stop()
    with pytest.raises(exc.ServiceDown):
        doorbell.wait_for(operation(), 1.0)


def test_stop_returns_at_its_bound_when_the_bell_hangs(transport: Any, doorbell: RpcDoorbell) -> None:
    release = threading.Event()

    class HangingBell(FakeBell):
        def ring(self) -> None:
            super().ring()
            release.wait(DEADLINE_S)

    bell = HangingBell()
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    doorbell.ring(HOST)
    bell.wait_for_rings(1)
    begun = time.monotonic()
    assert server.stop(timeout_s=0.2) is False
    assert time.monotonic() - begun < DEADLINE_S / 2
    release.set()
    assert server.stop() is True


def test_stopped_doorbell_leaves_nothing(rpc_directory: Path, nothing_left: Callable[[], None]) -> None:
    transport = build_transport(load_messaging_options(), f"unix://{rpc_directory}")
    bell = FakeBell()
    server = DoorbellServer(transport, HOST, bell)
    server.start()
    RpcDoorbell(transport, timeout_s=1.0).ring(HOST)
    bell.wait_for_rings(1)
    assert server.stop()
    close_transport(transport)
    nothing_left()


def test_server_that_was_never_started_stops(transport: Any, bell: FakeBell) -> None:
    assert DoorbellServer(transport, HOST, bell).stop()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("volsvc.rpc.doorbell", ["eventlet", "kombu", "sqlalchemy"]),
        ("volsvc.rpc.notifier", ["eventlet", "kombu"]),
        ("volsvc.rpc.local_doorbell", ["oslo_messaging", "oslo_service", "oslo_config"]),
    ],
)
def test_import_brings_in_no_more_than_is_needed(module: str, absent: list[str]) -> None:
    code = (
        f"import sys, {module}\n"
        f"print([name for name in {absent!r} if name in sys.modules])\n"
        "if 'oslo_service' in sys.modules:\n"
        "    from oslo_service import backend\n"
        "    assert backend.get_backend_type() is backend.BackendType.THREADING\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
