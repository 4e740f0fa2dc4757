"""An agent with those below it: suspended, resumed and ended together, by routes and sweepers.

As every cascade: what is listed comes from the log's head, and after the commit one more listing
takes what began while the first was made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from caracal.events.agent import (
    Agent,
    AgentGone,
    agent_not_found,
    not_active,
    not_suspended,
)
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Fall
from caracal.events.store.log import Saved, retrying
from caracal.services.cascade import Ground

Listing = Callable[[AgentGraph, Fall, int], Fall]


class Subtree:
    """Commands on an agent of a zone; run them by ``retrying``.

    ``affected`` is how many agents the last one changed.
    """

    def __init__(self, ground: Ground, zone_id: str, agent_id: str) -> None:
        self._ground, self._zone_id, self._agent_id = ground, zone_id, agent_id
        self.affected = 0

    async def suspend(self, reason: str = "requested") -> Saved:
        """Suspend the agent and those below it that are reached through active ones.

        Raises:
            Conflict: 409 ``agent_not_found_or_not_active``.
        """
        fall = (await self._graph()).suspending(self._agent_id)
        if not fall:
            raise not_active(self._agent_id)
        agent = await self._agent()
        agent.suspend(fall, reason)
        return await self._saved(agent, fall, AgentGraph.suspending_late, Agent.suspend_late)

    async def resume(self, lease_until: datetime) -> Saved:
        """Resume the agent and those below it that are reached through suspended ones.

        Raises:
            Conflict: 409 ``agent_not_found_or_not_suspended``.
        """
        resumed = (await self._graph()).resuming(self._agent_id)
        if not resumed:
            raise not_suspended(self._agent_id)
        agent = await self._agent()
        agent.resume(resumed, lease_until=lease_until)
        self.affected = len(resumed)
        return await self._ground.log.save(agent)

    async def terminate(self, reason: str = "requested") -> Saved:
        """End the agent with its subtree and the edges on it; one that has ended stays so."""
        graph = await self._graph()
        if self._agent_id not in graph.agents:
            return Saved()
        fall = graph.of_agents([self._agent_id])
        agent = await self._agent()
        agent.terminate(fall, reason)
        try:
            return await self._saved(agent, fall, _left, Agent.terminate_late)
        except AgentGone:
            return Saved()

    async def _graph(self) -> AgentGraph:
        return await self._ground.graph(self._zone_id, [self._agent_id])

    async def _agent(self) -> Agent:
        if (agent := await self._ground.log.find(Agent, self._agent_id)) is None:
            raise agent_not_found(self._agent_id)
        return agent

    async def _saved(
        self, agent: Agent, fall: Fall, missed: Listing, change_late: Callable[[Agent, Fall], None]
    ) -> Saved:
        """Save, then change what the listing has missed."""
        saved = await self._ground.log.save(agent)
        self.affected = len(fall.agents)
        if (position := saved.position) is None:
            return saved

        async def again() -> Saved:
            graph = await self._ground.graph(self._zone_id, fall.ids, position)
            late = missed(graph, fall, position)
            if not late:
                return Saved()
            changed = await self._agent()
            change_late(changed, late)
            more = await self._ground.log.save(changed)
            self.affected += len(late.agents)
            return more

        return Saved((*saved.events, *(await retrying(again)).events))


def _left(graph: AgentGraph, fall: Fall, _: int) -> Fall:
    return graph.left_by(fall)
