"""A client that writes to an attached volume all the time, and notices every error.

It stamps a counter into two far-apart blocks, always in the same order, so that a copy of the
volume shows whether it is of one point in time.
"""

from __future__ import annotations

import threading
from typing import Self

from tests.functional.user import MIB, Connection
from volsvc.testing.daemon import wait_until

STAMPS_AT = 8 * MIB
STAMP_GAP = 768 * MIB


class StampWriter:
    """Writes from entry to exit; ``can_reconnect`` lets it open a new connection when it is cut.

    ``cuts`` counts those; without leave, the first error is raised at the exit.
    """

    def __init__(self, connection: Connection, *, can_reconnect: bool = False) -> None:
        self.count = 0
        self.cuts = 0
        self._connection = connection
        self._can_reconnect = can_reconnect
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._write, name="stamp-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_more(20)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the writing client hangs"
        if exc_info[0] is None:
            assert self._error is None, f"the writing client got an error after {self.count} stamps: {self._error!r}"

    def wait_more(self, stamps: int, timeout_s: float = 30.0) -> None:
        """Until so many more were written: the exporter serves now."""
        wanted = self.count + stamps

        def look() -> bool:
            assert self._error is None, f"the writing client got an error: {self._error!r}"
            return self.count >= wanted

        wait_until(look, f"the client to write {stamps} more stamps", timeout_s)

    def _write(self) -> None:
        while not self._stop.is_set():
            try:
                with self._connection.open() as nbd:
                    while not self._stop.is_set():
                        stamp = (self.count + 1).to_bytes(8, "big")
                        nbd.write(STAMPS_AT, stamp)
                        nbd.write(STAMPS_AT + STAMP_GAP, stamp)
                        self.count += 1
            except OSError as error:
                if not self._can_reconnect:
                    self._error = error
                    return
                self.cuts += 1
                self._stop.wait(0.005)


def read_stamps(connection: Connection) -> tuple[int, int]:
    """The two stamps; a point in time has the first equal to the second, or one ahead of it."""
    with connection.open() as nbd:
        first, second = (int.from_bytes(nbd.read(at, 8), "big") for at in (STAMPS_AT, STAMPS_AT + STAMP_GAP))
    return first, second
