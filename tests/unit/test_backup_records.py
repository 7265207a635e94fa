from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from volsvc import exceptions as exc
from volsvc import models
from volsvc.volume_api import backup_records

LINES = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=255)
IDS = st.uuids().map(str)
TRAVELS = (
    "id", "size_gb", "volume_id", "data_timestamp", "metadata", "name", "description", "container", "service",
    "volume_name", "snapshot_id", "store_uuid",
)  # fmt: skip

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | IDS | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.builds(
        models.Backup,
        id=IDS,
        volume_id=IDS,
        size_gb=st.integers(1, 2**31 - 1),
        status=st.just("available"),
        project_id=st.just("project"),
        user_id=st.just("user"),
        snapshot_id=st.none() | IDS,
        store_uuid=st.none() | IDS,
        name=LINES,
        description=LINES,
        container=LINES,
        service=LINES,
        volume_name=LINES,
        data_timestamp=st.none() | st.datetimes(min_value=dt.datetime(1970, 1, 1)),
        metadata=st.dictionaries(LINES.map(str), LINES.map(str), max_size=3),
        provider=st.just({}),
        created_at=st.none(),
        updated_at=st.none(),
    )
)
def test_what_is_exported_can_be_imported(backup: models.Backup) -> None:
    fields = backup_records.decode(backup_records.encode(backup))
    assert fields == {name: getattr(backup, name) for name in TRAVELS}


@given(st.dictionaries(st.sampled_from([*TRAVELS, "size", "display_name", "version"]), JSON_VALUES))
def test_any_record_is_taken_whole_or_refused(record: dict[str, Any]) -> None:
    given_id = {"id": str(uuid.UUID(int=1)), "size": 1}
    text = base64.b64encode(json.dumps({**given_id, **record}).encode()).decode()
    with contextlib.suppress(exc.InvalidInput):
        fields = backup_records.decode(text)
        made = models.Backup(**fields, status="creating", project_id="p", user_id="u")
        json.dumps(dataclasses.asdict(made), default=str).encode()
        assert made.size_gb >= 1


@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_any_text_is_a_record_or_refused(text: str) -> None:
    with contextlib.suppress(exc.InvalidInput):
        backup_records.decode(text)
