"""Bound tokens at a server that is called: who sends one proves to hold its key (RFC 9449, 7)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from caracal.dpop import USE_SECONDS, Proof, Sent, Unproven, holder
from caracal.events.store.redis import GONE
from caracal.services.http import Scope, public_base, raw_path


@dataclass(frozen=True, slots=True)
class Shown:
    """A token as it was sent; ``proofs`` are the ``DPoP`` headers when it came by that scheme."""

    token: str = field(repr=False)
    proofs: tuple[bytes, ...] | None = field(default=None, repr=False)


class Senders:
    """Checks proofs; a token that is bound to no key costs a look at its claims.

    Args:
        redis: remembers used proofs.
        place: prefix of the keys that it remembers them by.
        own_url: what this server is called; empty: as the request calls it.
        fail_open: Redis gone, a proof is taken unseen.
    """

    def __init__(self, redis: Redis, place: str, own_url: str, *, fail_open: bool = False) -> None:
        self._redis, self._place = redis, place
        self._own_url, self._fail_open = own_url, fail_open

    async def proven(self, scope: Scope, shown: Shown, claims: Mapping[str, Any]) -> str | None:
        """Return the thumbprint of the key that a token is bound to; None: to none.

        Args:
            scope: of the request.
            shown: what it carries.
            claims: of that token, verified.

        Raises:
            Unproven: bound and sent as Bearer, not bound and sent as DPoP, or the proof does not
                fit or was used before.
        """
        sent = None if shown.proofs is None else self._sent(scope, shown.proofs)
        proof = holder(claims, shown.token, sent, time.time())
        if proof is None:
            return None
        await self._first_use(proof)
        return proof.jkt

    def _sent(self, scope: Scope, proofs: tuple[bytes, ...]) -> Sent:
        uri = public_base(scope, self._own_url) + raw_path(scope)
        return Sent(scope.get("method", "GET"), uri, proofs)  # GET: a WebSocket's handshake

    async def _first_use(self, proof: Proof) -> None:
        key = f"{self._place}:dpop:{proof.use}"
        try:
            first = await self._redis.set(key, "1", nx=True, ex=USE_SECONDS)
        except GONE:
            first = self._fail_open
        if not first:
            raise Unproven("invalid_dpop_proof", "DPoP proof: used before")
