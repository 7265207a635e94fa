"""The little reStructuredText that generated pages are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence

NOTICE = ".. Written by 'make docs' from the code; don't edit.\n"


def document(title: str, intro: str) -> str:
    """The start of a page."""
    return f"{NOTICE}\n{'=' * len(title)}\n{title}\n{'=' * len(title)}\n\n{intro}"


def section(title: str, body: str) -> str:
    return f"{title}\n{'-' * len(title)}\n\n{body}"


def literal(text: str) -> str:
    return f"``{text}``"


def list_table(header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """A table whose cells may be of any length."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            lines.append(f"   {'* -' if number == 0 else '  -'} {cell or '-'}")
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text that is not markup, whatever is in it."""
    return re.sub(r"([\\*`|]|_\b(?=\s|$))", r"\\\1", text)
