"""Requests that can't be: answered as Cinder does, with a sentence that says what to do, and nothing changes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.user import CONNECTOR, Connection, State, User
from volsvc.testing.daemon import Daemon

NOBODY = "11111111-2222-3333-4444-555555555555"


@dataclasses.dataclass(frozen=True)
class World:
    """One service with a resource in each state that a bad request may meet."""

    user: User
    free: Any  # 2 GiB, available
    parent: Any  # 2 GiB, has a snapshot
    attached: Any
    reserved: Any
    snapshot: Any
    connection: Connection
    reservation: str
    kind: Any  # a volume type in use
    state: State

    def path(self, template: str) -> str:
        names = {
            name: getattr(self, name).id for name in ("free", "parent", "attached", "reserved", "snapshot", "kind")
        }
        default = self.user.cinder.volume_types.default().id
        return template.format(
            nobody=NOBODY, reservation=self.reservation, connection=self.connection.id, default=default, **names
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Daemon().start() as daemon:
        user = User(daemon.wait_ready())
        parent, attached, reserved = user.create(2), user.create(1), user.create(1)
        snapshot = user.snapshot(parent)
        connection = user.connect(attached)
        reservation = user.cinder.attachments.create(reserved.id, None, NOBODY)["id"]
        kind = user.cinder.volume_types.create("used")
        user.create(1, volume_type="used")
        free = user.create(2)
        user.wait_idle()
        yield World(
            *(user, free, parent, attached, reserved, snapshot, connection, reservation, kind),
            state=user.state(),
        )


def volume(**fields: Any) -> tuple[str, str, Any]:
    return "POST", "/volumes", {"volume": fields}


def action(which: str, name: str, **fields: Any) -> tuple[str, str, Any]:
    return "POST", f"/volumes/{{{which}}}/action", {name: fields}


def snapshot(**fields: Any) -> tuple[str, str, Any]:
    return "POST", "/snapshots", {"snapshot": fields}


def attach(which: str, **fields: Any) -> tuple[str, str, Any]:
    return "POST", "/attachments", {"attachment": {"volume_uuid": f"{{{which}}}", **fields}}


# What is asked, the status that answers, and what the sentence must say.
CASES: dict[str, tuple[tuple[str, str, Any], int, str]] = {
    # creating
    "unknown field": (volume(size=1, colour="red"), 400, "unknown field 'colour'; known are: .*size"),
    "size is a word": (volume(size="ten"), 400, r"volume\.size.*'ten'"),
    "size is a fraction": (volume(size=1.5), 400, r"volume\.size.*integer"),
    "size is a truth": (volume(size=True), 400, r"volume\.size.*integer"),
    "size 0": (volume(size=0), 400, "less than the minimum of 1"),
    "negative size": (volume(size=-1), 400, "less than the minimum of 1"),
    "no size": (volume(name="x"), 400, "size is needed"),
    "size beyond the backend": (volume(size=1_000_000), 413, "No backend has room .* ask for less"),
    "size beyond all reason": (volume(size=10**9), 413, "more than the 1048576 GiB allowed"),
    "size beyond an integer": (volume(size=10**30), 400, "greater than the maximum"),
    "unknown type": (volume(size=1, volume_type="gold"), 404, "Volume type gold could not be found"),
    "unknown snapshot": (volume(size=1, snapshot_id=NOBODY), 404, f"Snapshot {NOBODY} could not be found"),
    "snapshot is no id": (volume(size=1, snapshot_id="x"), 400, r"volume\.snapshot_id must be an id .*not a name: 'x'"),
    "unknown source": (volume(size=1, source_volid=NOBODY), 404, f"Volume {NOBODY} could not be found"),
    "two sources": (volume(source_volid="{parent}", snapshot_id="{snapshot}"), 400, "give one of them"),
    "smaller than its snapshot": (volume(size=1, snapshot_id="{snapshot}"), 400, "smaller than .* source .2 GiB."),
    "smaller than its source": (volume(size=1, source_volid="{parent}"), 400, "smaller than .* source .2 GiB."),
    "source is reserved": (volume(source_volid="{reserved}"), 400, "'reserved'.*available, in-use.*attachment first"),
    "long name": (volume(size=1, name="n" * 300), 400, "more than 255 characters"),
    "metadata that is no text": (volume(size=1, metadata={"a": 1}), 400, r"metadata\.a.*string"),
    "unknown zone": (volume(size=1, availability_zone="mars"), 503, "zone nova, not mars"),
    "no JSON": (("POST", "/volumes", "{nonsense"), 400, "Malformed request body"),
    "no object": (("POST", "/volumes", [1]), 400, "not of type 'object'"),
    "nothing": (("POST", "/volumes", None), 400, "Malformed request body"),
    "another body": (("POST", "/volumes", {"disk": {}}), 400, "'volume' is a required property|unknown field 'disk'"),
    # changing
    "extend downward": (action("free", "os-extend", new_size=1), 400, "must be greater than current size.*current: 2"),
    "extend to the same": (action("free", "os-extend", new_size=2), 400, "must be greater than current size"),
    "extend by a word": (action("free", "os-extend", new_size="big"), 400, r"os-extend\.new_size"),
    "extend beyond the backend": (action("free", "os-extend", new_size=1_000_000), 413, "don't fit. Ask for less"),
    "extend what is reserved": (action("reserved", "os-extend", new_size=3), 400, "'reserved'.*attachment first"),
    "extend nothing": (action("nobody", "os-extend", new_size=3), 404, "could not be found"),
    "unknown action": (action("free", "os-fly"), 400, "no such action: os-fly.*os-extend"),
    "two actions": (
        ("POST", "/volumes/{free}/action", {"os-extend": {"new_size": 3}, "os-set_bootable": {"bootable": True}}),
        *(400, "an object with one key"),
    ),
    "bootable is neither": (action("free", "os-set_bootable", bootable="maybe"), 400, "bootable: 'maybe'"),
    "writing a status": (("PUT", "/volumes/{free}", {"volume": {"status": "error"}}), 400, "unknown field 'status'"),
    # deleting
    "delete what is attached": (("DELETE", "/volumes/{attached}", None), 400, "'in-use'.*Delete its attachment first"),
    "cascade what is attached": (("DELETE", "/volumes/{attached}?cascade=True", None), 400, "attachment first"),
    "force delete what is attached": (action("attached", "os-force_delete"), 400, "detach it first"),
    "delete what is reserved": (("DELETE", "/volumes/{reserved}", None), 400, "'reserved'.*attachment first"),
    "delete what has snapshots": (
        ("DELETE", "/volumes/{parent}", None),
        400,
        "1 dependent snapshot; delete them first",
    ),
    "force delete what has snapshots": (action("parent", "os-force_delete"), 400, "delete them first"),
    "delete nothing": (("DELETE", "/volumes/{nobody}", None), 404, "could not be found"),
    "delete no snapshot": (("DELETE", "/snapshots/{nobody}", None), 404, "could not be found"),
    "delete no attachment": (("DELETE", "/attachments/{nobody}", None), 404, "could not be found"),
    "delete the default type": (("DELETE", "/types/{default}", None), 400, "default volume type can't be deleted"),
    "delete a type in use": (("DELETE", "/types/{kind}", None), 400, "used by volumes.*delete or retype them first"),
    # snapshots
    "snapshot of nothing": (snapshot(volume_id=NOBODY), 404, f"Volume {NOBODY} could not be found"),
    "snapshot of what is reserved": (snapshot(volume_id="{reserved}"), 400, "'reserved'.*available, in-use"),
    "snapshot without a volume": (snapshot(name="x"), 400, "'volume_id' is a required property"),
    "snapshot with a size": (snapshot(volume_id="{free}", size=7), 400, "unknown field 'size'"),
    # attachments
    "a second attachment": (attach("attached", connector=CONNECTOR), 400, "not multiattach and already has"),
    "a second reservation": (attach("attached", instance_uuid=NOBODY), 400, "not multiattach and already has"),
    "attach what is reserved": (attach("reserved", connector=CONNECTOR), 400, "not multiattach and already has"),
    "attach nothing": (attach("nobody", connector=CONNECTOR), 404, "could not be found"),
    "attach in no known mode": (attach("free", connector=CONNECTOR, mode="wx"), 400, "'wx' is not one of"),
    "connector is a word": (attach("free", connector="me"), 400, "connector: 'me' is not of type 'object'"),
    "empty connector": (("PUT", "/attachments/{reservation}", {"attachment": {"connector": {}}}), 400, "is empty"),
    "complete what isn't connected": (
        ("POST", "/attachments/{reservation}/action", {"os-complete": {}}),
        *(400, "no connection; update it with a connector first"),
    ),
    # lists and the rest
    "limit is a word": (("GET", "/volumes?limit=x", None), 400, "limit param must be an integer"),
    "negative limit": (("GET", "/volumes?limit=-1", None), 400, "at least 0"),
    "marker is gone": (("GET", "/volumes?marker={nobody}", None), 404, "could not be found"),
    "sort by nothing known": (("GET", "/volumes?sort=colour:asc", None), 400, "sorted by 'colour', only by"),
    "type's name is taken": (("POST", "/types", {"volume_type": {"name": "used"}}), 409, "choose another name"),
    "unknown operation": (("GET", "/operations/{nobody}", None), 404, "could not be found"),
    "cancel nothing": (("POST", "/operations/{nobody}/action", {"os-cancel": {}}), 404, "could not be found"),
    "unknown path": (("GET", "/nothing", None), 404, "could not be found"),
    "method that a path hasn't": (("PATCH", "/volumes", None), 405, "not allowed"),
}


def filled(world: World, value: Any) -> Any:
    """The value with each ``{name}`` replaced by that resource's id."""
    if isinstance(value, str):
        return world.path(value) if value.startswith("{") and value.endswith("}") else value
    if isinstance(value, dict):
        return {key: filled(world, inner) for key, inner in value.items()}
    return value


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_is_answered_with_what_to_do_and_changes_nothing(world: World, name: str) -> None:
    (method, path, body), wanted, sentence = CASES[name]
    status, answer = world.user.call(method, world.path(path), filled(world, body))
    assert status == wanted, answer
    [fault] = answer.values()
    assert fault["code"] == wanted
    assert re.search(sentence, fault["message"]), fault["message"]
    assert world.user.state() == world.state


def test_a_microversion_out_of_range_names_the_range(world: World) -> None:
    status, answer = world.user.call("GET", "/volumes", version="3.999")
    assert status == 406
    assert "Minimum is 3.0 and maximum is 3.71" in str(answer)
