"""Request bodies: read with a limit, parsed strictly, and checked against compiled schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import falcon
import jsonschema
from jsonschema.exceptions import best_match

from volsvc import exceptions as exc
from volsvc.api import errors
from volsvc.api.schemas.types import UUID
from volsvc.api.table import Schema

_MEDIA_TYPES = frozenset({"application/json", "application/vnd.openstack.volume+json", ""})
_MAX_SHOWN = 160
_DRAINED_BYTES = 2**20


def read_json(req: falcon.Request, limit: int) -> Any:
    """The request's body as JSON, at most ``limit`` bytes of it.

    Raises ``InvalidInput`` for another media type, no body, or what is no strict JSON (NaN,
    lone surrogates and NULs are refused: no database takes them), and ``BodyTooLarge``.
    """
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise exc.InvalidInput(f"Unsupported Content-Type {media_type[:80]!r}: send application/json")
    check_length(req, limit)
    stream = _stream_of(req)
    raw = stream.read(limit + 1)
    if len(raw) > limit:
        _drain(stream)
        raise errors.BodyTooLarge(limit=limit)
    try:
        text = raw.decode("utf-8")
        body = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            _check_characters(body)
    except (ValueError, RecursionError) as error:
        raise exc.InvalidInput(f"Malformed request body: {_one_line(error)}") from error
    return body


def check_length(req: falcon.Request, limit: int) -> None:
    """Raises ``BodyTooLarge`` for a body that is announced with more than ``limit`` bytes."""
    announced = req.content_length or 0
    if announced > limit:
        if announced <= limit + _DRAINED_BYTES:
            _drain(_stream_of(req))
        raise errors.BodyTooLarge(limit=limit)


def _stream_of(req: falcon.Request) -> Any:
    # A chunked body has no length, and its stream ends by itself.
    return req.stream if req.env.get("wsgi.input_terminated") else req.bounded_stream


def _drain(stream: Any) -> None:
    """Read on for a while: a client whose connection is cut while it sends doesn't see the answer."""
    left = _DRAINED_BYTES
    while left > 0:
        try:
            part = stream.read(min(left, 65536))
        except (OSError, ValueError):
            return
        if not part:
            return
        left -= len(part)


def _check_characters(value: Any) -> None:
    """Raises ``ValueError`` for characters that came by an escape and that no database takes."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            item.encode("utf-8")
            if "\0" in item:
                raise ValueError("it has a NUL character")
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not valid UTF-8"
    return " ".join(str(error).split())[:_MAX_SHOWN] or "it can't be read"


class BodyChecker:
    """The schemas of one row, compiled; picks the one of the request's microversion."""

    def __init__(self, schemas: Sequence[tuple[int, Schema]]) -> None:
        """That each schema is one is left to the tests: checking it takes longer than everything else here."""
        self._versions: list[tuple[int, Any]] = [
            (first, jsonschema.Draft202012Validator(schema))
            for first, schema in sorted(schemas, key=lambda pair: pair[0], reverse=True)
        ]

    def check(self, body: Any, version: int) -> None:
        """Raises ``InvalidInput`` that names the field and says what it must be."""
        validator = next((found for first, found in self._versions if version >= first), None)
        if validator is None:
            return
        found = best_match(validator.iter_errors(body))
        if found is not None:
            raise exc.InvalidInput(reason=_explain(found))


def _explain(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(step) for step in error.absolute_path) or "the body"
    if error.validator == "required":
        return f"{path}: {error.message}"
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = set(error.schema.get("properties", ())) if isinstance(error.schema, Mapping) else set()
        unknown = sorted(str(name)[:60] for name in error.instance if name not in known)
        if known:
            return f"{path}: unknown field {', '.join(map(repr, unknown[:5]))}; known are: {', '.join(sorted(known))}"
        return f"{path}: {error.message[:_MAX_SHOWN]}"
    if error.validator in ("minProperties", "maxProperties"):
        return f"{path}: exactly one item is needed" if error.validator == "maxProperties" else f"{path} is empty"
    if error.validator == "maxLength":
        return f"{path} has more than {error.validator_value} characters"
    if error.validator == "pattern" and error.validator_value == UUID["pattern"]:
        return f"{path} must be an id (a UUID), not a name: {_shorten(error.instance)}"
    if error.validator == "pattern":
        return f"{path} has characters or a form that are not allowed: {_shorten(error.instance)}"
    return f"{path}: {_shorten_text(error.message)}"


def _shorten(value: Any) -> str:
    return _shorten_text(repr(value))


def _shorten_text(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
