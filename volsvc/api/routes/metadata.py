"""Metadata of volumes and snapshots: the same five requests on either.

A change is made of what is there in the transaction that writes it, so that two changes at once are
both kept.  From 3.15 on a client can guard itself with the ETag of what it read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from volsvc import exceptions as exc
from volsvc.api import errors
from volsvc.api import microversions as mv
from volsvc.api.call import Call
from volsvc.api.schemas import volumes as schemas
from volsvc.api.table import Handler, Reply, Row

Read = Callable[[Call, str], Mapping[str, str]]
Edit = Callable[[dict[str, str]], dict[str, str]]
Write = Callable[[Call, str, Edit], Mapping[str, str]]


def rows(base: str, read: Read, write: Write, rules: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows of ``{base}/metadata``; ``rules`` has a rule for get, create, update and delete."""
    collection, item = f"{base}/metadata", f"{base}/metadata/{{key}}"
    return (
        Row("GET", collection, _show_all(read), rules["get"]),
        Row("POST", collection, _merge(write), rules["create"], schemas=schemas.METADATA),
        Row("PUT", collection, _replace(write), rules["update"], schemas=schemas.METADATA),
        Row("GET", item, _show(read), rules["get"]),
        Row("PUT", item, _update(write), rules["update"], schemas=schemas.METADATA_ITEM),
        Row("DELETE", item, _delete(write), rules["delete"]),
    )


def _etag(metadata: Mapping[str, str]) -> str:
    text = json.dumps({"metadata": dict(metadata)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_etag(call: Call, metadata: Mapping[str, str]) -> None:
    if call.version < mv.ETAGS or not call.if_match or call.if_match.strip() == "*":
        return
    asked = {part.strip().removeprefix("W/").strip('"') for part in call.if_match.split(",")}
    if _etag(metadata) not in asked:
        raise errors.PreconditionFailed()


def _show_all(read: Read) -> Handler:
    def show_all(call: Call) -> Reply:
        metadata = dict(read(call, call.params["id"]))
        headers = {"ETag": f'"{_etag(metadata)}"'} if call.version >= mv.ETAGS else {}
        return Reply({"metadata": metadata}, headers=headers)

    return show_all


def _merge(write: Write) -> Handler:
    def merge(call: Call) -> dict[str, Any]:
        return {"metadata": dict(write(call, call.params["id"], lambda found: {**found, **call.body["metadata"]}))}

    return merge


def _replace(write: Write) -> Handler:
    def replace(call: Call) -> dict[str, Any]:
        def edit(found: dict[str, str]) -> dict[str, str]:
            _check_etag(call, found)
            return dict(call.body["metadata"])

        return {"metadata": dict(write(call, call.params["id"], edit))}

    return replace


def _show(read: Read) -> Handler:
    def show(call: Call) -> dict[str, Any]:
        key = call.params["key"]
        metadata = read(call, call.params["id"])
        if key not in metadata:
            raise exc.MetadataNotFound(id=key)
        return {"meta": {key: metadata[key]}}

    return show


def _update(write: Write) -> Handler:
    def update(call: Call) -> dict[str, Any]:
        key, item = call.params["key"], call.body["meta"]
        if key not in item:
            raise exc.InvalidInput("Request body and URI mismatch: the key in both must be the same")

        def edit(found: dict[str, str]) -> dict[str, str]:
            _check_etag(call, found)
            return {**found, **item}

        write(call, call.params["id"], edit)
        return {"meta": item}

    return update


def _delete(write: Write) -> Handler:
    def delete(call: Call) -> None:
        key = call.params["key"]

        def edit(found: dict[str, str]) -> dict[str, str]:
            if key not in found:
                raise exc.MetadataNotFound(id=key)
            del found[key]
            return found

        write(call, call.params["id"], edit)

    return delete
