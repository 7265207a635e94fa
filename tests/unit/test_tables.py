"""What the commands print of one record can be read on a terminal, whatever is in it."""

from __future__ import annotations

import io
import json

from volsvc.cmd import tables

RECORD = {
    "id": "an-id",
    "error": None,
    "result": {"calls": [{"call": "detach_volume", "ok": True}], "cancelled": [], "exports": ["one", "two"]},
    "reason": "word " * 100,
}


def printed(output_format: str) -> str:
    out = io.StringIO()
    tables.print_record(RECORD, output_format, out)
    return out.getvalue()


def test_a_record_is_printed_with_a_line_for_each_leaf() -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:3]] for line in printed("table").splitlines()[3:-1]]
    assert lines[:6] == [
        ["id", "an-id"],
        ["error", "-"],
        ["result.calls.0.call", "detach_volume"],
        ["result.calls.0.ok", "True"],
        ["result.cancelled", "-"],
        ["result.exports", "one, two"],
    ]
    assert lines[6][0] == "reason"
    assert {field for field, _ in lines[7:]} == {""}
    assert " ".join(words for _, words in lines[6:]) == RECORD["reason"].strip()  # type: ignore[attr-defined]
    assert max(map(len, printed("table").splitlines())) < 140


def test_json_has_the_record_as_it_is() -> None:
    assert json.loads(printed("json")) == RECORD
