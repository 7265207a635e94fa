"""Query strings of lists, made into the store's queries: filters, sorting, pages, and links to the next page."""

from __future__ import annotations

import ast
import dataclasses
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from volsvc import exceptions as exc
from volsvc import ports
from volsvc.api import microversions
from volsvc.api.call import Call, parse_bool

T = TypeVar("T")

MAX_INT = 2**31 - 1
_MAX_METADATA_FILTER = 4096
# Taken out before filters are looked at.
_NO_FILTERS = frozenset(
    {"limit", "marker", "offset", "sort", "sort_key", "sort_dir", "with_count", "all_tenants", "detail"}
)


def _text(value: str, name: str) -> Any:
    return value


def boolean(value: str, name: str) -> Any:
    return parse_bool(value, name)


def integer(value: str, name: str) -> Any:
    return parse_int(value, name, 0)


@dataclass(frozen=True, slots=True)
class Filter:
    """A parameter of a list: the record's field, how it is read, from which microversion, for whom.

    ``like``: ``name~=part`` searches for a part from 3.34 on.  ``choose_column``: the field
    when it depends on the value.
    """

    column: str
    parse: Callable[[str, str], Any] = _text
    first: int = microversions.MIN
    admin_only: bool = False
    like: bool = False
    choose_column: Callable[[str], str] | None = None

    def column_for(self, value: str) -> str:
        return self.column if self.choose_column is None else self.choose_column(value)


def host_column(value: str) -> str:
    """``host@backend`` finds the things of all its pools, ``host@backend#pool`` those of one."""
    return "host" if "#" in value else "backend"


@dataclass(frozen=True, slots=True)
class ListShape:
    """What the list of one kind of thing understands.  ``sort``: key → the record's field."""

    kind: str
    filters: Mapping[str, Filter]
    sort: Mapping[str, str] = field(default_factory=dict)
    metadata_from: int | None = None
    is_per_project: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """``is_empty``: no record can match, so that the store need not be asked."""

    query: ports.Query
    with_count: bool
    is_empty: bool = False


def parse_int(value: str, name: str, minimum: int = 0, maximum: int = MAX_INT) -> int:
    """Raises ``InvalidInput`` unless the text is a whole number in that range."""
    try:
        number = int(value) if len(value) <= 20 else maximum + 1
    except ValueError:
        raise exc.InvalidInput(reason=f"{name} param must be an integer") from None
    if number < minimum:
        raise exc.InvalidInput(reason=f"{name} param must be at least {minimum}")
    if number > maximum and name != "limit":
        raise exc.InvalidInput(reason=f"{name} param must be at most {maximum}")
    return number


def parse_list(call: Call, shape: ListShape) -> Asked:
    """Raises ``InvalidInput`` for what can't be understood."""
    given = call.query
    limit = min(parse_int(given["limit"], "limit"), max_limit(call)) if "limit" in given else max_limit(call)
    filters, metadata, is_empty = _parse_filters(call, shape)
    with_count = call.version >= microversions.COUNTS and call.flag("with_count")
    query = ports.Query(
        project_id=None if not shape.is_per_project or wants_all_projects(call) else call.ctx.project_id,
        filters=filters,
        metadata=metadata,
        sort=_parse_sort(given, shape),
        limit=limit,
        offset=parse_int(given.get("offset", "0"), "offset"),
        marker=given.get("marker"),
    )
    return Asked(query, with_count, is_empty)


def fetch(asked: Asked, read: Callable[..., ports.Page[T]], call: Call, *, counts: bool = True) -> ports.Page[T]:
    """The page that was asked for.  An empty one of which nothing needs to be read is not read."""
    if asked.is_empty:
        return ports.Page((), has_more=False, total=0)
    if asked.query.limit == 0 and not asked.with_count:
        return ports.Page((), has_more=False)
    if counts:
        return read(call.ctx, asked.query, with_count=asked.with_count)
    return read(call.ctx, asked.query)


def max_limit(call: Call) -> int:
    limit: int = call.parts.settings.osapi_max_limit
    return limit


def wants_all_projects(call: Call) -> bool:
    """``all_tenants`` of an admin; of others it is ignored, since cinderclient always sends it."""
    return call.ctx.is_admin and call.flag("all_tenants")


def next_links(call: Call, path: str, items: tuple[Any, ...], has_more: bool) -> list[dict[str, str]]:
    """The link to the next page, or nothing after the last one."""
    if not has_more or not items:
        return []
    parameters = {**call.query, "marker": items[-1].id}
    parameters.pop("offset", None)
    return [{"rel": "next", "href": f"{call.href(path)}?{urllib.parse.urlencode(parameters)}"}]


def _parse_filters(call: Call, shape: ListShape) -> tuple[dict[str, Any], dict[str, str], bool]:
    filters: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    unknown: list[str] = []
    is_empty = False
    for name, value in call.query.items():
        if name in _NO_FILTERS:
            continue
        if name == "metadata" and shape.metadata_from is not None and call.version >= shape.metadata_from:
            metadata = _parse_metadata(value)
            continue
        if name == "consumes_quota" and call.version >= microversions.CONSUMES_QUOTA:
            # Everything here does.
            is_empty = is_empty or not parse_bool(value, name)
            continue
        base = name[:-1] if name.endswith("~") else name
        found = shape.filters.get(base)
        is_like = base != name
        if (
            found is None
            or call.version < found.first
            or (found.admin_only and not call.ctx.is_admin)
            or (is_like and not (found.like and call.version >= microversions.LIKE_FILTERS))
        ):
            unknown.append(name)
            continue
        column = found.column_for(value)
        filters[f"{column}~" if is_like else column] = found.parse(value, name)
    if unknown and call.version >= microversions.REFUSE_UNKNOWN_FILTERS:
        shown = ", ".join(sorted(name[:40] for name in unknown))
        raise exc.InvalidInput(
            f"Invalid filters {shown} are found in query options. Known are: {', '.join(sorted(shape.filters))}"
        )
    return filters, metadata, is_empty


def _parse_metadata(value: str) -> dict[str, str]:
    """Clients send a Python dictionary's text (``{'k': 'v'}``); JSON is a special case of that."""
    if len(value) > _MAX_METADATA_FILTER:
        raise exc.InvalidInput(reason="the metadata filter is too long")
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise exc.InvalidInput(reason="the metadata filter must look like {'key': 'value'}")
    return {key: str(item) for key, item in found.items()}


def _parse_sort(given: Mapping[str, str], shape: ListShape) -> tuple[tuple[str, str], ...]:
    if "sort" in given and ("sort_key" in given or "sort_dir" in given):
        raise exc.InvalidInput(
            reason="the 'sort_key' and 'sort_dir' parameters are deprecated and can't be used with 'sort'"
        )
    if "sort" in given:
        asked = [part.partition(":")[::2] for part in given["sort"].strip().split(",")]
    else:
        asked = [(given.get("sort_key", "created_at"), given.get("sort_dir", "desc"))]
    result: list[tuple[str, str]] = []
    for raw_key, raw_direction in asked:
        key, direction = raw_key.strip(), (raw_direction.strip() or "desc").lower()
        column = shape.sort.get(key)
        if column is None:
            raise exc.InvalidInput(
                reason=f"{shape.kind}s can't be sorted by {key[:40]!r}, only by: {', '.join(sorted(shape.sort))}"
            )
        if direction not in ("asc", "desc"):
            raise exc.InvalidInput(reason=f"the sort direction {direction[:40]!r} must be asc or desc")
        if column not in {found for found, _ in result}:
            result.append((column, direction))
    return tuple(result)


def with_filters(query: ports.Query, filters: Mapping[str, Any]) -> ports.Query:
    """The query with other filters."""
    return dataclasses.replace(query, filters=filters)
