"""What a zone of agents is, written as plainly as the contract (coordinator.md 4 and 7, sts.md 9).

Every rule asks the whole state again: nothing is kept that could be computed. So it is slow, and
easy to believe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from math import floor
from typing import NamedTuple, Self

Scopes = frozenset[str]


class Said(NamedTuple):
    """Status of an answer, and its code or description; both as they must be."""

    status: int
    code: str = ""


@dataclass
class Limits:
    """Of the deployment, as the Coordinator of the tests is told."""

    depth: int = 3
    children: int = 3
    zone: int = 14
    application: int = 9


@dataclass
class AgentModel:
    id: str
    application: str
    session: str
    parent: str | None
    depth: int
    ends: float
    key: str | None = None
    asked: tuple[object, ...] = ()
    status: str = "active"

    @property
    def live(self) -> bool:
        return self.status != "terminated"


@dataclass
class EdgeModel:
    id: str
    source: str
    target: str
    scopes: Scopes
    expires: float
    hops: int = 1
    ttl: int | None = None
    budget: int | None = None
    resource: str | None = None
    parent: str | None = None
    status: str = "active"


@dataclass
class Token:
    """A mandate, and all that it hangs on."""

    text: str
    application: str
    kind: str
    anchors: frozenset[str]
    expires: float
    resource: str
    scopes: Scopes


@dataclass
class Zone:
    """Agents and edges by id, and the subject sessions that were revoked."""

    limits: Limits
    agents: dict[str, AgentModel] = field(default_factory=dict)
    edges: dict[str, EdgeModel] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)

    def copy(self) -> Self:
        return deepcopy(self)

    # --- what there is -----------------------------------------------------------------------

    def lineage(self, agent: str) -> list[str]:
        """The agent, its parent, and so on to the root."""
        parent = self.agents[agent].parent
        return [agent, *(self.lineage(parent) if parent else [])]

    def may_act(self, agent: str, now: float) -> bool:
        """It and all above it are active and in their time."""
        if agent not in self.agents:
            return False
        rows = [self.agents[one] for one in self.lineage(agent)]
        return all(row.status == "active" and row.ends > now for row in rows)

    def live(self, **members: object) -> list[AgentModel]:
        """Agents that have not ended and have these members."""
        return [
            row
            for row in self.agents.values()
            if row.live and all(getattr(row, name) == value for name, value in members.items())
        ]

    def holds(self, edge: str | None, now: float) -> bool:
        """The edge is active and in its time."""
        row = self.edges.get(edge or "")
        return row is not None and row.status == "active" and row.expires > now

    def inbound(self, agent: str, now: float) -> list[EdgeModel]:
        return [e for e in self.edges.values() if e.target == agent and self.holds(e.id, now)]

    def path(self, edge: str) -> list[EdgeModel]:
        """The edges that one was narrowed from, root first, and itself."""
        row = self.edges[edge]
        return [*(self.path(row.parent) if row.parent else []), row]

    def leads(self, start: str, goal: str, now: float) -> bool:
        """Authority flows from ``start`` to ``goal``, at any length."""
        return start == goal or any(
            self.leads(edge.target, goal, now)
            for edge in self.edges.values()
            if edge.source == start and self.holds(edge.id, now)
        )

    def overdue(self, now: float) -> list[str]:
        """Agents whose end has come and is not written down yet."""
        return [row.id for row in self.live() if row.ends <= now]

    def outlived(self, now: float) -> list[str]:
        """Edges, likewise."""
        return [e.id for e in self.edges.values() if e.status == "active" and e.expires <= now]

    # --- agents ------------------------------------------------------------------------------

    def replayed(self, asked: AgentModel) -> AgentModel | None:
        """The live agent that the same request has made before."""
        same = ("application", "session", "parent", "key", "asked")
        found = self.live(**{name: getattr(asked, name) for name in same})
        return found[0] if asked.key is not None and found else None

    def spawning(self, asked: AgentModel, now: float) -> Said:
        """Checks 6 to 13 of 4.2; what is asked for is an agent without id and depth."""
        if self.replayed(asked):
            return Said(200)
        if asked.session in self.revoked:
            return Said(404, "session_not_found")
        if len(self.live()) >= self.limits.zone:
            return Said(429, "agent_zone_limit_exceeded")
        if len(self.live(application=asked.application)) >= self.limits.application:
            return Said(429, "agent_limit_exceeded")
        return Said(201) if asked.parent is None else self._below(asked, asked.parent, now)

    def _below(self, asked: AgentModel, parent: str, now: float) -> Said:
        if not self.may_act(parent, now):
            return Said(404, "parent_not_found")
        if self.agents[parent].application != asked.application:
            return Said(403, "parent_ownership_required")
        if len(self.live(parent=parent)) >= self.limits.children:
            return Said(429, "agent_children_limit_exceeded")
        if self.agents[parent].depth + 1 > self.limits.depth:
            return Said(429, "agent_depth_limit_exceeded")
        return Said(201)

    def spawn(self, asked: AgentModel) -> None:
        asked.depth = self.agents[asked.parent].depth + 1 if asked.parent else 0
        self.agents[asked.id] = asked

    def reached(self, agent: str, *through: str) -> list[str]:
        """The agent and those below it, as far as one has one of these statuses."""
        if self.agents[agent].status not in through:
            return []
        below = [row.id for row in self.agents.values() if row.parent == agent]
        return [agent, *(one for child in below for one in self.reached(child, *through))]

    def suspend(self, agent: str) -> list[str]:
        return self._set(self.reached(agent, "active"), "suspended")

    def resume(self, agent: str) -> list[str]:
        return self._set(self.reached(agent, "suspended"), "active")

    def terminate(self, *agents: str) -> tuple[list[str], list[str]]:
        """End agents and all below them; with them the edges there, and what hangs on those."""
        listed = (one for agent in agents for one in self.reached(agent, "active", "suspended"))
        ended = self._set(listed, "terminated")
        touched = [e.id for e in self.edges.values() if {e.source, e.target} & set(ended)]
        return ended, self._revoke(touched)

    def _set(self, agents: Iterable[str], status: str) -> list[str]:
        changed = list(dict.fromkeys(agents))  # each once, all listed before the first changes
        for agent in changed:
            self.agents[agent].status = status
        return changed

    # --- edges -------------------------------------------------------------------------------

    def delegating(self, asked: EdgeModel, named: str | None, now: float) -> Said:
        """Checks 5 and 8 to 16 of 7.3; sets the parent of what is asked for."""
        if asked.source == asked.target:
            return Said(400, "self_delegation_denied")
        if not (self.may_act(asked.source, now) and self.may_act(asked.target, now)):
            return Said(404, "delegation_endpoint_not_found")
        parents = {edge.id: edge for edge in self.inbound(asked.source, now)}
        if parents:
            if named is None and len(parents) > 1:
                return Said(409, "parent_delegation_ambiguous")
            asked.parent = next(iter(parents)) if named is None else named
            if asked.parent not in parents:
                return Said(403, "parent_delegation_not_active")
            if not is_narrower(asked, parents[asked.parent]):
                return Said(403, "delegation_exceeds_parent_authority")
        if self.leads(asked.target, asked.source, now):
            return Said(409, "delegation_cycle_denied")
        return Said(201)

    def delegate(self, asked: EdgeModel) -> None:
        self.edges[asked.id] = asked

    def revoke(self, edge: str) -> tuple[list[str], list[str], set[str]]:
        """End an edge and all it leads to: agents, edges, and the sessions of its live targets."""
        led = self._led(edge, [])
        targets = list(dict.fromkeys(self.edges[e].target for e in led))
        sessions = {self.agents[t].session for t in targets if self.agents[t].live}
        first = self._revoke(led)
        agents, more = self.terminate(*targets)
        return agents, [*first, *more], sessions

    def _led(self, edge: str, before: list[str]) -> list[str]:
        if edge in before:
            return before
        before = [*before, edge]
        for row in self.edges.values():
            if row.status == "active" and row.source == self.edges[edge].target:
                before = self._led(row.id, before)
        return before

    def _revoke(self, edges: Iterable[str]) -> list[str]:
        """End edges, and those that were narrowed from one of them."""
        ended: list[str] = []
        frontier = [edge for edge in edges if self.edges[edge].status == "active"]
        while frontier:
            ended += frontier
            for edge in frontier:
                self.edges[edge].status = "revoked"
            frontier = [
                e.id for e in self.edges.values() if e.status == "active" and e.parent in ended
            ]
        return ended

    def sweep(self, now: float) -> None:
        """Write down the ends that have come: agents with what falls with them, then edges."""
        self.terminate(*self.overdue(now))
        for edge in self.outlived(now):
            self.edges[edge].status = "expired"

    # --- mandates ----------------------------------------------------------------------------

    def minting(
        self, caller: str, agent: str, edge: str | None, scopes: Scopes, resource: str, now: float
    ) -> Said:
        """Section 9 of the STS: an agent alone, or the rows 2 to 12 of an edge; then 8 C and 14."""
        if edge is None:
            if not (self.may_act(agent, now) and self.agents[agent].application == caller):
                return Said(403, "agent session inactive or not owned by caller")
        elif (refused := self._exercising(caller, agent, edge, scopes, now)) is not None:
            return Said(403, refused)
        elif any(row.resource not in (None, resource) for row in self.path(edge)):
            return Said(403, "policy denied")
        if self.agents[agent].session in self.revoked:
            return Said(403, "session revoked")
        return Said(200)

    def _exercising(
        self, caller: str, agent: str, edge: str, scopes: Scopes, now: float
    ) -> str | None:
        row = self.edges.get(edge)
        if row is None or not self.holds(edge, now):
            return "delegation edge inactive or expired"
        if row.target != agent:
            return "delegation edge target mismatch"
        if not self.may_act(row.source, now):
            return "delegation source inactive or expired"
        if not self.may_act(agent, now) or self.agents[agent].application != caller:
            return "delegation target inactive or unauthorized"
        if (refused := _beyond(row, scopes)) is not None:
            return refused
        return self._walking(self.path(edge), scopes, now)

    def _walking(self, path: list[EdgeModel], scopes: Scopes, now: float) -> str | None:
        if any(following > row.hops for following, row in enumerate(reversed(path), 1)):
            return "delegation path invalid"
        for row in path:
            if not (self.holds(row.id, now) and self.may_act(row.source, now)):
                return "delegation path edge inactive or revoked"
            if (refused := _beyond(row, scopes)) is not None:
                return refused
        return None

    def anchors(self, agent: str, edge: str | None) -> frozenset[str]:
        """What of agents and edges a mandate hangs on, and whom the agent serves."""
        path = self.path(edge) if edge else []
        actors = {agent, *(row.source for row in path), *(row.target for row in path)}
        lines = {one for actor in actors for one in self.lineage(actor)}
        return frozenset({*lines, *(row.id for row in path), self.agents[agent].session})

    def latest(self, agent: str, edge: str | None, now: float) -> float:
        """When a mandate must be over, at the latest."""
        path = self.path(edge) if edge else []
        actors = {agent, *(row.source for row in path)}
        ends = [self.agents[one].ends for actor in actors for one in self.lineage(actor)]
        ends += [row.expires for row in path]
        ends += [now + row.ttl for row in path if row.ttl is not None]
        return min(ends)

    def stands(self, token: Token) -> bool:
        """None of what a mandate hangs on has ended or is suspended."""
        agents = [self.agents[one] for one in token.anchors if one in self.agents]
        edges = [self.edges[one] for one in token.anchors if one in self.edges]
        return (
            all(row.status == "active" for row in agents)
            and all(row.status != "revoked" for row in edges)
            and not token.anchors & self.revoked
        )

    # --- moments -----------------------------------------------------------------------------

    def moments(self) -> Iterator[float]:
        """When something ends by its time."""
        yield from (row.ends for row in self.live())
        yield from (row.expires for row in self.edges.values() if row.status == "active")

    def unclear(self, now: float, margin: float) -> float | None:
        """The end that is so near that services may differ: some round to whole seconds."""
        near = [at for at in self.moments() if floor(at) - margin <= now < at + 0.1]
        return max(near, default=None)

    def passed(self, began: float, ended: float) -> bool:
        """Something may have ended by its time between two moments."""
        return any(began <= at and ended >= floor(at) for at in self.moments())

    def counters(self, zone: str) -> dict[str, int]:
        """What the Coordinator must have counted: of zone, applications and parents."""
        live = self.live()
        found = {f"agents:{zone}": len(live)}
        for row in live:
            of = f"agents:{zone}:{row.application}"
            found[of] = found.get(of, 0) + 1
            if row.parent is not None:
                below = f"children:{row.parent}"
                found[below] = found.get(below, 0) + 1
        return {key: n for key, n in found.items() if n}


def is_narrower(child: EdgeModel, parent: EdgeModel) -> bool:
    """Narrowing, all members (7.3)."""
    spends = len(child.scopes) if child.budget is None else child.budget
    return (
        child.scopes <= parent.scopes
        and child.expires <= parent.expires
        and (parent.resource is None or child.resource == parent.resource)
        and child.hops <= parent.hops - 1
        and (parent.ttl is None or (child.ttl is not None and child.ttl <= parent.ttl))
        and (parent.budget is None or spends <= parent.budget)
    )


def _beyond(edge: EdgeModel, scopes: Scopes) -> str | None:
    if not scopes <= edge.scopes:
        return "requested scopes exceed delegation scopes"
    if edge.budget is not None and len(scopes) > edge.budget:
        return "requested scopes exceed delegation budget"
    return None
