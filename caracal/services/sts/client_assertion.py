"""``private_key_jwt``: a client proves itself by a JWT that it signs (RFC 7523; contract §5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import Any

from redis.asyncio import Redis

from caracal.events.store.redis import GONE
from caracal.foreign_jwt import ForeignJwt, taken_apart
from caracal.mandate import numeric_date
from caracal.projections.memory import Row
from caracal.services.provider_client import ASSERTION_TYPE
from caracal.services.sts.client_keys import ClientKeys
from caracal.services.sts.refusals import audit_unavailable
from caracal.services.sts.token_request import TokenRequest

MAX_LIFE = 300.0
LEEWAY = 60.0
_TYPES = (None, "jwt", "client-authentication+jwt")  # never a proof, never a mandate


@dataclass(frozen=True, slots=True)
class ClientAssertions:
    """Verifies assertions; each is good for one request.

    Attributes:
        audiences: what this server is called: the issuer, the token endpoint.
    """

    keys: ClientKeys
    redis: Redis
    audiences: frozenset[str]

    async def proves(self, application: Row, request: TokenRequest, now: float) -> bool:
        """Say whether the request's assertion is the application's own; ``now`` in Unix seconds.

        Raises:
            Unavailable: 503 ``audit_unavailable``, whether it was used before cannot be known.
        """
        if request.client_assertion_type != ASSERTION_TYPE:
            return False
        assertion = taken_apart(request.client_assertion, _TYPES)
        # Claims first: who knows no application's keys makes us fetch none.
        if assertion is None or not self._fits(assertion, application["id"], now):
            return False
        if not await self._is_signed(assertion, application):
            return False
        return await self._first_use(assertion, application, now)

    def _fits(self, assertion: ForeignJwt, application_id: str, now: float) -> bool:
        claims = assertion.claims
        return (
            claims.get("iss") == claims.get("sub") == application_id
            and self._is_for_us(claims.get("aud"))
            and _is_timely(claims, now)
            and assertion.jti is not None
        )

    def _is_for_us(self, audience: Any) -> bool:
        """One for others too could have been taken to them first."""
        named = audience if isinstance(audience, list) else [audience]
        return bool(named) and all(isinstance(one, str) and one in self.audiences for one in named)

    async def _is_signed(self, assertion: ForeignJwt, application: Row) -> bool:
        kid = assertion.header.get("kid")
        if not isinstance(kid, str) or not kid:
            return False
        found = await self.keys.find(application, kid)
        if found is None or not found.may_verify(assertion.alg):
            return False
        return assertion.is_signed_by(found.key)

    async def _first_use(self, assertion: ForeignJwt, application: Row, now: float) -> bool:
        digest = sha256(str(assertion.jti).encode("utf-8", "surrogatepass")).hexdigest()
        key = f"sts:client-assertion:{application['zone_id']}:{application['id']}:{digest}"
        life = max(1, ceil((numeric_date(assertion.claims, "exp") or 0) - now))
        try:
            return bool(await self.redis.set(key, "1", nx=True, ex=life))
        except GONE as error:
            raise audit_unavailable() from error


def _is_timely(claims: Mapping[str, Any], now: float) -> bool:
    """RFC 7523, section 3, items 4 to 6; ``exp`` has no leeway, and is near."""
    expires = numeric_date(claims, "exp")
    if expires is None or not now < expires <= now + MAX_LIFE:
        return False
    begins = [claims[name] for name in ("iat", "nbf") if name in claims]
    return all(type(at) in (int, float) and at <= now + LEEWAY for at in begins)
