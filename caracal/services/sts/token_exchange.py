"""``POST /oauth/2/token``: OAuth 2.0 Token Exchange (RFC 8693; contract, section 4).

The order of the checks is the contract's. All is decided in memory; at the end one call of Redis
takes the nonce, counts the rates and writes the evidence, and only then there is an answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import orjson

from caracal import telemetry
from caracal.errors import Forbidden, InternalError
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.mandate import MAX_TOKEN_BYTES, SigningKey, sign
from caracal.services.consistency import state_stale
from caracal.services.http import Header, Receive, Scope, Send, header, read_body, respond
from caracal.services.sts import issuance
from caracal.services.sts.admission import Admission
from caracal.services.sts.call import Call
from caracal.services.sts.exchange import Exchange, Granted, Verdict
from caracal.services.sts.issuance import Mandate
from caracal.services.sts.policies import Policies
from caracal.services.sts.provider_credentials import ProviderCredentials
from caracal.services.sts.recorder import Recorder
from caracal.services.sts.refusals import Refused, denied
from caracal.services.sts.resource_decision import conclude, decide
from caracal.services.sts.session_facts import SessionFacts
from caracal.services.sts.shadow import Shadows
from caracal.services.sts.signing_keys import SigningKeys
from caracal.services.sts.step_up import StepUp
from caracal.services.sts.token_request import MAX_BODY, read
from caracal.services.sts.view import StsView

Answer = tuple[bytes, list[Header]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the deployment says; ``max_staleness`` in seconds."""

    issuer: str
    max_staleness: float
    max_grant_seconds: int
    gateway_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TokenExchange:
    """The endpoint; its parts are made in ``app.py``."""

    rules: Rules
    view: StsView
    admission: Admission
    policies: Policies
    keys: SigningKeys
    sessions: SessionFacts
    step_up: StepUp
    recorder: Recorder
    shadows: Shadows
    credentials: ProviderCredentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            CaracalError: the refusal.
        """
        body = await read_body(receive, scope, MAX_BODY)
        if self.view.following.age > self.rules.max_staleness:
            raise state_stale()
        call = Call(scope, body, read(body, header(scope, b"content-type") or b""))
        answer, headers = await self._exchanged(call)
        await respond(send, 200, answer, [*headers, *self.admission.senders.headers(call)])

    async def _exchanged(self, call: Call) -> Answer:
        try:
            call = self.admission.clients.check_signature(call, self.rules.gateway_keys)
            exchange = await self.admission.admitted(call)
        except Refused as refused:
            raise await self.recorder.refused(call, refused) from None
        telemetry.note(zone_id=exchange.zone.id, application_id=str(exchange.application["id"]))
        verdicts = await self._verdicts(exchange)
        try:
            return await self._concluded(call, exchange, verdicts)
        finally:
            self.shadows.note(exchange, verdicts)

    async def _concluded(
        self, call: Call, exchange: Exchange, verdicts: Sequence[Verdict]
    ) -> Answer:
        granted, error = conclude(verdicts, [False] * len(verdicts))
        if error is not None:
            error = await self.recorder.denied(call, exchange, verdicts, error)
            raise await self.step_up.asked(exchange, verdicts, error)
        try:
            return await self._issued(call, exchange, verdicts, granted)
        except Refused as refused:
            raise await self.recorder.denied(
                call, exchange, verdicts, refused.error, refused.status
            ) from None

    async def _verdicts(self, exchange: Exchange) -> list[Verdict]:
        """Row 10. What is unknown is looked for once more, at the log's head."""
        verdicts = await self._decided(exchange)
        if any(verdict.unknown for verdict in verdicts):
            await self.view.look_again()
            verdicts = await self._decided(exchange)
        exchange.zone.check()
        return verdicts

    async def _decided(self, exchange: Exchange) -> list[Verdict]:
        verdicts = await decide(exchange, self.policies)
        if brokered := [one.resource for one in verdicts if one.brokers and one.resource]:
            found = await self.credentials.obtain(exchange, brokered)
            verdicts = await decide(exchange, self.policies, found)
        return verdicts

    async def _issued(
        self, call: Call, exchange: Exchange, verdicts: Sequence[Verdict], granted: list[Granted]
    ) -> Answer:
        """Rows 13 and 14."""
        sid = exchange.subject.sid if exchange.subject else new_id()
        key = await self._key(exchange)
        issued, token = self._mandate(exchange, granted, sid, key)
        if exchange.zone.barred(issued.anchors):
            raise denied("session revoked", "session_invalid")
        async with self._session(exchange, issued) as saved:
            kept = await self.recorder.granted(call, exchange, verdicts)
            if len(kept) < len(granted):
                issued, token = self._mandate(exchange, kept, sid, key)
            answer = orjson.dumps(issuance.answer(exchange, kept, issued, token))
        return answer, await self.sessions.headers(saved) if saved else []

    async def _key(self, exchange: Exchange) -> SigningKey:
        if not (published := exchange.zone.published_keys()):
            await self.view.look_again()
            published = exchange.zone.published_keys()
        if not published:
            raise InternalError
        return await self.keys.opened(published[0])

    def _mandate(
        self, exchange: Exchange, granted: Sequence[Granted], sid: str, key: SigningKey
    ) -> tuple[Mandate, str]:
        ends = issuance.expiry(exchange, self.rules.max_grant_seconds)
        issued = issuance.mandate(exchange, granted, issuer=self.rules.issuer, sid=sid, ends=ends)
        token = sign(issued.claims, key)
        if len(token) > MAX_TOKEN_BYTES:
            error = Forbidden("token_too_large", f"the token exceeds {MAX_TOKEN_BYTES} bytes")
            raise Refused(error, "exchange_denied")
        return issued, token

    @asynccontextmanager
    async def _session(self, exchange: Exchange, issued: Mandate) -> AsyncIterator[Saved | None]:
        if not exchange.is_ambient:
            yield None
            return
        async with AsyncExitStack() as stack:
            if exchange.login is not None:
                used = self.admission.logins.used(exchange.login, exchange.zone.id)
                await stack.enter_async_context(used)
            started = self.sessions.started(issued.claims, exchange.request_id)
            yield await stack.enter_async_context(started)
