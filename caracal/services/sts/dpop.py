"""Mandates bound to a key: DPoP at the token endpoint (RFC 9449, section 5).

A proof binds what is issued to its key. A bound token is exchanged by who shows its key only: a
caller by a proof, the Gateway by naming the key that it has seen proven. What is issued to the
Gateway is bound to none: it goes on to the upstream, and the Gateway has no key of the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from redis.asyncio import Redis

from caracal import clock
from caracal.dpop import USE_SECONDS, InvalidProof, bound_to, check
from caracal.events.store.redis import GONE
from caracal.services.http import Header
from caracal.services.sts.call import Call
from caracal.services.sts.dpop_nonce import Nonces
from caracal.services.sts.refusals import (
    Refused,
    SenderUnproven,
    audit_unavailable,
    invalid_proof,
    nonce_needed,
)
from caracal.services.sts.subject_token import Principal


@dataclass(frozen=True, slots=True)
class Senders:
    """Checks which key a caller holds; a proof is good once."""

    redis: Redis
    token_endpoint: str
    nonces: Nonces | None = None

    def headers(self, call: Call) -> list[Header]:
        """Return what tells a caller that sent a proof the nonce for its next one."""
        if self.nonces is None or not call.proofs:
            return []
        return [(b"dpop-nonce", self.nonces.fresh(clock.now().timestamp()).encode())]

    async def proven(
        self, call: Call, principals: Iterable[Principal | None], now: datetime
    ) -> str | None:
        """Return the thumbprint of the key to bind the mandate to; None: to none.

        Args:
            call: to the token endpoint.
            principals: of the tokens that it carries.
            now: proofs are made for the moment.

        Raises:
            Refused: 400 ``invalid_dpop_proof``, ``use_dpop_nonce``; 401 ``invalid_token``, a token
                is bound to another key.
            Unavailable: 503 ``audit_unavailable``, whether a proof was used cannot be known.
        """
        shown = call.request.dpop_jkt if call.by_gateway else await self._shown(call, now)
        for principal in principals:
            bound = bound_to(principal.claims) if principal else None
            if bound is not None and (not bound or bound != shown):
                raise Refused(SenderUnproven(), "subject_token_invalid")
        return None if call.by_gateway else shown

    async def _shown(self, call: Call, now: datetime) -> str | None:
        if not (sent := call.proofs):
            return None
        try:
            proof = check(sent, method="POST", uri=self.token_endpoint, now=now.timestamp())
        except InvalidProof as error:
            raise invalid_proof(str(error)) from None
        moment = now.timestamp()
        if self.nonces is not None and not self.nonces.takes(proof.nonce, moment):
            raise nonce_needed(self.nonces.fresh(moment))
        try:
            first = await self.redis.set(f"sts:dpop:{proof.use}", "1", nx=True, ex=USE_SECONDS)
        except GONE as error:
            raise audit_unavailable() from error
        if not first:
            raise invalid_proof("used before")
        return proof.jkt
