"""What users who are no admins see and may do, under http_basic."""

from __future__ import annotations

import base64
import pathlib
from typing import Any

import bcrypt
import pytest

from tests.unit.api.harness import ApiHarness, add_backup_service, add_service
from volsvc.ports import Store


@pytest.fixture
def users(store: Store, tmp_path: pathlib.Path) -> ApiHarness:
    """The API with passwords: ``admin`` and the ordinary ``ann``, whose project is ``ann``."""
    path = tmp_path / "htpasswd"
    hashed = bcrypt.hashpw(b"word", bcrypt.gensalt(4)).decode()
    path.write_text(f"admin:{hashed}\nann:{hashed}\n")
    add_service(store)
    return ApiHarness(store, auth_strategy="http_basic", http_basic_auth_user_file=str(path))


def as_user(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:word".encode()).decode()}


def test_without_a_password_there_is_only_discovery(users: ApiHarness) -> None:
    assert users.get("/v3/").status == 200
    answer = users.get("/v3/volumes")
    assert answer.fault[0] == "unauthorized"
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_an_ordinary_user_sees_only_the_own_project(users: ApiHarness) -> None:
    body = {"volume": {"size": 1}}
    theirs = users.post("/v3/lab/volumes", body, headers=as_user("admin")).body["volume"]["id"]
    own = users.post("/v3/ann/volumes", body, headers=as_user("ann"))
    assert own.status == 202
    assert "os-vol-host-attr:host" not in own.body["volume"]
    assert "migration_status" not in own.body["volume"]
    mine = own.body["volume"]["id"]
    assert [v["id"] for v in users.get("/v3/volumes", headers=as_user("ann")).body["volumes"]] == [mine]
    listed = users.get("/v3/volumes?all_tenants=1", headers=as_user("ann")).body["volumes"]
    assert [v["id"] for v in listed] == [mine]
    for method in ("GET", "DELETE"):
        assert users.request(method, f"/v3/volumes/{theirs}", headers=as_user("ann")).status == 404
    assert users.get("/v3/lab/volumes", headers=as_user("ann")).status == 400
    assert users.get(f"/v3/volumes/{mine}", headers=as_user("admin")).status == 200


def test_an_ordinary_user_may_not_do_what_admins_do(users: ApiHarness) -> None:
    mine = users.post("/v3/volumes", {"volume": {"size": 1}}, headers=as_user("ann")).body["volume"]["id"]
    for method, path, body in (
        ("GET", "/v3/os-services", None),
        ("GET", "/v3/scheduler-stats/get_pools", None),
        ("POST", "/v3/types", {"volume_type": {"name": "x"}}),
        ("POST", f"/v3/volumes/{mine}/action", {"os-force_delete": {}}),
        ("DELETE", f"/v3/volumes/{mine}?force=true", None),
        ("GET", "/v3/os-quota-sets/lab", None),
    ):
        assert users.request(method, path, body, headers=as_user("ann")).fault[0] == "forbidden", path
    assert "host" in users.get("/v3/volumes?host=node@file", headers=as_user("ann")).fault[1]


def test_an_ordinary_user_sees_neither_hidden_types_nor_their_specs(users: ApiHarness) -> None:
    for name, is_public in (("open", True), ("hidden", False)):
        body = {
            "name": name,
            "os-volume-type-access:is_public": is_public,
            "extra_specs": {"multiattach": "x", "s": "1"},
        }
        users.post("/v3/types", {"volume_type": body}, headers=as_user("admin"))
    found = {t["name"]: t for t in users.get("/v3/types?is_public=None", headers=as_user("ann")).body["volume_types"]}
    assert set(found) == {"__DEFAULT__", "open"}
    assert found["open"]["extra_specs"] == {"multiattach": "x"}
    assert "qos_specs_id" not in found["open"]
    assert users.get("/v3/types/hidden", headers=as_user("ann")).status == 404
    assert users.get("/v3/types/hidden", headers=as_user("admin")).status == 200
    assert users.get("/v3/types?extra_specs={'s': '1'}", headers=as_user("ann")).status == 400
    wish = {"volume": {"size": 1, "volume_type": "hidden"}}
    assert users.post("/v3/volumes", wish, headers=as_user("ann")).status == 404


def test_operations_of_others_are_not_there_for_an_ordinary_user(users: ApiHarness) -> None:
    users.post("/v3/lab/volumes", {"volume": {"size": 1}}, headers=as_user("admin"))
    users.post("/v3/volumes", {"volume": {"size": 1}}, headers=as_user("ann"))
    (mine,) = users.get("/v3/operations?all_tenants=1", headers=as_user("ann")).body["operations"]
    assert mine["project_id"] == "ann"
    assert "host" not in mine
    everything = users.get("/v3/operations?all_tenants=1", headers=as_user("admin")).body["operations"]
    (theirs,) = [found for found in everything if found["project_id"] == "lab"]
    assert users.get(f"/v3/operations/{theirs['id']}", headers=as_user("ann")).status == 404
    cancel: dict[str, object] = {"os-cancel": {}}
    assert users.post(f"/v3/operations/{theirs['id']}/action", cancel, headers=as_user("ann")).status == 404


def test_an_ordinary_user_backs_up_and_restores_only_the_own(users: ApiHarness) -> None:
    add_backup_service(users.store)
    ann: dict[str, Any] = {"headers": as_user("ann")}
    admin: dict[str, Any] = {"headers": as_user("admin")}
    volumes = {
        path: users.post(f"/v3/{path}/volumes", {"volume": {"size": 1}}, **who).body["volume"]["id"]
        for path, who in (("ann", ann), ("lab", admin))
    }
    users.work()
    theirs = users.post("/v3/lab/backups", {"backup": {"volume_id": volumes["lab"]}}, **admin).body["backup"]["id"]
    mine = users.post("/v3/backups", {"backup": {"volume_id": volumes["ann"]}}, **ann).body["backup"]["id"]
    users.work()
    assert users.post("/v3/backups", {"backup": {"volume_id": volumes["lab"]}}, **ann).status == 404
    (listed,) = users.get("/v3/backups/detail?all_tenants=1", **ann).body["backups"]
    assert listed["id"] == mine
    assert not {"os-backup-project-attr:project_id", "user_id"} & set(listed)
    restore = {"restore": {"volume_id": volumes["lab"]}}
    for method, path, body, status in (
        ("GET", f"/v3/backups/{theirs}", None, 404),
        ("DELETE", f"/v3/backups/{theirs}", None, 404),
        ("PUT", f"/v3/backups/{theirs}", {"backup": {"name": "x"}}, 404),
        ("POST", f"/v3/backups/{theirs}/restore", {"restore": {}}, 404),
        ("POST", "/v3/volumes", {"volume": {"backup_id": theirs}}, 404),
        ("POST", f"/v3/backups/{mine}/restore", restore, 404),
        ("GET", f"/v3/backups/{mine}/export_record", None, 403),
        ("POST", "/v3/backups/import_record", {"backup-record": {}}, 403),
        ("POST", f"/v3/backups/{mine}/action", {"os-force_delete": {}}, 403),
        ("POST", f"/v3/backups/{mine}/action", {"os-reset_status": {"status": "error"}}, 403),
    ):
        assert users.request(method, path, body, **ann).status == status, path
    assert users.post(f"/v3/backups/{mine}/restore", {"restore": {}}, **ann).status == 202
