"""One row for each thing the API can do; everything else about a request follows from its row.

The rows stand in ``routes``, by subject.  They drive routing, validation, policy and status
codes, and can be printed as a description of the API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from volsvc.api import microversions

if TYPE_CHECKING:
    from volsvc.api.call import Call

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is more than a body: other headers or another code than the row's."""

    body: Mapping[str, Any] | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Mapping[str, Any] | Reply | None
Handler = Callable[["Call"], Answer]


@dataclass(frozen=True, slots=True)
class Row:
    """``method`` on ``path`` (below ``/v3``), from microversion ``first`` to ``last``.

    ``action``: the single key of the body of a POST to ``.../action``.  ``rule``: the policy
    rule, None for a document that everyone may read without authentication.  ``schemas``:
    (first microversion, JSON schema of the body), ascending; a row without one takes no body.
    ``success``: the status code of an ordinary answer.
    """

    method: str
    path: str
    handler: Handler
    rule: str | None
    success: int = 200
    action: str | None = None
    schemas: tuple[tuple[int, Schema], ...] = ()
    first: int = microversions.MIN
    last: int = microversions.MAX
