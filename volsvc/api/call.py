"""One request on its way: what handlers are given, and nothing of HTTP beyond it."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volsvc import exceptions as exc
from volsvc import models
from volsvc.options import Options

if TYPE_CHECKING:
    from volsvc.api.policies import Policy
    from volsvc.api.type_names import TypeNames
    from volsvc.volume_api import VolumeAPI

MAX_QUERY_FIELDS = 64
NOBODY = models.RequestContext(user_id="", project_id="")

_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "off", "n", "no"})


@dataclass(frozen=True, slots=True)
class Parts:
    """What every handler works with; built once with the application."""

    api: VolumeAPI
    policy: Policy
    settings: Options
    type_names: TypeNames


class Call:
    """A request: who asks, in which microversion, with which parameters and body."""

    __slots__ = (
        "_query",
        "base_url",
        "body",
        "ctx",
        "if_match",
        "params",
        "parts",
        "project_in_url",
        "query_string",
        "request_id",
        "started",
        "version",
    )

    def __init__(self, parts: Parts, request_id: str) -> None:
        self.parts = parts
        self.request_id = request_id
        self.started = time.perf_counter()
        self.version = 0
        self.ctx = NOBODY
        self.base_url = ""
        self.project_in_url: str | None = None
        self.query_string = ""
        self.if_match: str | None = None
        self.params: Mapping[str, str] = {}
        self.body: Any = None
        self._query: dict[str, str] | None = None

    @property
    def api(self) -> VolumeAPI:
        return self.parts.api

    @property
    def query(self) -> dict[str, str]:
        """The query string's parameters; of one given twice the last counts.

        Raises ``InvalidInput`` for more than ``MAX_QUERY_FIELDS`` or for a NUL in one.
        """
        if self._query is None:
            try:
                pairs = urllib.parse.parse_qsl(
                    self.query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict"
                )
            except ValueError as error:
                raise exc.InvalidInput(reason=f"the query string can't be read: {error}") from error
            if any("\0" in key or "\0" in value for key, value in pairs):
                raise exc.InvalidInput(reason="the query string has a NUL character")
            self._query = dict(pairs)
        return self._query

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query string; raises ``InvalidInput`` for what is neither true nor false."""
        value = self.query.get(name)
        return default if value is None else parse_bool(value, name)

    def allows(self, rule: str) -> bool:
        return self.parts.policy.allows(rule, self.ctx)

    def authorize(self, rule: str) -> None:
        """Raises ``PolicyNotAuthorized`` unless policy lets this caller do ``rule``."""
        self.parts.policy.check(rule, self.ctx)

    def href(self, path: str, *, version: str = "/v3") -> str:
        """An absolute URL of a path below the version, with the project if the request had it."""
        project = f"/{self.project_in_url}" if self.project_in_url is not None else ""
        return f"{self.base_url}{version}{project}/{path}"


def parse_bool(value: bool | str, name: str) -> bool:
    """True or false as Cinder's clients write them; raises ``InvalidInput``."""
    if isinstance(value, bool):
        return value
    lowered = value.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise exc.InvalidInput(reason=f"{name} is {value[:40]!r}; it must be true or false")
