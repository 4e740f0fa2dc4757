"""Agent services and heartbeats: upsert, telemetry, the lease and its loss."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from caracal import clock
from caracal.events.agent_service import AgentService
from tests.coordinator.running import Crew, Ship, ids, ship, unknown
from tests.coordinator.test_agents import refusal
from tests.making import in_zone

ENDPOINT = "https://agents.example/planner"


async def registering(
    crew: Crew, *, scopes: tuple[str, ...] = (), **members: Any
) -> httpx.Response:
    body = {"application_id": crew.application_id, "endpoint_url": ENDPOINT, **members}
    return await crew.call("POST", "/agent-services", body, scopes=scopes)


async def registered(crew: Crew, **members: Any) -> dict[str, Any]:
    answer = await registering(crew, **members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def beating(crew: Crew, agent: str, **members: Any) -> httpx.Response:
    return await crew.call("POST", f"/agents/{agent}/heartbeat", members or None)


async def test_registered_updated_and_listed(crew: Crew) -> None:
    framework = {"name": "graph", "version": "1"}
    first = await registered(crew, capabilities=["plan"], framework=framework, metadata={"a": 1})
    assert first == {
        "id": first["id"],
        "zone_id": crew.zone,
        "application_id": crew.application_id,
        "endpoint_url": ENDPOINT,
        "protocol_versions": [],
        "framework_name": "graph",
        "framework_version": "1",
        "capabilities": ["plan"],
        "health": "starting",
        "metadata_json": {"a": 1},
        "last_heartbeat_at": first["last_heartbeat_at"],
    }
    again = await registered(crew, protocol_versions=["2"], metadata={"b": 1})
    changes = {
        "protocol_versions": ["2"],
        "capabilities": [],
        "framework_name": None,
        "framework_version": None,
        "metadata_json": {"b": 1},
    }
    assert again == first | changes
    unchanged = await registering(crew, protocol_versions=["2"], metadata={"b": 1})
    assert (unchanged.status_code, unchanged.json()) == (201, again)
    assert "caracal-position" not in unchanged.headers
    other = await registered(crew, endpoint_url=f"{ENDPOINT}/2")
    seen = await crew.call("GET", "/agent-services")
    assert seen.json() == [other, again]
    first_page = await crew.call("GET", "/agent-services?limit=1")
    rest = await crew.call("GET", f"/{first_page.links['next']['url']}")
    assert ids(rest.json()) == [again["id"]]


async def test_many_at_once_register_one(crew: Crew) -> None:
    bodies = [{"capabilities": [f"c{n % 3}"]} for n in range(32)]
    answers = await asyncio.gather(*(registering(crew, **body) for body in bodies))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await crew.facts("agent_service.registered")) == 1


async def test_whose_service_it_is(crew: Crew) -> None:
    other = await crew.another()
    answer = await registering(other, application_id=crew.application_id)
    assert refusal(answer) == (403, "application_ownership_required")
    admin = ("coordinator.admin",)
    answer = await registering(other, application_id=crew.application_id, scopes=admin)
    assert refusal(answer) == (403, "application_ownership_required")
    power = (f"coordinator.spawn_for:{crew.application_id}",)
    answer = await registering(other, application_id=crew.application_id, scopes=power)
    assert answer.status_code == 201
    missing = unknown()
    power = (f"coordinator.spawn_for:{missing}",)
    answer = await registering(crew, application_id=missing, scopes=power)
    assert refusal(answer) == (404, "application_not_found")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("application_id", (None, "", 1)),
        ("endpoint_url", (None, "", "agents.example", "/x", "ftp://a.example", "http://")),
        ("protocol_versions", (None, [""], [1], "1")),
        ("capabilities", (None, [""], [1], {})),
        ("framework", ("graph", {}, {"name": ""}, {"name": "a", "version": ""})),
        ("metadata", (None, [], "a", {"a": "\x00"})),
    ],
)
async def test_bad_fields(crew: Crew, name: str, wrong: tuple[Any, ...]) -> None:
    for value in wrong:
        answer = await registering(crew, **{name: value})
        assert refusal(answer) == (400, "invalid_body"), value


# --- heartbeats -------------------------------------------------------------------------------


async def test_a_beat_renews_the_lease_and_tells_of_the_service(crew: Crew) -> None:
    agent = await crew.spawn(kind="service")
    service = await registered(crew, metadata={"a": 1})
    told = {"service_id": service["id"], "metadata": {"b": 2}, "active_invocations": 3}
    answer = await beating(crew, agent["id"], status="degraded", **told)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    beaten = body["agent"]
    assert beaten == {
        "id": agent["id"],
        "agent_session_id": agent["id"],
        "zone_id": crew.zone,
        "application_id": crew.application_id,
        "last_active_at": beaten["last_active_at"],
        "last_heartbeat_at": beaten["last_active_at"],
        "heartbeat_deadline_at": beaten["heartbeat_deadline_at"],
    }
    lease = clock.parse(beaten["heartbeat_deadline_at"]) - clock.parse(beaten["last_active_at"])
    assert lease == timedelta(seconds=120)
    changes = {"health": "degraded", "metadata_json": {"a": 1, "b": 2}}
    assert body["service"] == service | changes | {"last_heartbeat_at": beaten["last_active_at"]}
    assert body["active_invocations"] == 3
    shown = (await crew.call("GET", f"/agents/{agent['id']}")).json()
    beats = ("last_heartbeat_at", "heartbeat_deadline_at")
    assert {name: shown[name] for name in beats} == {name: beaten[name] for name in beats}
    assert (await crew.call("GET", "/agent-services")).json() == [body["service"]]
    # Registering anew keeps id and health, and replaces the metadata.
    anew = await registered(crew, metadata={"c": 3})
    assert anew == body["service"] | {"metadata_json": {"c": 3}}
    assert "caracal-position" not in answer.headers  # telemetry, no event


async def test_any_kind_may_beat(crew: Crew) -> None:
    agent = await crew.spawn(kind="instance")
    body = (await beating(crew, agent["id"])).json()
    assert body["agent"]["heartbeat_deadline_at"] is None
    assert (body["service"], body["active_invocations"]) == (None, 0)
    shown = (await crew.call("GET", f"/agents/{agent['id']}")).json()
    assert shown["last_heartbeat_at"] == body["agent"]["last_heartbeat_at"]


async def test_beating_while_suspended_does_not_resume(crew: Crew) -> None:
    agent = await crew.spawn(kind="service")
    await crew.call("PATCH", f"/agents/{agent['id']}/suspend")
    answer = await beating(crew, agent["id"])
    assert answer.status_code == 200
    assert answer.json()["agent"]["heartbeat_deadline_at"] > agent["heartbeat_deadline_at"]
    assert (await crew.statuses())[agent["id"]] == "suspended"


async def test_an_ended_agent_does_not_beat(crew: Crew) -> None:
    agent = await crew.spawn(kind="service")
    await crew.call("DELETE", f"/agents/{agent['id']}")
    assert refusal(await beating(crew, agent["id"])) == (409, "agent_not_live")


async def test_services_that_are_not_its_own(crew: Crew) -> None:
    other = await crew.another()
    agent = await crew.spawn(kind="service")
    foreign = await registered(other)
    for service in (unknown(), foreign["id"]):
        answer = await beating(crew, agent["id"], service_id=service)
        assert refusal(answer) == (404, "agent_service_not_found")
    assert (await crew.call("GET", f"/agents/{agent['id']}")).json() == agent


async def test_what_beats_tell_is_bounded_together(crew: Crew) -> None:
    agent = await crew.spawn(kind="service")
    service = await registered(crew)
    big = {"service_id": service["id"], "metadata": {"a": "x" * 9000}}
    assert (await beating(crew, agent["id"], **big)).status_code == 200
    more = {"service_id": service["id"], "metadata": {"b": "x" * 9000}}
    refused = await beating(crew, agent["id"], **more)
    assert refusal(refused) == (400, "invalid_body")
    assert refused.json()["issues"][0]["path"] == ["metadata"]
    again = await beating(crew, agent["id"], **big)
    assert again.json()["service"]["metadata_json"] == {"a": "x" * 9000}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("service_id", ("", 1)),
        ("status", (None, "well", 1)),
        ("active_invocations", (None, -1, 1.5, "1", True)),
        ("metadata", (None, [], "a")),
    ],
)
async def test_bad_beats(crew: Crew, name: str, wrong: tuple[Any, ...]) -> None:
    agent = await crew.spawn()
    for value in wrong:
        answer = await beating(crew, agent["id"], **{name: value})
        assert refusal(answer) == (400, "invalid_body"), value


async def test_a_beat_after_the_lease_suspends_the_subtree(
    coordinator: Ship, ship_database: str, ship_redis: str
) -> None:
    parts = {"worker": False, "sts": coordinator.settings.sts_url}
    short = {"SERVICE_AGENT_LEASE_SECONDS": "1"}
    async with ship(ship_database, ship_redis, **parts, **short) as brief:  # type: ignore[arg-type]
        crew = await brief.crew()
        service = await crew.spawn(kind="service")
        child = await crew.spawn(parent_id=service["id"])
        await asyncio.sleep(1.01)
        answer = await beating(crew, service["id"])
        assert refusal(answer) == (409, "agent_lease_expired")
        (fact,) = await crew.facts("agent.suspended")
        assert fact["reason"] == "service_heartbeat_lost"
        assert set(await crew.statuses()) == {service["id"], child["id"]}
        assert set((await crew.statuses()).values()) == {"suspended"}
        assert (await beating(crew, service["id"])).status_code == 200  # and does not resume
        await crew.call("PATCH", f"/agents/{service['id']}/resume")
        assert (await beating(crew, service["id"])).status_code == 200
        assert set((await crew.statuses()).values()) == {"active"}


async def test_a_lost_service_is_unhealthy_until_it_beats(crew: Crew) -> None:
    agent, service = await crew.spawn(kind="service"), await registered(crew)
    await beating(crew, agent["id"], service_id=service["id"])
    lost = await crew.log.find(AgentService, service["id"])
    assert lost is not None
    with in_zone(crew.zone):
        lost.lose()
    assert await crew.waiter.applied(await crew.save(lost), timeout=10)
    (seen,) = (await crew.call("GET", "/agent-services")).json()
    assert seen["health"] == "unhealthy"
    body = (await beating(crew, agent["id"], service_id=service["id"])).json()
    assert body["service"]["health"] == "healthy"
    (seen,) = (await crew.call("GET", "/agent-services")).json()
    assert seen["health"] == "healthy"
