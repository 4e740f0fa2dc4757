"""What the STS knows, in memory: of every zone what needs no authentication, the rest of some.

No sessions: signature, ``exp`` and anchors not revoked *are* the session check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from caracal.events.application import Application
from caracal.events.base import Aggregate
from caracal.events.provider import Provider
from caracal.events.resource import Resource
from caracal.events.topics import FACT_TOPIC_OF
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.mandate import Keys, VerificationKey, public_key
from caracal.projections.agent import AGENTS, recent_agents
from caracal.projections.application import APPLICATIONS
from caracal.projections.delegation import DELEGATION_EPOCHS, DELEGATIONS, recent_delegations
from caracal.projections.grant import GRANTS
from caracal.projections.memory import MemoryMarks, MemoryTable, MemoryView, RecentTable, Row
from caracal.projections.partition import Partition
from caracal.projections.policy import POLICIES, POLICY_VERSIONS
from caracal.projections.policy_set import POLICY_SET_VERSIONS, POLICY_SETS
from caracal.projections.provider import PROVIDERS
from caracal.projections.resource import RESOURCES
from caracal.projections.revocation import RevocationMap
from caracal.projections.signing_key import SIGNING_KEYS
from caracal.projections.table import Table
from caracal.projections.tail import Tail
from caracal.projections.trusted_issuer import TRUSTED_ISSUERS
from caracal.projections.zone import ZONES
from caracal.resource_match import match
from caracal.services.sts.refusals import state_stale

if TYPE_CHECKING:
    from caracal.services.sts.zones import Zones

_PUBLISHED_KEYS = 2
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


class StsView:
    """The tables that a tail fills for all zones, and the zones; ``max_staleness`` in seconds."""

    def __init__(self, max_staleness: float) -> None:
        self._zones, self._keys = MemoryTable(ZONES), MemoryTable(SIGNING_KEYS)
        self.epochs = MemoryMarks(DELEGATION_EPOCHS)
        self.revocations = RevocationMap(max_staleness)
        self.keys_of = self._keys.index("zone_id")
        self.tail: Tail | None = None
        self.loaded: Zones | None = None

    @property
    def all(self) -> list[MemoryView]:
        """Return what the tail keeps up to date for all zones."""
        return [self._zones, self._keys, self.epochs, self.revocations]

    @property
    def following(self) -> Tail:
        """Return the tail, once the service has started."""
        assert self.tail is not None
        return self.tail

    @property
    def zones(self) -> Zones:
        """Return the zones that are loaded, once the service has started."""
        assert self.loaded is not None
        return self.loaded

    def has_zone(self, zone_id: str) -> bool:
        """Say whether there is such a zone, not archived."""
        return self._zones.live(zone_id) is not None

    def is_gateway_only(self, zone_id: str) -> bool:
        """Say whether a zone's mandates for resources are for the Gateway alone."""
        zone = self._zones.live(zone_id)
        return zone is not None and bool(zone.get("gateway_only"))

    async def look_again(self) -> None:
        """Bring the view to the log's head: what is unknown there is not there.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read.
        """
        if not await self.following.probe():
            raise state_stale()

    def only_zone(self) -> str | None:
        """Return the id of the zone when there is exactly one."""
        live = [zone_id for zone_id in self._zones.rows if self.has_zone(zone_id)]
        return live[0] if len(live) == 1 else None

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        ids = tuple(ids)
        return self.revocations.is_revoked(ids) or not self.following.parked.isdisjoint(ids)


class KnownZone:
    """What is known of each zone, in memory or not: its keys, and what has ended."""

    def __init__(self, view: StsView, zone_id: str) -> None:
        self._view, self.id = view, zone_id

    def published_keys(self) -> list[Row]:
        """Return the two newest signing keys, newest first."""
        rows = self._view.keys_of(self.id)
        return sorted(rows, key=lambda row: row["version"], reverse=True)[:_PUBLISHED_KEYS]

    def verification_keys(self) -> Keys:
        """Return the keys that verify this zone's tokens, by ``kid``."""
        found = (parsed_key(row) for row in self.published_keys())
        return dict(key for key in found if key is not None)

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
        self._grants = GrantTable()
        Partition.__init__(
            self,
            zone_id,
            (
                _recent(APPLICATIONS, Application.Created),
                _recent(RESOURCES, Resource.Created),
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
        self._resource_at = self.tables["resources"].index("identifier")
        self._prefix_at = self.tables["resources"].index("identifier", "prefix_match")
        self._issuer_at = self.tables["trusted_issuers"].index("issuer")
        self._grants_of = self._grants.index("application_id", "resource_id")
        self.policy_sets = self.tables["policy_sets"].index()

    def application(self, application_id: str, now: datetime) -> Row | None:
        """Return an application that has not expired; parked ones too, their anchors refuse."""
        row = self.tables["applications"].live(application_id)
        return None if row is None or is_over(row, now) else row

    def resource(self, requested: str) -> Row | None:
        """Return the resource that ``requested`` names: exact, else the longest prefix."""
        exact = _Registered(self._resource_at)
        prefixes = _Registered(lambda text: self._prefix_at(text, True))
        identifier = match(requested, exact, prefixes)
        if identifier is None:
            return None
        row = self._resource_at(identifier)[0]
        return None if row["id"] in self._parked else row

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


class _Registered:
    """Identifiers of a zone, as far as the look-up ``found`` knows them."""

    def __init__(self, found: Callable[[str], list[Row]]) -> None:
        self._found = found

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self._found(identifier))


def is_over(row: Row, now: datetime) -> bool:
    """Say whether something has expired."""
    return row["expires_at"] is not None and row["expires_at"] <= now


def parsed_key(row: Row) -> tuple[str, VerificationKey] | None:
    """Return a published key by its ``kid``; None when it cannot be read."""
    jwk = row["public_jwk"]
    return _parsed(row["id"], str(jwk.get("x")), str(jwk.get("y")))


@lru_cache(maxsize=4096)
def _parsed(kid: str, x: str, y: str) -> tuple[str, VerificationKey] | None:
    try:
        return public_key({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid, "x": x, "y": y})
    except ValueError:
        return None
