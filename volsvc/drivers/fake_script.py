"""What the fakes are told to do wrong: failures, delays and hangs, method by method.

A script is a mapping of method names (``*`` for any) to rules; tests change it in the process,
real daemons read it from a file at each call, so that a test can steer a running service::

    {"do_setup": {"fail": 2, "error": "BackendUnavailable", "message": "no answer"},
     "create_volume": {"delay_s": 3}, "check_for_setup_error": {"hang": true}}

``fail``: that many calls, or true for all; ``skip``: calls that go well before; ``error``: a
class of ``volsvc.exceptions`` or a builtin by name, BaseException included (in the process also
an object to raise); ``delay_s``; ``hang``: those after ``skip``, until the rule is gone; ``when``:
all this "before" (the default) or "after" the method did its work.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc.drivers.base import NoWork, Work
from volsvc.targets.file_locks import locked

_SLICE_S = 0.02
_LOCK_TIMEOUT_S = 10.0


class Script:
    """Rules and how often each method was called; ``path`` None keeps both in memory.

    Share one object between drivers to let a "restarted" one go on in the same script.
    """

    def __init__(self, rules: Mapping[str, Mapping[str, Any]] | None = None, path: str | None = None) -> None:
        self._path = path
        self._rules = {name: dict(rule) for name, rule in (rules or {}).items()}
        self._calls: dict[str, int] = {}
        self._guard = threading.Lock()

    def set(self, method: str, **rule: Any) -> None:
        """Give ``method`` a new rule and count its calls from zero."""
        with self._guard:
            self._rules[method] = rule
            self._calls.pop(method, None)

    def clear(self, method: str | None = None) -> None:
        """Forget one rule or all; calls that hang go on."""
        with self._guard:
            if method is None:
                self._rules.clear()
            else:
                self._rules.pop(method, None)

    def calls(self, method: str) -> int:
        """How often the method was called (of all processes, with a file)."""
        if self._path is None:
            return self._calls.get(method, 0)
        return int(_read_json(self._counts_path).get(method, 0))

    @contextlib.contextmanager
    def applied(self, method: str, work: Work | None = None, total_bytes: int = 0) -> Iterator[None]:
        """Run a method's body as the rules say; ``work`` is told of progress during a delay."""
        number = self._count(method)
        rule = self._rule(method)
        is_after = rule.get("when", "before") == "after"
        if is_after:
            yield
        self._delay(float(rule.get("delay_s", 0)), work or NoWork(), total_bytes)
        while number > int((now := self._rule(method)).get("skip", 0)) and now.get("hang"):
            time.sleep(_SLICE_S)
        if self._is_failing(rule, number):
            raise _error(rule, method)
        if not is_after:
            yield

    @property
    def _counts_path(self) -> str:
        return f"{self._path}.counts"

    def _rule(self, method: str) -> Mapping[str, Any]:
        with self._guard:
            rules = self._rules if self._path is None else _read_json(self._path)
            rule = rules.get(method, rules.get("*", {}))
        if not isinstance(rule, Mapping):
            raise exc.DriverConfigurationError(reason=f"the fake's script has no mapping for {method}: {rule!r}")
        return rule

    def _count(self, method: str) -> int:
        if self._path is None:
            with self._guard:
                self._calls[method] = self._calls.get(method, 0) + 1
                return self._calls[method]
        with locked(f"{self._counts_path}.lock", _LOCK_TIMEOUT_S, "the fake's script"):
            counts = _read_json(self._counts_path)
            counts[method] = counts.get(method, 0) + 1
            with open(f"{self._counts_path}.new", "w") as file:
                json.dump(counts, file)
            os.replace(f"{self._counts_path}.new", self._counts_path)
            return int(counts[method])

    def _is_failing(self, rule: Mapping[str, Any], number: int) -> bool:
        skip, fail = int(rule.get("skip", 0)), rule.get("fail", 0)
        if number <= skip:
            return False
        return fail is True or number <= skip + int(fail)

    def _delay(self, delay_s: float, work: Work, total_bytes: int) -> None:
        slices = max(1, round(delay_s / _SLICE_S)) if delay_s else 0
        for done in range(slices):
            work.checkpoint(total_bytes * done // slices, total_bytes)
            time.sleep(delay_s / slices)


def _error(rule: Mapping[str, Any], method: str) -> BaseException:
    error = rule.get("error")
    if isinstance(error, BaseException):
        return error
    name, message = rule.get("error", "DriverError"), rule.get("message", f"the script fails {method}")
    found = exc.find_error_class(name) or getattr(builtins, name, None)
    if not isinstance(found, type) or not issubclass(found, BaseException):
        return exc.DriverConfigurationError(reason=f"the fake's script names {name!r}, which is no error class")
    return found(message)


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise exc.DriverConfigurationError(reason=f"the fake's script {path} is not JSON: {error}") from None
    return found if isinstance(found, dict) else {}
