"""``POST /oauth/2/introspect``: OAuth 2.0 Token Introspection (RFC 7662).

For who must know of a revocation at once and keeps no map of what has ended. Any client of a zone
may ask about the tokens of that zone. Of one that is not active nothing is told, nor why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from caracal import clock
from caracal.mandate import Claims, InvalidMandate, anchors_of, begins, numeric_date
from caracal.services.http import Receive, Scope, Send, respond
from caracal.services.sts.issuance import token_type
from caracal.services.sts.issued_token import IssuedTokens
from caracal.services.sts.refusals import INTROSPECTION
from caracal.services.sts.view import KnownZone


@dataclass(frozen=True, slots=True)
class Introspection:
    """The endpoint."""

    tokens: IssuedTokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question.

        Raises:
            CaracalError: the refusal.
        """
        asked = await self.tokens.asked(scope, receive, INTROSPECTION, as_of_now=True)
        await respond(send, 200, orjson.dumps(_answer(asked.claims, asked.zone)), [])


def _answer(claims: Claims | None, zone: KnownZone) -> dict[str, Any]:
    """Return the members of section 2.2; those of the token stand as it has them."""
    if claims is None or not _is_active(claims, zone):
        return {"active": False}
    return {**claims, "active": True, "token_type": token_type(claims)}


def _is_active(claims: Claims, zone: KnownZone) -> bool:
    expires, now = numeric_date(claims, "exp"), clock.now().timestamp()
    if expires is None or expires <= now or begins(claims) > now:
        return False
    try:
        return not zone.barred(anchors_of(claims))
    except InvalidMandate:
        return False
