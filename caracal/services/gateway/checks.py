"""The checks before the exchange: rows 1-12 of the contract, section 4, in their order."""

from __future__ import annotations

import time
from dataclasses import dataclass

from caracal.mandate import Claims
from caracal.projections.memory import Row
from caracal.services.consistency import lagging, min_position
from caracal.services.gateway.admission import Inbound, admit
from caracal.services.gateway.bearer import Bearers
from caracal.services.gateway.dpop import Senders
from caracal.services.gateway.hints import ActsAs, acts_as
from caracal.services.gateway.paths import check_path
from caracal.services.gateway.refusals import Denied
from caracal.services.gateway.view import GatewayView
from caracal.services.http import Scope

_MIN_POSITION_SECONDS = 2.0


@dataclass(slots=True)
class Known:
    """What is known of a call so far, for the answer of a refusal."""

    zone_id: str | None = None
    resource: str | None = None
    scope: str | None = None
    passed: bool = False
    """Rows 1-12 are behind it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A call that may be put to the STS, if none of ``anchors`` has ended."""

    inbound: Inbound
    resource: Row
    claims: Claims
    anchors: frozenset[str]
    acts_as: ActsAs
    jkt: str | None = None
    """Thumbprint of the key that the sender has proven to hold."""
    position: int | None = None
    """Of the log, which the caller wants to see."""

    @property
    def application_id(self) -> str | None:
        """Return whom the exchange runs as."""
        named = self.resource["gateway_application_id"] or self.claims.get("client_id")
        return named if isinstance(named, str) else None


class Checks:
    """Nothing here calls the STS, but for keys that are not held yet."""

    def __init__(self, view: GatewayView, bearers: Bearers, senders: Senders) -> None:
        self._view, self._bearers, self._senders = view, bearers, senders

    async def __call__(self, scope: Scope, request_id: str, known: Known) -> Checked:
        """Check a request; revocation itself is looked at by the caller.

        Raises:
            CaracalError: what to answer. ``known`` is filled as far as the checks came.
        """
        inbound = admit(scope["headers"], time.time())
        known.zone_id, known.resource = inbound.zone_id, inbound.resource
        position = await self._reached(scope)
        resource = await self._routable(scope, inbound)
        known.scope = inbound.scope or " ".join(resource["scopes"] or ())
        check_path(scope["raw_path"])
        claims, anchors = await self._bearers.check(inbound, resource["identifier"], request_id)
        jkt = await self._senders.proven(scope, inbound, claims)
        hinted = await acts_as(self._view, inbound.baggage, claims)
        known.passed = True
        return Checked(inbound, resource, claims, anchors, hinted, jkt, position)

    async def _reached(self, scope: Scope) -> int | None:
        position = min_position(scope)
        if position is not None and not await self._view.following.reach(
            position, _MIN_POSITION_SECONDS
        ):
            raise lagging()
        return position

    def note_use(self, checked: Checked) -> None:
        """Note that a call's zone is in use: its bearer is genuine, and has not been revoked."""
        self._view.zones.note_use(checked.inbound.zone_id)

    async def _routable(self, scope: Scope, inbound: Inbound) -> Row:
        zone_id, zones = inbound.zone_id, self._view.zones
        # Row 8 is before row 10, but no stranger may cause a load.
        if zones.peek(zone_id) is None and self._bearers.is_genuine(inbound):
            await zones.load(zone_id)
        row = await self._view.find(zone_id, inbound.resource, scope)
        if row is None:
            raise Denied(403, "access_denied", "resource not configured", "denials_binding")
        return row
