"""The table of statuses: what it says, pair by pair, and that it can't lead into a dead end."""

from __future__ import annotations

import pytest

from volsvc import states
from volsvc.states import (
    TRANSITIONS,
    AttachStatus,
    BackupStatus,
    Becomes,
    From,
    Resource,
    SnapshotStatus,
    Standing,
    VolumeStatus,
)

WORDS = {
    Resource.VOLUME: set(VolumeStatus),
    Resource.SNAPSHOT: set(SnapshotStatus),
    Resource.ATTACHMENT: set(AttachStatus),
    Resource.BACKUP: set(BackupStatus),
}

# What may start from where, written out a second time: a change of the table has to be meant.
ALLOWED = {
    "volume_delete": {
        "available", "error", "error_deleting", "error_extending", "error_restoring", "error_managing",
    },
    "volume_extend": {"available"},
    "volume_extend_attached": {"in-use"},
    "snapshot_delete": {"available", "error", "error_deleting"},
    "attachment_connect": {"reserved", "attaching", "error_attaching"},
    "attachment_complete": {"attaching", "attached"},
    "attachment_release": {"reserved"},
    "attachment_disconnect": {"attached", "attaching", "detaching", "error_attaching", "error_detaching"},
    "backup_delete": {"available", "error", "error_deleting"},
    "backup_forget": {"error", "error_deleting"},
    "backup_restore": {"available"},
    "backup_restore_to_new": {"available"},
}  # fmt: skip
ALLOWED_SECOND = {
    "volume_create_from_snapshot": {"available"},
    "volume_clone": {"available", "in-use"},
    "snapshot_create": {"available", "in-use"},
    "attachment_reserve": {"available", "in-use", "reserved", "attaching"},
    "attachment_create": {"available", "in-use", "reserved", "attaching"},
    "backup_create": {"available", "in-use"},
    "backup_create_from_snapshot": {"available"},
    "backup_restore": {"available"},
    "backup_restore_to_new": {"restoring-backup"},
    "backup_snapshot_create": {"available", "in-use", "backing-up"},
}
# What an operation on two resources makes of the second: during, after success, after failure.
SECOND_STATUSES = {
    "backup_create": ("backing-up", Becomes.PREVIOUS, Becomes.PREVIOUS),
    "backup_create_from_snapshot": ("backing-up", Becomes.PREVIOUS, Becomes.PREVIOUS),
    "backup_restore": ("restoring-backup", "available", "error_restoring"),
    "backup_restore_to_new": ("restoring-backup", "available", "error_restoring"),
}
# during, after success, after failure
STATUSES = {
    "volume_create": ("creating", "available", "error"),
    "volume_create_from_snapshot": ("creating", "available", "error"),
    "volume_clone": ("creating", "available", "error"),
    "volume_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "volume_force_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "volume_extend": ("extending", "available", "error_extending"),
    "volume_extend_attached": ("extending", Becomes.PREVIOUS, Becomes.PREVIOUS),
    "snapshot_create": ("creating", "available", "error"),
    "snapshot_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "snapshot_force_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "attachment_reserve": ("reserved", "reserved", Becomes.GONE),
    "attachment_create": ("attaching", "attaching", Becomes.GONE),
    "attachment_connect": ("attaching", "attaching", "error_attaching"),
    "attachment_complete": ("attached", "attached", Becomes.PREVIOUS),
    "attachment_release": (Becomes.GONE, Becomes.GONE, Becomes.PREVIOUS),
    "attachment_disconnect": ("detaching", Becomes.GONE, "error_detaching"),
    "backup_create": ("creating", "available", "error"),
    "backup_create_from_snapshot": ("creating", "available", "error"),
    "backup_import": ("creating", "available", "error"),
    "backup_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "backup_force_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "backup_forget": (Becomes.GONE, Becomes.GONE, Becomes.PREVIOUS),
    "backup_restore": ("restoring", "available", "available"),
    "backup_restore_to_new": ("restoring", "available", "available"),
    "backup_snapshot_create": ("creating", "backing-up", "error"),
    "backup_snapshot_delete": ("deleting", Becomes.GONE, "error_deleting"),
    "volume_create_to_restore": ("restoring-backup", "restoring-backup", "error"),
}

WITH_STATUS = {
    action: row
    for action, row in TRANSITIONS.items()
    if row.first.resource is not Resource.SERVICE and row.standing is Standing.IN_LINE
}


@pytest.mark.parametrize("action", sorted(states.AHEAD | states.ASIDE))
def test_what_is_out_of_line_may_be_asked_for_always_and_writes_no_status_by_this_table(action: str) -> None:
    row = TRANSITIONS[action]
    assert row.first.sources is From.ANY
    assert (row.first.during, row.first.success, row.first.failure) == (Becomes.UNCHANGED,) * 3
    assert row.second is None
    assert not row.record_only


def test_every_action_is_written_out_here() -> None:
    assert set(STATUSES) == set(WITH_STATUS)


@pytest.mark.parametrize("action", sorted(WITH_STATUS))
def test_each_status_is_allowed_or_not_as_written_out(action: str) -> None:
    change = TRANSITIONS[action].first
    allowed = {status for status in WORDS[change.resource] if change.may_start_from(status)}
    if change.sources is From.ANY:
        assert allowed == WORDS[change.resource]
    else:
        assert allowed == ALLOWED.get(action, set())
        assert (change.sources is From.NEW) == (action not in ALLOWED)


@pytest.mark.parametrize("action", sorted(WITH_STATUS))
def test_the_second_resource_is_allowed_or_not_as_written_out(action: str) -> None:
    second = TRANSITIONS[action].second
    if second is None or second.sources is From.ANY:
        assert action not in ALLOWED_SECOND
        return
    assert {status for status in WORDS[second.resource] if second.may_start_from(status)} == ALLOWED_SECOND[action]


@pytest.mark.parametrize("action", sorted(WITH_STATUS))
def test_each_action_leads_where_written_out(action: str) -> None:
    change = TRANSITIONS[action].first
    assert (change.during, change.success, change.failure) == STATUSES[action]


@pytest.mark.parametrize("action", sorted(WITH_STATUS))
def test_no_end_is_a_status_that_says_something_is_going_on(action: str) -> None:
    # An attachment stays "attaching" until its client says that it has connected.
    resting = {"attaching", "reserved"}
    # These are ended by another operation that is recorded already.
    if action in ("volume_create_to_restore", "backup_snapshot_create"):
        resting |= {"restoring-backup", "backing-up"}
    for change in (TRANSITIONS[action].first, TRANSITIONS[action].second):
        if change is None:
            continue
        for end in (change.success, change.failure):
            is_going_on = not isinstance(end, Becomes) and ("ing" in end or end == "backing-up")
            assert not is_going_on or end in resting or str(end).startswith("error")
            assert isinstance(end, Becomes) or end in WORDS[change.resource]


@pytest.mark.parametrize("action", sorted(TRANSITIONS))
def test_only_what_changes_nothing_is_shared(action: str) -> None:
    row = TRANSITIONS[action]
    assert row.first.shared is False
    if row.second is not None and row.second.shared:
        leads_to = (row.second.during, row.second.success, row.second.failure)
        # What backs up only shows that it reads.
        assert leads_to in ((Becomes.UNCHANGED,) * 3, ("backing-up", Becomes.PREVIOUS, Becomes.PREVIOUS))


@pytest.mark.parametrize("action", sorted(TRANSITIONS))
def test_what_owns_the_status_of_a_second_resource_is_written_out(action: str) -> None:
    second = TRANSITIONS[action].second
    found = None if second is None else (second.during, second.success, second.failure)
    assert SECOND_STATUSES.get(action) == (found if second is not None and second.owns_status else None)


def test_only_the_backup_of_a_volume_is_in_nobodys_way() -> None:
    assert {"backup_create"} == states.UNHELD


@pytest.mark.parametrize("status", sorted(VolumeStatus))
def test_from_every_status_a_volume_can_be_got_rid_of(status: str) -> None:
    assert TRANSITIONS["volume_force_delete"].first.may_start_from(status)


def test_new_is_no_status() -> None:
    assert not TRANSITIONS["volume_create"].first.may_start_from("creating")


@pytest.mark.parametrize(
    ("attachments", "volume", "attach"),
    [
        ([], "available", "detached"),
        (["reserved"], "reserved", "reserved"),
        (["error_attaching"], "reserved", "detached"),
        (["attaching"], "attaching", "attaching"),
        (["detaching"], "detaching", "detaching"),
        (["attached"], "in-use", "attached"),
        (["error_detaching"], "in-use", "attached"),
        (["reserved", "attaching"], "attaching", "attaching"),
        (["attaching", "detaching"], "detaching", "detaching"),
        (["detaching", "attached"], "in-use", "attached"),
        (["reserved", "error_detaching", "attaching"], "in-use", "attached"),
        (["reserved", "error_attaching"], "reserved", "reserved"),
    ],
)
def test_attachments_decide_the_volume(attachments: list[str], volume: str, attach: str) -> None:
    for order in (attachments, attachments[::-1]):
        assert states.compute_volume_status(order) == volume
        assert states.compute_attach_status(iter(order)) == attach


def test_what_attachments_decide_is_what_they_can_be_computed_to() -> None:
    computed = {states.compute_volume_status([status]) for status in AttachStatus} | {VolumeStatus.AVAILABLE}
    assert computed == states.ATTACHMENT_DERIVED


def test_an_operation_that_is_open_is_queued_or_running() -> None:
    assert {"queued", "running"} == states.OPEN_STATES
