"""Rows 1 to 9 of the validation order: who asks, for whom, bound to what (contract, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from caracal import clock
from caracal.ids import ID_PATTERN
from caracal.projections.memory import Row
from caracal.projections.query import one
from caracal.projections.session import SESSIONS
from caracal.services.connections import Pool
from caracal.services.sts.binding import Binding, bind, check_client
from caracal.services.sts.call import Call
from caracal.services.sts.client_authentication import ClientAuthentication
from caracal.services.sts.delegation import DELEGATION_INVALID
from caracal.services.sts.dpop import Senders
from caracal.services.sts.exchange import Exchange
from caracal.services.sts.login import Login, Logins
from caracal.services.sts.refusals import Refused, bad_request, denied
from caracal.services.sts.step_up import StepUp
from caracal.services.sts.subject_token import Kind, Principal, Proofs
from caracal.services.sts.token_request import TokenRequest, read_call_context
from caracal.services.sts.view import KnownZone, StsView, ZoneView


class Traversals:
    """How often a path of delegations was followed; ``errors``: and did not hold."""

    def __init__(self) -> None:
        self.total = self.errors = 0

    def count(self, followed: bool, *, failed: bool = False) -> None:
        """Count one exchange, if it ``followed`` a path."""
        self.total += followed
        self.errors += followed and failed


@dataclass(frozen=True, slots=True)
class Admission:
    """Turns a call into an exchange whose resources may be looked at."""

    view: StsView
    clients: ClientAuthentication
    proofs: Proofs
    database: Pool
    senders: Senders
    step_up: StepUp
    logins: Logins
    traversals: Traversals = field(default_factory=Traversals)

    async def admitted(self, call: Call) -> Exchange:
        """Return the exchange that ``call`` asks for.

        Raises:
            Refused: a row of the validation order.
            BadInput: 400 ``invalid_token``, the call context of a Gateway call.
            TooMany: 429 ``access_denied``, the client is not even tried.
            Unavailable: 503, the view cannot be brought to the log's head.
        """
        request, now = call.request, clock.now()
        context = read_call_context(request.call_context) if call.by_gateway else None
        client = await self.clients.authenticate(call, now)
        if not request.resources:
            raise Refused(bad_request("at least one resource is needed"), "exchange_denied")
        known = KnownZone(self.view, request.zone_id)
        of_ours = "" if request.is_login else request.subject_token
        subject = await self._principal(of_ours, known, now, "subject")
        actor = await self._principal(request.actor_token, known, now, "actor")
        _check_principals(subject, actor)
        zone, application = await self.clients.entered(call, client, now)
        if subject is not None:
            self._check_client(call, zone, subject, actor)
            self._check_way(call)
        login = await self.logins.proven(request, zone, now) if request.is_login else None
        jkt = await self.senders.proven(call, (subject, actor), now)
        user = _user(request, subject, login)
        resolved = await self.step_up.consumed(call, user, subject, context, now)
        binding = await self._bound(call, zone, subject, now)
        return Exchange(
            request=request,
            request_id=call.request_id,
            zone=zone,
            application=application,
            by_gateway=call.by_gateway,
            subject=subject,
            login=login,
            actor=actor,
            binding=binding,
            challenge_resolved=resolved,
            jkt=jkt,
            call=context,
            now=now,
            occurred_at=clock.rfc3339(now),
            position=self.view.following.position,
        )

    async def _principal(
        self, token: str, zone: KnownZone, now: datetime, kind: Kind
    ) -> Principal | None:
        if not token:
            return None
        moment = now.timestamp()
        try:
            return self.proofs.principal(token, zone, moment, kind)
        except Refused:
            if self.proofs.knows_key(token, zone):
                raise
        await self.view.look_again()
        return self.proofs.principal(token, zone, moment, kind)

    def _check_client(
        self, call: Call, zone: ZoneView, subject: Principal, actor: Principal | None
    ) -> None:
        named = [zone.resource(name) for name in call.request.resources if call.by_gateway]
        application_id = call.request.application_id
        check_client(
            subject,
            application_id,
            {resource["gateway_application_id"] for resource in named if resource is not None},
            actor is not None and actor.client_id == application_id,
        )

    def _check_way(self, call: Call) -> None:
        """A zone may want that every call to its resources passes the Gateway."""
        if not call.by_gateway and self.view.is_gateway_only(call.request.zone_id):
            raise denied("mandates for resources are issued to the Gateway only", "gateway_only")

    async def _bound(
        self, call: Call, zone: ZoneView, subject: Principal | None, now: datetime
    ) -> Binding:
        """Row 9. What is unknown is looked for once more, at the log's head."""
        request = call.request
        owner = subject.client_id if subject and call.by_gateway else request.application_id
        session = None if subject else await self._session(request, zone)
        try:
            return self._bind(request, subject, zone, owner=owner, session=session, now=now)
        except Refused as refused:
            if not refused.unknown:
                raise
        await self.view.look_again()
        return self._bind(request, subject, zone, owner=owner, session=session, now=now)

    def _bind(self, *args: Any, **known: Any) -> Binding:
        try:
            binding = bind(*args, **known)
        except Refused as refused:
            self.traversals.count(refused.status == DELEGATION_INVALID, failed=True)
            raise
        self.traversals.count(binding.delegation is not None)
        return binding

    async def _session(self, request: TokenRequest, zone: ZoneView) -> Row | None:
        session_id = request.session_id
        if not ID_PATTERN.fullmatch(session_id) or zone.barred([session_id]):
            return None
        async with self.database.connection() as connection:
            return await one(connection, SESSIONS, id=session_id, zone_id=zone.id)


def _user(request: TokenRequest, subject: Principal | None, login: Login | None) -> str:
    if login is not None:
        return login.user_id
    return subject.subject if subject else request.application_id


def _check_principals(subject: Principal | None, actor: Principal | None) -> None:
    """Row 6."""
    if subject is not None and actor is not None and actor.is_same_as(subject):
        raise Refused(bad_request("actor and subject are the same"), "actor_token_invalid")
