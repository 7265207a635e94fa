"""The gate: every pair of status and action, and every order of events that a machine can think of."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from volsvc import exceptions as exc
from volsvc import models
from volsvc.db import migrate, schema
from volsvc.db.engine import create_engine
from volsvc.db.store import SqlStore
from volsvc.ports import CapacityClaim, Correction, Guards, Intent, Outcome, Query
from volsvc.states import (
    ATTACHMENT_DERIVED,
    TRANSITIONS,
    AttachStatus,
    BackupStatus,
    Becomes,
    From,
    Resource,
    SnapshotStatus,
    Standing,
    VolumeStatus,
    compute_attach_status,
    compute_volume_status,
)
from volsvc.testing.stores import builders as b

WORDS: dict[Resource, list[str]] = {
    Resource.VOLUME: [str(status) for status in VolumeStatus],
    Resource.SNAPSHOT: [str(status) for status in SnapshotStatus],
    Resource.ATTACHMENT: [str(status) for status in AttachStatus],
    Resource.BACKUP: [str(status) for status in BackupStatus],
}
WITH_STATUS = [
    action
    for action, row in TRANSITIONS.items()
    if row.first.resource is not Resource.SERVICE and row.standing is Standing.IN_LINE
]
ENDS = ("done", "failed", "cancelled")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    path = tmp_path_factory.mktemp("gate") / "volsvc.sqlite"
    engine = create_engine(f"sqlite:///{path}", is_synchronous=False)
    migrate.sync(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: sa.Engine) -> SqlStore:
    return SqlStore(engine)


def set_status(engine: sa.Engine, resource: Resource, resource_id: str, status: str) -> None:
    """What no code of the service may do: write a status past the gate."""
    table = schema.TABLE_OF[resource]
    with engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == resource_id).values(status=status))


def read_status(engine: sa.Engine, resource: Resource, resource_id: str) -> str | None:
    table = schema.TABLE_OF[resource]
    with engine.connect() as connection:
        return connection.execute(sa.select(table.c.status).where(table.c.id == resource_id)).scalar_one_or_none()


class Scene:
    """A volume, a snapshot, an attachment and a backup for an action to be about."""

    def __init__(self, store: SqlStore) -> None:
        self.volume = b.add_volume(store, is_multiattach=True)
        self.snapshot = b.add_snapshot(store, self.volume)
        reserve = b.attach_intent(self.volume, "attachment_reserve")
        b.do(store, reserve)
        self.ids = {
            Resource.VOLUME: self.volume.id,
            Resource.SNAPSHOT: self.snapshot.id,
            Resource.ATTACHMENT: reserve.resource_id,
            Resource.BACKUP: b.add_backup(store, b.add_volume(store), is_stored=False).id,
        }

    def intent(self, action: str) -> Intent:
        transition = TRANSITIONS[action]
        second_id = None if transition.second is None else self.ids[transition.second.resource]
        if transition.first.sources is not From.NEW:
            return b.intent(action, self.ids[transition.first.resource], second_id=second_id)
        if transition.first.resource is Resource.VOLUME:
            return b.create_intent(b.volume_record(), action=action, second_id=second_id)
        if transition.first.resource is Resource.SNAPSHOT:
            return dataclasses.replace(b.snapshot_intent(self.volume), action=action)
        if transition.first.resource is Resource.BACKUP:
            return b.backup_intent(self.volume, action, second_id)
        return b.attach_intent(self.volume, action)


@pytest.mark.parametrize("action", WITH_STATUS)
def test_each_status_lets_an_action_start_or_not_as_the_table_says(
    engine: sa.Engine, store: SqlStore, action: str
) -> None:
    transition = TRANSITIONS[action]
    for change, other in ((transition.first, transition.second), (transition.second, transition.first)):
        if change is None or change.sources is From.NEW:
            continue
        scene = None
        for status in WORDS[change.resource]:
            scene = scene or Scene(store)
            if other is not None and isinstance(other.sources, frozenset):
                set_status(engine, other.resource, scene.ids[other.resource], min(other.sources))
            set_status(engine, change.resource, scene.ids[change.resource], status)
            if change.may_start_from(status):
                operation = b.submit(store, scene.intent(action))
                assert status in (operation.previous_status, operation.second_previous_status)
                assert operation.is_open != transition.record_only
                if not operation.is_open or not store.withdraw(operation.id):
                    scene = None
            else:
                with pytest.raises(exc.StatusConflict, match=scene.ids[change.resource]):
                    b.submit(store, scene.intent(action))
                assert read_status(engine, change.resource, scene.ids[change.resource]) == status


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("action", [action for action in WITH_STATUS if not TRANSITIONS[action].record_only])
def test_each_end_of_each_action_writes_what_the_table_says(
    engine: sa.Engine, store: SqlStore, action: str, state: str
) -> None:
    transition = TRANSITIONS[action]
    change = transition.first
    scene = Scene(store)
    if change.resource is Resource.VOLUME:
        # Only a volume without attachments and snapshots has a status of its own and can go.
        b.do(store, b.intent("attachment_release", scene.ids[Resource.ATTACHMENT]))
        if change.success is Becomes.GONE:
            b.do(store, b.intent("snapshot_delete", scene.snapshot.id))
    for each in (transition.second, change):
        if each is not None and isinstance(each.sources, frozenset):
            set_status(engine, each.resource, scene.ids[each.resource], min(each.sources))
    operation = b.submit(store, scene.intent(action))
    assert read_status(engine, change.resource, operation.resource_id) == change.during
    b.run(store, operation, state)
    target = change.success if state == "done" else change.failure
    if target is Becomes.PREVIOUS:
        # Back to in-use, which is for the attachments to say, and it has none.
        assert operation.previous_status == "in-use"
        target = "available"
    found = read_status(engine, change.resource, operation.resource_id)
    assert found == (None if target is Becomes.GONE else target)


def test_a_status_that_somebody_has_reset_is_not_overwritten(engine: sa.Engine, store: SqlStore) -> None:
    for action, state in itertools.product(("volume_extend", "volume_delete"), ENDS):
        volume = b.add_volume(store)
        operation = b.claim(store, b.submit(store, b.intent(action, volume.id)))
        set_status(engine, Resource.VOLUME, volume.id, "maintenance")
        assert store.finish(operation, Outcome(state)).state == state
        assert store.get_volume(volume.id).status == "maintenance"


def test_attachments_leave_every_status_alone_that_they_do_not_decide(engine: sa.Engine, store: SqlStore) -> None:
    volume = b.add_volume(store)
    attachment = b.add_attachment(store, volume)
    for status in sorted(set(WORDS[Resource.VOLUME]) - ATTACHMENT_DERIVED):
        set_status(engine, Resource.VOLUME, volume.id, status)
        b.do(store, b.intent("attachment_disconnect", attachment.id), state="failed")
        found = store.get_volume(volume.id)
        assert (found.status, found.attach_status) == (status, "attached")


class Disk(RuleBasedStateMachine):
    """Requests and handlers in any order, with crashes, cancels, deadlines and withdrawals between them."""

    path: Path

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        database = shutil.copy(self.path, self.directory.name)
        self.engine = create_engine(f"sqlite:///{database}", is_synchronous=False, pool_size=1)
        self.now = dt.datetime(2030, 1, 1)
        self.store = SqlStore(self.engine, clock=self.tick)
        self.instance = 1
        self.running: list[models.Operation] = []

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.engine.dispose()
            self.directory.cleanup()

    def tick(self) -> dt.datetime:
        # No two records are of one time, so that lists have one order and a run can be repeated.
        self.now += dt.timedelta(microseconds=1)
        return self.now

    @initialize(multi=st.booleans())
    def begin(self, multi: bool) -> None:
        """Few things, so that what is asked is asked of the same ones."""
        b.add_volume(self.store)
        b.add_attachment(self.store, b.add_volume(self.store, is_multiattach=multi))

    # -- what there is ---------------------------------------------------------------------

    def open_operations(self) -> list[models.Operation]:
        query = Query(filters={"state": ["queued", "running"]}, sort=(("seq", "asc"),))
        return list(self.store.list_operations(query).items)

    def volumes(self) -> list[models.Volume]:
        return list(self.store.list_volumes(Query()).items)

    def pick(self, data: st.DataObject, items: list[Any]) -> Any:
        return data.draw(st.sampled_from(items)) if items else None

    # -- what clients ask ---------------------------------------------------------------------

    def ask(self, *intents: Intent) -> None:
        try:
            self.store.submit(*intents)
        except (exc.StatusConflict, exc.InvalidVolume, exc.CapacityExceeded):
            pass

    def deadline(self, data: st.DataObject) -> dt.datetime | None:
        return self.now + dt.timedelta(hours=1) if data.draw(st.booleans()) else None

    @rule(data=st.data(), multi=st.booleans())
    def create(self, data: st.DataObject, multi: bool) -> None:
        guards = Guards(capacity=CapacityClaim(b.HOST, 1, 3))
        source = self.pick(data, [None, *self.volumes()])
        volume = b.volume_record(is_multiattach=multi)
        if source is None:
            self.ask(b.create_intent(volume, guards=guards, deadline_at=self.deadline(data)))
        else:
            self.ask(b.create_intent(volume, action="volume_clone", second_id=source.id, guards=guards))

    @precondition(lambda self: self.volumes())
    @rule(
        data=st.data(),
        action=st.sampled_from(
            ["snapshot_create", "volume_delete", "cascade", "attachment_reserve"]
            + ["extend", "attachment_create", "volume_force_delete"] * 2
        ),
        cancel=st.booleans(),
    )
    def ask_of_a_volume(self, data: st.DataObject, action: str, cancel: bool) -> None:
        volume = self.pick(data, self.volumes())
        given: dict[str, Any] = {"deadline_at": self.deadline(data)}
        if action == "snapshot_create":
            self.ask(b.snapshot_intent(volume))
        elif action.startswith("attachment"):
            self.ask(b.attach_intent(volume, action, **given))
        elif action == "extend":
            for wanted in ("volume_extend", "volume_extend_attached"):
                changes = {"claimed_gb": volume.size_gb + 1}
                self.ask(b.intent(wanted, volume.id, changes=changes, args={"to": volume.size_gb + 1}, **given))
        else:
            snapshots = self.store.list_snapshots(Query(filters={"volume_id": volume.id})).items
            first = [
                b.intent("snapshot_force_delete", snapshot.id, cancel_open=cancel)
                for snapshot in snapshots
                if action == "cascade"
            ]
            guards = Guards(no_snapshots=volume.id, no_attachments=volume.id)
            last = "volume_delete" if action == "cascade" else action
            self.ask(*first, b.intent(last, volume.id, guards=guards, cancel_open=cancel, **given))

    @rule(
        data=st.data(),
        action=st.sampled_from(["connect", "complete", "complete", "release", "disconnect", "disconnect"]),
        cancel=st.booleans(),
    )
    def ask_of_an_attachment(self, data: st.DataObject, action: str, cancel: bool) -> None:
        attachment = self.pick(data, list(self.store.list_attachments(Query()).items))
        if attachment is not None:
            self.ask(b.intent(f"attachment_{action}", attachment.id, cancel_open=cancel))

    @rule(data=st.data())
    def delete_a_snapshot(self, data: st.DataObject) -> None:
        snapshot = self.pick(data, list(self.store.list_snapshots(Query()).items))
        if snapshot is not None:
            self.ask(b.intent("snapshot_delete", snapshot.id, deadline_at=self.deadline(data)))

    @precondition(lambda self: self.volumes())
    @rule(data=st.data(), status=st.sampled_from(["available", "error"]), ask_storage=st.booleans())
    def reset_a_volume(self, data: st.DataObject, status: str, ask_storage: bool) -> None:
        volume = self.pick(data, self.volumes())
        if ask_storage:
            self.ask(b.intent("volume_reset", volume.id, deadline_at=self.deadline(data)))
        else:
            correction = Correction(status=status, deletes_attachments=status == "available")
            self.store.correct(b.intent("volume_reset", volume.id, host=None), correction, {})

    # -- what daemons do ---------------------------------------------------------------------------

    @rule(is_express=st.booleans())
    def claim(self, is_express: bool) -> None:
        for candidate in self.store.claimable(models.express_host(b.HOST) if is_express else b.HOST, 2):
            claimed = self.store.claim(candidate.id, f"i{self.instance}")
            assert claimed is not None, "what is claimable can be claimed"
            self.running.append(claimed)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), state=st.sampled_from(["done", "done", "failed", "cancelled"]))
    def finish(self, data: st.DataObject, state: str) -> None:
        operation = self.pick(data, self.running)
        self.running.remove(operation)
        first = {"size_gb": operation.args["to"]} if "to" in operation.args and state == "done" else {}
        correction = None
        if operation.action == "volume_reset" and state == "done":
            correction = Correction(status="available", deletes_attachments=True)
        try:
            ended = self.store.finish(operation, Outcome(state, first=first, correction=correction))
            assert ended.state in (state, "failed")
        except exc.VolumeNotFound:
            assert correction is not None, "only a reset can find its volume deleted"
            self.running.append(operation)
        except exc.OperationSuperseded:
            assert self.store.get_operation(operation.id).claim_epoch > operation.claim_epoch or (
                self.store.get_operation(operation.id).state != "running"
            )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        operation = self.pick(data, self.running)
        self.running.remove(operation)
        try:
            self.store.release(operation, "the disk is away")
        except exc.OperationSuperseded:
            pass

    @rule(forgets=st.booleans())
    def crash(self, forgets: bool) -> None:
        """A new instance takes over; with ``forgets`` off the old one's handlers go on as if nothing was."""
        self.instance += 1
        if forgets:
            self.running = []
        for host in (b.HOST, models.express_host(b.HOST)):
            self.store.take_back(host, f"i{self.instance}", 2)

    @rule(data=st.data(), withdraw=st.booleans())
    def take_back_a_request(self, data: st.DataObject, withdraw: bool) -> None:
        operation = self.pick(data, self.open_operations())
        if operation is None:
            return
        if withdraw:
            assert self.store.withdraw(operation.id) == (operation.state == "queued")
        else:
            self.store.request_cancel(operation.id)

    @rule()
    def deadlines_pass(self) -> None:
        self.now += dt.timedelta(hours=2)
        self.store.expire_queued(b.HOST)

    # -- what is always true --------------------------------------------------------------------------

    @invariant()
    def every_status_is_true(self) -> None:
        newest = {o.resource_id: o for o in self.open_operations() if o.action != "volume_reset"}
        attachments: dict[str, list[str]] = {}
        for attachment in self.store.list_attachments(Query()).items:
            attachments.setdefault(attachment.volume_id, []).append(attachment.status)
            self.check("attachment", attachment.status, newest.get(attachment.id), {"detaching"})
        for snapshot in self.store.list_snapshots(Query()).items:
            self.check("snapshot", snapshot.status, newest.get(snapshot.id), {"creating", "deleting"})
        for volume in self.volumes():
            owner = newest.get(volume.id)
            self.check("volume", volume.status, owner, {"creating", "deleting", "extending"})
            statuses = attachments.get(volume.id, [])
            assert volume.attach_status == compute_attach_status(statuses)
            if volume.status in ATTACHMENT_DERIVED:
                assert volume.status == compute_volume_status(statuses)
            if owner is None:
                assert volume.claimed_gb == volume.size_gb
            if not volume.is_multiattach:
                assert len(statuses) <= 1

    @staticmethod
    def check(kind: str, status: str, owner: models.Operation | None, transitional: set[str]) -> None:
        assert status in WORDS[Resource(kind)]
        if owner is None:
            assert status not in transitional, f"{kind} is stuck in {status}"
        else:
            assert status == TRANSITIONS[owner.action].first.during

    @invariant()
    def nothing_is_done_twice_at_a_time_and_something_can_be_done(self) -> None:
        resets = [operation for operation in self.open_operations() if operation.action == "volume_reset"]
        running_resets = [operation.resource_id for operation in resets if operation.state == "running"]
        assert len(running_resets) == len(set(running_resets))
        operations = [operation for operation in self.open_operations() if operation not in resets]
        uses: dict[str, list[bool]] = {}
        for operation in operations:
            if operation.state == "running":
                second = TRANSITIONS[operation.action].second
                uses.setdefault(operation.resource_id, []).append(False)
                if second is not None and operation.second_id:
                    uses.setdefault(operation.second_id, []).append(second.shared)
        assert all(len(shared) == 1 or all(shared) for shared in uses.values())
        if operations and not uses and not resets:
            claimable = self.store.claimable(b.HOST, 1)
            assert [operation.id for operation in claimable] == [operations[0].id]

    @invariant()
    def nothing_is_oversold(self) -> None:
        creations = [volume for volume in self.volumes() if volume.size_gb == 1 and volume.claimed_gb == 1]
        assert len(creations) <= 3

    def everything_ends(self) -> None:
        """Whatever has happened, a daemon that works on brings everything to rest."""
        hosts = (b.HOST, models.express_host(b.HOST))
        for host in hosts:
            self.store.take_back(host, "last", 0)
        for _ in range(200):
            candidates = self.store.claimable(hosts, 10)
            if not candidates:
                break
            for candidate in candidates:
                claimed = self.store.claim(candidate.id, "last")
                assert claimed is not None
                self.store.finish(claimed, Outcome("done"))
        assert self.open_operations() == []
        self.every_status_is_true()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("machine") / "volsvc.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    migrate.sync(engine)
    engine.dispose()
    return path


def test_no_order_of_events_leaves_a_wrong_status(empty_database: Path) -> None:
    class OnCopies(Disk):
        path = empty_database

    run = settings(
        max_examples=25,
        # Shrinking takes minutes here, and a run of thirty steps can be read as it is.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    case = OnCopies.TestCase
    case.settings = run
    case("runTest").runTest()
