"""What the STS knows, in memory: one :class:`ZoneView` per zone, one map of what has ended.

No sessions: signature, ``exp`` and anchors not revoked *are* the session check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

from caracal.mandate import Keys, VerificationKey, public_key
from caracal.projections.agent import recent_agents
from caracal.projections.application import APPLICATIONS
from caracal.projections.delegation import DELEGATION_EPOCHS, recent_delegations
from caracal.projections.grant import GRANTS
from caracal.projections.memory import MemoryMarks, MemoryTable, MemoryView, Row
from caracal.projections.policy import POLICIES, POLICY_VERSIONS
from caracal.projections.policy_set import POLICY_SET_VERSIONS, POLICY_SETS
from caracal.projections.provider import PROVIDERS
from caracal.projections.resource import RESOURCES
from caracal.projections.revocation import RevocationMap
from caracal.projections.signing_key import SIGNING_KEYS
from caracal.projections.table import Put
from caracal.projections.tail import Tail
from caracal.projections.zone import ZONES
from caracal.resource_match import match
from caracal.services.sts.refusals import state_stale

LookUp = Callable[..., list[Row]]
_PUBLISHED_KEYS = 2


class GrantTable(MemoryTable):
    """Grants, and which (zone, application, resource) ever had one (contract, grant rule)."""

    def __init__(self) -> None:
        super().__init__(GRANTS)
        self.ever: set[tuple[str, str, str]] = set()

    def load(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        super().load(rows)
        self.ever = {_triple(row) for row in rows if not row["stub"]}

    def apply(self, position: int, operation: Any) -> None:
        super().apply(position, operation)
        if isinstance(operation, Put):
            self.ever.add(_triple(operation.columns))


def _triple(columns: Any) -> tuple[str, str, str]:
    return columns["zone_id"], columns["application_id"], columns["resource_id"]


class StsView:
    """The tables that a tail fills, and the zones in them; ``max_staleness`` in seconds."""

    def __init__(self, max_staleness: float) -> None:
        self.tables: dict[str, MemoryTable] = {
            table.name: MemoryTable(table)
            for table in (
                ZONES,
                APPLICATIONS,
                RESOURCES,
                PROVIDERS,
                SIGNING_KEYS,
                POLICIES,
                POLICY_VERSIONS,
                POLICY_SETS,
                POLICY_SET_VERSIONS,
            )
        }
        self.tables |= {made.table.name: made for made in (recent_agents(), recent_delegations())}
        self.epochs = MemoryMarks(DELEGATION_EPOCHS)
        self.grants = GrantTable()
        self.revocations = RevocationMap(max_staleness)
        self.tail: Tail | None = None
        self.resource_at = self.tables["resources"].index("zone_id", "identifier")
        self.prefix_at = self.tables["resources"].index("zone_id", "identifier", "prefix_match")
        self.grants_of = self.grants.index("zone_id", "application_id", "resource_id")
        self.keys_of = self.tables["signing_keys"].index("zone_id")
        self.policy_sets_of = self.tables["policy_sets"].index("zone_id")

    @property
    def all(self) -> list[MemoryView]:
        """Return what the tail keeps up to date."""
        return [*self.tables.values(), self.grants, self.epochs, self.revocations]

    @property
    def following(self) -> Tail:
        """Return the tail, once the service has started."""
        assert self.tail is not None
        return self.tail

    def zone(self, zone_id: str) -> ZoneView | None:
        """Return a zone that is there and not archived."""
        return None if self.tables["zones"].live(zone_id) is None else ZoneView(self, zone_id)

    async def look_again(self) -> None:
        """Bring the view to the log's head: what is unknown there is not there.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read.
        """
        if not await self.following.probe():
            raise state_stale()

    def only_zone(self) -> str | None:
        """Return the id of the zone when there is exactly one."""
        zones = self.tables["zones"]
        live = [zone_id for zone_id in zones.rows if zones.live(zone_id) is not None]
        return live[0] if len(live) == 1 else None

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        ids = tuple(ids)
        return self.revocations.is_revoked(ids) or not self.following.parked.isdisjoint(ids)


class ZoneView:
    """One zone; what it returns is alive and not parked."""

    __slots__ = ("_view", "id")

    def __init__(self, view: StsView, zone_id: str) -> None:
        self._view, self.id = view, zone_id

    def application(self, application_id: str, now: datetime) -> Row | None:
        """Return an application that has not expired; parked ones too, their anchors refuse."""
        row = self._own("applications", application_id)
        return None if row is None or _is_over(row, now) else row

    def resource(self, requested: str) -> Row | None:
        """Return the resource that ``requested`` names: exact, else the longest prefix."""
        exact = _Registered(lambda text: self._view.resource_at(self.id, text))
        prefixes = _Registered(lambda text: self._view.prefix_at(self.id, text, True))
        identifier = match(requested, exact, prefixes)
        if identifier is None:
            return None
        row = self._view.resource_at(self.id, identifier)[0]
        return None if row["id"] in self._view.following.parked else row

    def provider(self, provider_id: str) -> Row | None:
        """Return a provider that is not archived."""
        row = self._own("providers", provider_id)
        return None if provider_id in self._view.following.parked else row

    def has_grants(self, application_id: str, resource_id: str) -> bool:
        """Say whether there ever was a grant, of any status and user."""
        return (self.id, application_id, resource_id) in self._view.grants.ever

    def grants(self, application_id: str, resource_id: str, now: datetime) -> list[Row]:
        """Return the active grants, newest first."""
        parked = self._view.following.parked
        rows = self._view.grants_of(self.id, application_id, resource_id)
        active = [row for row in rows if not _is_over(row, now) and row["id"] not in parked]
        return sorted(active, key=lambda row: (row["created_at"], row["id"]), reverse=True)

    def agent(self, agent_id: str) -> Row | None:
        """Return an agent session; suspended or parked ones too, their anchors refuse."""
        return self._own("agents", agent_id)

    def edge(self, edge_id: str) -> Row | None:
        """Return a delegation edge, expired or parked ones too."""
        return self._own("delegations", edge_id)

    def epoch(self) -> int:
        """Return the log position of the last change of an edge; 0 if there was none."""
        marks = self._view.epochs.rows.get(self.id)
        return int(marks["epoch"]) if marks else 0

    def published_keys(self) -> list[Row]:
        """Return the two newest signing keys, newest first."""
        rows = self._view.keys_of(self.id)
        return sorted(rows, key=lambda row: row["version"], reverse=True)[:_PUBLISHED_KEYS]

    def verification_keys(self) -> Keys:
        """Return the keys that verify this zone's tokens, by ``kid``."""
        found = (parsed_key(row) for row in self.published_keys())
        return dict(key for key in found if key is not None)

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        return self._view.barred(ids)

    def _own(self, table: str, row_id: str) -> Row | None:
        row = self._view.tables[table].live(row_id)
        return None if row is None or row["zone_id"] != self.id else row


class _Registered:
    """Identifiers of a zone, as far as the look-up ``found`` knows them."""

    def __init__(self, found: Callable[[str], list[Row]]) -> None:
        self._found = found

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self._found(identifier))


def _is_over(row: Row, now: datetime) -> bool:
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
