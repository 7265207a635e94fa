"""Contract: reading one, reading many, pages, volume types and services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.ports import Page, Query, Store
from volsvc.testing.stores import builders as b

OpenStore = Callable[..., Store]


def names(page: Page[Any]) -> list[str | None]:
    return [item.name for item in page.items]


class ListContract:
    def test_another_projects_volume_is_not_found(self, store: Store) -> None:
        volume = b.add_volume(store)
        assert store.get_volume(volume.id, project_id="project") == volume
        with pytest.raises(exc.VolumeNotFound, match=volume.id):
            store.get_volume(volume.id, project_id="other")
        assert store.list_volumes(Query(project_id="other")).items == ()

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"name": "a"}, {"a"}),
            ({"name": ["a", "b%"]}, {"a", "b%"}),
            ({"name~": "%"}, {"b%"}),
            ({"name~": "_"}, set()),
            ({"name": None}, {None}),
            ({"name": ["a", None]}, {"a", None}),
            ({"name": []}, set()),
            ({"size_gb": 2}, {"b%"}),
            ({"is_bootable": True}, {"a"}),
            ({"status": "available", "size_gb": [1, 2]}, {"a", "b%", None}),
            ({"name": "'; DROP TABLE volumes; --"}, set()),
        ],
    )
    def test_filters(self, store: Store, filters: dict[str, Any], expected: set[str | None]) -> None:
        b.add_volume(store, name="a", is_bootable=True)
        b.add_volume(store, name="b%", size_gb=2)
        b.add_volume(store)
        page = store.list_volumes(Query(filters=filters), with_count=True)
        assert set(names(page)) == expected
        assert page.total == len(expected)

    def test_an_unknown_column_or_direction_is_the_callers_mistake(self, store: Store) -> None:
        for query in (
            Query(filters={"nothing": 1}),
            Query(sort=(("nothing", "asc"),)),
            Query(sort=(("name", "sideways"),)),
        ):
            with pytest.raises(exc.InvalidInput):
                store.list_volumes(query)

    @pytest.mark.parametrize("key", ["plain", 'a"b', "a.b", "ü 'x'", "$", ""])
    def test_filter_by_metadata_whatever_the_key(self, store: Store, key: str) -> None:
        volume = b.add_volume(store, metadata={key: "välue", "other": "1"})
        b.add_volume(store, metadata={key: "another"})
        found = store.list_volumes(Query(metadata={key: "välue", "other": "1"})).items
        assert [item.id for item in found] == [volume.id]
        assert store.list_volumes(Query(metadata={key: "1"})).items == ()

    @pytest.mark.parametrize(
        "sort",
        [
            (("created_at", "desc"),),
            (("name", "asc"),),
            (("name", "desc"), ("size_gb", "asc")),
            (("size_gb", "desc"), ("name", "asc"), ("id", "asc")),
            (),
        ],
    )
    def test_pages_by_marker_and_by_offset_make_up_the_list(
        self, store: Store, sort: tuple[tuple[str, str], ...]
    ) -> None:
        for number in range(9):
            b.add_volume(store, name=None if number % 3 == 0 else f"n{number % 4}", size_gb=1 + number % 2)
        whole = store.list_volumes(Query(sort=sort))
        assert len(whole.items) == 9
        assert whole.has_more is False
        by_marker: list[models.Volume] = []
        marker = None
        while True:
            page = store.list_volumes(Query(sort=sort, limit=2, marker=marker), with_count=True)
            assert page.total == 9
            by_marker += page.items
            if not page.has_more:
                break
            marker = page.items[-1].id
        assert tuple(by_marker) == whole.items
        by_offset = [
            v for start in (0, 4, 8) for v in store.list_volumes(Query(sort=sort, limit=4, offset=start)).items
        ]
        assert tuple(by_offset) == whole.items
        assert store.list_volumes(Query(sort=sort, offset=7)).items == whole.items[7:]
        assert store.list_volumes(Query(limit=0)).items == ()

    def test_no_value_sorts_before_any_value(self, store: Store) -> None:
        for name in ("b", None, "a"):
            b.add_volume(store, name=name)
        assert names(store.list_volumes(Query(sort=(("name", "asc"),)))) == [None, "a", "b"]
        assert names(store.list_volumes(Query(sort=(("name", "desc"),)))) == ["b", "a", None]

    def test_a_marker_that_is_not_there_is_not_found(self, store: Store) -> None:
        volume = b.add_volume(store)
        with pytest.raises(exc.VolumeNotFound):
            store.list_volumes(Query(marker=b.new_id()))
        with pytest.raises(exc.VolumeNotFound):
            store.list_volumes(Query(project_id="other", marker=volume.id))

    def test_snapshots_attachments_and_operations_are_listed_alike(self, store: Store) -> None:
        volume = b.add_volume(store)
        snapshot = b.add_snapshot(store, volume, name="s", metadata={"a": "b"})
        attachment = b.add_attachment(store, volume)
        query = Query(project_id="project", filters={"volume_id": volume.id})
        assert store.list_snapshots(query, with_count=True) == Page((snapshot,), False, 1)
        assert store.list_attachments(query, with_count=True) == Page((attachment,), False, 1)
        assert store.attachments_of([volume.id, b.new_id()]) == {volume.id: [attachment]}
        assert store.snapshots_on(b.HOST) == [snapshot]
        operations = store.list_operations(Query(sort=(("seq", "asc"),), filters={"state": "done"})).items
        assert [operation.action for operation in operations] == [
            "volume_create",
            "snapshot_create",
            "attachment_create",
            "attachment_complete",
        ]

    def test_update_writes_what_is_not_a_status(self, store: Store) -> None:
        volume = b.add_volume(store, metadata={"a": "b"})
        changes = {"name": "n", "description": "d", "metadata": {"c": "d"}, "is_bootable": True}
        updated = store.update_volume(volume.id, changes)
        assert updated == store.get_volume(volume.id)
        assert (updated.name, updated.metadata, updated.is_bootable) == ("n", {"c": "d"}, True)
        assert updated.updated_at is not None
        with pytest.raises(ValueError, match="status"):
            store.update_volume(volume.id, {"status": "error"})
        with pytest.raises(exc.VolumeNotFound):
            store.update_volume(b.new_id(), {"name": "n"})
        snapshot = b.add_snapshot(store, volume)
        assert store.update_snapshot(snapshot.id, {"name": "s"}).name == "s"
        with pytest.raises(exc.SnapshotNotFound):
            store.update_snapshot(b.new_id(), {"name": "s"})

    def test_summary(self, store: Store) -> None:
        b.add_volume(store, size_gb=2, metadata={"k": "x"})
        b.add_volume(store, size_gb=3, metadata={"k": "a", "l": "b"})
        b.add_volume(store, project_id="other", metadata={"k": "hidden"})
        assert store.summarise_volumes(Query(project_id="project")) == (2, 5, {"k": ["a", "x"], "l": ["b"]})
        assert store.summarise_volumes(Query(project_id="nobody")) == (0, 0, {})

    def test_a_summary_counts_backups(self, store: Store) -> None:
        b.add_backup(store, b.add_volume(store, size_gb=2))
        b.add_backup(store, b.add_volume(store, size_gb=3))
        b.add_backup(store, b.add_volume(store, project_id="other"))
        assert store.summarise_backups(Query(project_id="project")) == (2, 5)
        assert store.summarise_backups(Query(project_id="nobody")) == (0, 0)


class VolumeTypeContract:
    def test_there_is_a_default_type(self, store: Store) -> None:
        found = store.get_volume_type("__DEFAULT__")
        assert store.get_volume_type(found.id) == found
        assert found.is_public
        assert [item.name for item in store.list_volume_types(Query()).items] == ["__DEFAULT__"]

    def test_types_are_made_changed_and_deleted(self, store: Store) -> None:
        wanted = models.VolumeType(id=b.new_id(), name="fast", extra_specs={"a": "b"})
        made = store.create_volume_type(wanted)
        assert (made.name, made.extra_specs) == ("fast", {"a": "b"})
        with pytest.raises(exc.VolumeTypeExists, match="fast"):
            store.create_volume_type(models.VolumeType(id=b.new_id(), name="fast"))
        with pytest.raises(exc.VolumeTypeExists):
            store.update_volume_type(made.id, {"name": "__DEFAULT__"})
        assert store.update_volume_type(made.id, {"name": "fast", "extra_specs": {}}).extra_specs == {}
        store.delete_volume_type(made.id)
        for call in (
            lambda: store.get_volume_type("fast"),
            lambda: store.update_volume_type(made.id, {"name": "x"}),
            lambda: store.delete_volume_type(made.id),
        ):
            with pytest.raises(exc.VolumeTypeNotFound):
                call()

    def test_a_type_that_is_used_is_kept(self, store: Store) -> None:
        wanted = store.create_volume_type(models.VolumeType(id=b.new_id(), name="fast"))
        b.add_volume(store, volume_type_id=wanted.id)
        with pytest.raises(exc.VolumeTypeInUse):
            store.delete_volume_type(wanted.id)


class ServiceContract:
    BINARY = "volsvc-volume"

    def test_a_service_is_up_when_it_is_ready_and_heard_of(self, store: Store, open_store: OpenStore) -> None:
        service = store.register_service(b.HOST, self.BINARY, {"instance": "i", "pid": 5})
        assert (service.host, service.instance, service.pid, service.is_up) == (b.HOST, "i", 5, False)
        store.report_service(service.id, {"state": "ready", "capabilities": {"free": [1, 2]}})
        found = store.list_services()
        assert [(one.is_up, one.capabilities) for one in found] == [(True, {"free": [1, 2]})]
        impatient = open_store(service_down_time_s=0.0)
        assert [one.is_up for one in impatient.list_services()] == [False]

    def test_a_service_is_registered_once_and_keeps_what_it_was_told(self, store: Store) -> None:
        first = store.register_service(b.HOST, self.BINARY, {})
        store.update_service(first.id, {"is_disabled": True, "disabled_reason": "disk"})
        second = store.register_service(b.HOST, self.BINARY, {"instance": "new"})
        assert (second.id, second.is_disabled, second.disabled_reason) == (first.id, True, "disk")
        other = store.register_service(b.HOST, "volsvc-backup", {})
        assert other.id != first.id
        assert len(store.list_services()) == 2

    def test_heartbeats_of_several_go_forward_together(self, store: Store) -> None:
        services = [store.register_service(f"host@{name}", self.BINARY, {}) for name in ("a", "b", "c")]
        store.beat([])
        deadline = b.utcnow().timestamp() + 20
        while True:
            store.beat([services[0].id, services[1].id])
            beats = [one.heartbeat_at for one in store.list_services()]
            assert None not in beats
            if beats[0] != services[0].heartbeat_at or b.utcnow().timestamp() > deadline:
                break
        assert beats[0] == beats[1]
        assert beats[0] > services[0].heartbeat_at  # type: ignore[operator]
        assert beats[2] == services[2].heartbeat_at

    def test_promises_are_summed_by_backend(self, store: Store) -> None:
        for name in ("backend", "other"):
            store.register_service(f"host@{name}", self.BINARY, {})
        b.add_volume(store, size_gb=3)
        b.add_volume(store, size_gb=4, host=b.HOST)
        assert [one.allocated_gb for one in store.list_services()] == [7, 0]

    def test_only_what_is_there_and_may_be_written_is_written(self, store: Store) -> None:
        service = store.register_service(b.HOST, self.BINARY, {})
        with pytest.raises(exc.ServiceNotFound):
            store.report_service(service.id + 1, {"state": "ready"})
        with pytest.raises(exc.ServiceNotFound):
            store.update_service(service.id + 1, {"is_disabled": True})
        with pytest.raises(ValueError, match="state"):
            store.update_service(service.id, {"state": "ready"})
        with pytest.raises(ValueError, match="host"):
            store.report_service(service.id, {"host": "x"})
