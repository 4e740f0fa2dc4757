"""The domain alone, over the log in memory: each command may be met by another in its middle.

No service, no server: decisions, guards, cascades and reducers as they are, and a place between
what a command has read and what it saves, where another command is put.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.agent import Agent, SpawnLimits
from caracal.events.agent_graph import AgentGraph
from caracal.events.store.log import Saved, retrying
from caracal.events.store.memory import MemoryLog
from caracal.projections.agent import AGENTS, agents
from caracal.projections.agent_graph import graph_of
from caracal.projections.delegation import DELEGATIONS, delegations
from caracal.projections.memory import MemoryTable, Row, apply
from caracal.services.agent_subtree import Subtree
from caracal.services.coordinator.caller import Caller
from caracal.services.coordinator.delegating import Asked, decide
from caracal.services.coordinator.revoke import Revocation
from tests.making import ZONE, in_zone
from tests.model.zone import AgentModel, EdgeModel, Limits, Said, Zone

Meanwhile = Callable[[], Awaitable[None]]
ENDS = datetime(2100, 1, 1, tzinfo=UTC)
NOW = 1.0  # of the model: nothing ends by its time here


@dataclass(frozen=True)
class Move:
    """A command: ``name`` with the ids it is about, and what it asks for."""

    name: str
    thing: str
    agent: AgentModel | None = None
    edge: EdgeModel | None = None
    named: str | None = None

    def at(self, zone: Zone) -> Said:
        """Do it in the model; return what is said."""
        if self.agent is not None:
            said = zone.spawning(asked := replace(self.agent), NOW)
            if said.status == 201:
                zone.spawn(asked)
            return said
        if self.edge is not None:
            wanted = replace(self.edge)
            said = zone.delegating(wanted, self.named, NOW)
            if said.status == 201:
                zone.delegate(wanted)
            return said
        return _ENDINGS[self.name](zone, self.thing)


def _suspended(zone: Zone, agent: str) -> Said:
    changed = zone.suspend(agent)
    return Said(200) if changed else Said(409, "agent_not_found_or_not_active")


def _resumed(zone: Zone, agent: str) -> Said:
    changed = zone.resume(agent)
    return Said(200) if changed else Said(409, "agent_not_found_or_not_suspended")


def _terminated(zone: Zone, agent: str) -> Said:
    zone.terminate(agent)
    return Said(200)


def _revoked(zone: Zone, edge: str) -> Said:
    if not zone.holds(edge, NOW):
        return Said(404, "delegation_not_found")
    zone.revoke(edge)
    return Said(200)


_ENDINGS: dict[str, Callable[[Zone, str], Said]] = {
    "suspend": _suspended,
    "resume": _resumed,
    "terminate": _terminated,
    "revoke": _revoked,
}


@dataclass
class Domain:
    """Log, tables and the commands; what a ground and a call are to cascades."""

    limits: Limits
    log: MemoryLog = field(default_factory=MemoryLog)
    meanwhile: Meanwhile | None = None
    id: str = ZONE

    def __post_init__(self) -> None:
        self._tables = {table.name: MemoryTable(table) for table in (AGENTS, DELEGATIONS)}
        self._applied = 0
        self._inbound = self._tables["delegations"].index("target_session_id")
        things = (f"live:{kind}" for kind in (f"zone:{ZONE}", "application:a", "application:b"))
        self.log.held.keys.update(dict.fromkeys((*things, "live:session:s"), "whoever"))

    @property
    def ground(self) -> Domain:
        return self

    @property
    def parts(self) -> Domain:
        return self

    # --- state -------------------------------------------------------------------------------

    def rows(self, name: str) -> dict[str, Row]:
        """A read model at the log's end."""
        records = self.log.records
        for record in records[self._applied :]:
            for projection in (agents, delegations):
                apply(self._tables, projection.reduce(record.fact()))
        self._applied = len(records)
        return self._tables[name].rows

    async def graph(
        self, zone_id: str, near: object = None, position: int | None = None
    ) -> AgentGraph:
        """List; the first listing of a command is when another one comes."""
        live = (row for row in self.rows("agents").values() if row["ended_at"] is None)
        edges = (row for row in self.rows("delegations").values() if row["ended_at"] is None)
        graph = graph_of(zone_id, live, edges)
        await self._let_another()
        return graph

    async def find(self, kind: Any, thing_id: str, zone_id: str) -> Any:
        return await self.log.find(kind, thing_id)

    async def _let_another(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()

    # --- what a decision on an edge asks for ----------------------------------------------------

    def active_agent(self, agent_id: str) -> Row | None:
        rows = self.rows("agents")
        line = [agent_id, *rows[agent_id]["ancestors"]] if agent_id in rows else []
        acts = bool(line) and all(rows[one]["status"] == "active" for one in line)
        return rows[agent_id] if acts else None

    def resource(self, resource_id: str) -> Row | None:
        return None

    resource_named = resource

    def granted(self, application_id: str, resource_id: str) -> frozenset[str] | None:
        return None

    def inbound(self, agent_id: str) -> list[Row]:
        self.rows("delegations")
        return self._inbound(agent_id)

    def barred(self, ids: Iterable[str]) -> bool:
        return False

    # --- commands ----------------------------------------------------------------------------

    async def do(self, move: Move) -> Said:
        """Do a command; return what is said."""
        commands = {"spawn": self._spawn, "delegate": self._delegate, "revoke": self._revoke}
        with in_zone():
            try:
                return await commands.get(move.name, self._walk)(move)
            except CaracalError as refusal:
                return Said(refusal.status, refusal.code)

    async def _spawn(self, move: Move) -> Said:
        asked = move.agent
        assert asked is not None
        parent = None if asked.parent is None else self.rows("agents").get(asked.parent)
        await self._let_another()
        agent = Agent.spawn(
            move.thing,
            zone_id=ZONE,
            application_id=asked.application,
            subject_session_id=asked.session,
            parent=parent,
            limits=SpawnLimits(
                depth=self.limits.depth,
                children=self.limits.children,
                zone=self.limits.zone,
                application=self.limits.application,
            ),
            kind="instance",
            capabilities=[],
            ttl_seconds=3600,
            metadata={},
        )
        await self.log.save(agent)
        return Said(201)

    async def _delegate(self, move: Move) -> Said:
        edge, rows = move.edge, self.rows("agents")
        assert edge is not None
        issuer, receiver = (rows[one]["application_id"] for one in (edge.source, edge.target))
        limits = {"max_hops": edge.hops, "ttl_seconds": edge.ttl, "budget": edge.budget}
        asked = Asked(
            edge.source,
            edge.target,
            issuer,
            receiver,
            move.named,
            scopes=tuple(sorted(edge.scopes)),
            constraints={name: value for name, value in limits.items() if value is not None},
            expires_at=ENDS,
        )
        caller = Caller(issuer, issuer, ZONE, frozenset(("coordinator.admin",)))

        async def command() -> Saved:
            decided = decide(self, caller, asked, clock.now())
            await self._let_another()
            return await self.log.save(decided.edge(move.thing, ZONE))

        await retrying(command)
        return Said(201)

    async def _walk(self, move: Move) -> Said:
        subtree = Subtree(self, ZONE, move.thing)  # type: ignore[arg-type]
        if move.name == "resume":
            await retrying(lambda: subtree.resume(clock.now() + timedelta(minutes=2)))
        else:
            await retrying(getattr(subtree, move.name))
        return Said(200)

    async def _revoke(self, move: Move) -> Said:
        await retrying(Revocation(self, ZONE, move.thing).command)  # type: ignore[arg-type]
        return Said(200)

    # --- comparing ---------------------------------------------------------------------------

    def differences(self, zone: Zone) -> list[str]:
        """What rows, keys, counters and edges say and the model does not."""
        rows, edges, held = self.rows("agents"), self.rows("delegations"), self.log.held
        live = {one for one, row in zone.agents.items() if row.live}
        active = {one for one, row in zone.agents.items() if row.status == "active"}
        holding = {one for one, row in zone.edges.items() if row.status == "active"}
        compared = {
            "agents": (
                {one: row["status"] for one, row in rows.items()},
                {one: row.status for one, row in zone.agents.items()},
            ),
            "edges": (
                {one: (row["status"], row["parent_edge_id"]) for one, row in edges.items()},
                {one: (row.status, row.parent) for one, row in zone.edges.items()},
            ),
            "live": (_keys(held.keys, "live:agent:"), live),
            "active": (_keys(held.keys, "active:agent:"), active),
            "edge keys": (_keys(held.keys, "live:edge:"), holding),
            "edge guards": (set(held.edges), holding),
            "counters": ({k: n for k, n in held.counts.items() if n}, zone.counters(ZONE)),
        }
        return [
            f"{name}: {there} is not {wanted}"
            for name, (there, wanted) in compared.items()
            if there != wanted
        ]


def _keys(keys: Iterable[str], prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
