"""The admin client's ``delegations`` at a running Coordinator, as the operator."""

from __future__ import annotations

from caracal.client import AsyncAdminClient, types
from tests.client.conforms import conforms
from tests.coordinator.edges import HOPS, delegated
from tests.coordinator.running import OPERATOR, Crew


async def test_the_clients_types_are_the_answers(crew: Crew) -> None:
    a, b, c = [await crew.spawn() for _ in range(3)]
    first = await delegated(crew, a, b, constraints=HOPS)
    second = await delegated(crew, b, c)
    async with AsyncAdminClient(
        api_url=crew.url,
        admin_token="none",
        coordinator_url=crew.url,
        coordinator_token=OPERATOR,
    ) as client:
        edges = client.delegations
        active = await edges.active(crew.zone)
        conforms(active, list[types.ActiveDelegationEdge])
        assert [edge["id"] for edge in active] == [second["id"], first["id"]]
        inbound = await edges.inbound(crew.zone, b["id"])
        outbound = await edges.outbound(crew.zone, a["id"])
        conforms(inbound, list[types.DelegationEdge])
        assert [edge["id"] for edge in inbound] == [edge["id"] for edge in outbound]
        nodes = await edges.traverse(crew.zone, first["id"])
        conforms(nodes, list[types.TraverseNode])
        assert [node["depth"] for node in nodes] == [1, 2]
        conforms(await edges.impact(crew.zone, first["id"]), types.DelegationImpact)
        authority = await client.agents.effective_authority(crew.zone, c["id"])
        conforms(authority, types.EffectiveAuthority)
        assert authority["inbound_edges"] == [second["id"]]
        revoked = await edges.revoke(crew.zone, first["id"])
        conforms(revoked, types.RevokedDelegation)
        assert revoked["terminated_agents"] == 2
        assert await edges.active(crew.zone) == []
