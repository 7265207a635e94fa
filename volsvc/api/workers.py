"""The threads that answer requests: a fixed number, with names, and with an end that is bounded."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)


class Workers:
    """What cheroot's server expects of its ``requests``: start, put a connection, stop."""

    def __init__(self, server: Any, count: int) -> None:
        self._server = server
        self._count = count
        self._connections: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._started = 0

    @property
    def idle(self) -> int:
        return max(0, self._count - self._connections.qsize())

    def start(self) -> None:
        for _ in range(self._count):
            self._add()

    def _add(self) -> None:
        self._started += 1
        # Daemon threads: a request that hangs must not keep the process from ending.
        thread = threading.Thread(target=self._work, name=f"api-{self._started}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def resize(self, count: int) -> None:
        """Have ``count`` threads; those too many leave after the request they are at."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(count - self._count):
            self._add()
        for _ in range(self._count - count):
            self._connections.put(None)
        self._count = count

    def put(self, connection: Any) -> None:
        self._connections.put(connection)

    def stop(self, timeout: float | None = 5) -> None:
        """Each worker finishes the request it is at; those that don't by the deadline are left behind."""
        deadline = time.monotonic() + (timeout or 0)
        for _ in self._threads:
            self._connections.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = sum(thread.is_alive() for thread in self._threads)
        if late:
            LOG.warning("%d requests were not finished within %.1f s and are abandoned", late, timeout or 0)
        self._threads.clear()

    def _work(self) -> None:
        while True:
            connection = self._connections.get()
            if connection is None:
                return
            stays_open = False
            try:
                stays_open = connection.communicate()
            except ConnectionError as error:
                LOG.debug("a client went away: %s", error)
            except Exception:
                LOG.exception("a connection broke")
            finally:
                self._hand_back(connection, stays_open)

    def _hand_back(self, connection: Any, stays_open: bool) -> None:
        try:
            if stays_open:
                self._server.put_conn(connection)
            else:
                connection.close()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            # The selector is closed already while the server stops.
            LOG.debug("a connection could not be kept: %s", error)
