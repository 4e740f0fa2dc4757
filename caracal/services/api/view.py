"""What the API holds in memory: admin tokens and zones, for the checks before every route."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from typing import Any

from caracal.errors import Unauthenticated
from caracal.events.zone import zone_not_found
from caracal.projections.admin_token import ADMIN_TOKENS
from caracal.projections.memory import MemoryTable
from caracal.projections.tail import Tail
from caracal.projections.zone import ZONES

MAX_TOKEN_BYTES = 4096


class ApiView:
    """Live admin tokens by digest, live zones by id. Unknown only at the log's head."""

    def __init__(self) -> None:
        self.tokens, self.zones = MemoryTable(ADMIN_TOKENS), MemoryTable(ZONES)
        self._by_digest = self.tokens.index("token_sha256")
        self.tail: Tail | None = None

    async def token(self, text: str | None) -> dict[str, Any]:
        """Return the token that ``text`` is.

        Raises:
            Unauthenticated: 401, missing, too long, unknown or revoked.
        """
        if text is None or not 1 <= len(text.encode()) <= MAX_TOKEN_BYTES:
            raise invalid_admin_token()
        digest = sha256(text.encode()).hexdigest()
        row = self._find(digest)
        if row is None and self.tail is not None and await self.tail.probe():
            row = self._find(digest)
        if row is None:
            raise invalid_admin_token()
        return row

    def _find(self, digest: str) -> dict[str, Any] | None:
        rows = self._by_digest(digest)
        # The index compares by hash; the last word is constant-time.
        return next((row for row in rows if compare_digest(row["token_sha256"], digest)), None)

    def known_zone(self, zone_id: str | None) -> str | None:
        """Return the id of a zone that exists, as far as is known here; else None."""
        return zone_id if zone_id and self.zones.live(zone_id) is not None else None

    async def need_zone(self, zone_id: str) -> None:
        """Refuse a zone that does not exist or is archived.

        Raises:
            NotFound: 404 ``zone_not_found``.
        """
        if self.zones.live(zone_id) is None and self.tail is not None:
            await self.tail.probe()
        if self.zones.live(zone_id) is None:
            raise zone_not_found(zone_id)


def invalid_admin_token() -> Unauthenticated:
    """Return the one refusal of all bad tokens."""
    return Unauthenticated("invalid_admin_token", "a valid admin token is needed")
