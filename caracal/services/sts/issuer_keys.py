"""Keys of trusted issuers: at their ``jwks_uri``, or where their own metadata says they are.

OpenID Connect Discovery 1.0, section 4. Who administers the zone has named the issuer, and the
issuer names the rest: all of it is fetched as :class:`GuardedFetch` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar

import orjson

from caracal.errors import Unavailable
from caracal.key_sets import KeyCache
from caracal.projections.memory import Row
from caracal.services.fair_queue import FairQueue
from caracal.services.sts.client_keys import ClientKey, Keys, parse
from caracal.services.sts.guarded_fetch import CONNECTIONS, GuardedFetch
from caracal.services.upstream_guard import UpstreamGuard

FETCH_SECONDS = 1.8
"""Of each of the two documents."""
PATIENCE_SECONDS = 4.0
"""How long a caller waits for both; clients give up after 5 s."""
STALE_SECONDS = 900.0
"""How long keys are taken beyond their 5 minutes while the issuer cannot be reached."""
_WELL_KNOWN = "/.well-known/openid-configuration"
_AT, _OF = "jwks", "issuer"  # before the URL, which has no space
_WAITING = 1024  # of one more the newest of the zone that has most waiting goes
_zone_id: ContextVar[str] = ContextVar("zone whose login needs keys", default="")


class IssuerKeys:
    """Finds the key of a trusted issuer; ``clock``: monotonic seconds.

    Attributes:
        fetches_total: how often a set was asked for; ``failures_total``: and did not come.
    """

    def __init__(self, guard: UpstreamGuard, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = GuardedFetch(guard, FETCH_SECONDS)
        self._cache = KeyCache(self._counted, self._parsed, STALE_SECONDS, clock, fresh_first=True)
        # Each zone's administrators name issuers: slow ones keep no other zone's users waiting.
        self._turns = FairQueue(CONNECTIONS, _WAITING)
        self.fetches_total = self.failures_total = 0

    async def close(self) -> None:
        """End the fetches under way."""
        await self._cache.close()
        await self._fetch.close()

    async def find(self, issuer: Row, kid: str) -> ClientKey | None:
        """Return the key of this id; None when the issuer has none.

        Raises:
            Unavailable: 503 ``issuer_unavailable``, its keys are not known and cannot be had.
        """
        uri = issuer["jwks_uri"]
        name = f"{_OF} {issuer['issuer']}" if uri is None else f"{_AT} {uri}"
        _zone_id.set(issuer["zone_id"])  # a fetch that begins here is on its account
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return (await self._cache.keys(name, kid)).get(kid)
        except (Unavailable, TimeoutError):
            said = "the issuer's keys cannot be had now"
            raise Unavailable("issuer_unavailable", said) from None

    async def _counted(self, name: str) -> bytes:
        self.fetches_total += 1
        try:
            return await self._fetched(name)
        except BaseException:
            self.failures_total += 1
            raise

    def _parsed(self, body: bytes) -> Keys:
        try:
            return parse(body)
        except ValueError:
            self.failures_total += 1
            raise

    async def _fetched(self, name: str) -> bytes:
        how, _, uri = name.partition(" ")
        if how == _OF:
            # Section 4.1: a terminating / is removed before the well-known path is appended.
            metadata = await self._got(uri.removesuffix("/") + _WELL_KNOWN, name)
            uri = _jwks_uri(metadata, uri)
        return await self._got(uri, name)

    async def _got(self, uri: str, name: str) -> bytes:
        async with self._turns.turn(_zone_id.get(), name):
            return await self._fetch.get(uri)


def _jwks_uri(metadata: bytes, issuer: str) -> str:
    """Return where an issuer's metadata says that its keys are.

    Raises:
        ValueError: no metadata, or that of another issuer (section 4.3).
    """
    document = orjson.loads(metadata)
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise ValueError("metadata of another issuer")
    uri = document.get("jwks_uri")
    if not isinstance(uri, str):
        raise ValueError("metadata without jwks_uri")
    return uri
