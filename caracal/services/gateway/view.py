"""What the Gateway knows: of every zone its keys and what has ended, of those in use the rest."""

from __future__ import annotations

from caracal.events.base import Fact
from caracal.projections.agent import AGENTS, recent_agents
from caracal.projections.delegation import DELEGATIONS, recent_delegations
from caracal.projections.memory import Row
from caracal.projections.partition import Partition
from caracal.projections.resource import RESOURCES, names_of, recent_resources
from caracal.projections.revocation import revocations
from caracal.services.connections import Pool
from caracal.services.consistency import state_stale
from caracal.services.gateway.beginnings import Beginnings
from caracal.services.gateway.lone_resources import LoneResources
from caracal.services.http import Scope
from caracal.services.known_zones import KnownZones
from caracal.services.windows import caller_of
from caracal.services.zones import Zones

OF_ONE_ZONE = (RESOURCES.name, AGENTS.name, DELEGATIONS.name)
"""Tables that are in memory for some zones only."""


class GatewayZone(Partition):
    """A zone in memory."""

    def __init__(self, zone_id: str) -> None:
        resources = recent_resources()
        super().__init__(zone_id, (resources, recent_agents(), recent_delegations()))
        self.resource = names_of(resources)

    @property
    def routable(self) -> int:
        """Return how many resources have an upstream."""
        rows = self.tables[RESOURCES.name].rows.values()
        return sum(1 for row in rows if row["ended_at"] is None and row["upstream_url"])


class GatewayView(KnownZones[GatewayZone]):
    """What the Gateway's tail fills, and the zones once it does."""

    _alone: LoneResources
    _beginnings: Beginnings

    def serve(self, database: Pool, max_bytes: int) -> Zones[GatewayZone]:
        """Begin to load zones, as many as ``max_bytes`` hold; the tail has started."""
        self.loaded = Zones(GatewayZone, self.following, database, max_bytes)
        self._alone = LoneResources(database, self)
        self._beginnings = Beginnings(database, self.following)
        return self.loaded

    async def find(self, zone_id: str, requested: str, scope: Scope) -> Row | None:
        """Return the resource with an upstream that ``requested`` names: exact, else prefix.

        What is unknown is so at the log's head.

        Args:
            zone_id: of the resource; that it is well formed is all that is known.
            requested: identifier as the caller sent it.
            scope: of the request: whose address asks.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read now.
        """
        zone = self.zones.peek(zone_id)
        if zone is None:
            return self._routable(await self._found_alone(zone_id, requested, scope))
        if (row := self._routable(zone.resource(requested))) is None:
            await self.look_again()
            if zone.outdated:
                raise state_stale()
            row = self._routable(zone.resource(requested))
        return row

    async def thing(self, name: str, zone_id: str, thing_id: str | None) -> Row | None:
        """Return a row of ``agents`` or ``delegations``, also of one that has ended.

        Raises:
            Unavailable: 503 ``state_stale``, it is not in memory, and the log cannot be read now.
        """
        if thing_id is None:
            return None
        zone = self.zones.peek(zone_id)
        row = zone.tables[name].rows.get(thing_id) if zone is not None else None
        if row is None or row["stub"]:
            row = await self._beginnings.find(name, zone_id, thing_id)
        return row if row is not None and row["zone_id"] == zone_id else None

    async def _found_alone(self, zone_id: str, requested: str, scope: Scope) -> Row | None:
        if not self._has(zone_id):
            await self.look_again()
        if not self._has(zone_id):
            return None
        return await self._alone.find(zone_id, requested, caller_of(scope))

    def _has(self, zone_id: str) -> bool:
        """Say whether there ever was such a zone; one that was archived revokes what it signed."""
        row = self.known.rows.get(zone_id)
        return row is not None and not row["stub"]

    def _routable(self, row: Row | None) -> Row | None:
        if row is None or not row["upstream_url"] or row["id"] in self.following.parked:
            return None
        return row


def touched_by(fact: Fact) -> set[str]:
    """Return the ids whose revocation a fact may have changed."""
    return {
        anchor
        for applied in revocations.reduce(fact)
        for anchor in getattr(applied.operation, "ids", ())
    }
