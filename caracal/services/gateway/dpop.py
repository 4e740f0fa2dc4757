"""Bound tokens at the door: who sends one proves to hold its key (RFC 9449, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from caracal.dpop import Unproven
from caracal.services import sender
from caracal.services.gateway.admission import Inbound
from caracal.services.gateway.refusals import SenderUnproven
from caracal.services.http import Scope


class Senders:
    """Checks proofs; a token that is bound to no key costs a look at its claims.

    Args:
        redis: remembers used proofs.
        gateway_url: what the Gateway is called; empty: as the request calls it.
        fail_open: Redis gone, a proof is taken unseen (``JTI_FAIL_OPEN``, dev only).
    """

    def __init__(self, redis: Redis, gateway_url: str, *, fail_open: bool) -> None:
        self._senders = sender.Senders(redis, "seen", gateway_url, fail_open=fail_open)

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
        shown = sender.Shown(inbound.token, inbound.proofs)
        try:
            return await self._senders.proven(scope, shown, claims)
        except Unproven as error:
            raise SenderUnproven(error.code, str(error)) from None
