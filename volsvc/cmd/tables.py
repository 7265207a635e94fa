"""Printing rows: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

FORMATS = ("table", "json")


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
    """Print one record, a line for each field."""
    out = out or sys.stdout
    if output_format == "json":
        json.dump(dict(record), out, indent=2, default=str)
        out.write("\n")
        return
    print_rows([{"field": key, "value": value} for key, value in record.items()], ("field", "value"), "table", out)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=str)
    return " ".join(str(value).split())


def _line(cells: list[str], widths: list[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
