"""From a routed request to an answer: pick the row, check policy and body, call the handler, render.

Everything that can be prepared is prepared when the application is built: rows by method,
action and microversion, compiled schemas, encoded constants.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import falcon

from volsvc import exceptions as exc
from volsvc.api import errors, microversions
from volsvc.api.bodies import BodyChecker, read_json
from volsvc.api.call import Call
from volsvc.api.table import Reply, Row

_encode = json.JSONEncoder(ensure_ascii=True, separators=(", ", ": "), check_circular=False).encode


class _Prepared:
    """A row with what was compiled from it."""

    __slots__ = ("checker", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.checker = BodyChecker(row.schemas) if row.schemas else None

    def serves(self, version: int) -> bool:
        return self.row.first <= version <= self.row.last


class Resource:
    """All rows of one path, as a falcon resource."""

    def __init__(self, rows: Iterable[Row], body_limit: int) -> None:
        self._body_limit = body_limit
        plain: dict[str, list[_Prepared]] = defaultdict(list)
        self._actions: dict[str, list[_Prepared]] = defaultdict(list)
        for row in rows:
            (self._actions[row.action] if row.action else plain[row.method]).append(_Prepared(row))
        for method, prepared in plain.items():
            setattr(self, f"on_{method.lower()}", self._responder(prepared))
            if method == "GET":
                self.on_head = self._responder(prepared)
        if self._actions:
            self.on_post = self._respond_to_action

    def _responder(self, prepared: list[_Prepared]) -> Any:
        def respond(req: falcon.Request, resp: falcon.Response, **params: str) -> None:
            call: Call = req.context.call
            found = _pick(prepared, call.version)
            if found.row.rule is not None:
                call.authorize(found.row.rule)
            if found.checker is not None:
                call.body = read_json(req, self._body_limit)
                found.checker.check(call.body, call.version)
            _answer(resp, call, found.row, params)

        return respond

    def _respond_to_action(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        call: Call = req.context.call
        body = read_json(req, self._body_limit)
        if not isinstance(body, dict) or len(body) != 1:
            raise exc.InvalidInput(
                "Malformed request body: an action is an object with one key, one of: "
                f"{', '.join(sorted(self._actions))}"
            )
        name = next(iter(body))
        prepared = [p for p in self._actions.get(name, ()) if p.serves(call.version)]
        if not prepared:
            raise exc.InvalidInput(
                f"There is no such action: {str(name)[:60]} in microversion {microversions.text(call.version)}. "
                f"Known are: {', '.join(sorted(self._actions))}"
            )
        found = prepared[0]
        if found.row.rule is not None:
            call.authorize(found.row.rule)
        if found.checker is not None:
            found.checker.check(body, call.version)
        call.body = body
        _answer(resp, call, found.row, params)


def _pick(prepared: list[_Prepared], version: int) -> _Prepared:
    for candidate in prepared:
        if candidate.serves(version):
            return candidate
    raise errors.NoSuchRoute(
        f"API version 3.{version} is not supported on this method; "
        f"it needs {microversions.text(min(p.row.first for p in prepared))} or later."
    )


def _answer(resp: falcon.Response, call: Call, row: Row, params: dict[str, str]) -> None:
    if params:
        # The server leaves %2F alone, so that a key with a slash in it stays one segment.
        call.params = {name: value.replace("%2F", "/").replace("%2f", "/") for name, value in params.items()}
    answer = row.handler(call)
    resp.status = row.success
    if isinstance(answer, Reply):
        if answer.status is not None:
            resp.status = answer.status
        for name, value in answer.headers.items():
            resp.set_header(name, value)
        answer = answer.body
    if answer is not None:
        resp.data = _encode(answer).encode()
