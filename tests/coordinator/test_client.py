"""The admin client's ``agents`` and ``delegations`` at a running Coordinator, as the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from caracal.client import AdminApiError, types
from tests.client.both import Client, Kind
from tests.client.conforms import conforms
from tests.client.conftest import kind
from tests.coordinator.edges import HOPS, delegated
from tests.coordinator.running import OPERATOR, Crew, ids, unknown
from tests.coordinator.trees import planted

__all__ = ["kind"]


def client_of(kind: Kind, crew: Crew, **options: Any) -> Client:
    return Client(kind, coordinator_url=crew.url, coordinator_token=OPERATOR, **options)


@pytest.fixture
async def client(kind: Kind, crew: Crew) -> AsyncIterator[Client]:
    both = client_of(kind, crew)
    yield both
    await both.close()


async def test_agents(crew: Crew, client: Client) -> None:
    tree = await planted(crew)

    async def ask(method: str, *given: Any, **more: Any) -> Any:
        return await client.call(f"agents.{method}", crew.zone, *given, **more)

    everyone = await ask("list")
    conforms(everyone, list[types.AgentSession])
    assert len(everyone) == 6
    assert await ask("list", root=tree.child) == [
        await ask("get", tree.grandchild),
        await ask("get", tree.child),
    ]
    assert ids(await ask("children", tree.root)) == [tree.child, tree.sibling]
    suspended = await ask("suspend", tree.child)
    conforms(suspended, types.Suspended)
    assert suspended == {"suspended": True, "affected": 2}
    assert ids(await ask("list", status="suspended")) == [tree.grandchild, tree.child]
    resumed = await ask("resume", tree.child)
    conforms(resumed, types.Resumed)
    conforms(await ask("effective_authority", tree.root), types.EffectiveAuthority)
    assert await ask("terminate", tree.child, "done") is None
    assert (await ask("get", tree.grandchild))["status_reason"] == "done"


async def test_pages(crew: Crew, client: Client) -> None:
    made = ids([await crew.spawn() for _ in range(3)])[::-1]

    async def ask(method: str, **more: Any) -> Any:
        return await client.call(f"agents.{method}", crew.zone, **more)

    assert ids(await ask("list", limit=2)) == made[:2]
    assert ids(await ask("iter", limit=1)) == made
    first = await ask("list_page", limit=2)
    assert (ids(first.items), first.next_cursor) == (made[:2], made[1])
    rest = await ask("list_page", cursor=first.next_cursor)
    assert (ids(rest.items), rest.next_cursor) == (made[2:], None)


async def test_delegations(crew: Crew, client: Client) -> None:
    a, b, c = [await crew.spawn() for _ in range(3)]
    first = await delegated(crew, a, b, constraints=HOPS)
    second = await delegated(crew, b, c)

    async def ask(method: str, *given: Any, **more: Any) -> Any:
        return await client.call(f"delegations.{method}", crew.zone, *given, **more)

    active = await ask("active")
    conforms(active, list[types.ActiveDelegationEdge])
    assert ids(active) == ids([second, first])
    assert [edge["broad_reason"] for edge in active] == ["resource_null_delegation"] * 2
    assert ids(await ask("active", limit=1)) == [second["id"]]
    inbound = await ask("inbound", b["id"])
    conforms(inbound, list[types.DelegationEdge])
    assert inbound == await ask("outbound", a["id"])
    nodes = await ask("traverse", first["id"])
    conforms(nodes, list[types.TraverseNode])
    assert [node["depth"] for node in nodes] == [1, 2]
    conforms(await ask("impact", first["id"]), types.DelegationImpact)
    authority = await client.call("agents.effective_authority", crew.zone, c["id"])
    assert authority["inbound_edges"] == [second["id"]]
    revoked = await ask("revoke", first["id"])
    conforms(revoked, types.RevokedDelegation)
    assert revoked["terminated_agents"] == 2
    assert await ask("active") == []
    every = await ask("list")
    conforms(every, list[types.DelegationEdge])
    assert [(edge["id"], edge["status"]) for edge in every] == [
        (second["id"], "revoked"),
        (first["id"], "revoked"),
    ]
    assert every == await ask("iter", limit=1)
    assert ids((await ask("list_page", limit=1)).items) == [second["id"]]


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("agents.get", 404, "agent_not_found"),
        ("agents.resume", 404, "agent_not_found"),
        ("agents.terminate", 404, "agent_not_found"),
        ("delegations.revoke", 404, "delegation_not_found"),
    ],
)
async def test_refusals(crew: Crew, client: Client, name: str, status: int, code: str) -> None:
    with pytest.raises(AdminApiError) as raised:
        await client.call(name, crew.zone, unknown())
    assert (raised.value.status, raised.value.code) == (status, code)
    assert raised.value.request_id


async def test_a_conflict(crew: Crew, client: Client) -> None:
    agent = (await crew.spawn())["id"]
    with pytest.raises(AdminApiError) as raised:
        await client.call("agents.resume", crew.zone, agent)
    assert raised.value.status == 409
    assert raised.value.code == "agent_not_found_or_not_suspended"


async def test_the_admin_token_is_never_sent_there(kind: Kind, crew: Crew) -> None:
    client = Client(
        kind, admin_token=OPERATOR, coordinator_url=crew.url, coordinator_token="another"
    )
    with pytest.raises(AdminApiError, match="invalid_token"):
        await client.call("agents.list", crew.zone)
    await client.close()
