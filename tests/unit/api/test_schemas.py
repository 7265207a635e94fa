from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from volsvc import exceptions as exc
from volsvc.api.bodies import BodyChecker
from volsvc.api.routes import PUBLIC_ROWS, ROWS
from volsvc.api.schemas import attachments, services, snapshots, volume_types, volumes

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize("row", [row for row in ROWS if row.schemas], ids=lambda row: f"{row.method} {row.path}")
def test_every_schema_is_one(row: Any) -> None:
    for _, schema in row.schemas:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_row_that_changes_something_says_what_its_body_is() -> None:
    for row in (*ROWS, *PUBLIC_ROWS):
        takes_body = row.method in ("POST", "PUT")
        assert bool(row.schemas) == takes_body, row


GOOD = [
    (volumes.CREATE, 0, {"volume": {"size": 1}}),
    (volumes.CREATE, 0, {"volume": {"size": "1", "name": None, "metadata": None}}),
    (volumes.CREATE, 0, {"volume": {"size": 1, "status": "creating", "user_id": None}}),
    (volumes.CREATE, 0, {"volume": {"size": 1, "backup_id": None, "group_id": None}}),
    (volumes.CREATE, 53, {"volume": {"size": None, "snapshot_id": UUID, "source_volid": None}}),
    (volumes.CREATE, 71, {"volume": {"size": 2147483647, "metadata": {"a b/c:d": ""}}}),
    (volumes.CREATE, 71, {"volume": {"size": 1, "description": "two\nlines"}, "OS-SCH-HNT:scheduler_hints": None}),
    (volumes.UPDATE, 0, {"volume": {}}),
    (volumes.UPDATE, 71, {"volume": {"display_name": "x"}}),
    (volumes.EXTEND, 71, {"os-extend": {"new_size": "10"}}),
    (volumes.SET_BOOTABLE, 71, {"os-set_bootable": {"bootable": "True"}}),
    (snapshots.CREATE, 71, {"snapshot": {"volume_id": UUID.replace("-", ""), "force": True}}),
    (attachments.CREATE, 27, {"attachment": {"volume_uuid": UUID, "connector": None}}),
    (attachments.CREATE, 54, {"attachment": {"volume_uuid": UUID, "mode": "ro"}}),
    (services.ENABLE_OR_DISABLE, 0, {"binary": "volsvc-volume", "host": "node@file#pool"}),
    (volume_types.CREATE, 0, {"volume_type": {"name": "gold", "extra_specs": {"multiattach": "<is> True"}}}),
]

BAD: list[tuple[Any, int, Any, str]] = [
    (volumes.CREATE, 71, {}, "volume"),
    (volumes.CREATE, 71, [], "object"),
    (volumes.CREATE, 71, None, "object"),
    (volumes.CREATE, 71, {"volume": {}, "more": 1}, "more"),
    (volumes.CREATE, 71, {"volume": {"size": 0}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": "0"}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": -1}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": 1.5}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": True}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": "1x"}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": 2**31}}, "volume.size"),
    (volumes.CREATE, 71, {"volume": {"size": 1, "status": "creating"}}, "'status'"),
    (volumes.CREATE, 0, {"volume": {"size": 1, "sizes": 2}}, "'sizes'"),
    (volumes.CREATE, 0, {"volume": {"size": 1, "backup_id": "b"}}, "volume.backup_id"),
    (volumes.CREATE, 71, {"volume": {"size": 1, "name": "x" * 256}}, "255 characters"),
    (volumes.CREATE, 71, {"volume": {"size": 1, "name": "a\nb"}}, "volume.name"),
    (volumes.CREATE, 71, {"volume": {"size": 1, "metadata": {"k": 1}}}, "volume.metadata.k"),
    (volumes.CREATE, 71, {"volume": {"size": 1, "metadata": {"": "v"}}}, "volume.metadata"),
    (volumes.CREATE, 71, {"volume": {"size": 1, "snapshot_id": "../etc"}}, "volume.snapshot_id"),
    (volumes.UPDATE, 53, {"volume": {}}, "volume"),
    (volumes.UPDATE, 0, {"volume": {"size": 3}}, "'size'"),
    (volumes.METADATA_ITEM, 71, {"meta": {"a": "1", "b": "2"}}, "meta"),
    (volumes.METADATA_ITEM, 71, {"meta": {}}, "meta"),
    (volumes.EXTEND, 71, {"os-extend": {}}, "new_size"),
    (snapshots.CREATE, 71, {"snapshot": {"name": "x"}}, "volume_id"),
    (attachments.CREATE, 27, {"attachment": {"volume_uuid": UUID, "mode": "ro"}}, "'mode'"),
    (attachments.CREATE, 54, {"attachment": {"volume_uuid": UUID, "mode": "wo"}}, "attachment.mode"),
    (attachments.UPDATE, 54, {"attachment": {"connector": {}}}, "attachment.connector"),
    (services.ENABLE_OR_DISABLE, 0, {"host": "node"}, "the body"),
    (services.ENABLE_OR_DISABLE, 0, {"binary": "x", "host": "a b"}, "host"),
    (volume_types.CREATE, 0, {"volume_type": {"name": ""}}, "volume_type.name"),
]


@pytest.mark.parametrize(("schemas", "version", "body"), GOOD)
def test_a_body_that_cinder_takes_is_taken(schemas: Any, version: int, body: Any) -> None:
    BodyChecker(schemas).check(body, version)


@pytest.mark.parametrize(("schemas", "version", "body", "named"), BAD)
def test_a_bad_body_is_refused_with_the_field_named(schemas: Any, version: int, body: Any, named: str) -> None:
    with pytest.raises(exc.InvalidInput) as caught:
        BodyChecker(schemas).check(body, version)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 700
