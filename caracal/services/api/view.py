"""What the API holds in memory: admin tokens and zones, for the checks before every route."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from typing import Any

from caracal.errors import Unauthenticated, Unavailable
from caracal.events.zone import zone_not_found
from caracal.projections.admin_token import ADMIN_TOKENS
from caracal.projections.memory import MemoryTable
from caracal.projections.tail import Tail
from caracal.projections.zone import ZONES

MAX_TOKEN_BYTES = 4096


class ApiView:
    """Live admin tokens by digest, live zones by id. Unknown only at the log's head.

    ``max_staleness`` in seconds: an older view that cannot be renewed lets no token in, for it
    may have been revoked.
    """

    def __init__(self, max_staleness: float) -> None:
        self._max_staleness = max_staleness
        self.tokens, self.zones = MemoryTable(ADMIN_TOKENS), MemoryTable(ZONES)
        self._by_digest = self.tokens.index("token_sha256")
        self.tail: Tail | None = None

    async def token(self, text: str | None) -> dict[str, Any]:
        """Return the token that ``text`` is.

        Raises:
            Unauthenticated: 401, missing, too long, unknown or revoked.
            Unavailable: 503 ``state_stale``.
        """
        if text is None or not 1 <= len(text.encode()) <= MAX_TOKEN_BYTES:
            raise invalid_admin_token()
        await self._need_fresh()
        digest = sha256(text.encode()).hexdigest()
        if (row := self._find(digest)) is None:
            await self._look_again()
            row = self._find(digest)
        if row is None:
            raise invalid_admin_token()
        return row

    async def known_token(self, token_id: str) -> dict[str, Any] | None:
        """Return the token with this id; None when it is revoked.

        Raises:
            Unavailable: 503 ``state_stale``.
        """
        await self._need_fresh()
        row = self.tokens.live(token_id)
        return None if row is None or self._is_parked(row) else row

    def _is_parked(self, row: dict[str, Any]) -> bool:
        return self.tail is not None and row["id"] in self.tail.parked

    def _find(self, digest: str) -> dict[str, Any] | None:
        rows = self._by_digest(digest)
        # The index compares by hash; the last word is constant-time.
        same = (row for row in rows if compare_digest(row["token_sha256"], digest))
        return next((row for row in same if not self._is_parked(row)), None)

    async def _need_fresh(self) -> None:
        if self.tail is not None and self.tail.age > self._max_staleness:
            await self._look_again()

    async def _look_again(self) -> None:
        """Bring the view to the log's head: what is unknown there is not there."""
        if self.tail is not None and not await self.tail.probe():
            raise Unavailable("state_stale", "the state is not known to be current")

    async def managing(self) -> list[str]:
        """Return the ids of the live tokens that can make and revoke tokens."""
        await self._look_again()
        live = (row for row in self.tokens.rows.values() if row["ended_at"] is None)
        return [row["id"] for row in live if _manages(row)]

    async def seeded(self, digest: str, created_by: str) -> tuple[str | None, list[str]]:
        """Return the seed with this digest when it is live, and the older seeds that are.

        One that cannot manage tokens is no seed: nothing would be left to revoke others with.
        """
        managing = [self.tokens.rows[token_id] for token_id in await self.managing()]
        own = next((row for row in managing if compare_digest(row["token_sha256"], digest)), None)
        if own is None:
            return None, []
        seeds = (row for row in managing if row["created_by"] == created_by)
        return own["id"], [row["id"] for row in seeds if row["position"] < own["position"]]

    def known_zone(self, zone_id: str | None) -> str | None:
        """Return the id of a zone that exists, as far as is known here; else None."""
        return zone_id if zone_id and self.zones.live(zone_id) is not None else None

    async def need_zone(self, zone_id: str) -> None:
        """Refuse a zone that does not exist or is archived.

        Raises:
            NotFound: 404 ``zone_not_found``.
            Unavailable: 503 ``state_stale``.
        """
        if self.zones.live(zone_id) is None:
            await self._look_again()
        if self.zones.live(zone_id) is None:
            raise zone_not_found(zone_id)


def _manages(row: dict[str, Any]) -> bool:
    return bool(row["scope"] == "global" and row["capability"] == "write")


def invalid_admin_token() -> Unauthenticated:
    """Return the one refusal of all bad tokens."""
    return Unauthenticated("invalid_admin_token", "a valid admin token is needed")
