"""Every reset there is: each status to each status, attached or not, whatever the driver says, each force.

What has to come out is written down here a second time, so that a change of the table has to be meant.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa

from tests.unit.reset.bench import ADMIN, CONNECTOR, Backend
from volsvc import exceptions as exc
from volsvc import models, resets
from volsvc.db import records, schema
from volsvc.states import AttachStatus, Resource, SnapshotStatus, VolumeStatus
from volsvc.testing.stores import builders as b

RECORD_ONLY = {
    "error", "creating", "deleting", "error_deleting", "attaching", "detaching", "reserved", "maintenance",
}  # fmt: skip
TARGETS = RECORD_ONLY | {"available", "in-use"}
SNAPSHOT_TARGETS = {"available", "error", "creating", "deleting", "error_deleting"}

#: What the driver is told to do wrong: method → rule.  The last ones are not about failing calls.
SCRIPTS: dict[str, dict[str, dict[str, object]]] = {
    "does it": {},
    "fails": {name: {"fail": True} for name in ("detach_volume", "initialize_connection")},
    "breaks": {name: {"fail": True, "error": "KeyError"} for name in ("detach_volume", "initialize_connection")},
    "does it, then fails": {
        name: {"fail": True, "when": "after"} for name in ("detach_volume", "initialize_connection")
    },
    "has no such method": {
        name: {"fail": True, "error": "NotImplementedError"} for name in ("detach_volume", "initialize_connection")
    },
    "can't be asked": {"inspect_volume": {"fail": True}},
    "can't tell": {"inspect_volume": {"fail": True, "error": "NotImplementedError"}},
    "has no such volume": {},
}


@dataclass(frozen=True)
class Expected:
    """``calls`` are those of the reset itself, putting back left out."""

    calls: list[str]
    error: type[Exception] | None = None
    puts_back: bool = False


def expect(target: str, attached: bool, script: str, force: str | None) -> Expected:
    if target == "in-use" and not attached:
        return Expected([], exc.Conflict)
    if target in RECORD_ONLY or force == "skip":
        return Expected([])
    call = "detach_volume" if target == "available" else "initialize_connection"
    is_ignored = force == "ignore"
    looks_again = target == "available" and attached and script not in ("can't be asked", "can't tell")
    every_call = ["inspect_volume", *([call] if attached else []), *(["inspect_volume"] if looks_again else [])]
    if is_ignored:
        return Expected(every_call)
    if script in ("can't be asked", "has no such volume"):
        return Expected(["inspect_volume"], exc.ResetFailed)
    if attached and script in ("fails", "breaks", "does it, then fails"):
        return Expected(["inspect_volume", call], exc.ResetFailed, puts_back=True)
    if attached and script == "has no such method":
        return Expected(["inspect_volume", call], exc.DetachNotSupported)
    return Expected(every_call)


class Subject:
    """One volume that every combination begins with anew."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.volume = backend.create()
        self.name = f"volume-{self.volume.id}"
        with backend.driver.store.transaction() as state:
            self.file = dict(state["files"][self.name])

    def begin(self, status: str, attached: bool, script: str) -> models.Attachment | None:
        """Written past the gate: what comes before a reset isn't what is tried here, and there are thousands."""
        backend, volume = self.backend, self.volume
        backend.script.clear()
        with backend.driver.store.transaction() as state:
            state["exports"].clear()
            state["files"][self.name] = dict(self.file)
        attachment = None
        with backend.engine.begin() as connection:
            connection.execute(sa.delete(schema.attachments))
            if attached:
                attachment = models.Attachment(
                    b.new_id(), volume.id, "attached", "project", attached_host="client", connector=CONNECTOR
                )
                attachment = replace(
                    attachment,
                    connection_info=backend.driver.initialize_connection(volume, attachment),
                    attached_at=b.utcnow(),
                    created_at=b.utcnow(),
                )
                connection.execute(sa.insert(schema.attachments), records.values_of(attachment, schema.attachments))
            connection.execute(
                sa.update(schema.volumes).values(status=status, attach_status="attached" if attached else "detached")
            )
        if script == "has no such volume":
            with backend.driver.store.transaction() as state:
                del state["files"][self.name]
        for method, rule in SCRIPTS[script].items():
            backend.script.set(method, **rule)
        backend.calls.clear()
        return attachment

    def check(self, source: str, target: str, attached: bool, script: str, force: str | None) -> None:
        backend, volume = self.backend, self.volume
        attachment = self.begin(source, attached, script)
        before = backend.as_stored(volume)
        expected = expect(target, attached, script, force)
        with pytest.raises(expected.error) if expected.error else contextlib.nullcontext():
            backend.reset(volume, target, force=force)
        put_back = ["ensure_export"] if expected.puts_back else []
        assert backend.calls == expected.calls + put_back
        row, attachments = backend.as_stored(volume)
        if expected.error is not None:
            assert (row, attachments) == before
        else:
            assert row.status == target
            self.check_attachments(target, before[1], attachments)
            assert row.attach_status == ("attached" if attachments else "detached")
        if expected.puts_back and attachment is not None:
            assert backend.exports(volume) == {attachment.id}
        if "detach_volume" in expected.calls and expected.error is None and script == "does it":
            assert backend.exports(volume) == set()

    @staticmethod
    def check_attachments(target: str, before: list[models.Attachment], after: list[models.Attachment]) -> None:
        if target == "available":
            assert after == []
        elif target == "in-use":
            assert [a.id for a in after] == [a.id for a in before]
            assert {a.status for a in after} == {"attached"}
        else:
            assert after == before


def combinations(target: str) -> Iterator[tuple[str, str, bool, str, str | None]]:
    """All of them; where the driver must not be called one script stands for every other: its calls would be seen."""
    scripts = ["fails"] if target in RECORD_ONLY else list(SCRIPTS)
    for source, attached, script, force in itertools.product(
        sorted(VolumeStatus), (False, True), scripts, (None, "ignore", "skip")
    ):
        yield source, target, attached, script, force


def test_the_table_has_the_targets_that_are_written_out_here() -> None:
    assert set(resets.VOLUME_TARGETS) == TARGETS
    assert set(resets.SNAPSHOT_TARGETS) == SNAPSHOT_TARGETS
    assert set(resets.ATTACH_TARGETS) == {"attached", "detached"}
    asking = {target for target in TARGETS if resets.plan_volume(target).needs_daemon}
    assert asking == {"available", "in-use"}
    assert {t for t in SNAPSHOT_TARGETS if resets.plan_snapshot(t).needs_daemon} == {"available"}


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_each_combination_calls_and_writes_what_is_written_out_here(backend: Backend, target: str) -> None:
    subject = Subject(backend)
    for combination in combinations(target):
        try:
            subject.check(*combination)
        except BaseException as error:
            error.add_note(f"from {combination}")
            raise


def test_a_sample_of_the_combinations(backend: Backend) -> None:
    """A few seconds' worth of what the whole table shows."""
    subject = Subject(backend)
    every = [c for target in sorted(TARGETS) for c in combinations(target)]
    for combination in every[::43]:
        subject.check(*combination)


@pytest.mark.parametrize("force", [None, "ignore", "skip"])
@pytest.mark.parametrize("target", ["available", "in-use", "error"])
@pytest.mark.parametrize(
    "storage", ["does it", "can't be asked", "can't tell", "has no such volume", "has grown", "has shrunk"]
)
def test_what_a_dry_run_says_is_what_is_done_then(
    backend: Backend, target: str, storage: str, force: str | None
) -> None:
    subject = Subject(backend)
    volume = subject.volume
    for attached in (False, True):
        if target == "in-use" and not attached:
            continue
        subject.begin("error", attached, storage if storage in SCRIPTS else "does it")
        if storage in ("has grown", "has shrunk"):
            with backend.driver.store.transaction() as state:
                state["files"][subject.name]["size"] = models.GIB * 4 if storage == "has grown" else models.GIB // 2
        plan = backend.api.reset_status(ADMIN, volume.id, status=target, force=force, dry_run=True)
        assert plan is not None
        steps = plan["steps"]
        is_refused = steps[-1]["step"] == "refused"
        backend.calls.clear()
        with pytest.raises(exc.ResetFailed) if is_refused else contextlib.nullcontext():
            backend.reset(volume, target, force=force)
        assert backend.calls == [step["call"] for step in steps if step["step"] == "call"]
        written = [{k: v for k, v in step.items() if k != "step"} for step in steps if step["step"] == "write"]
        assert written == ([] if is_refused else [backend.last_reset(volume).result["written"]])
        with backend.engine.begin() as connection:
            connection.execute(sa.update(schema.volumes).values(size_gb=volume.size_gb, claimed_gb=volume.size_gb))


@pytest.mark.parametrize("status", [None, *sorted(TARGETS)])
@pytest.mark.parametrize("attach_status", [None, "attached", "detached"])
def test_status_and_attach_status_agree_or_are_refused(status: str | None, attach_status: str | None) -> None:
    contradictions = {
        ("available", "attached"), ("in-use", "detached"),
        *itertools.product(("attaching", "detaching", "reserved"), ("attached", "detached")),
    }  # fmt: skip
    if status is None and attach_status is None:
        with pytest.raises(exc.InvalidInput, match="at least one of"):
            resets.plan_volume(status, attach_status)
        return
    if (status, attach_status) in contradictions:
        with pytest.raises(exc.InvalidInput, match="contradict"):
            resets.plan_volume(status, attach_status)
        return
    plan = resets.plan_volume(status, attach_status)
    if attach_status == "detached" or status == "available":
        assert (plan.asks, plan.attachments) == (resets.Ask.SEVER, resets.Fate.DELETED)
    elif attach_status == "attached" or status == "in-use":
        assert (plan.asks, plan.attachments) == (resets.Ask.CONNECT, resets.Fate.ATTACHED)
    else:
        assert (plan.asks, plan.attachments) == (resets.Ask.NOTHING, resets.Fate.KEPT)
    assert resets.plan_of("volume", plan.arguments()) == plan


@pytest.mark.parametrize("status", sorted((set(VolumeStatus) | set(SnapshotStatus) | {"", "nope"}) - TARGETS))
def test_a_status_that_is_no_target_is_refused_with_those_that_are(status: str) -> None:
    with pytest.raises(exc.InvalidInput, match="error_deleting"):
        resets.plan_volume(status)


@pytest.mark.parametrize("field", ["attach_status", "migration_status", "force"])
def test_an_unknown_word_is_refused_with_those_that_are_known(field: str) -> None:
    with pytest.raises(exc.InvalidInput, match="known are"):
        resets.plan_volume("error", **{field: "nope"})
    with pytest.raises(exc.InvalidInput, match="known are"):
        resets.plan_snapshot("in-use")


@pytest.mark.parametrize("source", sorted(SnapshotStatus))
@pytest.mark.parametrize("target", sorted(SNAPSHOT_TARGETS))
def test_each_reset_of_a_snapshot(backend: Backend, source: str, target: str) -> None:
    snapshot = backend.snapshot(backend.create())
    for script, force in itertools.product(
        ({}, {"fail": True}, {"fail": True, "error": "NotImplementedError"}), (None, "ignore", "skip")
    ):
        backend.set_status(Resource.SNAPSHOT, snapshot.id, source)
        backend.script.set("inspect_snapshot", **script)
        backend.calls.clear()
        asks = target == "available" and force != "skip"
        fails = asks and force is None and script == {"fail": True}
        with pytest.raises(exc.ResetFailed) if fails else contextlib.nullcontext():
            backend.api.reset_snapshot_status(ADMIN, snapshot.id, status=target, force=force)
        assert backend.calls == (["inspect_snapshot"] if asks else [])
        assert backend.store.get_snapshot(snapshot.id).status == (source if fails else target)


@pytest.mark.parametrize("status", [s for s in AttachStatus if s not in ("deleted", "detached")])
def test_every_attachment_is_severed_whatever_its_own_status(backend: Backend, status: str) -> None:
    volume = backend.create()
    attachment, client = backend.attach(volume)
    backend.set_status(Resource.ATTACHMENT, attachment.id, status)
    backend.reset(volume)
    with pytest.raises(OSError):
        client.write(0, b"late")
    assert backend.attachments(volume) == []
