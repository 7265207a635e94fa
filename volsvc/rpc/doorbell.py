"""The doorbell over oslo.messaging: "there is work", and "tell me when it has ended".

Nothing is decided here and no message carries work: what is to be done is in the database.
So each message may be lost, and the worst that follows is a sweep's delay.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.rpc.library import messaging
from volsvc.rpc.local_doorbell import Bell
from volsvc.rpc.server import RpcServer
from volsvc.rpc.transport import build_transport, close_transport

__all__ = ["DoorbellServer", "RpcDoorbell", "build_transport", "close_transport"]

LOG = logging.getLogger(__name__)

TOPIC = "volsvc-volume"
VERSION = "1.0"
CALL_MONITOR_S = 10  # oslo.messaging's heartbeats need 2 at least
WAIT_SLICE_S = 0.5
SERVER_THREADS = 32
MAX_WAITERS = SERVER_THREADS - 4
STOP_TIMEOUT_S = 10.0


class ContextSerializer(messaging.JsonPayloadSerializer):  # type: ignore[misc]
    """Carries who asked, so that both sides' logs name the same request."""

    def serialize_context(self, context: models.RequestContext) -> dict[str, Any]:
        return {
            "request_id": context.request_id,
            "user_id": context.user_id,
            "project_id": context.project_id,
        }

    def deserialize_context(self, context: dict[str, Any]) -> models.RequestContext:
        return models.RequestContext(
            user_id=str(context.get("user_id") or ""),
            project_id=str(context.get("project_id") or ""),
            request_id=str(context.get("request_id") or ""),
        )


class RpcDoorbell:
    """Rings at the daemons' ``DoorbellServer``.  Thread-safe."""

    def __init__(self, transport: Any, *, timeout_s: float, topic: str = TOPIC) -> None:
        """``timeout_s``: what a call may take on its way, beyond the time that it is to wait there."""
        self._timeout_s = timeout_s
        self._client = messaging.get_rpc_client(
            transport, messaging.Target(topic=topic, version=VERSION), serializer=ContextSerializer(), retry=0
        )
        self._lock = threading.Lock()
        self._unreachable: set[str] = set()

    def ring(self, host: str) -> None:
        """Tell ``host@backend`` (or ``host@backend#pool``) that it has work.  Best effort, never raises.

        The first ring in a row that reaches nobody is logged as a warning, the rest at debug level.
        """
        server = models.backend_of(host)
        nobody = models.RequestContext(user_id="", project_id="")
        try:
            self._client.prepare(server=server).cast(nobody, "ring")
        except (messaging.MessagingException, exc.VolsvcError) as error:
            self._note_unreachable(server, error)
        except Exception:
            LOG.exception("the doorbell of %s failed; its next sweep finds the work", server)
        else:
            with self._lock:
                self._unreachable.discard(server)

    def wait_for(self, operation: models.Operation, timeout_s: float) -> None:
        """Ring, and come back when the operation has ended, or ``timeout_s`` seconds are over, or sooner.

        The caller reads the operation's row afterwards.  May be repeated.  Raises
        ``ServiceDown`` when nobody listens there or it ends while we wait.
        """
        if operation.host is None:
            return
        server = models.backend_of(operation.host)
        context = models.RequestContext(
            user_id=operation.user_id or "",
            project_id=operation.project_id or "",
            request_id=operation.request_id or "",
        )
        client = self._client.prepare(
            server=server, timeout=timeout_s + self._timeout_s, call_monitor_timeout=CALL_MONITOR_S
        )
        try:
            client.call(context, "run_and_wait", operation_id=operation.id, timeout_s=timeout_s)
        except messaging.MessagingTimeout as error:
            LOG.info("operation %s: %s gave no answer, its record decides: %s", operation.id, server, error)
        except (messaging.MessageDeliveryFailure, messaging.MessageUndeliverable) as error:
            raise exc.ServiceDown(host=server, reason=str(error)) from error
        except exc.ServiceDown as error:
            raise exc.ServiceDown(error.message) from error
        except (messaging.MessagingException, exc.VolsvcError) as error:
            LOG.warning("operation %s: waiting at %s failed, its record decides: %s", operation.id, server, error)
        except Exception:
            # What the daemon raised without meaning to comes as whatever it was.
            LOG.exception("operation %s: waiting at %s failed, its record decides", operation.id, server)

    def _note_unreachable(self, server: str, error: Exception) -> None:
        with self._lock:
            is_first = server not in self._unreachable
            self._unreachable.add(server)
        level = logging.WARNING if is_first else logging.DEBUG
        LOG.log(level, "the doorbell of %s reached nobody; its next sweep finds the work: %s", server, error)


class DoorbellServer:
    """Answers for one ``host@backend``: hands rings and waits to its bell.

    Started once and stopped once; a new one is built on a new transport.
    """

    def __init__(self, transport: Any, host: str, bell: Bell, *, topic: str = TOPIC) -> None:
        self._host = host
        self._is_stopping = threading.Event()
        self._server = messaging.get_rpc_server(
            transport,
            messaging.Target(topic=topic, server=host, version=VERSION),
            [_Endpoint(bell, self._is_stopping)],
            serializer=ContextSerializer(),
            access_policy=messaging.ExplicitRPCAccessPolicy,
            server_cls=RpcServer,
        )
        self._is_started = False

    def start(self) -> None:
        """Listen from now on.  Raises ``ConfigurationError`` or the transport's error when it can't."""
        self._server.start(override_pool_size=SERVER_THREADS)
        self._is_started = True

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Listen no more, pass on what was accepted, answer those who wait.  May be repeated.

        Returns whether all that was done within ``timeout_s`` seconds; if not, it goes on in threads
        of its own.
        """
        if not self._is_started:
            return True
        ending = threading.Thread(target=self._end, name=f"doorbell-stop {self._host}", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            LOG.warning("the doorbell of %s did not stop within %g s; it is left behind", self._host, timeout_s)
            return False
        self._is_started = False
        return True

    def _end(self) -> None:
        self._server.stop()
        self._is_stopping.set()
        self._server.wait()


class _Endpoint:
    """The methods that may be called from outside, and nothing else."""

    target = messaging.Target(version=VERSION)

    def __init__(self, bell: Bell, is_stopping: threading.Event) -> None:
        self._bell = bell
        self._is_stopping = is_stopping
        self._places = threading.BoundedSemaphore(MAX_WAITERS)

    @messaging.expose  # type: ignore[untyped-decorator]
    def ring(self, _context: models.RequestContext) -> None:
        self._bell.ring()

    @messaging.expose  # type: ignore[untyped-decorator]
    @messaging.expected_exceptions(exc.VolsvcError)  # type: ignore[untyped-decorator]
    def run_and_wait(self, context: models.RequestContext, operation_id: str, timeout_s: float) -> bool:
        """Ring, and return whether the operation has ended before the time was over."""
        self._bell.ring()
        LOG.debug("operation %s: request %s waits for its end", operation_id, context.request_id)
        # Waiters never take the last threads: a ring must get through at once.
        if not self._places.acquire(blocking=False):
            LOG.info("operation %s: too many wait here already, its record decides", operation_id)
            return False
        try:
            return self._wait(operation_id, time.monotonic() + timeout_s)
        finally:
            self._places.release()

    def _wait(self, operation_id: str, deadline: float) -> bool:
        # In slices, so that a stopping server isn't held up by who waits.
        while True:
            begun = time.monotonic()
            slice_s = min(WAIT_SLICE_S, max(0.0, deadline - begun))
            if self._bell.wait_ended(operation_id, slice_s):
                return True
            now = time.monotonic()
            gave_up_early = now - begun < slice_s / 2  # it can't know, asking again would only spin
            if now >= deadline or gave_up_early or self._is_stopping.is_set():
                return False
