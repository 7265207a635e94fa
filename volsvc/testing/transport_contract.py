"""The contract suite for transports of oslo.messaging: what this service relies on.

Subclass ``TransportContract`` in a test module, give it ``transport_url``, and set to False
what the transport doesn't promise.  Needs pytest.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc.rpc.library import messaging
from volsvc.rpc.server import RpcServer
from volsvc.rpc.transport import build_transport, close_transport, load_messaging_options

TOPIC = "contract"
DEADLINE_S = 10.0

Serve = Callable[..., Any]
Client = Callable[..., Any]


class Endpoint:
    """Methods that show how a message arrived.  ``name`` tells servers apart."""

    target = messaging.Target(version="1.0")

    def __init__(self, name: str) -> None:
        self.name = name
        self.release = threading.Event()
        self._changed = threading.Condition()
        self._received: list[Any] = []

    def echo(self, _context: Any, value: Any) -> Any:
        return value

    def repeat(self, _context: Any, text: str, count: int) -> str:
        return text * count

    def who(self, _context: Any) -> str:
        return self.name

    def context(self, context: dict[str, Any]) -> dict[str, Any]:
        return context

    def note(self, _context: Any, value: Any) -> None:
        with self._changed:
            self._received.append(value)
            self._changed.notify_all()

    def wait(self, _context: Any, limit_s: float) -> bool:
        return self.release.wait(limit_s)

    @messaging.expected_exceptions(exc.VolsvcError)  # type: ignore[untyped-decorator]
    def fail_with_ours(self, _context: Any, volume_id: str) -> None:
        raise exc.VolumeNotFound(id=volume_id)

    @messaging.expected_exceptions(KeyError, threading.BrokenBarrierError)  # type: ignore[untyped-decorator]
    def fail_with_another(self, _context: Any, kind: str) -> None:
        raise {"threading": threading.BrokenBarrierError, "builtins": KeyError}[kind]("not for you")

    def _secret(self, _context: Any) -> str:
        return "must not be reachable"

    def received(self, count: int) -> list[Any]:
        """What ``note`` got, as soon as that is ``count`` values or more, or at the deadline."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._received) >= count, DEADLINE_S)
            return list(self._received)


class TransportContract:
    """One test a promise.  Every test has servers and clients on transports of their own."""

    #: A message to a server that isn't there raises ``MessageDeliveryFailure`` at once.
    reports_missing_server = True
    #: Only exceptions of our own modules are made again from the wire; others become ``RemoteError``.
    filters_remote_errors = True
    #: ``call_monitor_timeout`` works.
    has_call_monitor = True
    #: What a server has taken before ``stop()`` is dispatched before ``wait()`` returns.
    keeps_casts_at_stop = True

    # -- what a subclass gives, and what the tests use ------------------------------------

    @pytest.fixture
    def transport_url(self, tmp_path: Any) -> str:
        raise NotImplementedError("override this fixture")

    @pytest.fixture
    def transport(self, transport_url: str) -> Iterator[Callable[[], Any]]:
        """A function that builds one more transport, as another process would."""
        built = []

        def build() -> Any:
            built.append(build_transport(load_messaging_options(), transport_url))
            return built[-1]

        yield build
        for one in built:
            close_transport(one)

    @pytest.fixture
    def serve(self, transport: Callable[[], Any]) -> Iterator[Serve]:
        """A function that starts a server and returns its endpoint and its server."""
        started: list[tuple[Endpoint, Any]] = []

        def start(name: str, topic: str = TOPIC) -> tuple[Endpoint, Any]:
            endpoint = Endpoint(name)
            server = messaging.get_rpc_server(
                transport(),
                messaging.Target(topic=topic, server=name),
                [endpoint],
                access_policy=messaging.DefaultRPCAccessPolicy,
                server_cls=RpcServer,
            )
            server.start(override_pool_size=8)
            started.append((endpoint, server))
            return endpoint, server

        yield start
        for endpoint, server in started:
            endpoint.release.set()
            server.stop()
            server.wait()

    @pytest.fixture
    def client(self, transport: Callable[[], Any]) -> Client:
        """A function that prepares a client: ``client(server=..., fanout=..., timeout=...)``."""
        base = messaging.get_rpc_client(transport(), messaging.Target(topic=TOPIC), timeout=DEADLINE_S, retry=0)
        return base.prepare  # type: ignore[no-any-return]

    # -- calls ----------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "value", [None, True, 0, -1.5, "", "väärdi\n\0", [], [1, [2, {"a": None}]], {"k": {"l": "m"}}, "x" * 200_000]
    )
    def test_call_returns_what_the_method_returns(self, serve: Serve, client: Client, value: Any) -> None:
        serve("one")
        assert client(server="one").call({}, "echo", value=value) == value

    def test_call_reaches_the_named_server_only(self, serve: Serve, client: Client) -> None:
        for name in ("one", "two"):
            serve(name)
        for name in ("one", "two", "one"):
            assert client(server=name).call({}, "who") == name

    def test_call_without_a_server_is_answered_by_any_of_the_topic_and_each_gets_some(
        self, serve: Serve, client: Client
    ) -> None:
        for name in ("one", "two"):
            serve(name)
        serve("three", topic="another")
        deadline = time.monotonic() + DEADLINE_S
        answered: set[str] = set()
        while answered != {"one", "two"} and time.monotonic() < deadline:
            answered.add(client().call({}, "who"))
        assert answered == {"one", "two"}

    def test_context_travels_with_the_call(self, serve: Serve, client: Client) -> None:
        serve("one")
        context = {"request_id": "req-1", "user_id": "u", "project_id": "p"}
        assert client(server="one").call(context, "context") == context

    def test_calls_from_many_threads_get_their_own_answers(self, serve: Serve, client: Client) -> None:
        serve("one")
        prepared = client(server="one")
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda number: prepared.call({}, "echo", value=number), range(64)))
        assert answers == list(range(64))

    def test_call_that_takes_too_long_times_out_and_the_next_one_works(self, serve: Serve, client: Client) -> None:
        endpoint, _server = serve("one")
        with pytest.raises(messaging.MessagingTimeout):
            client(server="one", timeout=0.2).call({}, "wait", limit_s=DEADLINE_S)
        assert client(server="one").call({}, "who") == "one"
        endpoint.release.set()

    def test_heartbeats_keep_a_long_call_alive(self, serve: Serve, client: Client) -> None:
        if not self.has_call_monitor:
            pytest.skip("this transport has no call monitor")
        serve("one")
        prepared = client(server="one", timeout=DEADLINE_S, call_monitor_timeout=2)
        assert prepared.call({}, "wait", limit_s=2.3) is False

    # -- errors ---------------------------------------------------------------------------

    def test_error_of_ours_arrives_as_what_it_was(self, serve: Serve, client: Client) -> None:
        serve("one")
        with pytest.raises(exc.VolumeNotFound) as caught:
            client(server="one").call({}, "fail_with_ours", volume_id="v-1")
        assert caught.value.message == "Volume v-1 could not be found."
        assert caught.value.code == 404

    def test_error_of_another_module_is_not_made_again(self, serve: Serve, client: Client) -> None:
        if not self.filters_remote_errors:
            pytest.skip("this transport hands errors over as they are")
        serve("one")
        with pytest.raises(messaging.RemoteError) as caught:
            client(server="one").call({}, "fail_with_another", kind="threading")
        assert caught.value.exc_type == "BrokenBarrierError"
        assert caught.value.value == "not for you"

    @pytest.mark.parametrize("method", ["unknown", "_secret", "__init__"])
    def test_method_that_is_not_offered_is_refused(self, serve: Serve, client: Client, method: str) -> None:
        serve("one")
        with pytest.raises((messaging.RemoteError, messaging.NoSuchMethod)):
            client(server="one").call({}, method)

    def test_missing_server_is_an_error_at_once(self, serve: Serve, client: Client) -> None:
        if not self.reports_missing_server:
            pytest.skip("this transport can't tell")
        serve("one")
        begun = time.monotonic()
        with pytest.raises(messaging.MessageDeliveryFailure):
            client(server="two").call({}, "who")
        with pytest.raises(messaging.MessageDeliveryFailure):
            client(server="two").cast({}, "note", value=1)
        assert time.monotonic() - begun < DEADLINE_S / 2

    def test_stopped_server_is_an_error_at_once(self, serve: Serve, client: Client) -> None:
        if not self.reports_missing_server:
            pytest.skip("this transport can't tell")
        _endpoint, server = serve("one")
        assert client(server="one").call({}, "who") == "one"
        server.stop()
        server.wait()
        with pytest.raises(messaging.MessageDeliveryFailure):
            client(server="one").call({}, "who")

    # -- casts ----------------------------------------------------------------------------

    def test_each_cast_arrives_once(self, serve: Serve, client: Client) -> None:
        endpoint, _server = serve("one")
        for number in range(20):
            client(server="one").cast({}, "note", value=number)
        assert sorted(endpoint.received(20)) == list(range(20))

    def test_fanout_reaches_every_server_of_the_topic_and_no_other(self, serve: Serve, client: Client) -> None:
        endpoints = [serve(name)[0] for name in ("one", "two")]
        other, _server = serve("three", topic="another")
        client(fanout=True).cast({}, "note", value="all")
        assert [endpoint.received(1) for endpoint in endpoints] == [["all"], ["all"]]
        # A call behind it on the same way: had the fanout gone there, it would have been first.
        assert client(topic="another", server="three").call({}, "who") == "three"
        assert other.received(0) == []

    def test_fanout_to_nobody_is_no_error(self, client: Client) -> None:
        client(fanout=True).cast({}, "note", value="all")

    # -- servers that come and go ---------------------------------------------------------

    def test_client_finds_a_server_that_was_started_again(self, serve: Serve, client: Client) -> None:
        for _round in range(3):
            endpoint, server = serve("one")
            client(server="one").cast({}, "note", value="again")
            assert client(server="one").call({}, "who") == "one"
            assert endpoint.received(1) == ["again"]
            server.stop()
            server.wait()

    def test_stop_dispatches_what_was_accepted(self, serve: Serve, client: Client) -> None:
        if not self.keeps_casts_at_stop:
            pytest.skip("this transport leaves them to the next server or drops them")
        endpoint, server = serve("one")
        for number in range(200):
            client(server="one").cast({}, "note", value=number)
        server.stop()
        server.wait()
        assert sorted(endpoint.received(0)) == list(range(200))

    def test_casts_during_a_takeover_are_all_dispatched_once(self, serve: Serve, client: Client) -> None:
        if not self.keeps_casts_at_stop:
            pytest.skip("this transport leaves them to the next server or drops them")
        endpoints, numbers, sent = [], itertools.count(), []
        is_over = threading.Event()
        endpoint, server = serve("one")
        endpoints.append(endpoint)

        def send() -> None:
            while not is_over.is_set():
                number = next(numbers)
                client(server="one").cast({}, "note", value=number)
                sent.append(number)

        with ThreadPoolExecutor(3) as threads:
            sending = [threads.submit(send) for _ in range(3)]
            try:
                for _takeover in range(5):
                    endpoint, successor = serve("one")
                    endpoints.append(endpoint)
                    server.stop()
                    server.wait()
                    assert endpoint.received(20)[19:], "the successor gets no casts"
                    server = successor
            finally:
                is_over.set()
            for one in sending:
                one.result()
        server.stop()
        server.wait()
        assert sorted(value for endpoint in endpoints for value in endpoint.received(0)) == sorted(sent)
