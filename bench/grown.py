"""Ten thousand agents and as many edges, put into the log beforehand, as the Coordinator would."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bench.setting import Setting
from bench.world import World
from caracal import clock
from caracal.events.agent import Agent, SpawnLimits
from caracal.events.base import Aggregate, acting
from caracal.events.delegation import Delegation
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log
from caracal.ids import new_id
from caracal.mandate import peek
from caracal.projections.waiter import Waiter

AGENTS = EDGES = 10_000
_BELOW = 10
_CHUNK = 500
_LIMITS = SpawnLimits(depth=100, children=10**6, zone=10**7, application=10**7)
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Grown:
    """What stands in the log and in the read models."""

    agents: Sequence[Agent]
    edges: Sequence[Delegation]

    def bound_to(self, number: int) -> dict[str, str]:
        """Return what a token says that is bound to an agent, by the edge to it if there is one."""
        anchors = {"agent_session_id": self.agents[number].aggregate_id}
        if self.edges:
            anchors["delegation_edge_id"] = self.edges[number - 1].aggregate_id
        return anchors


async def grown(setting: Setting, world: World, token: str, *, delegating: bool) -> Grown:
    """Put a tree of agents into the log, and the edges along it, and wait for the read models."""
    zone_id = world.zone_id
    agents = _tree(zone_id, world.application_id, str(peek(token).claims["sid"]))
    edges = _edges(zone_id, agents) if delegating else []
    setting.say(f"growing {len(agents)} agents and {len(edges)} edges")
    await put(setting, [*agents, *edges])
    return Grown(agents, edges)


async def put(setting: Setting, things: Sequence[Aggregate]) -> None:
    """Put things into the log of the stack, and wait for the read models."""
    url = setting.stack.urls["database_url"]
    async with AsyncExitStack() as stack:
        appender, waiter = Appender(url), Waiter(url)
        await appender.start()
        stack.push_async_callback(appender.stop)
        await waiter.start()
        stack.push_async_callback(waiter.stop)
        log = Log(None, appender)  # type: ignore[arg-type]  # nothing is read
        for start in range(0, len(things), _CHUNK):
            saved = await log.save(*things[start : start + _CHUNK])
        if not await waiter.applied(saved, timeout=_PATIENCE):
            raise RuntimeError("the read models have not come that far")


def _tree(zone_id: str, application_id: str, sid: str) -> list[Agent]:
    """A root, an agent that it delegates to, and below that ten each, four deep."""
    agents: list[Agent] = []
    with acting(zone_id=zone_id, actor="bench"):
        for number in range(AGENTS):
            parent = agents[1 + (number - 2) // _BELOW] if number else None
            agents.append(
                Agent.spawn(
                    new_id(),
                    zone_id=zone_id,
                    application_id=application_id,
                    subject_session_id=sid,
                    parent=_row(parent) if parent else None,
                    limits=_LIMITS,
                    kind="instance",
                    capabilities=[],
                    ttl_seconds=86_400,
                    metadata={},
                )
            )
    return agents


def _edges(zone_id: str, agents: Sequence[Agent]) -> list[Delegation]:
    """One edge to each agent from its parent, and at the end one more to the first of them."""
    ends = clock.now() + timedelta(hours=1)
    led_to: dict[str, Delegation] = {}
    edges: list[Delegation] = []
    by_id = {agent.aggregate_id: agent for agent in agents}
    pairs = [(by_id[str(agent.parent_id)], agent) for agent in agents[1:]]
    pairs += [(agents[0], agents[1])]
    with acting(zone_id=zone_id, actor="bench"):
        for source, target in pairs:
            parent = led_to.get(source.aggregate_id)
            edge = Delegation.create(
                new_id(),
                zone_id=zone_id,
                source=_row(source),
                target=_row(target),
                parent=_row(parent) if parent else None,
                resource_id=None,
                resources=(),
                scopes=["read"],
                constraints={"max_hops": 10 - (len(parent.path) if parent else 0)},
                expires_at=ends,
            )
            led_to[target.aggregate_id] = edge
            edges.append(edge)
    return edges


def _row(thing: Agent | Delegation) -> dict[str, Any]:
    return {**vars(thing), "id": thing.aggregate_id}
