"""What a process knows of every zone, in memory or not: that it is there, its keys, what has ended.

That needs no authentication, or must end things at once. The rest is in memory for the zones in
use only (:mod:`caracal.services.zones`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Generic

from caracal.mandate import Keys, VerificationKey, public_key
from caracal.projections.memory import MemoryTable, MemoryView, Row
from caracal.projections.revocation import RevocationMap
from caracal.projections.signing_key import recent_keys
from caracal.projections.tail import Tail
from caracal.projections.zone import ZONES
from caracal.services.consistency import state_stale
from caracal.services.zones import Zone, Zones

_PUBLISHED_KEYS = 2


class KnownZones(Generic[Zone]):
    """The tables that a tail fills for all zones, and the zones; ``max_staleness`` in seconds."""

    def __init__(self, max_staleness: float) -> None:
        self.known, self._keys = MemoryTable(ZONES), recent_keys()
        self.revocations = RevocationMap(max_staleness)
        self._keys_of = self._keys.index("zone_id")
        self._max_staleness = max_staleness
        self.tail: Tail | None = None
        self.loaded: Zones[Zone] | None = None

    @property
    def all(self) -> list[MemoryView]:
        """Return what the tail keeps up to date for all zones."""
        return [self.known, self._keys, self.revocations]

    @property
    def following(self) -> Tail:
        """Return the tail, once the service has started."""
        assert self.tail is not None
        return self.tail

    @property
    def zones(self) -> Zones[Zone]:
        """Return the zones that are loaded, once the service has started."""
        assert self.loaded is not None
        return self.loaded

    @property
    def stale(self) -> bool:
        """Say whether the view is too old to decide anything."""
        return self.following.age > self._max_staleness

    async def look_again(self) -> None:
        """Bring the view to the log's head: what is unknown there is not there.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read.
        """
        if not await self.following.probe():
            raise state_stale()

    def published_keys(self, zone_id: str) -> list[Row]:
        """Return the two newest signing keys of a zone, newest first."""
        rows = self._keys_of(zone_id)
        return sorted(rows, key=lambda row: row["version"], reverse=True)[:_PUBLISHED_KEYS]

    def verification_keys(self, zone_id: str) -> Keys:
        """Return the keys that verify a zone's tokens, by ``kid``."""
        found = (parsed_key(row) for row in self.published_keys(zone_id))
        return dict(key for key in found if key is not None)

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        ids = tuple(ids)
        return self.revocations.is_revoked(ids) or not self.following.parked.isdisjoint(ids)


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
