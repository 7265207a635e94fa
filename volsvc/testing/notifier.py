"""A notifier that remembers, for tests of whatever sends notifications."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Notification:
    """``priority``: info or error; ``payload`` is a copy made when it was sent."""

    priority: str
    event_type: str
    payload: Mapping[str, Any]


class RecordingNotifier:
    """Implements ``volsvc.ports.Notifier``.  Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sent: list[Notification] = []

    def info(self, event_type: str, payload: Mapping[str, Any]) -> None:
        self._record("info", event_type, payload)

    def error(self, event_type: str, payload: Mapping[str, Any]) -> None:
        self._record("error", event_type, payload)

    def sent(self, event_type: str | None = None) -> list[Notification]:
        """What was sent so far, in order, of one type or of all."""
        with self._changed:
            return [one for one in self._sent if event_type in (None, one.event_type)]

    def wait_for(self, event_type: str, *, count: int = 1, timeout_s: float = 10.0) -> list[Notification]:
        """Block until ``count`` of this type were sent.  Raises ``AssertionError`` after ``timeout_s`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.sent(event_type)) >= count, timeout_s):
                types = [one.event_type for one in self._sent]
                raise AssertionError(f"{event_type} was not sent {count} times within {timeout_s:g} s, but: {types}")
            return self.sent(event_type)

    def clear(self) -> None:
        with self._changed:
            self._sent.clear()

    def _record(self, priority: str, event_type: str, payload: Mapping[str, Any]) -> None:
        with self._changed:
            self._sent.append(Notification(priority, event_type, copy.deepcopy(dict(payload))))
            self._changed.notify_all()
