"""A zone as the view has it now: what decisions on delegations ask for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from caracal.projections.memory import Row
from caracal.services.coordinator.view import CoordinatorView


class ZoneFacts:
    """Looks a zone's things up in the view; see :class:`caracal.services.coordinator.delegating`.

    Every look-up leaves out what is parked: no decision is made by it.
    """

    def __init__(self, view: CoordinatorView, zone_id: str, now: datetime) -> None:
        self.id, self._view, self._now = zone_id, view, now

    def active_agent(self, agent_id: str) -> Row | None:
        """Return an agent that may act: it and all above it are active and in their time."""
        row = self._view.active_agent(self.id, agent_id)
        if row is None or self.barred((agent_id, *row["ancestors"])):
            return None
        above = (self._view.active_agent(self.id, one) for one in row["ancestors"])
        return row if all(one is not None for one in above) else None

    def resource(self, resource_id: str) -> Row | None:
        """Return a resource of the zone that is not archived."""
        row = self._view.resources.live(resource_id)
        if row is None or row["zone_id"] != self.id or self.barred((resource_id,)):
            return None
        return row

    def resource_named(self, identifier: str) -> Row | None:
        """Return the resource of an identifier, if it is not archived."""
        found = self._view.resource_at(self.id, identifier)
        return self.resource(found[0]["id"]) if found else None

    def granted(self, application_id: str, resource_id: str) -> frozenset[str] | None:
        """Return the scopes of a resource that an application holds itself; None: no grant."""
        return self._view.grants.scopes(self.id, application_id, resource_id, self._now)

    def inbound(self, agent_id: str) -> list[Row]:
        """Return the edges to an agent that have not ended, those past their time included."""
        return self._view.edges_to(self.id, agent_id)

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        return self._view.barred(ids)
