"""The flat façade does what the zone's routes do (section 8)."""

from __future__ import annotations

import httpx
import pytest

from tests.coordinator.edges import HOPS, Edge, delegated, edge_of, told
from tests.coordinator.running import OPERATOR, Crew, unknown


async def facade(crew: Crew, route: str, body: Edge | None, **more: object) -> httpx.Response:
    content = None if body is None else {"zone_id": crew.zone, **body}
    return await crew.call("POST", f"//v1/{route}", content, **more)


def alike(one: Edge, other: Edge) -> bool:
    """The same but for ids and times."""
    own = {"id", "agent_session_id", "delegation_edge_id", "spawned_at", "created_at"}
    return {k: v for k, v in one.items() if k not in own} == {
        k: v for k, v in other.items() if k not in own
    }


async def test_begin(crew: Crew) -> None:
    body = {"application_id": crew.application_id, "kind": "instance", "metadata": {"a": 1}}
    key = {"headers": {"Idempotency-Key": "k"}}
    begun = await facade(crew, "begin", body, **key)
    assert begun.status_code == 201
    assert "Caracal-Position" in begun.headers
    again = await facade(crew, "begin", body, **key)
    assert (again.status_code, again.json()) == (200, begun.json())
    assert alike(begun.json(), await crew.spawn(kind="instance", metadata={"a": 1}))


async def test_spawn_child(crew: Crew) -> None:
    parent = await crew.spawn()
    body = {"application_id": crew.application_id, "parent_id": unknown(), "ttl_seconds": 60}
    answer = await facade(crew, "spawn-child", body | {"parent_agent_session_id": parent["id"]})
    assert answer.status_code == 201
    assert alike(answer.json(), await crew.spawn(parent_id=parent["id"], ttl_seconds=60))
    assert told(await facade(crew, "spawn-child", body)) == (400, "invalid_body")


async def test_end(crew: Crew) -> None:
    for name in ("agent_session_id", "session_id"):
        agent = await crew.spawn()
        body = {name: agent["id"], "reason": "done"}
        for _ in range(2):
            answer = await facade(crew, "end", body)
            assert (answer.status_code, answer.content) == (204, b"")
        assert (await crew.statuses())[agent["id"]] == "terminated"
    assert {fact["reason"] for fact in await crew.facts("agent.terminated")} == {"done"}
    assert told(await facade(crew, "end", {"session_id": unknown()})) == (404, "agent_not_found")


async def test_edges(crew: Crew) -> None:
    a, b, c = [await crew.spawn() for _ in range(3)]
    made = await facade(crew, "exchange", edge_of(a, b, constraints=HOPS))
    assert made.status_code == 201
    assert alike(made.json(), await delegated(crew, a, b, constraints=HOPS) | _ends(made))
    ends = {"from_agent_session_id": b["id"], "to_agent_session_id": c["id"]}
    body = edge_of(b, c, parent_edge_id=made.json()["id"]) | ends
    del body["source_session_id"], body["target_session_id"]
    second = await facade(crew, "delegate-to-existing-agent", body)
    assert second.status_code == 201
    assert second.json()["source_session_id"] == b["id"]
    assert second.json()["parent_edge_id"] == made.json()["id"]
    named = {"delegation_edge_id": made.json()["id"]}
    revoked = await facade(crew, "revoke-delegation", named)
    assert (revoked.status_code, revoked.json()) == (
        200,
        {"revoked_edges": 3, "affected_sessions": 1, "terminated_agents": 2},
    )
    again = await facade(crew, "revoke-delegation", named)
    assert told(again) == (404, "delegation_not_found")


def _ends(answer: httpx.Response) -> Edge:
    return {name: answer.json()[name] for name in ("expires_at", "effective_authority")}


ROUTES = (
    "begin",
    "end",
    "spawn-child",
    "exchange",
    "delegate-to-existing-agent",
    "revoke-delegation",
)


@pytest.mark.parametrize("route", ROUTES)
async def test_the_zone_is_the_tokens(crew: Crew, route: str) -> None:
    body = {
        "application_id": crew.application_id,
        "parent_agent_session_id": "p",
        "agent_session_id": "a",
        "delegation_edge_id": "e",
        "from_agent_session_id": "f",
        "to_agent_session_id": "t",
        **edge_of({"id": "s", "application_id": "x"}, {"id": "t", "application_id": "y"}),
    }
    assert told(await facade(crew, route, body | {"zone_id": "other"})) == (403, "zone_mismatch")
    assert told(await crew.call("POST", f"//v1/{route}", body)) == (400, "invalid_body")
    assert told(await facade(crew, route, None)) == (400, "invalid_body")
    operator = await facade(crew, route, body, token=OPERATOR)
    assert told(operator) == (401, "invalid_token")
    anonymous = await crew.client.post(f"/v1/{route}", json=body)
    assert told(anonymous) == (401, "missing_token")
    assert anonymous.headers["WWW-Authenticate"] == "Bearer"
