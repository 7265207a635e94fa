"""What unix:// does beyond the transport contract: bounds, refusals, and never sending twice."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc.rpc import wire
from volsvc.rpc.library import messaging
from volsvc.rpc.server import RpcServer
from volsvc.rpc.transport import build_transport, close_transport, load_messaging_options
from volsvc.rpc.unix_client import NobodyListens, NotAccepted, ServerLost
from volsvc.rpc.wire import Kind
from volsvc.testing.transport_contract import Endpoint

DEADLINE_S = 10.0
TARGET = messaging.Target(topic="t", server="one")


class Bench:
    """Servers and clients in one directory, with the options that a test asks for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._transports: list[Any] = []
        self._servers: list[tuple[Endpoint, Any]] = []

    def transport(self, **options: object) -> Any:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        self._transports.append(build_transport(load_messaging_options(), f"unix://{self.directory}?{query}"))
        return self._transports[-1]

    def serve(self, **options: object) -> Endpoint:
        endpoint = Endpoint("one")
        server = messaging.get_rpc_server(self.transport(**options), TARGET, [endpoint], server_cls=RpcServer)
        server.start(override_pool_size=8)
        self._servers.append((endpoint, server))
        return endpoint

    def client(self, *, timeout: float = DEADLINE_S, retry: int = 0, **options: object) -> Any:
        return messaging.get_rpc_client(self.transport(**options), TARGET, timeout=timeout, retry=retry)

    def close(self) -> None:
        for endpoint, server in self._servers:
            endpoint.release.set()
            server.stop()
            server.wait()
        for transport in self._transports:
            close_transport(transport)


@pytest.fixture
def bench(rpc_directory: Path) -> Iterator[Bench]:
    bench = Bench(rpc_directory)
    yield bench
    bench.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come"
        time.sleep(0.005)


# -- what it leaves behind --------------------------------------------------------------------


def test_servers_and_clients_leave_no_thread_no_descriptor_and_no_socket(
    rpc_directory: Path, nothing_left: Callable[[], None]
) -> None:
    bench = Bench(rpc_directory)
    endpoint = bench.serve()
    clients = [bench.client() for _ in range(3)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: clients[number % 3].call({}, "echo", value=number), range(30)))
    with pytest.raises(messaging.MessagingTimeout):
        clients[0].prepare(timeout=0.05).call({}, "wait", limit_s=DEADLINE_S)
    clients[1].cast({}, "note", value=1)
    assert endpoint.received(1) == [1]
    bench.close()
    nothing_left()
    assert [path.name for path in rpc_directory.iterdir()] == [".lock"]


def test_listener_that_was_never_started_leaves_nothing(bench: Bench, nothing_left: Callable[[], None]) -> None:
    transport = bench.transport()
    listener = transport._listen(TARGET, 1, None)
    assert (bench.directory / "t:one").is_socket()
    listener.cleanup()
    listener.cleanup()
    nothing_left()
    assert not (bench.directory / "t:one").exists()


def test_threads_are_named_after_what_they_serve(bench: Bench) -> None:
    bench.serve()
    bench.client().call({}, "who")
    names = {thread.name for thread in threading.enumerate()}
    assert "unix-rpc t:one" in names
    assert "rpc one_0" in names


# -- bounds -----------------------------------------------------------------------------------


def test_message_beyond_the_limit_is_refused_before_it_is_sent(bench: Bench) -> None:
    endpoint = bench.serve()
    client = bench.client(max_frame_bytes=4096)
    with pytest.raises(messaging.ClientSendError, match="max_frame_bytes"):
        client.cast({}, "note", value="x" * 5000)
    client.cast({}, "note", value="small")
    assert endpoint.received(1) == ["small"]


def test_message_that_only_the_server_finds_too_large_is_refused_with_the_reason(bench: Bench) -> None:
    bench.serve(max_frame_bytes=4096)
    client = bench.client()
    with pytest.raises(NotAccepted, match="max_frame_bytes"):
        client.call({}, "echo", value="x" * 5000)
    assert client.call({}, "who") == "one"


def test_reply_beyond_the_limit_is_an_error_and_not_a_silence(bench: Bench) -> None:
    bench.serve(max_frame_bytes=4096)
    client = bench.client()
    with pytest.raises(messaging.RemoteError, match="max_frame_bytes"):
        client.call({}, "repeat", text="x", count=5000)
    assert client.call({}, "repeat", text="x", count=4000) == "x" * 4000


def test_connection_idle_longest_makes_room_for_a_new_one(bench: Bench) -> None:
    bench.serve(max_connections=2)
    clients = [bench.client() for _ in range(4)]
    for _round in range(3):
        assert [client.call({}, "who") for client in clients] == ["one"] * 4


def test_connection_is_refused_with_the_reason_while_all_others_are_busy(bench: Bench) -> None:
    endpoint = bench.serve(max_connections=2)
    clients = [bench.client() for _ in range(3)]
    with ThreadPoolExecutor(2) as threads:
        busy = [threads.submit(one.call, {}, "wait", limit_s=DEADLINE_S) for one in clients[:2]]
        wait_until(lambda: sum(name.name.startswith("rpc one") for name in threading.enumerate()) >= 2)
        with pytest.raises(NotAccepted, match="too many connections"):
            clients[2].call({}, "who")
        endpoint.release.set()
        assert [one.result(DEADLINE_S) for one in busy] == [True, True]
    assert clients[2].call({}, "who") == "one"


def test_server_with_too_much_unfinished_takes_no_more_until_some_is_finished(bench: Bench) -> None:
    endpoint = bench.serve(max_pending=2)
    client = bench.client(handoff_timeout=0.3)
    for _ in range(2):
        client.cast({}, "wait", limit_s=DEADLINE_S)
    with pytest.raises(messaging.MessagingTimeout):
        client.cast({}, "note", value="too early")
    endpoint.release.set()
    client.cast({}, "note", value="in time")
    assert "in time" in endpoint.received(2)


# -- strangers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        wire.encode(Kind.REPLY, {}),
        wire.encode(Kind.CAST, ["no message"]),
        wire.encode(Kind.CAST, {"msg": "no dictionary"}),
        wire.encode(Kind.CAST)[:2] + b"\x63\x00\x00\x00\x00\x00",
        wire.encode(Kind.CALL, {"msg": {"method": "wait", "args": {"limit_s": 1.0}}}) * 2,
        wire.encode(Kind.CAST, "{")[:-3] + b"{{{",
    ],
)
def test_client_that_breaks_the_protocol_is_cut_off_and_the_others_are_served(bench: Bench, sent: bytes) -> None:
    bench.serve()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(DEADLINE_S)
        stranger.connect(str(bench.directory / "t:one"))
        stranger.sendall(sent)
        answer = b""
        while data := stranger.recv(4096):
            answer += data
    reader = wire.FrameReader(4096)
    reader.feed(answer)
    kinds = []
    while (frame := reader.next()) is not None:
        kinds.append(frame[0])
    assert kinds == [Kind.HELLO, Kind.NAK]
    assert bench.client().call({}, "who") == "one"


def test_half_a_message_is_never_looked_at(bench: Bench) -> None:
    endpoint = bench.serve()
    frame = wire.encode(Kind.CAST, {"ctxt": {}, "msg": {"method": "note", "args": {"value": "half"}}})
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(bench.directory / "t:one"))
        stranger.sendall(frame[:-1])
    bench.client().cast({}, "note", value="whole")
    assert endpoint.received(1) == ["whole"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("allowed", "is_let_in"), [("", False), ("65534", True)])
def test_peer_of_another_uid_is_refused_unless_it_is_allowed(
    bench: Bench, short_path: Path, allowed: str, is_let_in: bool
) -> None:
    short_path.chmod(0o711)
    bench.serve(directory_mode="0710", directory_group="65534", allowed_uids=allowed)
    child = os.fork()
    if child == 0:  # the other threads are not there: system calls only
        code = 2
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE_S)
            sock.connect(str(bench.directory / "t:one"))
            code = 0 if sock.recv(64) else 1
        finally:
            os._exit(code)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if is_let_in else 1)


def test_connection_serves_one_message_after_another(bench: Bench) -> None:
    endpoint = bench.serve()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(bench.directory / "t:one"))
        reader = wire.FrameReader(1 << 20)

        def receive() -> tuple[Kind, Any]:
            while (frame := reader.next()) is None:
                reader.feed(sock.recv(4096))
            return frame[0], wire.decode(frame[1])

        assert receive() == (Kind.HELLO, None)
        for _ in range(3):
            sock.sendall(wire.encode(Kind.CALL, {"msg": {"method": "who"}}))
            assert receive() == (Kind.REPLY, "one")
            sock.sendall(wire.encode(Kind.CAST, {"msg": {"method": "note", "args": {"value": 1}}}))
            assert receive() == (Kind.ACK, None)
            sock.sendall(wire.encode(Kind.CALL, {"msg": {"method": "_secret"}}))
            assert receive()[0] is Kind.FAILURE
    assert endpoint.received(3) == [1, 1, 1]


# -- at most once -----------------------------------------------------------------------------


class ScriptedServer:
    """Plays a server that answers each frame as scripted, one connection after another.

    An answer is the bytes to send after a whole frame has come, before it hangs up.
    """

    def __init__(self, directory: Path, answers: list[bytes]) -> None:
        directory.mkdir(mode=0o700)
        self.frames: list[Any] = []
        self._answers = answers
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(directory / "t:one"))
        self._sock.listen(8)
        self._sock.settimeout(DEADLINE_S)
        self._thread = threading.Thread(target=self._run, name="scripted server")
        self._thread.start()

    def _run(self) -> None:
        for answer in self._answers:
            sock, _address = self._sock.accept()
            with sock:
                sock.settimeout(DEADLINE_S)
                sock.sendall(wire.encode(Kind.HELLO))
                reader = wire.FrameReader(1 << 20)
                while (frame := reader.next()) is None:
                    data = sock.recv(4096)
                    if not data:
                        return
                    reader.feed(data)
                self.frames.append(wire.decode(frame[1])["msg"]["args"])
                sock.sendall(answer)

    def close(self) -> None:
        self._thread.join(DEADLINE_S)
        self._sock.close()


def test_message_is_not_sent_again_once_it_may_have_been_taken(bench: Bench, rpc_directory: Path) -> None:
    server = ScriptedServer(rpc_directory, [b"", wire.encode(Kind.ACK)])
    client = bench.client(retry=5)
    with pytest.raises(ServerLost):
        client.cast({}, "note", value=1)
    assert server.frames == [{"value": 1}]
    client.cast({}, "note", value=2)
    server.close()
    assert server.frames == [{"value": 1}, {"value": 2}]


@pytest.mark.parametrize("refusal", [Kind.BYE, Kind.NAK])
def test_message_that_was_surely_not_taken_is_sent_to_the_successor(
    bench: Bench, rpc_directory: Path, refusal: Kind
) -> None:
    server = ScriptedServer(rpc_directory, [wire.encode(refusal), wire.encode(Kind.ACK)])
    bench.client().cast({}, "note", value=1)
    server.close()
    assert server.frames == [{"value": 1}, {"value": 1}]


def test_heartbeats_before_the_reply_are_passed_over(bench: Bench, rpc_directory: Path) -> None:
    server = ScriptedServer(rpc_directory, [wire.encode(Kind.HEARTBEAT) * 2 + wire.encode(Kind.REPLY, "done")])
    assert bench.client().prepare(call_monitor_timeout=2).call({}, "any") == "done"
    server.close()


def test_call_without_a_sign_of_life_is_given_up(bench: Bench) -> None:
    bench.serve()
    begun = time.monotonic()
    # The server's heartbeats begin after half of two seconds, so that a shorter monitor hears none.
    with pytest.raises(messaging.MessagingTimeout):
        bench.client().prepare(call_monitor_timeout=0.3).call({}, "wait", limit_s=DEADLINE_S)
    assert time.monotonic() - begun < DEADLINE_S / 2


# -- errors -------------------------------------------------------------------------------------


def test_python_s_own_errors_are_not_made_again_either(bench: Bench) -> None:
    bench.serve()
    with pytest.raises(messaging.RemoteError) as caught:
        bench.client().call({}, "fail_with_another", kind="builtins")
    assert caught.value.exc_type == "KeyError"


# -- the URL ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["unix://", "unix:///", "unix://relative/path", "unix://host"])
def test_url_without_an_absolute_directory_is_refused(url: str) -> None:
    with pytest.raises(exc.ConfigurationError, match="unix:///absolute/directory"):
        build_transport(load_messaging_options(), url)


@pytest.mark.parametrize(
    "query", ["directory_mode=0777", "directory_mode=0077", "max_frame_bytes=many", "unknown=1", "allowed_uids=root"]
)
def test_bad_option_in_the_url_is_refused(rpc_directory: Path, query: str) -> None:
    with pytest.raises(exc.ConfigurationError, match="transport_url"):
        build_transport(load_messaging_options(), f"unix://{rpc_directory}?{query}")


def test_unknown_transport_is_refused() -> None:
    with pytest.raises(exc.ConfigurationError, match="transport_url"):
        build_transport(load_messaging_options(), "pigeon://coop")


def test_server_name_too_long_for_a_socket_says_what_to_shorten(bench: Bench) -> None:
    target = messaging.Target(topic="t", server="h" * 108)
    server = messaging.get_rpc_server(bench.transport(), target, [], server_cls=RpcServer)
    with pytest.raises(exc.ConfigurationError, match=r"107.*transport_url.*host"):
        server.start()


# -- notifications ----------------------------------------------------------------------------


class Subscriber:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.payloads: list[Any] = []

    def info(self, _ctxt: Any, _publisher: Any, _event: Any, payload: Any, _metadata: Any) -> None:
        with self._changed:
            self.payloads.append(payload)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            self._changed.wait_for(lambda: len(self.payloads) >= count, DEADLINE_S)
            return self.payloads


def test_notification_reaches_one_subscriber_of_each_pool(bench: Bench) -> None:
    url = f"unix://{bench.directory}"
    transport = messaging.get_notification_transport(load_messaging_options(), url=url)
    subscribers = {name: Subscriber() for name in ("a1", "a2", "b1")}
    listeners = [
        messaging.get_notification_listener(
            transport, [messaging.Target(topic="notifications")], [subscriber], pool=name[0]
        )
        for name, subscriber in subscribers.items()
    ]
    for listener in listeners:
        listener.start(override_pool_size=1)
    notifier = messaging.Notifier(transport, publisher_id="test", driver="messagingv2", retry=0)
    for number in range(4):
        notifier.info({}, "some.event", {"number": number})
    assert subscribers["b1"].wait(4) == [{"number": number} for number in range(4)]
    wait_until(lambda: len(subscribers["a1"].payloads) + len(subscribers["a2"].payloads) == 4)
    for listener in listeners:
        listener.stop()
    for listener in listeners:
        listener.wait()
    transport.cleanup()


def test_notification_that_nobody_listens_for_says_so(bench: Bench) -> None:
    driver = bench.transport()._driver
    with pytest.raises(NobodyListens, match="driver = log"):
        driver.send_notification(messaging.Target(topic="notifications.info"), {}, {}, 2.0, retry=0)
