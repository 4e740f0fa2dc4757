"""What the Gateway knows, in memory: routable resources, agents, and what has ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from caracal.events.base import Fact
from caracal.projections.agent import recent_agents
from caracal.projections.delegation import recent_delegations
from caracal.projections.memory import MemoryTable, MemoryView, Row
from caracal.projections.resource import RESOURCES
from caracal.projections.revocation import RevocationMap, revocations
from caracal.projections.tail import Tail
from caracal.resource_match import match
from caracal.services.gateway.refusals import Stale

LookUp = Callable[..., list[Row]]
_MOST_SOUGHT = 4096


class GatewayView:
    """The tables that the Gateway's tail fills."""

    def __init__(self, max_staleness: float) -> None:
        self.resources = MemoryTable(RESOURCES)
        self.things = {made.table.name: made for made in (recent_agents(), recent_delegations())}
        self.revocations = RevocationMap(max_staleness)
        self._at = self.resources.index("zone_id", "identifier")
        self._prefix_at = self.resources.index("zone_id", "identifier", "prefix_match")
        self._sought: OrderedDict[str, None] = OrderedDict()
        self._max_staleness = max_staleness
        self.tail: Tail | None = None

    @property
    def all(self) -> list[MemoryView]:
        """Return what the tail keeps up to date."""
        return [self.resources, *self.things.values(), self.revocations]

    @property
    def following(self) -> Tail:
        """Return the tail, once the service has started."""
        assert self.tail is not None
        return self.tail

    @property
    def stale(self) -> bool:
        """Say whether the view is too old to decide anything."""
        return self.following.age > self._max_staleness

    def routable(self, zone_id: str, requested: str) -> Row | None:
        """Return the resource with an upstream that ``requested`` names: exact, else prefix."""
        exact = _Registered(lambda text: self._at(zone_id, text))
        prefixes = _Registered(lambda text: self._prefix_at(zone_id, text, True))
        if (identifier := match(requested, exact, prefixes)) is None:
            return None
        row = self._at(zone_id, identifier)[0]
        return row if row["upstream_url"] and row["id"] not in self.following.parked else None

    async def find(self, zone_id: str, requested: str) -> Row | None:
        """Return what :meth:`routable` does; what is unknown is so at the log's head.

        Raises:
            Stale: the log cannot be read now.
        """
        row = self.routable(zone_id, requested)
        if row is None:
            if not await self.following.probe():
                raise Stale
            row = self.routable(zone_id, requested)
        return row

    async def thing(self, name: str, zone_id: str, thing_id: str | None) -> Row | None:
        """Return a row of ``agents`` or ``delegations``, also of one that has ended.

        Raises:
            Stale: it is unknown, and the log cannot be read now.
        """
        if thing_id is None:
            return None
        things = self.things[name]
        if thing_id not in things.rows and thing_id not in self._sought:
            if not await self.following.probe():
                raise Stale
            self._note_sought(thing_id)
        row = things.rows.get(thing_id)
        return row if row and not row["stub"] and row["zone_id"] == zone_id else None

    def _note_sought(self, thing_id: str) -> None:
        """Ids are made where things begin: one that was not there is a stranger's for good."""
        self._sought[thing_id] = None
        if len(self._sought) > _MOST_SOUGHT:
            self._sought.popitem(last=False)

    def revoked(self, anchors: Iterable[str]) -> bool:
        """Say whether one of ``anchors`` has ended, is suspended or parked."""
        anchors = tuple(anchors)
        parked = self.following.parked
        return self.revocations.is_revoked(anchors) or (
            bool(parked) and not parked.isdisjoint(anchors)
        )


def touched_by(fact: Fact) -> set[str]:
    """Return the ids whose revocation a fact may have changed."""
    return {
        anchor
        for applied in revocations.reduce(fact)
        for anchor in getattr(applied.operation, "ids", ())
    }


class _Registered:
    """Identifiers of a zone, as far as the look-up knows them."""

    def __init__(self, found: LookUp) -> None:
        self._found = found

    def __contains__(self, identifier: object) -> bool:
        return bool(self._found(identifier))
