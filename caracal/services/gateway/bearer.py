"""Who calls: the bearer's signature, claims and single use (contract, rows 10-12)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from redis.asyncio import Redis

from caracal.errors import Unavailable
from caracal.events.store.audit_entry import AuditEvent
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.redis import GONE
from caracal.key_sets import JwksCache
from caracal.mandate import (
    Claims,
    InvalidMandate,
    VerificationKey,
    anchors_of,
    numeric_date,
    verify,
)
from caracal.services.consistency import state_stale
from caracal.services.gateway.admission import Inbound, check_claims
from caracal.services.gateway.refusals import Denied, StsUnavailable
from caracal.services.gateway.view import GatewayView

_MAX_HELD = 2048


@dataclass(frozen=True, slots=True)
class _Held:
    """What a signature has proven, as long as its key is the zone's."""

    key: VerificationKey
    claims: Claims
    anchors: frozenset[str]


class Bearers:
    """Checks bearers; no call to the STS but for keys it does not hold."""

    def __init__(
        self,
        *,
        view: GatewayView,
        keys: JwksCache,
        redis: Redis,
        audit: AuditWriter,
        issuer: str | None,
        fail_open: bool,
    ) -> None:
        self._view, self._keys, self._redis, self._audit = view, keys, redis, audit
        self._issuer, self._fail_open = issuer, fail_open
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def is_genuine(self, inbound: Inbound) -> bool:
        """Say whether a key of its zone has signed a bearer, and none of its anchors has ended.

        By what is in memory: neither the STS nor the database is asked.
        """
        try:
            claims = verify(inbound.unverified, self._view.verification_keys(inbound.zone_id))
            return not self._view.barred(anchors_of(claims))
        except InvalidMandate:
            return False

    async def check(
        self, inbound: Inbound, registered: str, request_id: str
    ) -> tuple[Claims, frozenset[str]]:
        """Return the verified claims and the anchors of a bearer.

        Raises:
            Denied: 401, row 10 or 11.
            StsUnavailable: 502, the keys cannot be had.
            Unavailable: 503 ``state_stale``, row 12; whether an anchor has ended is the caller's
                to look at.
        """
        held = await self._verified(inbound)
        claims = held.claims
        names = (inbound.resource, registered)
        now = time.time()
        check_claims(claims, zone_id=inbound.zone_id, resource=names, issuer=self._issuer, now=now)
        if claims.get("use") == "per_call":
            await self._first_use(inbound, claims, request_id)
        if self._view.stale:
            raise state_stale()
        return claims, held.anchors

    async def _verified(self, inbound: Inbound) -> _Held:
        try:
            kid = inbound.unverified.kid
            keys = await self._keys.keys(inbound.zone_id, kid)
            held = self._held.get(inbound.token)
            if held is None or held.key is not keys.get(kid):
                claims = verify(inbound.unverified, keys)
                held = self._hold(inbound.token, _Held(keys[kid], claims, anchors_of(claims)))
            return held
        except InvalidMandate:
            raise _invalid() from None
        except Unavailable as unavailable:
            raise StsUnavailable(502, unavailable.description) from None

    def _hold(self, token: str, held: _Held) -> _Held:
        """Remember that a token is genuine: an ambient one is used for many calls."""
        self._held[token] = held
        if len(self._held) > _MAX_HELD:
            self._held.popitem(last=False)
        return held

    async def _first_use(
        self, inbound: Inbound, claims: Mapping[str, Any], request_id: str
    ) -> None:
        """A per-call token passes once (its ``jti``, RFC 7519, section 4.1.7)."""
        jti, expires = claims.get("jti"), numeric_date(claims, "exp") or 0
        if not isinstance(jti, str) or not jti:
            raise _invalid()
        life = max(1, int(expires - time.time()) + 1)
        try:
            first = await self._redis.set(f"seen:jti:{jti}", request_id, nx=True, ex=life)
        except GONE:
            if self._fail_open:
                return
            raise _replayed() from None
        if not first:
            await self._audit.add([_replay_event(inbound, claims, request_id)])
            raise _replayed()


def _replay_event(inbound: Inbound, claims: Mapping[str, Any], request_id: str) -> AuditEvent:
    return AuditEvent(
        zone_id=inbound.zone_id,
        event_type="replay_detected",
        request_id=request_id,
        decision="deny",
        evaluation_status="anomaly",
        determining_policies_json=[],
        diagnostics_json=[],
        metadata_json={
            "jti": claims.get("jti"),
            "resource": inbound.resource,
            "client_id": claims.get("client_id"),
            "subject_fp": sha256(inbound.token.encode()).hexdigest()[:16],
            "request_id": request_id,
        },
    )


def _invalid() -> Denied:
    return Denied(401, "invalid_token", "bearer signature invalid", "denials_signature")


def _replayed() -> Denied:
    return Denied(401, "invalid_token", "token replay detected", "denials_jti_replay")
