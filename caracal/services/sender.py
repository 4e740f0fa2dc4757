"""Bound tokens at a server that is called: who sends one proves to hold its key (RFC 9449, 7)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from caracal.events.store.redis import GONE
from caracal.services.dpop import USE_SECONDS, InvalidProof, Proof, bound_to, check
from caracal.services.http import Scope, public_base, raw_path


class Unproven(ValueError):
    """Why the sender is not taken for the holder; ``code`` is that of the refusal, 401."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


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
        bound = bound_to(claims)
        if bound is None and shown.proofs is None:
            return None
        if bound is None or shown.proofs is None:
            scheme = "Bearer" if bound is None else "DPoP"
            raise Unproven("invalid_token", f"the token is to be sent as {scheme}")
        proof = self._proof(scope, shown.proofs, shown.token)
        if proof.jkt != bound:
            raise Unproven("invalid_token", "the token is bound to another key")
        await self._first_use(proof)
        return bound

    def _proof(self, scope: Scope, sent: tuple[bytes, ...], token: str) -> Proof:
        uri = public_base(scope, self._own_url) + raw_path(scope)
        method = scope.get("method", "GET")  # a WebSocket's handshake
        try:
            return check(sent, method=method, uri=uri, now=time.time(), token=token)
        except InvalidProof as error:
            raise Unproven("invalid_dpop_proof", f"DPoP proof: {error}") from None

    async def _first_use(self, proof: Proof) -> None:
        key = f"{self._place}:dpop:{proof.use}"
        try:
            first = await self._redis.set(key, "1", nx=True, ex=USE_SECONDS)
        except GONE:
            first = self._fail_open
        if not first:
            raise Unproven("invalid_dpop_proof", "DPoP proof: used before")
