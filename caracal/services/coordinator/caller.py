"""Who calls: the claims of an ambient mandate, or the operator (contract, section 2)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from caracal.dpop import Unproven
from caracal.errors import Forbidden, Unauthenticated, Unavailable
from caracal.ids import ID_PATTERN
from caracal.key_sets import JwksCache
from caracal.mandate import (
    MAX_TOKEN_BYTES,
    Claims,
    InvalidMandate,
    anchors_of,
    numeric_date,
    peek,
    verify,
)
from caracal.services.coordinator.view import CoordinatorView
from caracal.services.http import Scope, credential_of
from caracal.services.sender import Senders, Shown

OPERATOR = "caracal-operator"
ADMIN = "coordinator.admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """An application of a zone, or the operator in one."""

    client_id: str
    subject: str
    zone_id: str
    scopes: frozenset[str]
    sid: str | None = None
    agent_session_id: str | None = None
    delegation_edge_id: str | None = None
    anchors: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def operator(cls, zone_id: str, scope: str) -> Caller:
        """Return the operator in a zone."""
        return cls(OPERATOR, OPERATOR, zone_id, frozenset((scope, ADMIN)))

    @property
    def is_admin(self) -> bool:
        """Say whether the caller may act on everything of its zone."""
        return ADMIN in self.scopes

    def owns(self, application_id: str) -> bool:
        """Say whether the caller is this application."""
        return self.client_id == application_id

    def may(self, power: str, application_id: str) -> bool:
        """Say whether the caller has a power of the Coordinator over an application."""
        return f"coordinator.{power}:{application_id}" in self.scopes

    def check_zone(self, zone_id: str) -> None:
        """Refuse a zone that is not the token's.

        Raises:
            Forbidden: 403 ``zone_mismatch``.
        """
        if zone_id != self.zone_id:
            raise Forbidden("zone_mismatch", "the token is for another zone")

    def check_controls(self, application_id: str) -> None:
        """Refuse who may neither own nor manage the sessions of an application.

        Raises:
            Forbidden: 403 ``application_ownership_required``.
        """
        if not (self.is_admin or self.owns(application_id)):
            self.check_spawns_for(application_id)

    def check_spawns_for(self, application_id: str) -> None:
        """Refuse who may not make agents and services of an application.

        Raises:
            Forbidden: 403 ``application_ownership_required``.
        """
        if not (self.owns(application_id) or self.may("spawn_for", application_id)):
            said = "the token is for another application, and lacks coordinator.spawn_for"
            raise Forbidden("application_ownership_required", said)


class Tokens:
    """Verifies ambient mandates by their zones' keys.

    Anybody may name a zone. One that is not there has no keys: to ask for them would push those
    of other zones out of the cache, and have the STS asked as often as the sender likes.
    """

    def __init__(self, keys: JwksCache, issuer: str, view: CoordinatorView) -> None:
        self._keys, self._issuer, self._view = keys, issuer, view

    async def claims(self, token: str) -> Claims:
        """Return the claims of a genuine mandate of this issuer, for this issuer, unexpired.

        Raises:
            InvalidMandate: it is none, or the keys of its zone cannot be had.
            Unavailable: 503 ``unavailable``, whether there is such a zone cannot be known.
        """
        unverified = peek(token)
        zone_id = unverified.claims.get("zone_id")
        if not isinstance(zone_id, str) or not ID_PATTERN.fullmatch(zone_id):
            raise InvalidMandate("no zone")
        if not await self._view.has_zone(zone_id):
            raise InvalidMandate("unknown zone")
        try:
            keys = await self._keys.keys(zone_id, unverified.kid)
        except Unavailable as unavailable:
            raise InvalidMandate(unavailable.description) from None
        claims = verify(unverified, keys)
        expires = numeric_date(claims, "exp")
        if claims.get("iss") != self._issuer or self._issuer not in _listed(claims.get("aud")):
            raise InvalidMandate("another issuer or audience")
        if expires is None or expires <= time.time():
            raise InvalidMandate("expired")
        return claims


class Identities:
    """Tells who calls, and whether they still may."""

    def __init__(self, tokens: Tokens, view: CoordinatorView, senders: Senders, scope: str) -> None:
        self._tokens, self._view, self._senders, self._scope = tokens, view, senders, scope

    async def caller(self, scope: Scope) -> Caller:
        """Return who sends a request; its zone and standing are still to be checked.

        Raises:
            Unauthenticated: 401 ``missing_token``, ``invalid_token``, ``invalid_dpop_proof``.
            Forbidden: 403 ``missing_scope``.
        """
        shown = _shown(scope)
        if shown is None or len(shown.token) > MAX_TOKEN_BYTES:
            raise missing_token()
        try:
            claims = await self._tokens.claims(shown.token)
            caller = _caller(claims)
        except InvalidMandate:
            raise invalid_token() from None
        try:
            await self._senders.proven(scope, shown, claims)
        except Unproven as error:
            raise SenderUnproven(error) from None
        if self._scope not in caller.scopes:
            raise Forbidden("missing_scope", f"the token lacks the scope {self._scope}")
        return caller

    async def check_standing(self, caller: Caller) -> None:
        """Refuse who has no application, or whose mandate hangs on something that has ended.

        Raises:
            Unauthenticated: 401 ``invalid_token``, ``identity_revoked``.
            Unavailable: 503 ``state_stale``, ``unavailable``.
        """
        if not caller.client_id:
            raise invalid_token()
        self._view.check_fresh()
        await self._view.decided(lambda: self._check_known(caller))
        if self._view.barred(caller.anchors):
            raise _revoked()

    def _check_known(self, caller: Caller) -> None:
        if self._view.application(caller.zone_id, caller.client_id) is None:
            raise _revoked()


def _shown(scope: Scope) -> Shown | None:
    """Return the token of a request: exactly ``Bearer `` or ``DPoP ``, one header."""
    if (token := credential_of(scope, b"Bearer ")) is not None:
        return Shown(token)
    if (token := credential_of(scope, b"DPoP ")) is not None:
        return Shown(token, tuple(value for name, value in scope["headers"] if name == b"dpop"))
    return None


def _caller(claims: Claims) -> Caller:
    """Return who the claims name.

    Raises:
        InvalidMandate: a claim has another type, or the mandate is for one call only.
    """
    subject, client_id = claims.get("sub"), claims.get("client_id")
    if not isinstance(subject, str) or not subject or claims.get("use") == "per_call":
        raise InvalidMandate("no subject, or for one call")
    scope = claims.get("scope")
    return Caller(
        client_id=client_id if isinstance(client_id, str) else "",
        subject=subject,
        zone_id=claims["zone_id"],
        scopes=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
        sid=_text(claims, "sid"),
        agent_session_id=_text(claims, "agent_session_id"),
        delegation_edge_id=_text(claims, "delegation_edge_id"),
        anchors=anchors_of(claims),
    )


def _text(claims: Claims, name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and value else None


def _listed(value: Any) -> Iterable[Any]:
    """RFC 7519, section 4.1.3: one audience may stand alone."""
    return value if isinstance(value, list) else (value,)


class SenderUnproven(Unauthenticated):
    """401: who sends a bound token does not prove to hold its key (RFC 9449, section 7.1)."""

    def __init__(self, cause: Unproven) -> None:
        super().__init__(cause.code, str(cause))
        self.authenticate = cause.challenge


def missing_token() -> Unauthenticated:
    return Unauthenticated("missing_token", "a bearer token is needed")


def invalid_token() -> Unauthenticated:
    return Unauthenticated("invalid_token", "a valid ambient mandate of this zone is needed")


def _revoked() -> Unauthenticated:
    said = "the application is not known any longer, or what the token hangs on has ended"
    return Unauthenticated("identity_revoked", said)
