"""``agents`` and ``delegations`` over real HTTP, against the Coordinator's answers on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from caracal.client import AdminApiError, Page, types
from tests.client.both import Client, Kind
from tests.client.conforms import conforms
from tests.client.coordinator import (
    AGENTS,
    AUTHORITY,
    EDGES,
    IMPACT,
    NODES,
    OPERATOR,
    REVOKED,
    coordinator,
)


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    async with coordinator() as url:
        yield url


@pytest.fixture
async def client(kind: Kind, url: str) -> AsyncIterator[Client]:
    both = Client(kind, coordinator_url=url, coordinator_token=OPERATOR)
    yield both
    await both.close()


BROAD = [edge | {"broad_reason": "resource_null_delegation"} for edge in EDGES]
CALLS: list[tuple[str, tuple[str, ...], Any, Any]] = [
    ("agents.list", (), AGENTS, list[types.AgentSession]),
    ("agents.get", ("a2",), AGENTS[1], types.AgentSession),
    ("agents.children", ("a1",), [AGENTS[1], AGENTS[0]], list[types.AgentSession]),
    ("agents.suspend", ("a1",), {"suspended": True, "affected": 3}, types.Suspended),
    ("agents.effective_authority", ("a2",), AUTHORITY, types.EffectiveAuthority),
    ("delegations.active", (), BROAD, list[types.ActiveDelegationEdge]),
    ("delegations.inbound", ("a2",), EDGES[1:], list[types.DelegationEdge]),
    ("delegations.outbound", ("a2",), EDGES[:1], list[types.DelegationEdge]),
    ("delegations.traverse", ("e1",), NODES, list[types.TraverseNode]),
    ("delegations.impact", ("e1",), IMPACT, types.DelegationImpact),
    ("delegations.revoke", ("e1",), REVOKED, types.RevokedDelegation),
]


@pytest.mark.parametrize(("name", "given", "body", "of"), CALLS)
async def test_the_body_comes_back_unchanged(
    client: Client, name: str, given: tuple[str, ...], body: Any, of: Any
) -> None:
    assert await client.call(name, "z1", *given) == body
    conforms(body, of)


async def test_terminate(client: Client) -> None:
    assert await client.call("agents.terminate", "z1", "a1", "done") is None


async def test_pages(client: Client) -> None:
    assert await client.call("agents.list", "z1", limit=2) == AGENTS[:2]
    assert await client.call("agents.iter", "z1", limit=1) == AGENTS
    assert await client.call("agents.list_page", "z1", limit=2) == Page(AGENTS[:2], "a2")
    assert await client.call("agents.list_page", "z1", cursor="a2") == Page(AGENTS[2:], None)
    assert await client.call("delegations.active", "z1", limit=1) == BROAD[:1]


@pytest.mark.parametrize(
    ("name", "given", "status", "code"),
    [
        ("agents.get", ("none",), 404, "agent_not_found"),
        ("agents.resume", ("a1",), 409, "agent_not_found_or_not_suspended"),
        ("agents.terminate", ("none",), 404, "agent_not_found"),
    ],
)
async def test_refusals(
    client: Client, name: str, given: tuple[str, ...], status: int, code: str
) -> None:
    with pytest.raises(AdminApiError) as raised:
        await client.call(name, "z1", *given)
    assert (raised.value.status, raised.value.code, raised.value.request_id) == (status, code, "r")


async def test_the_admin_token_is_never_sent_there(kind: Kind, url: str) -> None:
    client = Client(kind, admin_token=OPERATOR, coordinator_url=url, coordinator_token="other")
    with pytest.raises(AdminApiError, match="invalid_token"):
        await client.call("agents.list", "z1")
    await client.close()
