from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.policy_set import PolicySet, active_key, manifest_sha256
from caracal.events.store.entries import LogReader
from caracal.services.api import policy_contract
from tests.api.policies import (
    HEAD,
    SCHEMA,
    manifest,
    policies,
    policy_of,
    rego,
    set_of,
    sets,
    version_of,
)
from tests.api.running import Plane, plane
from tests.backbone import new_zone, opened_log
from tests.making import in_zone, new_policy, new_policy_set


@pytest.fixture(scope="module")
async def zone(api: Plane) -> str:
    """A zone for what leaves nothing behind."""
    return await api.zone()


@pytest.fixture(scope="module")
async def version(api: Plane, zone: str) -> str:
    """A policy version of that zone."""
    return await version_of(api, zone)


@pytest.fixture(scope="module")
async def policy_set(api: Plane, zone: str, version: str) -> str:
    """A set of that zone, with one version, never activated."""
    return (await set_of(api, zone, [version]))[0]


async def activate(api: Plane, zone: str, set_id: str, *version_ids: str | None) -> dict[str, Any]:
    body = dict(zip(("version_id", "shadow_version_id"), version_ids, strict=False))
    answer = await api.call("POST", sets(zone, set_id, "activate"), body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def refusal(api: Plane, path: str, body: Any) -> tuple[int, str, str | None]:
    """Status, code and detail of a POST that is refused, and writes nothing."""
    answer = await api.call("POST", path, body)
    assert "caracal-position" not in answer.headers, answer.text
    return answer.status_code, answer.json()["error"], answer.json().get("detail")


async def active_sets(api: Plane, zone: str) -> dict[str, tuple[str, str | None]]:
    """Active and shadow version of each set of the zone that is active."""
    rows = (await api.call("GET", sets(zone))).json()
    return {
        row["id"]: (row["active_version_id"], row["shadow_version_id"])
        for row in rows
        if row["active_version_id"] is not None
    }


async def holder(db: AsyncConnection[Any], zone: str) -> str | None:
    """Who holds the place of the zone's active set."""
    query = "SELECT owner FROM guard_key WHERE key = %s"
    row = await (await db.execute(query, (active_key(zone),))).fetchone()
    return None if row is None else str(row[0])


async def history(api: Plane, zone: str) -> list[tuple[int, str, str]]:
    """Position, name and set of what happened to the sets of a zone."""
    async with api.database() as db:
        reader, records, after = LogReader(db), [], 0
        while batch := await reader.records(after):
            records += batch
            after = batch[-1].position
    facts = [record.fact() for record in records if record.name.startswith("policy_set.")]
    return [(fact.position, fact.name, fact.aggregate_id) for fact in facts if fact.zone_id == zone]


async def test_a_set_is_made(api: Plane) -> None:
    zone = await api.zone()
    made = await api.made(sets(zone), {"name": "sét", "description": "d"})
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "name": "sét",
        "description": "d",
        "active_version_id": None,
        "shadow_version_id": None,
        "created_at": made["created_at"],
    }
    assert (await api.call("GET", sets(zone, made["id"]))).json() == made
    assert (await api.call("GET", sets(zone))).json() == [made]
    again = await refusal(api, sets(zone), {"name": "sét"})
    assert again == (409, "policy_set_name_conflict", None)
    assert (await api.made(sets(await api.zone()), {"name": "sét"}))["description"] is None


def test_the_digest_of_a_manifest() -> None:
    expected = "e7388625e7afa28ca7927662b2decb5077ef39c5ff1ab43f1847845232968087"
    assert manifest_sha256(["pv-1", "pv-2"]) == expected


async def test_a_version_keeps_its_manifest_in_order(api: Plane) -> None:
    zone = await api.zone()
    one, two = await policy_of(api, zone, rego("1")), await policy_of(api, zone, rego("2"))
    more = await api.made(policies(zone, one["id"], "versions"), {"content": rego("3")})
    items = [two["version"]["id"], more["id"], one["version"]["id"]]
    set_id, _ = await set_of(api, zone, [one["version"]["id"]])
    made = await api.made(sets(zone, set_id, "versions"), manifest(*items))
    assert made == {
        "id": made["id"],
        "policy_set_id": set_id,
        "version": 2,
        "manifest_sha256": manifest_sha256(items),
        "schema_version": SCHEMA,
        "created_at": made["created_at"],
    }
    await api.call("DELETE", policies(zone, two["id"]))
    shown = (await api.call("GET", sets(zone, set_id, "versions", made["id"]))).json()
    ids = [two["id"], one["id"]]
    assert shown == made | {"manifest_json": manifest(*items)["manifest"], "policies": ids}


async def test_the_manifest_of_a_contract(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    good, archived = await version_of(api, zone), await policy_of(api, zone, rego("gone"))
    await api.call("DELETE", policies(zone, archived["id"]))
    app = (await api.application(zone))["id"]
    secret = (await api.application(zone, credential_type="token"))["id"]
    elsewhere = (await api.application(other))["id"]
    contradicting = HEAD + 'result := {"decision": "allow", "evaluation_status": "complete"}'
    unchecked = new_policy(zone, name="unchecked")
    with in_zone(zone):
        broken = unchecked.add_version("broken", content=HEAD, schema_version=SCHEMA)
    await api.save(unchecked)
    set_id, _ = await set_of(api, zone)
    path = sets(zone, set_id, "versions")
    naming = await version_of(api, zone, rego(f"x{app}x"))
    foreign = await version_of(api, other)
    for items, reason in (
        ([good, good], f"duplicate_policy_version:{good}"),
        ([good, "unknown"], "policy_version_missing:unknown"),
        ([archived["version"]["id"]], f"policy_version_missing:{archived['version']['id']}"),
        ([good, archived["id"]], f"policy_version_missing:{archived['id']}"),
        ([foreign], f"policy_version_missing:{foreign}"),
        ([good, broken.id], "must_define_result_rule"),
        ([good, await version_of(api, zone, contradicting)], "syntax_error:3:1"),
        ([good, naming], f"public_application:{app}"),
    ):
        problem = await refusal(api, path, manifest(*items))
        assert problem == (422, "invalid_policy_contract", reason)
    await api.call("DELETE", f"/zones/{zone}/applications/{app}")
    fine = [good, naming, await version_of(api, zone, rego(f"{secret} {elsewhere}"))]
    made = await api.made(path, manifest(*fine))
    assert made["version"] == 1  # what was refused left no number out


async def test_activation_takes_the_place_of_another_set(api: Plane) -> None:
    zone = await api.zone()
    version = await version_of(api, zone)
    first, (first_version,) = await set_of(api, zone, [version])
    second, (second_version, shadow) = await set_of(api, zone, [version], [version])
    answer = await api.call("POST", sets(zone, first, "activate"), {"version_id": first_version})
    position = int(answer.headers["caracal-position"])
    assert (answer.status_code, answer.json()) == (
        202,
        {
            "activated": True,
            "version_id": first_version,
            "shadow_version_id": None,
            "position": position,
            "status_url": f"/v1{sets(zone, first, 'activation-status')}"
            f"?version_id={first_version}&position={position}",
        },
    )
    assert await active_sets(api, zone) == {first: (first_version, None)}
    told = await activate(api, zone, second, second_version, shadow)
    assert told["shadow_version_id"] == shadow
    assert await active_sets(api, zone) == {second: (second_version, shadow)}
    activated, deactivated = (await history(api, zone))[-2:]
    assert activated[1:] == ("policy_set.activated", second)
    assert deactivated == (activated[0] + 1, "policy_set.deactivated", first)


async def test_a_shadow_that_is_left_out_is_cleared(api: Plane) -> None:
    zone = await api.zone()
    version = await version_of(api, zone)
    set_id, (one, two) = await set_of(api, zone, [version], [version])
    await activate(api, zone, set_id, one, two)
    await activate(api, zone, set_id, one, None)
    assert await active_sets(api, zone) == {set_id: (one, None)}
    await activate(api, zone, set_id, two, one)
    await activate(api, zone, set_id, two)
    assert await active_sets(api, zone) == {set_id: (two, None)}
    before = await history(api, zone)
    assert (await activate(api, zone, set_id, two))["position"] is None
    assert await history(api, zone) == before


async def test_without_its_active_set_a_zone_has_no_policy(api: Plane) -> None:
    zone = await api.zone()
    version = await version_of(api, zone)
    set_id, (one,) = await set_of(api, zone, [version])
    other, (another,) = await set_of(api, zone, [version])
    await activate(api, zone, set_id, one)
    path = sets(zone, set_id)
    assert (await api.call("DELETE", path)).status_code == 204
    async with api.database() as db:
        assert await holder(db, zone) is None
    assert await active_sets(api, zone) == {}
    found = await api.log.find(PolicySet, set_id)
    assert found is not None
    assert found.archived
    for method, where, body in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("GET", f"{path}/versions/{one}", None),
        ("POST", f"{path}/versions", manifest(version)),
    ):
        answer = await api.call(method, where, body)
        assert (answer.status_code, answer.json()["error"]) == (404, "policy_set_not_found")
    gone = await refusal(api, f"{path}/activate", {"version_id": one})
    assert gone == (404, "policy_set_binding_not_found", None)
    await activate(api, zone, other, another)
    assert await active_sets(api, zone) == {other: (another, None)}


async def test_deleting_another_set_leaves_the_active_one(api: Plane) -> None:
    zone = await api.zone()
    version = await version_of(api, zone)
    set_id, (one,) = await set_of(api, zone, [version])
    other, _ = await set_of(api, zone)
    await activate(api, zone, set_id, one)
    await api.call("DELETE", sets(zone, other))
    assert await active_sets(api, zone) == {set_id: (one, None)}


async def test_a_policy_that_was_archived_is_not_activated(api: Plane) -> None:
    zone = await api.zone()
    kept, gone = await version_of(api, zone), await policy_of(api, zone, rego("gone"))
    gone_id = gone["version"]["id"]
    set_id, (good, bad) = await set_of(api, zone, [kept], [kept, gone_id])
    await api.call("DELETE", policies(zone, gone["id"]))
    path = sets(zone, set_id, "activate")
    for body in (
        {"version_id": bad},
        {"version_id": good, "shadow_version_id": bad},
    ):
        problem = await refusal(api, path, body)
        assert problem == (409, "referenced_policy_version_missing", gone_id)
    assert await active_sets(api, zone) == {}


async def test_an_active_set_survives_its_policies(api: Plane) -> None:
    zone = await api.zone()
    policy = await policy_of(api, zone)
    set_id, (one,) = await set_of(api, zone, [policy["version"]["id"]])
    await activate(api, zone, set_id, one)
    await api.call("DELETE", policies(zone, policy["id"]))
    assert await active_sets(api, zone) == {set_id: (one, None)}


async def test_the_contract_is_checked_again_at_activation(api: Plane) -> None:
    zone = await api.zone()
    app = (await api.application(zone, credential_type="token"))["id"]
    naming = await version_of(api, zone, rego(app))
    set_id, (good, bad) = await set_of(api, zone, [await version_of(api, zone)], [naming])
    changed = await api.call(
        "PATCH", f"/zones/{zone}/applications/{app}", {"credential_type": "public"}
    )
    assert changed.status_code == 200
    path, reason = sets(zone, set_id, "activate"), f"public_application:{app}"
    assert await refusal(api, path, {"version_id": bad}) == (
        422,
        "invalid_policy_contract",
        reason,
    )
    assert await refusal(api, path, {"version_id": good, "shadow_version_id": bad}) == (
        422,
        "invalid_shadow_policy_contract",
        reason,
    )


async def test_rego_is_checked_once(api: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    zone, checked = await api.zone(), []
    real = policy_contract.check_manifest

    async def noted(contents: Any) -> None:
        checked.append(len(contents))
        await real(contents)

    monkeypatch.setattr(policy_contract, "check_manifest", noted)
    contents = [rego(f"{zone} {number}") for number in range(256)]
    policy = new_policy(zone, name="large")
    with in_zone(zone):
        items = [
            policy.add_version(f"{zone}-{number}", content=content, schema_version=SCHEMA).id
            for number, content in enumerate(contents)
        ]
    await api.save(policy)
    set_id, (one,) = await set_of(api, zone, items)
    await activate(api, zone, set_id, one)
    assert checked == [256]
    await set_of(api, zone, items)
    assert checked == [256]
    await set_of(api, zone, items[:3], items[2::-1])
    assert checked == [256, 3, 3]  # another order may contradict elsewhere


async def test_32_sets_are_activated_and_one_is_active(api: Plane) -> None:
    zone = await api.zone()
    version = await version_of(api, zone)
    made = await asyncio.gather(*(set_of(api, zone, [version]) for _ in range(32)))
    await asyncio.gather(*(activate(api, zone, set_id, one) for set_id, (one,) in made))
    active: set[str] = set()
    seen = []
    for _, name, set_id in await history(api, zone):
        if name == "policy_set.activated":
            seen.append(set_id)
            active.add(set_id)
        elif name == "policy_set.deactivated":
            active.remove(set_id)
            assert active == {seen[-1]}
    assert sorted(seen) == sorted(set_id for set_id, _ in made)
    async with api.database() as db:
        assert await holder(db, zone) == seen[-1]
    assert await active_sets(api, zone) == {seen[-1]: (dict(made)[seen[-1]][0], None)}
    assert active == {seen[-1]}


async def test_32_writers_on_one_set_number_without_gap(api: Plane) -> None:
    zone = await api.zone()
    version = await version_of(api, zone)
    set_id, _ = await set_of(api, zone)
    path = sets(zone, set_id, "versions")
    made = await asyncio.gather(*(api.made(path, manifest(version)) for _ in range(32)))
    assert sorted(one["version"] for one in made) == list(range(1, 33))


async def test_archiving_races_with_activation(api: Plane) -> None:
    zone = await api.zone()
    policy = await policy_of(api, zone)
    version = policy["version"]["id"]
    made = await asyncio.gather(*(set_of(api, zone, [version]) for _ in range(8)))
    calls = [
        api.call("POST", sets(zone, set_id, "activate"), {"version_id": one})
        for set_id, (one,) in made
    ]
    calls.insert(4, api.call("DELETE", policies(zone, policy["id"])))
    answers = await asyncio.gather(*calls)
    archived = int(answers.pop(4).headers["caracal-position"])
    for answer in answers:
        if answer.status_code == 202:
            assert answer.json()["position"] < archived
        else:
            assert answer.json()["error"] == "referenced_policy_version_missing"


async def test_unknown_is_said_at_the_head_of_the_log_only(
    database_url: str, redis_url: str
) -> None:
    made = new_zone()
    zone = made.aggregate_id
    policy, policy_set = new_policy(zone, versions=1), new_policy_set(zone)
    async with opened_log(database_url) as log, plane(database_url, redis_url, log) as api:
        for thing in (made, policy, policy_set):
            await log.save(thing)
        path = sets(zone, policy_set.aggregate_id, "versions")
        # No worker runs, so no read model knows the policy.
        answer = await api.client.post(f"/v1{path}", json=manifest(policy.versions[0].id))
    assert (answer.status_code, answer.json()["error"]) == (503, "projection_lagging")


@pytest.mark.parametrize(
    ("ids", "text", "named"),
    [
        ([], "00000000-0000-0000-0000-000000000000", None),
        (["app1"], "is app12", "app1"),
        (["app1"], "is App1", None),
        (["00000000-0000-7000-8000-00000000000a"], "x00000000-0000-7000-8000-00000000000ab", 0),
        (["00000000-0000-7000-8000-00000000000a"], "00000000-0000-7000-8000-00000000000A", None),
        (["0000-000-0000-0000-0000-000000000000"], "0000-000-0000-0000-0000-000000000000", 0),
        (["aaaa-bbbb"], "-aaaa-bbbb-cccc-111111111111", "aaaa-bbbb"),
        (
            ["eeeeeeee-ffff-1111-2222-333333333333"],
            "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee-ffff-1111-2222-333333333333",
            0,
        ),
    ],
)
def test_ids_are_found_in_a_text(ids: list[str], text: str, named: str | int | None) -> None:
    assert policy_contract.named_in(ids, text) == (ids[0] if named == 0 else named)


SET_FIELDS: dict[str, list[Any]] = {
    "name": [None, "", 1, True, {}, "x" * 257, "a\0"],
    "description": [1, [], "x" * 1025, "a\0"],
}


@pytest.mark.parametrize("field", SET_FIELDS)
async def test_bad_fields_of_a_set(api: Plane, zone: str, field: str) -> None:
    for value in SET_FIELDS[field]:
        answer = await api.call("POST", sets(zone), {"name": "bad", field: value})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body"), value
        assert answer.json()["issues"][0]["path"] == [field]


BAD_IDS: list[Any] = [None, "", 1, "a b", "x" * 129, "a\0", "é", ["a"], "a\n"]


async def test_bad_manifests(api: Plane, zone: str, policy_set: str) -> None:
    path = sets(zone, policy_set, "versions")
    items = [{"policy_version_id": bad} for bad in BAD_IDS] + [{}, "a", None]
    whole = [[], None, "a", {}, manifest(*(str(n) for n in range(257)))["manifest"]]
    for given in [*([item] for item in items), *whole]:
        problem = await refusal(api, path, {"manifest": given})
        assert problem == (400, "invalid_body", None), given
    for bad in (None, "", 1, "x" * 1025):
        problem = await refusal(api, path, manifest("a") | {"schema_version": bad})
        assert problem == (400, "invalid_body", None), bad
    problem = await refusal(api, path, manifest("a") | {"schema_version": "1"})
    assert problem == (422, "invalid_schema_version", "1")


async def test_bad_activations(api: Plane, zone: str, policy_set: str) -> None:
    path = sets(zone, policy_set, "activate")
    for bad in BAD_IDS:
        assert (await refusal(api, path, {"version_id": bad}))[:2] == (400, "invalid_body")
        if bad is not None:
            body = {"version_id": "a", "shadow_version_id": bad}
            assert (await refusal(api, path, body))[:2] == (400, "invalid_body"), bad
    assert (await refusal(api, path, {}))[:2] == (400, "invalid_body")


@pytest.mark.parametrize("rest", [(), ("a", "versions"), ("a", "activate")])
async def test_bad_bodies(api: Plane, zone: str, rest: tuple[str, ...]) -> None:
    for content in (b"", b"{", b"[]", b"null", b'"a"', b"\xff", b"{}", b'{"name": "\\ud800"}'):
        answer = await api.call("POST", sets(zone, *rest), content=content)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body"), content


async def test_versions_of_another_set_are_unknown(
    api: Plane, zone: str, policy_set: str, version: str
) -> None:
    other, (foreign,) = await set_of(api, zone, [version])
    own = (await api.made(sets(zone, policy_set, "versions"), manifest(version)))["id"]
    path = sets(zone, policy_set)
    for unknown in (foreign, "unknown", policy_set):
        body = {"version_id": unknown}
        assert (await refusal(api, f"{path}/activate", body))[:2] == (404, "version_not_found")
        body = {"version_id": own, "shadow_version_id": unknown}
        problem = await refusal(api, f"{path}/activate", body)
        assert problem[:2] == (404, "shadow_version_not_found")
        answer = await api.call("GET", f"{path}/versions/{unknown}")
        assert answer.json()["error"] == "policy_set_version_not_found"
    assert (await api.call("GET", sets(zone, other, "versions", foreign))).status_code == 200


async def test_sets_of_another_zone_are_unknown(
    api: Plane, zone: str, policy_set: str, version: str
) -> None:
    other, body = await api.zone(), {"version_id": "a", **manifest(version)}
    for where, set_id in ((other, policy_set), (zone, "unknown"), (zone, version)):
        for method, *rest in (
            ("GET",),
            ("DELETE",),
            ("GET", "versions", "a"),
            ("POST", "versions"),
        ):
            answer = await api.call(method, sets(where, set_id, *rest), body)
            assert (answer.status_code, answer.json()["error"]) == (404, "policy_set_not_found")
        problem = await refusal(api, sets(where, set_id, "activate"), body)
        assert problem[:2] == (404, "policy_set_binding_not_found")
    assert (await api.call("GET", sets(zone, policy_set))).status_code == 200


ROUTES = (
    ("GET",),
    ("DELETE",),
    ("POST", "versions"),
    ("GET", "versions", "a"),
    ("POST", "activate"),
)


async def test_ids_that_cannot_be(api: Plane, zone: str) -> None:
    for bad in ("a%20b", "x" * 129, "%C3%A9"):
        for method, *rest in (*ROUTES, ("GET", "versions", bad)):
            answer = await api.call(method, sets(zone, bad, *rest), {})
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_params")
        answer = await api.call("GET", sets(zone, "a", "versions", bad))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_params")


async def test_an_unknown_zone_comes_before_the_body(api: Plane) -> None:
    for method, *rest in ROUTES:
        answer = await api.call(method, sets("unknown", "a", *rest), {"name": 1})
        assert (answer.status_code, answer.json()["error"]) == (404, "zone_not_found")
    assert (await refusal(api, sets("unknown"), {}))[:2] == (404, "zone_not_found")


async def test_tokens_that_may_not(api: Plane, zone: str, policy_set: str) -> None:
    elsewhere = await api.token("zone", await api.zone())
    reading = await api.token("zone", zone, "read")
    for headers, status, code in (
        ({"Authorization": "Bearer wrong"}, 401, "invalid_admin_token"),
        (elsewhere, 403, "admin_token_zone_mismatch"),
        (reading, 403, "admin_token_capability"),
    ):
        for rest in ((), (policy_set, "versions"), (policy_set, "activate")):
            answer = await api.call("POST", sets(zone, *rest), {}, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert (await api.call("GET", sets(zone), headers=reading)).status_code == 200


async def test_pages(api: Plane) -> None:
    zone = await api.zone()
    made = [await api.made(sets(zone), {"name": str(number)}) for number in range(3)]
    first = await api.call("GET", sets(zone) + "?limit=2")
    assert [row["id"] for row in first.json()] == [made[2]["id"], made[1]["id"]]
    second = await api.call("GET", first.links["next"]["url"].removeprefix("/v1"))
    assert [row["id"] for row in second.json()] == [made[0]["id"]]
    assert "link" not in second.headers
    for query, code in (("limit=0", "invalid_query"), ("cursor=a", "invalid_cursor")):
        answer = await api.call("GET", f"{sets(zone)}?{query}")
        assert (answer.status_code, answer.json()["error"]) == (400, code)
