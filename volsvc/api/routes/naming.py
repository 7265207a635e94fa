"""Names and descriptions in bodies: two spellings, white space, and what they are called in records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(body: Mapping[str, Any], name: str) -> str | None:
    """``name`` or ``display_name`` without white space around it."""
    value = body.get(name, body.get(f"display_{name}"))
    return value.strip() if isinstance(value, str) else None


def changes(body: Mapping[str, Any]) -> dict[str, Any]:
    """Those of name and description that the body gives."""
    return {name: text(body, name) for name in ("name", "description") if name in body or f"display_{name}" in body}
