from __future__ import annotations

from tests.unit.api.harness import ApiHarness


def create(api: ApiHarness, name: str = "gold", **fields: object) -> dict[str, object]:
    answer = api.post("/v3/types", {"volume_type": {"name": name, **fields}})
    assert answer.status == 200, answer
    made: dict[str, object] = answer.body["volume_type"]
    return made


def test_there_is_a_default_type(api: ApiHarness) -> None:
    shown = api.get("/v3/types/default").body["volume_type"]
    assert shown["name"] == "__DEFAULT__"
    assert [found["name"] for found in api.get("/v3/types").body["volume_types"]] == ["__DEFAULT__"]
    assert api.delete(f"/v3/types/{shown['id']}").fault[0] == "badRequest"


def test_a_type_is_made_shown_changed_and_deleted(api: ApiHarness) -> None:
    made = create(api, description="d", extra_specs={"a": "1", "b": None})
    assert made == {
        "id": made["id"],
        "name": "gold",
        "description": "d",
        "is_public": True,
        "os-volume-type-access:is_public": True,
        "extra_specs": {"a": "1", "b": ""},
        "qos_specs_id": None,
    }
    path = f"/v3/types/{made['id']}"
    assert api.get(path).body == {"volume_type": made}
    changed = api.put(path, {"volume_type": {"name": " silver ", "is_public": "false"}}).body["volume_type"]
    assert (changed["name"], changed["is_public"], changed["description"]) == ("silver", False, "d")
    assert api.put(path, {"volume_type": {"name": None}}).status == 400
    assert api.put(path, {"volume_type": {"name": "  "}}).status == 400
    answer = api.delete(path)
    assert (answer.status, answer.body) == (202, None)
    assert api.get(path).status == 404


def test_a_name_that_is_taken_is_a_conflict(api: ApiHarness) -> None:
    create(api)
    assert api.post("/v3/types", {"volume_type": {"name": "gold"}}).fault[0] == "conflictingRequest"


def test_a_type_in_use_is_not_deleted(api: ApiHarness) -> None:
    made = create(api)
    api.new_volume(volume_type="gold")
    assert api.delete(f"/v3/types/{made['id']}").fault[0] == "badRequest"


def test_extra_specs_one_by_one(api: ApiHarness) -> None:
    path = f"/v3/types/{create(api, extra_specs={'a': '1'})['id']}/extra_specs"
    assert api.post(path, {"extra_specs": {"b": "2"}}).body == {"extra_specs": {"b": "2"}}
    assert api.get(path).body == {"extra_specs": {"a": "1", "b": "2"}}
    assert api.put(f"{path}/b", {"b": "3"}).body == {"b": "3"}
    assert api.put(f"{path}/b", {"c": "3"}).status == 400
    assert api.get(f"{path}/b").body == {"b": "3"}
    assert api.delete(f"{path}/b").status == 202
    assert api.get(f"{path}/b").status == 404
    assert api.delete(f"{path}/b").status == 404


def test_types_are_filtered_by_extra_specs_and_by_being_public(api: ApiHarness) -> None:
    create(api, "fast", extra_specs={"disk": "ssd"})
    create(api, "hidden", **{"os-volume-type-access:is_public": False})

    def names(query: str) -> set[str]:
        return {found["name"] for found in api.get(f"/v3/types{query}").body["volume_types"]}

    assert names("?extra_specs={'disk': 'ssd'}") == {"fast"}
    assert names("?is_public=False") == {"hidden"}
    assert names("?is_public=None") == {"__DEFAULT__", "fast", "hidden"}
    assert "hidden" not in names("?is_public=True")
    answer = api.get("/v3/types?sort=name:asc&limit=1&is_public=None")
    assert answer.body["volume_type_links"]
    assert api.get("/v3/types?extra_specs=disk").status == 400
