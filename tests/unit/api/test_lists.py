from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.harness import ApiHarness


def names(answer: Any) -> list[str]:
    key = next(key for key in answer.body if not key.endswith("_links") and key != "count")
    return [item["name"] for item in answer.body[key]]


@pytest.fixture
def five(api: ApiHarness) -> list[str]:
    """Ids of the volumes v0 (oldest) to v4."""
    return [api.new_volume(name=f"v{i}", size=i + 1, metadata={"n": str(i), "all": "y"})["id"] for i in range(5)]


def test_the_newest_comes_first(api: ApiHarness, five: list[str]) -> None:
    assert names(api.get("/v3/volumes")) == ["v4", "v3", "v2", "v1", "v0"]


def test_pages_are_followed_by_their_links_to_the_end(api: ApiHarness, five: list[str]) -> None:
    path, pages = "/v3/project/volumes/detail?limit=2&sort=name:asc", []
    while path:
        answer = api.get(path)
        pages.append(names(answer))
        links = answer.body.get("volumes_links")
        path = links[0]["href"].partition(".org")[2] if links else ""
        assert not links or links[0]["rel"] == "next"
    assert pages == [["v0", "v1"], ["v2", "v3"], ["v4"]]


def test_no_list_is_longer_than_the_option_says(store: Any, five: list[str]) -> None:
    api = ApiHarness(store, osapi_max_limit=3)
    for path in ("/v3/volumes", "/v3/volumes?limit=100"):
        answer = api.get(path)
        assert len(answer.body["volumes"]) == 3
        assert answer.body["volumes_links"]


def test_marker_offset_and_an_empty_page(api: ApiHarness, five: list[str]) -> None:
    assert names(api.get(f"/v3/volumes?marker={five[1]}")) == ["v0"]
    assert names(api.get("/v3/volumes?offset=3")) == ["v1", "v0"]
    assert api.get("/v3/volumes?limit=0").body == {"volumes": []}
    assert api.get("/v3/volumes?marker=nothing").status == 404


@pytest.mark.parametrize(
    "query",
    [
        *("limit=-1", "limit=x", "limit=", "offset=-1", "offset=99999999999", "sort=taste", "sort=name:up"),
        *("sort=name&sort_key=name", "all_tenants=perhaps", "bootable=perhaps", "size=big", "metadata=[]"),
        *("metadata={'a':", "metadata=" + "x" * 5000, "name=%00", "name=%ff"),
    ],
)
def test_a_query_that_can_not_be_understood_is_a_400(api: ApiHarness, query: str) -> None:
    assert api.get(f"/v3/volumes?{query}").fault[0] == "badRequest"


def test_a_query_with_very_many_fields_is_refused_even_where_unknown_ones_are_ignored(api: ApiHarness) -> None:
    query = "&".join(f"x{i}=1" for i in range(100))
    assert api.get(f"/v3/volumes?{query}", version=30).fault[0] == "badRequest"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=v3", ["v3"]),
        ("name~=3", ["v3"]),
        ("name~=%25", []),
        ("status=available&size=2", ["v1"]),
        ("status=error", []),
        ("metadata={'n': '2'}", ["v2"]),
        ('metadata={"n": 2, "all": "y"}', ["v2"]),
        ("metadata={'n': '2', 'all': 'n'}", []),
        ("bootable=true", []),
        ("consumes_quota=false", []),
        ("consumes_quota=true&name=v0", ["v0"]),
        ("host=node@file&name=v0", ["v0"]),
        ("host=node@file%23file&name=v0", ["v0"]),
        ("host=node@other", []),
        ("sort_key=size&sort_dir=asc&limit=2", ["v0", "v1"]),
        ("sort=status:asc,size:desc&limit=1", ["v4"]),
    ],
)
def test_filters_and_sorting(api: ApiHarness, five: list[str], query: str, expected: list[str]) -> None:
    assert names(api.get(f"/v3/volumes?{query}")) == expected


def test_an_unknown_filter_is_ignored_before_3_31_and_refused_after(api: ApiHarness, five: list[str]) -> None:
    assert len(names(api.get("/v3/volumes?taste=sweet", version=30))) == 5
    assert "taste" in api.get("/v3/volumes?taste=sweet", version=31).fault[1]
    assert "name~" in api.get("/v3/volumes?name~=v", version=33).fault[1]


def test_counts_are_of_all_that_match_from_3_45_on(api: ApiHarness, five: list[str]) -> None:
    assert api.get("/v3/volumes?limit=2&with_count=true").body["count"] == 5
    assert api.get("/v3/volumes?name=v1&with_count=true").body["count"] == 1
    assert "count" not in api.get("/v3/volumes?limit=2&with_count=true", version=44).body
    assert "count" not in api.get("/v3/volumes?limit=2").body


def test_an_admin_sees_other_projects_only_when_asking(api: ApiHarness, five: list[str]) -> None:
    theirs = api.new_volume(name="theirs", token="bob:lab")
    assert "theirs" not in names(api.get("/v3/volumes"))
    assert "theirs" in names(api.get("/v3/volumes?all_tenants=1"))
    assert names(api.get("/v3/volumes?all_tenants=1&project_id=lab")) == ["theirs"]
    assert names(api.get("/v3/volumes", token="bob:lab")) == ["theirs"]
    assert api.get(f"/v3/volumes/{theirs['id']}").status == 200


def test_snapshots_are_listed_likewise(api: ApiHarness, five: list[str]) -> None:
    for i in range(3):
        api.new_snapshot(five[0], name=f"s{i}", metadata={"n": str(i)})
    answer = api.get("/v3/snapshots/detail?limit=2&with_count=1")
    assert (names(answer), answer.body["count"]) == (["s2", "s1"], 3)
    assert "snapshots_links" in answer.body
    assert names(api.get("/v3/snapshots?metadata={'n': '1'}", version=22)) == ["s1"]
    assert len(names(api.get("/v3/snapshots?metadata={'n': '1'}", version=21))) == 3
    assert names(api.get(f"/v3/snapshots?volume_id={five[1]}")) == []
    assert "taste" in api.get("/v3/snapshots?taste=sweet").fault[1]


def test_clients_can_ask_which_filters_there_are(api: ApiHarness) -> None:
    found = {entry["resource"]: entry["filters"] for entry in api.get("/v3/resource_filters").body["resource_filters"]}
    assert {"name~", "status", "metadata"} <= set(found["volume"])
    assert "host" not in found["volume"]
    (only,) = api.get("/v3/resource_filters?resource=snapshot").body["resource_filters"]
    assert only["resource"] == "snapshot"
