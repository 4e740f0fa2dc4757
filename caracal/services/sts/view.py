"""What the STS knows, in memory: of every zone what needs no authentication, the rest of some.

No sessions: signature, ``exp`` and anchors not revoked *are* the session check.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from caracal.events.application import Application
from caracal.events.base import Aggregate
from caracal.events.provider import Provider
from caracal.events.topics import FACT_TOPIC_OF
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.mandate import Keys
from caracal.projections.agent import AGENTS, recent_agents
from caracal.projections.application import APPLICATIONS
from caracal.projections.delegation import DELEGATION_EPOCHS, DELEGATIONS, recent_delegations
from caracal.projections.grant import GRANTS
from caracal.projections.memory import MemoryMarks, MemoryTable, MemoryView, RecentTable, Row
from caracal.projections.partition import Partition
from caracal.projections.policy import POLICIES, POLICY_VERSIONS
from caracal.projections.policy_set import POLICY_SET_VERSIONS, POLICY_SETS
from caracal.projections.provider import PROVIDERS
from caracal.projections.resource import RESOURCES, names_of, recent_resources
from caracal.projections.table import Table
from caracal.projections.trusted_issuer import TRUSTED_ISSUERS
from caracal.services.consistency import state_stale
from caracal.services.known_zones import KnownZones

OF_ONE_ZONE = tuple(
    table.name
    for table in (
        APPLICATIONS,
        RESOURCES,
        PROVIDERS,
        TRUSTED_ISSUERS,
        GRANTS,
        AGENTS,
        DELEGATIONS,
        POLICIES,
        POLICY_VERSIONS,
        POLICY_SETS,
        POLICY_SET_VERSIONS,
    )
)
"""Tables that are in memory for some zones only."""


class GrantTable(MemoryTable):
    """Grants, and which (application, resource) ever had one (contract, grant rule)."""

    def __init__(self) -> None:
        super().__init__(GRANTS)
        self.ever: set[tuple[str, str]] = set()

    def load(self, rows: Iterable[Row]) -> None:
        self.ever = set()
        super().load(rows)

    def _store(self, row: Row) -> None:
        super()._store(row)
        if not row["stub"]:
            self.ever.add((row["application_id"], row["resource_id"]))


class StsView(KnownZones["ZoneView"]):
    """What the STS knows of all zones."""

    def __init__(self, max_staleness: float) -> None:
        """``max_staleness`` in seconds."""
        super().__init__(max_staleness)
        self.epochs = MemoryMarks(DELEGATION_EPOCHS)

    @property
    def all(self) -> list[MemoryView]:
        """Return what the tail keeps up to date for all zones."""
        return [*super().all, self.epochs]

    def has_zone(self, zone_id: str) -> bool:
        """Say whether there is such a zone, not archived."""
        return self.known.live(zone_id) is not None

    def is_gateway_only(self, zone_id: str) -> bool:
        """Say whether a zone's mandates for resources are for the Gateway alone."""
        zone = self.known.live(zone_id)
        return zone is not None and bool(zone.get("gateway_only"))

    def only_zone(self) -> str | None:
        """Return the id of the zone when there is exactly one."""
        live = [zone_id for zone_id in self.known.rows if self.has_zone(zone_id)]
        return live[0] if len(live) == 1 else None


class KnownZone:
    """What is known of each zone, in memory or not: its keys, and what has ended."""

    def __init__(self, view: StsView, zone_id: str) -> None:
        self._view, self.id = view, zone_id

    def published_keys(self) -> list[Row]:
        """Return the two newest signing keys, newest first."""
        return self._view.published_keys(self.id)

    def verification_keys(self) -> Keys:
        """Return the keys that verify this zone's tokens, by ``kid``."""
        return self._view.verification_keys(self.id)

    def epoch(self) -> int:
        """Return the log position of the last change of an edge; 0 if there was none."""
        marks = self._view.epochs.rows.get(self.id)
        return int(marks["epoch"]) if marks else 0

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        return self._view.barred(ids)


class ZoneView(KnownZone, Partition):
    """A zone in memory; what it returns is alive and not parked."""

    def __init__(self, view: StsView, zone_id: str) -> None:
        KnownZone.__init__(self, view, zone_id)
        self._grants, resources = GrantTable(), recent_resources()
        Partition.__init__(
            self,
            zone_id,
            (
                _recent(APPLICATIONS, Application.Created),
                resources,
                _recent(PROVIDERS, Provider.Created),
                _recent(TRUSTED_ISSUERS, TrustedIssuer.Created),
                self._grants,
                recent_agents(),
                recent_delegations(),
                MemoryTable(POLICIES),
                MemoryTable(POLICY_VERSIONS),
                MemoryTable(POLICY_SETS),
                MemoryTable(POLICY_SET_VERSIONS),
            ),
        )
        self._named = names_of(resources)
        self._issuer_at = self.tables["trusted_issuers"].index("issuer")
        self._grants_of = self._grants.index("application_id", "resource_id")
        self.policy_sets = self.tables["policy_sets"].index()

    def application(self, application_id: str, now: datetime) -> Row | None:
        """Return an application that has not expired; parked ones too, their anchors refuse."""
        row = self.tables["applications"].live(application_id)
        return None if row is None or is_over(row, now) else row

    def resource(self, requested: str) -> Row | None:
        """Return the resource that ``requested`` names: exact, else the longest prefix."""
        row = self._named(requested)
        return None if row is None or row["id"] in self._parked else row

    def provider(self, provider_id: str) -> Row | None:
        """Return a provider that is not archived."""
        row = self.tables["providers"].live(provider_id)
        return None if provider_id in self._parked else row

    def trusted_issuer(self, issuer: str) -> Row | None:
        """Return the rules for an issuer, by its URL; the same row until they change."""
        for row in self._issuer_at(issuer):
            if row["id"] not in self._parked:
                return row
        return None

    def has_grants(self, application_id: str, resource_id: str) -> bool:
        """Say whether there ever was a grant, of any status and user."""
        return (application_id, resource_id) in self._grants.ever

    def grants(self, application_id: str, resource_id: str, now: datetime) -> list[Row]:
        """Return the active grants, newest first."""
        rows = self._grants_of(application_id, resource_id)
        active = [row for row in rows if not is_over(row, now) and row["id"] not in self._parked]
        return sorted(active, key=lambda row: (row["created_at"], row["id"]), reverse=True)

    def grant(self, grant_id: str) -> Row | None:
        """Return a grant that has not ended."""
        return self._grants.live(grant_id)

    def agent(self, agent_id: str) -> Row | None:
        """Return an agent session; suspended or parked ones too, their anchors refuse."""
        return self.tables["agents"].live(agent_id)

    def edge(self, edge_id: str) -> Row | None:
        """Return a delegation edge, expired or parked ones too."""
        return self.tables["delegations"].live(edge_id)

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked.

        Raises:
            Unavailable: 503 ``state_stale``, what was decided by this view holds no more.
        """
        self.check()
        return super().barred(ids)

    def check(self) -> None:
        """Refuse to go on with what the tail does not feed any more.

        Raises:
            Unavailable: 503 ``state_stale``.
        """
        if self.outdated:
            raise state_stale()

    @property
    def _parked(self) -> frozenset[str]:
        return self._view.following.parked


def _recent(table: Table, began: type[Aggregate.Event]) -> RecentTable:
    born_on = FACT_TOPIC_OF[began.TOPIC].name
    return RecentTable(table, born_on=born_on, ended_on="archived_at")


def is_over(row: Row, now: datetime) -> bool:
    """Say whether something has expired."""
    return row["expires_at"] is not None and row["expires_at"] <= now
