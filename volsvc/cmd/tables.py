"""Printing rows: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

FORMATS = ("table", "json")
WIDTH = 100  # of a value in the table of one record


def end_unread() -> int:
    """The exit code when whoever read the output has left (``| head``), as a shell counts SIGPIPE; says nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output_format: str, out: TextIO | None = None
) -> None:
    """Print the columns of rows; JSON has every key that a row has."""
    out = out or sys.stdout
    if output_format == "json":
        json.dump([dict(row) for row in rows], out, indent=2, default=str)
        out.write("\n")
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells), 0) for i, column in enumerate(columns)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    out.write(f"{rule}\n{_line(list(columns), widths)}\n{rule}\n")
    for line in cells:
        out.write(_line(line, widths) + "\n")
    if cells:
        out.write(rule + "\n")


def print_record(record: Mapping[str, Any], output_format: str, out: TextIO | None = None) -> None:
    """Print one record, a line for each field and for each field of its fields."""
    out = out or sys.stdout
    if output_format == "json":
        json.dump(dict(record), out, indent=2, default=str)
        out.write("\n")
        return
    rows = []
    for key, value in _leaves("", record):
        lines = textwrap.wrap(_cell(value), WIDTH, break_on_hyphens=False) or ["-"]
        rows += [{"field": key if number == 0 else "", "value": line} for number, line in enumerate(lines)]
    print_rows(rows, ("field", "value"), "table", out)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of by its path, ``result.calls.0.ok``; a list of plain values is one."""
    if isinstance(value, Mapping) and value:
        for key, found in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), found)
    elif isinstance(value, list | tuple) and any(isinstance(found, dict | list | tuple) for found in value):
        for number, found in enumerate(value):
            yield from _leaves(f"{path}.{number}", found)
    else:
        yield path, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=str)
    return " ".join(str(value).split())


def _line(cells: list[str], widths: list[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
