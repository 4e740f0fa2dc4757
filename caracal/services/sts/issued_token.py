"""What introspection and revocation have in common: who asks about which token.

The client proves itself as at the token endpoint (RFC 7662, section 2.1; RFC 7009, section 2.1);
a Gateway's signature proves nothing here. Tokens are read with the keys of its own zone, so one of
another zone is no token at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caracal import clock
from caracal.mandate import Claims, InvalidMandate, verify
from caracal.projections.memory import Row
from caracal.services.consistency import state_stale
from caracal.services.http import Receive, Scope, header, read_body
from caracal.services.sts.call import Call
from caracal.services.sts.client_authentication import ClientAuthentication
from caracal.services.sts.recorder import Recorder
from caracal.services.sts.refusals import Refused, bad_request, denied
from caracal.services.sts.token_request import MAX_BODY, read_form, request_of
from caracal.services.sts.view import KnownZone, StsView


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a token; ``claims`` are proven, None when it is none of the zone's."""

    call: Call
    application: Row
    zone: KnownZone
    claims: Claims | None


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """Reads such questions; ``max_staleness`` in seconds."""

    view: StsView
    clients: ClientAuthentication
    recorder: Recorder
    issuer: str
    max_staleness: float

    async def asked(
        self, scope: Scope, receive: Receive, event_type: str, *, as_of_now: bool
    ) -> Asked:
        """Return what an authenticated client asks about.

        Args:
            scope: of the request.
            receive: of the request.
            event_type: tells of a refusal in the audit trail.
            as_of_now: the view must be at the log's head; else only where a key is unknown to it.

        Raises:
            CaracalError: 400 without a token; 401 or 403; 503 ``state_stale``.
        """
        body = await read_body(receive, scope, MAX_BODY)
        if self.view.following.age > self.max_staleness:
            raise state_stale()
        fields, _ = read_form(body, header(scope, b"content-type") or b"")
        call = Call(scope, body, request_of(fields))
        application = await self._authenticated(call, event_type)
        if not fields.get("token"):
            raise bad_request("token is needed")
        zone = KnownZone(self.view, call.request.zone_id)
        claims = None if as_of_now else self._proven(fields, zone)
        if claims is None:
            await self.view.look_again()
            claims = self._proven(fields, zone)
        return Asked(call, application, zone, claims)

    async def _authenticated(self, call: Call, event_type: str) -> Row:
        request, now = call.request, clock.now()
        try:
            client = await self.clients.authenticate(call, now)
            _, application = await self.clients.entered(call, client, now)
            if self.view.barred((request.zone_id, application["id"])):
                raise denied("session revoked", "session_invalid")
        except Refused as refused:
            refused.event_type = event_type
            raise await self.recorder.refused(call, refused) from None
        return application

    def _proven(self, fields: Mapping[str, str], zone: KnownZone) -> Claims | None:
        try:
            claims = verify(fields["token"], zone.verification_keys())
        except InvalidMandate:
            return None
        ours = claims.get("iss") == self.issuer and claims.get("zone_id") == zone.id
        return claims if ours else None
