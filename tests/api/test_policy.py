from __future__ import annotations

import asyncio
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from caracal.services.api import policy_contract
from tests.api.policies import HEAD, REGO, SCHEMA, policies, rego
from tests.api.running import Plane


@pytest.fixture(scope="module")
async def zone(api: Plane) -> str:
    """A zone for what leaves nothing behind."""
    return await api.zone()


async def test_a_policy_is_made_with_its_first_version(api: Plane) -> None:
    zone = await api.zone()
    made = await api.made(policies(zone), {"name": "pölicy", "content": rego("é")})
    version = made.pop("version")
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "name": "pölicy",
        "description": None,
        "owner_type": "customer",
        "created_by": "bootstrap",
        "created_at": made["created_at"],
    }
    assert version == {
        "id": version["id"],
        "policy_id": made["id"],
        "version": 1,
        "content_sha256": sha256(rego("é").encode()).hexdigest(),
        "schema_version": SCHEMA,
        "created_at": version["created_at"],
    }
    assert made["created_at"] <= version["created_at"]
    shown = (await api.call("GET", policies(zone, made["id"]))).json()
    assert shown == made | {"versions": [version | {"content": rego("é")}]}
    assert (await api.call("GET", policies(zone))).json() == [made]


async def test_all_fields_are_kept(api: Plane, zone: str) -> None:
    given = {"name": "whole", "description": "", "owner_type": "system"}
    body = given | {"content": REGO, "schema_version": SCHEMA, "unknown": 1}
    made = await api.made(policies(zone), body)
    assert {name: made[name] for name in given} == given


async def test_the_token_that_made_it_is_named(api: Plane, zone: str) -> None:
    headers = await api.token("zone", zone)
    answer = await api.call("POST", policies(zone), {"name": "n", "content": REGO}, headers=headers)
    assert (answer.status_code, answer.json()["created_by"]) == (201, "test")


async def test_versions_are_shown_newest_first(api: Plane) -> None:
    zone = await api.zone()
    made = await api.made(policies(zone), {"name": "a", "content": rego("1")})
    for number in (2, 3):
        path = policies(zone, made["id"], "versions")
        added = await api.made(path, {"content": rego(str(number))})
        assert (added["version"], added["policy_id"]) == (number, made["id"])
        assert "content" not in added
    shown = (await api.call("GET", policies(zone, made["id"]))).json()
    told = [(version["version"], version["content"]) for version in shown["versions"]]
    assert told == [(3, rego("3")), (2, rego("2")), (1, rego("1"))]


async def test_an_archived_policy_is_gone_and_its_name_free(api: Plane) -> None:
    zone = await api.zone()
    body = {"name": "a", "content": REGO}
    path = policies(zone, (await api.made(policies(zone), body))["id"])
    deleted = await api.call("DELETE", path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert int(deleted.headers["caracal-position"]) > 0
    for method, where, sent in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("POST", f"{path}/versions", {"content": REGO}),
    ):
        answer = await api.call(method, where, sent)
        assert (answer.status_code, answer.json()["error"]) == (404, "policy_not_found")
    assert (await api.call("GET", policies(zone))).json() == []
    await api.made(policies(zone), body)


async def test_pages(api: Plane) -> None:
    zone = await api.zone()
    made = [await api.made(policies(zone), {"name": f"{n}", "content": REGO}) for n in range(3)]
    first = await api.call("GET", policies(zone) + "?limit=2")
    assert [row["id"] for row in first.json()] == [made[2]["id"], made[1]["id"]]
    following = first.links["next"]["url"].removeprefix("/v1")
    second = await api.call("GET", following)
    assert [row["id"] for row in second.json()] == [made[0]["id"]]
    assert "link" not in second.headers


async def test_a_name_is_taken_once_by_32_writers(api: Plane) -> None:
    zone = await api.zone()
    await policy_contract.check_rego(REGO)
    body = {"name": "one", "content": REGO}
    answers = await asyncio.gather(*(api.call("POST", policies(zone), body) for _ in range(32)))
    counted = Counter((answer.status_code, answer.json().get("error")) for answer in answers)
    assert counted == {(201, None): 1, (409, "policy_name_conflict"): 31}
    assert len((await api.call("GET", policies(zone))).json()) == 1


async def test_32_writers_on_one_policy_number_without_gap(api: Plane) -> None:
    zone = await api.zone()
    made = await api.made(policies(zone), {"name": "a", "content": REGO})
    path = policies(zone, made["id"])
    added = await asyncio.gather(
        *(api.made(f"{path}/versions", {"content": REGO}) for _ in range(32))
    )
    assert sorted(version["version"] for version in added) == list(range(2, 34))
    shown = (await api.call("GET", path)).json()["versions"]
    assert [version["version"] for version in shown] == list(range(33, 0, -1))
    assert {version["id"] for version in added} < {version["id"] for version in shown}


REFUSED = {
    " \n# nothing\n": "empty_policy",
    "x" * (64 * 1024 + 1): "policy_too_large",
    HEAD + f"result := {'[' * 11}{']' * 11}": "nesting_too_deep",
    HEAD + 'result := "': "unterminated_string",
    HEAD + "result := (": "unbalanced_delimiters",
    "result := 1": "missing_package_declaration",
    "package 1a\nresult := 1": "invalid_package_name",
    "package other\nresult := 1": "must_use_package_caracal_authz",
    HEAD + "allow := true": "must_define_result_rule",
    HEAD + "result := !": "syntax_error:3:11",
    HEAD + 'result := http.send({"url": "a"})': "forbidden_builtin:http.send",
    HEAD + "result := nothing(1)": "unknown_function:nothing",
}


@pytest.mark.parametrize("content", REFUSED, ids=REFUSED.values())
async def test_rego_that_is_refused_is_not_stored(api: Plane, content: str) -> None:
    zone = await api.zone()
    made = await api.made(policies(zone), {"name": "kept", "content": REGO})
    for path in (policies(zone), policies(zone, made["id"], "versions")):
        answer = await api.call("POST", path, {"name": "refused", "content": content})
        problem = (answer.status_code, answer.json()["error"], answer.json()["detail"])
        assert problem == (422, "invalid_rego", REFUSED[content])
        assert "caracal-position" not in answer.headers
    assert [row["name"] for row in (await api.call("GET", policies(zone))).json()] == ["kept"]
    assert len((await api.call("GET", policies(zone, made["id"]))).json()["versions"]) == 1


VERSION_FIELDS: dict[str, list[Any]] = {
    "content": [None, "", 1, ["a"], "a\0b"],
    "schema_version": [None, "", 1, "x" * 1025],
}
FIELDS = VERSION_FIELDS | {
    "name": [None, "", 1, True, {}, "x" * 257, "a\0"],
    "description": [1, [], "x" * 1025, "a\0"],
    "owner_type": [None, "", 1, "x" * 257],
}


@pytest.mark.parametrize("field", FIELDS)
async def test_bad_fields(api: Plane, zone: str, field: str) -> None:
    good = {"name": "bad", "content": REGO}
    for value in FIELDS[field]:
        answer = await api.call("POST", policies(zone), good | {field: value})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body"), value
        assert answer.json()["issues"][0]["path"] == [field]
    for value in VERSION_FIELDS.get(field, ()):
        path = policies(zone, "unknown", "versions")
        answer = await api.call("POST", path, good | {field: value})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body"), value


@pytest.mark.parametrize("rest", [(), ("unknown", "versions")])
async def test_bad_bodies(api: Plane, zone: str, rest: tuple[str, ...]) -> None:
    raw = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"\xff",
        b'{"name": "a", "content": "\\ud800"}',
        b"{}",
    ]
    for content in raw:
        answer = await api.call("POST", policies(zone, *rest), content=content)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body"), content


@pytest.mark.parametrize("rest", [(), ("unknown", "versions")])
async def test_an_unknown_schema_version_is_refused(
    api: Plane, zone: str, rest: tuple[str, ...]
) -> None:
    body = {"name": "a", "content": REGO, "schema_version": "2026-03-17"}
    answer = await api.call("POST", policies(zone, *rest), body)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_schema_version")
    assert answer.json()["detail"] == "2026-03-17"


async def test_ids_that_cannot_be(api: Plane, zone: str) -> None:
    for bad in ("a%20b", "x" * 129, "%C3%A9"):
        for method, rest in (("GET", ()), ("DELETE", ()), ("POST", ("versions",))):
            answer = await api.call(method, policies(zone, bad, *rest), {})
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_params")
    for query, code in (
        ("limit=0", "invalid_query"),
        ("limit=501", "invalid_query"),
        ("limit=a", "invalid_query"),
        ("cursor=a", "invalid_cursor"),
    ):
        answer = await api.call("GET", f"{policies(zone)}?{query}")
        assert (answer.status_code, answer.json()["error"]) == (400, code)


async def test_what_is_not_in_this_zone_is_unknown(api: Plane, zone: str) -> None:
    other = await api.zone()
    made = await api.made(policies(other), {"name": "a", "content": REGO})
    body = {"content": REGO}
    for policy_id in (made["id"], "unknown", made["version"]["id"], zone):
        for method, rest in (("GET", ()), ("DELETE", ()), ("POST", ("versions",))):
            answer = await api.call(method, policies(zone, policy_id, *rest), body)
            assert (answer.status_code, answer.json()["error"]) == (404, "policy_not_found")
    assert (await api.call("GET", policies(other, made["id"]))).status_code == 200


async def test_an_unknown_zone_comes_before_the_body(api: Plane) -> None:
    gone = await api.zone()
    await api.call("DELETE", f"/zones/{gone}")
    for zone in ("unknown", gone):
        for method, path in (
            ("GET", policies(zone)),
            ("POST", policies(zone)),
            ("GET", policies(zone, "a")),
            ("POST", policies(zone, "a", "versions")),
            ("DELETE", policies(zone, "a")),
        ):
            answer = await api.call(method, path, {"name": 1})
            assert (answer.status_code, answer.json()["error"]) == (404, "zone_not_found")


async def test_tokens_that_may_not(api: Plane, zone: str) -> None:
    body = {"name": "a", "content": REGO}
    elsewhere = await api.token("zone", await api.zone())
    reading = await api.token("zone", zone, "read")
    for headers, status, code in (
        ({"Authorization": "Bearer wrong"}, 401, "invalid_admin_token"),
        (elsewhere, 403, "admin_token_zone_mismatch"),
        (reading, 403, "admin_token_capability"),
    ):
        answer = await api.call("POST", policies(zone), body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert (await api.call("GET", policies(zone), headers=reading)).status_code == 200
