"""Agent sessions over HTTP: spawn with its checks in order, replays, reads."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from caracal import clock
from caracal.events.application import Application
from caracal.events.base import Fall
from tests.backbone import new_zone
from tests.coordinator.running import Crew, Ship, ids, ship, unknown
from tests.coordinator.trees import edge, planted
from tests.making import in_zone, new_application


def refusal(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert body["requestId"] == answer.headers["x-request-id"]
    assert body["error_description"]
    return answer.status_code, body["error"]


async def spawning(crew: Crew, *, scopes: tuple[str, ...] = (), **members: Any) -> httpx.Response:
    headers = members.pop("headers", {})
    token = members.pop("token", None)
    body = {"application_id": crew.application_id, **members}
    return await crew.call("POST", "/agents", body, scopes=scopes, headers=headers, token=token)


async def test_spawned_shown_and_listed(crew: Crew) -> None:
    agent = await crew.spawn(kind="instance", capabilities=[" plan "], metadata={"a": 1})
    assert agent == {
        "id": agent["id"],
        "agent_session_id": agent["id"],
        "zone_id": crew.zone,
        "application_id": crew.application_id,
        "parent_id": None,
        "subject_session_id": crew.sid,
        "session_sid": crew.sid,
        "authority_root_session_id": crew.sid,
        "kind": "instance",
        "session_class": "instance",
        "capabilities": ["plan"],
        "status": "active",
        "status_reason": None,
        "depth": 0,
        "ttl_seconds": 3600,
        "metadata": {"a": 1},
        "spawned_at": agent["spawned_at"],
        "terminated_at": None,
        "last_heartbeat_at": None,
        "heartbeat_deadline_at": None,
    }
    assert (await crew.call("GET", f"/agents/{agent['id']}")).json() == agent
    assert (await crew.call("GET", "/agents")).json() == [agent]
    missing = await crew.call("GET", f"/agents/{unknown()}")
    assert refusal(missing) == (404, "agent_not_found")


async def test_the_answer_says_where_it_stands_and_readers_may_wait_for_it(crew: Crew) -> None:
    answer = await spawning(crew)
    position = answer.headers["caracal-position"]
    assert "caracal-consistency" not in answer.headers
    seen = await crew.call("GET", "/agents", headers={"Caracal-Min-Position": position})
    assert ids(seen.json()) == [answer.json()["id"]]
    far = await crew.call("GET", "/agents", headers={"Caracal-Min-Position": str(10**12)})
    assert refusal(far) == (503, "projection_lagging")
    assert int(far.headers["retry-after"]) >= 1
    odd = await crew.call("GET", "/agents", headers={"Caracal-Min-Position": "x"})
    assert refusal(odd) == (400, "invalid_params")


async def test_a_service_begins_with_a_lease(crew: Crew) -> None:
    agent = await crew.spawn(kind="service")
    assert agent["last_heartbeat_at"] == agent["spawned_at"]
    lease = clock.parse(agent["heartbeat_deadline_at"]) - clock.parse(agent["spawned_at"])
    assert timedelta(seconds=115) < lease <= timedelta(seconds=121)
    assert (await crew.call("GET", f"/agents/{agent['id']}")).json() == agent


async def test_the_subject_session(crew: Crew) -> None:
    """Named by either name, else the token's own; any active one of the zone will do."""
    other = await crew.another()
    for name in ("subject_session_id", "session_sid"):
        assert (await crew.spawn(**{name: other.sid}))["subject_session_id"] == other.sid
    answer = await spawning(crew, token=crew.token(sid=None))
    assert refusal(answer) == (400, "subject_session_id_required")


async def test_who_may_spawn_for_whom(crew: Crew) -> None:
    other = await crew.another()
    answer = await spawning(crew, application_id=other.application_id)
    assert refusal(answer) == (403, "application_ownership_required")
    admin = await spawning(crew, scopes=("coordinator.admin",), application_id=other.application_id)
    assert refusal(admin) == (403, "application_ownership_required")
    power = f"coordinator.spawn_for:{other.application_id}"
    allowed = await crew.spawn(scopes=[power], application_id=other.application_id)
    assert allowed["application_id"] == other.application_id


async def test_unknown_archived_and_expired_applications(crew: Crew) -> None:
    past = clock.now() - timedelta(seconds=1)
    archived = new_application(crew.zone)
    expired = new_application(crew.zone, registration_method="dcr", expires_at=past)
    await crew.save(archived, expired)
    with in_zone(crew.zone):
        archived.archive(Fall())
    await crew.save(archived)
    other = await crew_of_another_zone(crew)
    for application_id in (
        unknown(),
        archived.aggregate_id,
        expired.aggregate_id,
        other.aggregate_id,
    ):
        power = f"coordinator.spawn_for:{application_id}"
        answer = await spawning(crew, scopes=(power,), application_id=application_id)
        assert refusal(answer) == (404, "application_not_found")


async def crew_of_another_zone(crew: Crew) -> Application:
    zone = new_zone()
    application = new_application(zone.aggregate_id)
    await crew.log.save(zone)
    await crew.log.save(application)
    return application


async def test_an_application_that_registered_itself_has_one_ephemeral_agent(crew: Crew) -> None:
    dcr = await crew.another(registration_method="dcr")
    answer = await spawning(dcr, kind="instance")
    assert refusal(answer) == (409, "dcr_requires_ephemeral_agent")
    agent = await dcr.spawn()
    assert refusal(await spawning(dcr)) == (409, "dcr_application_already_bound")
    await dcr.call("DELETE", f"/agents/{agent['id']}")
    await dcr.spawn()


async def test_subject_sessions_that_will_not_do(crew: Crew) -> None:
    past = clock.now() - timedelta(minutes=2)
    expired = await crew.session(expires_at=past)
    revoked = await crew.session()
    with in_zone(crew.zone):
        revoked.revoke("token_revoked")
    await crew.save(revoked)
    for sid in (unknown(), expired.aggregate_id, revoked.aggregate_id, "order-17"):
        answer = await spawning(crew, subject_session_id=sid)
        assert refusal(answer) == (404, "session_not_found")
        assert "metadata" in answer.json()["detail"]


async def test_parents(crew: Crew) -> None:
    other = await crew.another()
    root, foreign = await crew.spawn(), await other.spawn()
    suspended, ended = await crew.spawn(), await crew.spawn()
    await crew.call("PATCH", f"/agents/{suspended['id']}/suspend")
    await crew.call("DELETE", f"/agents/{ended['id']}")
    for parent in (unknown(), suspended["id"], ended["id"]):
        answer = await spawning(crew, parent_id=parent)
        assert refusal(answer) == (404, "parent_not_found")
    answer = await spawning(crew, parent_id=foreign["id"])
    assert refusal(answer) == (403, "parent_ownership_required")
    power = f"coordinator.spawn_under:{other.application_id}"
    child = await crew.spawn(scopes=[power], parent_id=foreign["id"])
    assert (child["depth"], child["parent_id"]) == (1, foreign["id"])
    own = await crew.spawn(parent_id=root["id"])
    assert (own["depth"], own["application_id"]) == (1, crew.application_id)


async def test_children_are_listed_oldest_first(crew: Crew) -> None:
    root = await crew.spawn()
    made = [await crew.spawn(parent_id=root["id"]) for _ in range(3)]
    await crew.call("DELETE", f"/agents/{made[0]['id']}")
    path = f"/agents/{root['id']}/children"
    seen = (await crew.call("GET", path)).json()
    assert [(row["id"], row["status"]) for row in seen] == [
        (made[0]["id"], "terminated"),
        (made[1]["id"], "active"),
        (made[2]["id"], "active"),
    ]
    assert (await crew.call("GET", f"/agents/{unknown()}/children")).json() == []
    first = await crew.call("GET", f"{path}?limit=2")
    assert ids(first.json()) == ids(made[:2])
    link = first.links["next"]["url"]
    rest = await crew.call("GET", f"/{link}")
    assert ids(rest.json()) == ids(made[2:])
    assert "link" not in rest.headers


async def test_pages(crew: Crew) -> None:
    made = ids([await crew.spawn() for _ in range(5)])[::-1]
    seen, url = [], f"//zones/{crew.zone}/agents?limit=2"
    pages = 0
    while url:
        answer = await crew.call("GET", url)
        assert answer.status_code == 200, answer.text
        seen += ids(answer.json())
        pages += 1
        url = f"/{answer.links['next']['url']}" if answer.links else ""
    assert (seen, pages) == (made, 3)
    exact = await crew.call("GET", "/agents?limit=5")
    assert "link" not in exact.headers
    alias = await crew.call("GET", f"//v1/zones/{crew.zone}/agents?limit=2")
    assert ids(alias.json()) == made[:2]
    assert alias.links["next"]["url"].startswith(f"/v1/zones/{crew.zone}/agents?")


async def test_lists_by_status_and_by_root(crew: Crew) -> None:
    tree = await planted(crew)
    await crew.call("PATCH", f"/agents/{tree.child}/suspend")
    await crew.call("DELETE", f"/agents/{tree.sibling}")
    for query, found in {
        "status=active": [tree.further, tree.outside, tree.root],
        "status=suspended": [tree.grandchild, tree.child],
        "status=terminated": [tree.sibling],
        f"root={tree.root}": [tree.sibling, tree.grandchild, tree.child, tree.root],
        f"root={tree.child}": [tree.grandchild, tree.child],
        f"root={tree.root}&status=active": [tree.root],
        f"root={unknown()}": [],
        f"root={tree.root}&limit=1&cursor={tree.grandchild}": [tree.child],
    }.items():
        assert ids((await crew.call("GET", f"/agents?{query}")).json()) == found, query
    linked = await crew.call("GET", f"/agents?root={tree.root}&status=suspended&limit=1")
    more = await crew.call("GET", f"/{linked.links['next']['url']}")
    assert ids(linked.json() + more.json()) == [tree.grandchild, tree.child]
    for query in ("status=asleep", "root=a%20b", "root="):
        assert refusal(await crew.call("GET", f"/agents?{query}")) == (400, "invalid_query")


async def test_why_an_agent_does_not_act(crew: Crew) -> None:
    tree = await planted(crew)
    led = await edge(crew, tree.outside, tree.further)

    async def reasons() -> dict[str, str | None]:
        rows = (await crew.call("GET", "/agents")).json()
        return {row["id"]: row["status_reason"] for row in rows if row["status"] != "active"}

    await crew.call("PATCH", f"/agents/{tree.child}/suspend")
    assert await reasons() == {tree.child: "requested", tree.grandchild: "requested"}
    await crew.call("PATCH", f"/agents/{tree.child}/resume")
    assert await reasons() == {}
    rows = (await crew.call("GET", "/agents")).json()
    assert {row["status_reason"] for row in rows} == {None}
    await crew.call("DELETE", f"/agents/{tree.child}?reason=done")
    await crew.call(
        "PATCH", f"/delegations/{led.aggregate_id}/revoke", scopes=["coordinator.admin"]
    )
    ended = {tree.child: "done", tree.grandchild: "done", tree.further: "delegation_revoked"}
    assert await reasons() == ended


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_query"),
        ("limit=501", "invalid_query"),
        ("limit=x", "invalid_query"),
        ("cursor=unknown", "invalid_cursor"),
        ("cursor=a%20b", "invalid_cursor"),
        ("cursor=", "invalid_cursor"),
    ],
)
@pytest.mark.parametrize("path", ["/agents", "/agents/any/children", "/agent-services"])
async def test_pages_that_are_none(crew: Crew, path: str, query: str, code: str) -> None:
    assert refusal(await crew.call("GET", f"{path}?{query}")) == (400, code)


async def test_a_cursor_of_another_zone(coordinator: Ship, crew: Crew) -> None:
    other = await coordinator.crew()
    agent = await other.spawn()
    answer = await crew.call("GET", f"/agents?cursor={agent['id']}")
    assert refusal(answer) == (400, "invalid_cursor")
    assert refusal(await crew.call("GET", f"/agents/{agent['id']}")) == (404, "agent_not_found")


# --- limits ---------------------------------------------------------------------------------


async def test_depth(crew: Crew) -> None:
    agent = await crew.spawn()
    for depth in range(1, 11):
        agent = await crew.spawn(parent_id=agent["id"])
        assert agent["depth"] == depth
    answer = await spawning(crew, parent_id=agent["id"])
    assert refusal(answer) == (429, "agent_depth_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1


async def test_children(crew: Crew) -> None:
    """32 at once get the ten slots there are; who ends frees one."""
    root = await crew.spawn()
    answers = await asyncio.gather(*(spawning(crew, parent_id=root["id"]) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [429] * 22
    codes = {refusal(answer) for answer in answers if answer.status_code != 201}
    assert codes == {(429, "agent_children_limit_exceeded")}
    child = next(answer.json()["id"] for answer in answers if answer.status_code == 201)
    await crew.call("DELETE", f"/agents/{child}")
    await crew.spawn(parent_id=root["id"])


async def test_dcr_agents_are_one_under_many_writers(crew: Crew) -> None:
    dcr = await crew.another(registration_method="dcr")
    answers = await asyncio.gather(*(spawning(dcr) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 31
    codes = {refusal(answer) for answer in answers if answer.status_code != 201}
    assert codes == {(409, "dcr_application_already_bound")}


@pytest.fixture
async def pair(coordinator: Ship, ship_database: str, ship_redis: str) -> Any:
    """Two Coordinators with small limits, on the same servers."""
    limits = {"MAX_PER_ZONE": "6", "MAX_PER_APP": "4"}
    sts = coordinator.settings.sts_url
    parts = {"worker": False, "sts": sts, **limits}
    async with (
        ship(ship_database, ship_redis, **parts) as one,  # type: ignore[arg-type]
        ship(ship_database, ship_redis, **parts) as other,  # type: ignore[arg-type]
    ):
        yield one, other


async def test_limits_of_zone_and_application_over_two_processes(pair: tuple[Ship, Ship]) -> None:
    crew = await pair[0].crew()
    again = crew.at(pair[1])
    writers = [spawning(one) for one in (crew, again) for _ in range(16)]
    answers = await asyncio.gather(*writers)
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [429] * 28
    codes = {refusal(answer) for answer in answers if answer.status_code != 201}
    assert codes == {(429, "agent_limit_exceeded")}
    other = await crew.another()
    writers = [spawning(one) for one in (other, other.at(pair[1])) for _ in range(16)]
    answers = await asyncio.gather(*writers)
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [429] * 30
    codes = {refusal(answer) for answer in answers if answer.status_code != 201}
    assert codes == {(429, "agent_zone_limit_exceeded")}
    # What ends at one is free at the other at once.
    agent = next(answer.json()["id"] for answer in answers if answer.status_code == 201)
    assert (await other.call("DELETE", f"/agents/{agent}")).status_code == 204
    await other.at(pair[1]).spawn()


async def test_the_zone_is_counted_before_the_application(pair: tuple[Ship, Ship]) -> None:
    crew = await pair[0].crew()
    other = await crew.another()
    for one in (crew, crew, crew, crew, other, other):
        await one.spawn()
    root = ids((await crew.call("GET", "/agents?limit=1")).json())[0]
    assert refusal(await spawning(crew)) == (429, "agent_zone_limit_exceeded")
    answer = await spawning(crew, parent_id=root)  # of another application
    assert refusal(answer) == (429, "agent_zone_limit_exceeded")
    suspended = ids((await crew.call("GET", "/agents?limit=500")).json())[-1]
    await crew.call("PATCH", f"/agents/{suspended}/suspend")
    assert refusal(await spawning(crew)) == (429, "agent_zone_limit_exceeded")


# --- replays --------------------------------------------------------------------------------

KEY = {"idempotency-key": "a" * 64}


async def test_the_same_request_again_finds_its_agent(crew: Crew) -> None:
    first = await spawning(crew, headers=KEY, metadata={"b": 1, "a": 2})
    again = await spawning(crew, headers=KEY, metadata={"a": 2, "b": 1})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert "caracal-position" not in again.headers
    agent = first.json()["id"]
    await crew.call("PATCH", f"/agents/{agent}/suspend")
    suspended = await spawning(crew, headers=KEY, metadata={"a": 2, "b": 1})
    assert (suspended.json()["id"], suspended.json()["status"]) == (agent, "suspended")
    await crew.call("DELETE", f"/agents/{agent}")
    anew = await spawning(crew, headers=KEY, metadata={"a": 2, "b": 1})
    assert anew.status_code == 201
    assert anew.json()["id"] != agent


async def test_distinct_requests_under_one_key_are_distinct_agents(crew: Crew) -> None:
    root = await crew.spawn()
    other = await crew.session()
    asked: list[dict[str, Any]] = [
        {},
        {"kind": "instance"},
        {"ttl_seconds": 60},
        {"capabilities": ["a"]},
        {"metadata": {"a": 1}},
        {"parent_id": root["id"]},
        {"subject_session_id": other.aggregate_id},
    ]
    made = {(await spawning(crew, headers=KEY, **one)).json()["id"] for one in asked}
    again = {(await spawning(crew, headers=KEY, **one)).json()["id"] for one in asked}
    assert len(made) == len(asked)
    assert again == made


async def test_many_retries_at_once_over_two_processes_spawn_one(pair: tuple[Ship, Ship]) -> None:
    crew = await pair[0].crew()
    writers = [spawning(one, headers=KEY) for one in (crew, crew.at(pair[1])) for _ in range(16)]
    answers = await asyncio.gather(*writers)
    assert sorted(answer.status_code for answer in answers) == [200] * 31 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await crew.facts("agent.spawned")) == 1


async def test_a_replay_is_found_though_its_parent_is_gone_or_the_zone_full(
    pair: tuple[Ship, Ship],
) -> None:
    crew = await pair[0].crew()
    first = await spawning(crew, headers=KEY)
    for _ in range(3):
        await crew.spawn()
    assert refusal(await spawning(crew)) == (429, "agent_limit_exceeded")
    assert (await spawning(crew, headers=KEY)).json() == first.json()


@pytest.mark.parametrize("key", ["", "a" * 256, "é".encode(), "a b"])
async def test_keys_that_are_none(crew: Crew, key: Any) -> None:
    answer = await spawning(crew, headers={"idempotency-key": key})
    assert refusal(answer) == (400, "invalid_params")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("application_id", (None, "", 1, [], "a" * 257, "\x00")),
        ("subject_session_id", ("", 1, [])),
        ("session_sid", ("", 1, {})),
        ("parent_id", ("", 1, [])),
        ("kind", (None, "", "daemon", 1)),
        ("capabilities", (None, "a", [1], [""], ["  "], ["a" * 65], ["a"] * 33, {})),
        ("ttl_seconds", (None, 0, 86_401, "60", 1.5, True)),
        ("metadata", (None, [], "a", {"a": "\x00"}, {"a": "a" * 20_000})),
    ],
)
async def test_bad_fields(crew: Crew, name: str, wrong: tuple[Any, ...]) -> None:
    for value in wrong:
        answer = await spawning(crew, **{name: value})
        assert refusal(answer) == (400, "invalid_body"), value
        body = answer.json()
        assert body["issues"][0]["path"][0] == name
        assert body["details"] == {"issues": body["issues"]}


async def test_bodies_that_are_none(crew: Crew) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"", b"[]", b"{", b"null", b"1"):
        answer = await crew.call("POST", "/agents", content=content, headers=headers)
        assert refusal(answer) == (400, "invalid_body")
    large = b'{"application_id": "' + b"a" * 2**20 + b'"}'
    answer = await crew.call("POST", "/agents", content=large, headers=headers)
    assert refusal(answer) == (413, "payload_too_large")
    await crew.spawn(unknown_field="ignored")
