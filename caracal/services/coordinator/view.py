"""What the Coordinator holds in memory: the agents and edges of all zones, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from caracal import clock
from caracal.errors import CaracalError, Unavailable
from caracal.projections.agent import recent_agents
from caracal.projections.agent_graph import growing_graph
from caracal.projections.application import APPLICATIONS
from caracal.projections.delegation import recent_delegations
from caracal.projections.memory import MemoryTable, MemoryView, Row
from caracal.projections.resource import RESOURCES
from caracal.projections.revocation import RevocationMap
from caracal.projections.tail import Tail
from caracal.projections.zone import ZONES
from caracal.services.coordinator.application_grants import ApplicationGrants

Answer = TypeVar("Answer")


class CoordinatorView:
    """The tables that a tail fills; each look-up by index gives live rows, by id."""

    def __init__(self, max_staleness: float) -> None:
        """``max_staleness`` in seconds."""
        self.zones, self.applications = MemoryTable(ZONES), MemoryTable(APPLICATIONS)
        self.resources, self.grants = MemoryTable(RESOURCES), ApplicationGrants()
        self.agents, self.edges = recent_agents(), recent_delegations()
        self.revocations = RevocationMap(max_staleness)
        self.number_in_zone = self.agents.count("zone_id")
        self.number_of_application = self.agents.count("zone_id", "application_id")
        self.number_of_children = self.agents.count("zone_id", "parent_id")
        self.replayable = self.agents.index(
            "zone_id",
            "application_id",
            "subject_session_id",
            "parent_id",
            "idempotency_key",
            "idempotency_sha256",
        )
        self.edges_to = self.edges.index("zone_id", "target_session_id")
        self.edges_from = self.edges.index("zone_id", "source_session_id")
        self.graph = growing_graph(self.agents, self.edges)
        self.resource_at = self.resources.index("zone_id", "identifier")
        self._max_staleness = max_staleness
        self.tail: Tail | None = None

    @property
    def all(self) -> list[MemoryView]:
        """Return what the tail keeps up to date."""
        tables = (self.zones, self.applications, self.resources, self.agents, self.edges)
        return [*tables, self.grants, self.revocations]

    @property
    def following(self) -> Tail:
        """Return the tail, once the service has started."""
        assert self.tail is not None
        return self.tail

    def check_fresh(self) -> None:
        """Refuse to decide by a view that may be too old.

        Raises:
            Unavailable: 503 ``state_stale``.
        """
        if self.following.age > self._max_staleness:
            raise Unavailable("state_stale", "the service's view is too old to decide by")

    async def look_again(self) -> None:
        """Bring the view to the log's head: what is unknown there is not there.

        Raises:
            Unavailable: 503 ``unavailable``, the log cannot be read.
        """
        if not await self.following.probe():
            raise Unavailable("unavailable", "the log cannot be read now")

    async def decided(self, decide: Callable[[], Answer]) -> Answer:
        """Decide; what would be refused is decided once more at the log's head.

        Raises:
            CaracalError: the refusal, or 503 ``unavailable``.
        """
        try:
            return decide()
        except CaracalError:
            await self.look_again()
            return decide()

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        ids = tuple(ids)
        return self.revocations.is_revoked(ids) or not self.following.parked.isdisjoint(ids)

    def known_zone(self, zone_id: str | None) -> str | None:
        """Return the id of a zone that exists, as far as is known here; else None."""
        return zone_id if zone_id and self.zones.live(zone_id) is not None else None

    async def has_zone(self, zone_id: str) -> bool:
        """Say whether there is such a zone at the log's head, archived or not.

        Raises:
            Unavailable: 503 ``unavailable``, the log cannot be read.
        """
        if zone_id not in self.zones.rows:
            await self.look_again()
        return zone_id in self.zones.rows

    def application(self, zone_id: str, application_id: str) -> Row | None:
        """Return an application of the zone, neither archived, past its end, nor parked."""
        row = _in(zone_id, self.applications.live(application_id))
        if row is None or application_id in self.following.parked:
            return None
        return None if row["expires_at"] is not None and row["expires_at"] <= clock.now() else row

    def agent(self, zone_id: str, agent_id: str) -> Row | None:
        """Return an agent of the zone; one that ended long ago is forgotten."""
        row = _in(zone_id, self.agents.rows.get(agent_id))
        return None if row is None or row["stub"] else row

    def subject_sessions(self, zone_id: str, agent_ids: Iterable[str]) -> list[str]:
        """Return the sessions that agents of the zone act for, each once."""
        rows = map(self.agents.rows.get, agent_ids)
        known = (row for row in rows if row is not None and row["zone_id"] == zone_id)
        return list(dict.fromkeys(row["subject_session_id"] for row in known if not row["stub"]))

    def active_agent(self, zone_id: str, agent_id: str) -> Row | None:
        """Return an agent of the zone that may act: active, within its time, not parked."""
        row = _in(zone_id, self.agents.live(agent_id))
        if row is None or row["status"] != "active" or agent_id in self.following.parked:
            return None
        return row if ends_at(row) > clock.now() else None

    def edge(self, zone_id: str, edge_id: str) -> Row | None:
        """Return an edge of the zone that has not ended; its time may be over."""
        return _in(zone_id, self.edges.live(edge_id))

    def identifier_of(self, resource_id: str) -> str | None:
        """Return the identifier of a resource, archived or not; None when it is unknown."""
        row = self.resources.rows.get(resource_id)
        return None if row is None else row["identifier"]


def ends_at(agent: Row) -> datetime:
    """Return when an agent's time runs out."""
    spawned: datetime = agent["spawned_at"]
    return spawned + timedelta(seconds=agent["ttl_seconds"])


def _in(zone_id: str, row: Row | None) -> Row | None:
    return row if row is not None and row["zone_id"] == zone_id else None
