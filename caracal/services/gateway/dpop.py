"""Bound tokens at the door: who sends one proves to hold its key (RFC 9449, section 7)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from caracal.dpop import USE_SECONDS, InvalidProof, Proof, bound_to, check
from caracal.events.store.redis import GONE
from caracal.services.gateway.admission import Inbound
from caracal.services.gateway.metadata import base_url
from caracal.services.gateway.refusals import SenderUnproven
from caracal.services.http import Scope, raw_path


class Senders:
    """Checks proofs; a token that is bound to no key costs a look at its claims.

    Args:
        redis: remembers used proofs.
        gateway_url: what the Gateway is called; empty: as the request calls it.
        fail_open: Redis gone, a proof is taken unseen (``JTI_FAIL_OPEN``, dev only).
    """

    def __init__(self, redis: Redis, gateway_url: str, *, fail_open: bool) -> None:
        self._redis, self._gateway_url, self._fail_open = redis, gateway_url, fail_open

    async def proven(self, scope: Scope, inbound: Inbound, claims: Mapping[str, Any]) -> str | None:
        """Return the thumbprint of the key that a token is bound to; None: to none.

        Args:
            scope: of the request.
            inbound: the same at the door.
            claims: verified.

        Raises:
            SenderUnproven: 401; bound and sent as Bearer, not bound and sent as DPoP, or the
                proof does not fit or was used before.
        """
        bound = bound_to(claims)
        if bound is None and inbound.proofs is None:
            return None
        if bound is None or inbound.proofs is None:
            scheme = "Bearer" if bound is None else "DPoP"
            raise SenderUnproven("invalid_token", f"the token is to be sent as {scheme}")
        proof = self._proof(scope, inbound.proofs, inbound.token)
        if proof.jkt != bound:
            raise SenderUnproven("invalid_token", "the token is bound to another key")
        await self._first_use(proof)
        return bound

    def _proof(self, scope: Scope, sent: tuple[bytes, ...], token: str) -> Proof:
        uri = base_url(scope, self._gateway_url) + raw_path(scope)
        method = scope.get("method", "GET")  # a WebSocket's handshake
        try:
            return check(sent, method=method, uri=uri, now=time.time(), token=token)
        except InvalidProof as error:
            raise SenderUnproven("invalid_dpop_proof", f"DPoP proof: {error}") from None

    async def _first_use(self, proof: Proof) -> None:
        try:
            first = await self._redis.set(f"seen:dpop:{proof.use}", "1", nx=True, ex=USE_SECONDS)
        except GONE:
            first = self._fail_open
        if not first:
            raise SenderUnproven("invalid_dpop_proof", "DPoP proof: used before")
