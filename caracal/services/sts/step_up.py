"""Step-up: somebody must agree before a mandate is issued (contract, section 15).

A challenge is a fact in the log: issued and consumed here, satisfied by the control plane. Its
secret goes to who asked for the mandate, and nowhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import orjson

from caracal import clock, telemetry
from caracal.errors import CaracalError, NotFound, TooMany, Unauthenticated
from caracal.events.base import acting
from caracal.events.challenge import Actor, Called, Challenge
from caracal.events.store.appender import VersionConflict
from caracal.events.store.log import Log
from caracal.ids import ID_PATTERN, new_id
from caracal.projections.waiter import Waiter
from caracal.services.http import Receive, Scope, Send, respond
from caracal.services.sts.call import Call
from caracal.services.sts.exchange import Exchange, Verdict
from caracal.services.sts.failure_limit import FailureLimit
from caracal.services.sts.refusals import InteractionRequired, Refused, challenge_refused, denied
from caracal.services.sts.subject_token import Principal
from caracal.services.sts.token_request import TokenRequest
from caracal.services.windows import Window, caller_of

FAILURES, WINDOW_SECONDS, COOLDOWN_SECONDS = 5, 120.0, 300.0
_SECRET_BYTES = 32


class StepUp:
    """Issues challenges, and consumes those that were satisfied.

    ``asks_per_min``: how often an address may ask for the status of any; 0: as it likes.
    """

    def __init__(self, log: Log, waiter: Waiter, asks_per_min: int = 0) -> None:
        self._log, self._waiter = log, waiter
        self._asks = Window(asks_per_min)
        self._failures = FailureLimit(
            FAILURES - 1, window=WINDOW_SECONDS, block=COOLDOWN_SECONDS
        )  # the fifth one blocks

    async def consumed(
        self,
        call: Call,
        principal: str,
        subject: Principal | None,
        called: Called | None,
        now: datetime,
    ) -> bool:
        """Consume the challenge that the call names; rows 7 and 8 of the validation order.

        Returns whether it named one. ``principal``: whom the mandate will speak of; ``called``:
        what the Gateway asks for.

        Raises:
            Refused: 429 ``access_denied``, too many failures; 401 ``access_denied``, whatever
                is wrong with it: nothing is told apart.
            Unavailable: 503, the log cannot be used.
        """
        request = call.request
        if not request.challenge_id and not request.challenge_response:
            return False
        key = ("principal", request.zone_id, principal)
        self._check(key)
        if not await self._consume(call, principal, subject, called, now):
            self._failures.failed(key)
            raise challenge_refused()
        self._failures.cleared(key)
        return True

    async def asked(
        self, exchange: Exchange, verdicts: Sequence[Verdict], error: CaracalError
    ) -> CaracalError:
        """Return what to answer: ``error``, with a new challenge if that is what it needs.

        Raises:
            Unavailable: 503, the log cannot be used.
        """
        if not isinstance(error, InteractionRequired):
            return error
        if not _is_readable(exchange.call):
            return denied("nobody can agree to a call that cannot be read", "complete").error
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        with _acting(exchange.zone.id, exchange.application["id"], exchange.request_id):
            challenge = _challenge(exchange, verdicts, error, secret)
            try:
                saved = await self._log.save(challenge)
            except NotFound:
                return denied("session revoked", "session_invalid").error  # its zone just ended
        await self._waiter.applied(saved)
        return error.with_challenge(challenge.aggregate_id, secret, challenge.expires_at)

    def _check(self, key: tuple[str, ...]) -> None:
        try:
            self._failures.check(key)
        except TooMany as blocked:
            said = "too many failed step-up attempts"
            error = TooMany("access_denied", said, retry_after=blocked.retry_after)
            raise Refused(error, "challenge_cooldown", "challenge_cooldown") from None

    async def _consume(
        self,
        call: Call,
        principal: str,
        subject: Principal | None,
        called: Called | None,
        now: datetime,
    ) -> bool:
        """Of several at once the log lets one win: the others have another version."""
        request = call.request
        challenge = await self._find(request.challenge_id)
        if challenge is None:
            return False
        with _acting(request.zone_id, request.application_id, call.request_id):
            try:
                challenge.consume(
                    zone_id=request.zone_id,
                    principal=principal,
                    session_id=subject.sid if subject else None,
                    secret=request.challenge_response,
                    resources=request.resources,
                    scopes=request.scopes,
                    actor=_actor(request, subject),
                    call=called,
                    now=now,
                )
                await self._log.save(challenge)
            except (Unauthenticated, VersionConflict):
                return False
        return True

    async def _find(self, challenge_id: str) -> Challenge | None:
        known = ID_PATTERN.fullmatch(challenge_id) is not None
        return await self._log.find(Challenge, challenge_id) if known else None

    async def status(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``GET /step-up/{id}``; nothing is consumed. The app of that route.

        Nobody proves anything here and each answer is a read of the log, so it is limited.

        Raises:
            NotFound: 404 ``resource_not_found``.
            TooMany: 429 ``rate_limited``, the address asks too often.
        """
        self._asks.enter(caller_of(scope))
        challenge = await self._find(scope["path_params"]["challenge_id"])
        if challenge is None:
            raise NotFound("resource_not_found", "there is no such challenge")
        await respond(send, 200, orjson.dumps(_status(challenge)), [])


def _status(challenge: Challenge) -> dict[str, Any]:
    return {
        "id": challenge.aggregate_id,
        "challenge_type": challenge.challenge_type,
        "satisfied": challenge.satisfied_at is not None,
        "consumed": challenge.consumed,
        "expires_at": challenge.expires_at,
    }


def _challenge(
    exchange: Exchange, verdicts: Sequence[Verdict], error: InteractionRequired, secret: str
) -> Challenge:
    asking = [verdict.resource for verdict in verdicts if verdict.step_up and verdict.resource]
    subject, binding = exchange.subject, exchange.binding
    return Challenge.issue(
        new_id(),
        zone_id=exchange.zone.id,
        principal=exchange.user,
        session_id=subject.sid if subject else None,
        challenge_type=error.challenge_type,
        secret=secret,
        resources=exchange.request.resources,
        metadata={
            "application_id": exchange.application["id"],
            **Actor(binding.agent_session_id, binding.delegation_edge_id)._asdict(),
            "resources": [resource["identifier"] for resource in asking],
            "requested_scopes": list(exchange.request.scopes),
            "request_id": exchange.request_id,
        },
        call=exchange.call,
        now=clock.now(),
    )


def _is_readable(call: Called | None) -> bool:
    """Say whether all that an MCP call does is told: an agreement is to one, not to any batch."""
    mcp = (call or {}).get("mcp")
    return mcp is None or bool(mcp.get("method"))


def _actor(request: TokenRequest, subject: Principal | None) -> Actor:
    """Return whom a retry names; what does not fit together is refused by the row that follows."""
    claims = subject.claims if subject else {}
    return Actor(*(getattr(request, of) or claims.get(of) or None for of in Actor._fields))


def _acting(zone_id: str, actor: str, request_id: str) -> AbstractContextManager[Any]:
    return acting(
        zone_id=zone_id,
        actor=actor,
        action="POST /oauth/2/token",
        request_id=request_id,
        traceparent=telemetry.traceparent(),
    )
