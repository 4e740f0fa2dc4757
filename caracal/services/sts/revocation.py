"""``POST /oauth/2/revoke``: OAuth 2.0 Token Revocation (RFC 7009).

A mandate hangs on anchors, and ends with them. What a token stands for is its session: ambient
tokens opened it, per-call ones live on it. So revoking either ends the session, and with it every
mandate made from it (section 2.1 asks for that, too). A per-call token that was made from another
application's session is not its holder's to end: 400 ``unsupported_token_type`` (section 2.2.1);
it lasts 15 minutes at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from caracal import telemetry
from caracal.errors import BadInput, Forbidden, NotFound
from caracal.events.base import acting
from caracal.events.session import Session
from caracal.events.store.log import Log, Saved, retrying
from caracal.projections.waiter import Waiter
from caracal.services.http import Receive, Scope, Send, respond
from caracal.services.sts.issued_token import Asked, IssuedTokens
from caracal.services.sts.refusals import REVOCATION, Refused
from caracal.services.sts.session_facts import positions

REASON = "token_revoked"


@dataclass(frozen=True, slots=True)
class Revocation:
    """The endpoint."""

    tokens: IssuedTokens
    log: Log
    waiter: Waiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End what a token stands for; one that is unknown or has ended needs nothing.

        Raises:
            CaracalError: the refusal.
        """
        asked = await self.tokens.asked(scope, receive, REVOCATION, as_of_now=False)
        try:
            saved = await self._revoked(asked)
        except Refused as refused:
            raise await self.tokens.recorder.refused(asked.call, refused) from None
        await respond(send, 200, b"", await positions(saved, self.waiter))

    async def _revoked(self, asked: Asked) -> Saved:
        claims, application_id = asked.claims, asked.application["id"]
        if claims is None:
            return Saved()
        if claims.get("client_id") != application_id:
            raise _refused(Forbidden("access_denied", "the token was given to another client"))

        async def command() -> Saved:
            session = await self.log.find(Session, str(claims.get("sid")))
            if session is None or session.ended:
                return Saved()
            if session.application_id != application_id:
                said = "the token was made from another client's session, and ends with it"
                raise _refused(BadInput("unsupported_token_type", said))
            session.revoke(REASON)
            return await self.log.save(session)

        with acting(
            zone_id=asked.zone.id,
            actor=application_id,
            action="POST /oauth/2/revoke",
            request_id=asked.call.request_id,
            traceparent=telemetry.traceparent(),
        ):
            try:
                return await retrying(command)
            except NotFound:  # a cascade was faster
                return Saved()


def _refused(error: BadInput | Forbidden) -> Refused:
    return Refused(error, "session_invalid", REVOCATION)
