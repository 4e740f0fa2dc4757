"""The session that an ambient mandate opens, as a fact in the log (contract, section 11)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

from caracal import telemetry
from caracal.errors import CaracalError, NotFound
from caracal.events.base import acting
from caracal.events.session import Session
from caracal.events.store.log import Log, Saved
from caracal.mandate import Claims
from caracal.projections.waiter import Waiter
from caracal.services.http import Header
from caracal.services.sts.refusals import denied

logger = logging.getLogger(__name__)


class SessionFacts:
    """Starts sessions, and takes back those whose exchange failed."""

    def __init__(self, log: Log, waiter: Waiter) -> None:
        self._log, self._waiter = log, waiter

    @asynccontextmanager
    async def started(self, claims: Claims, request_id: str) -> AsyncIterator[Saved]:
        """Store ``session.started`` for the mandate with these claims.

        What fails inside ends the session again: nobody got its mandate.

        Raises:
            Refused: 403 ``access_denied``, zone or application has ended meanwhile.
            Unavailable: 503 ``unavailable``.
        """
        with _acting(claims, request_id):
            session = _session(claims)
            try:
                saved = await self._log.save(session)
            except NotFound:
                raise denied("session revoked", "session_invalid") from None
        try:
            yield saved
        except BaseException:
            with _acting(claims, request_id):
                await self._take_back(session)
            raise

    async def headers(self, saved: Saved) -> list[Header]:
        """Wait for the read model, and say how far it is."""
        return await positions(saved, self._waiter)

    async def _take_back(self, session: Session) -> None:
        session.revoke("exchange_failed")
        try:
            await self._log.save(session)
        except CaracalError as error:
            logger.warning("session %s lasts until it expires: %s", session.aggregate_id, error)


async def positions(saved: Saved, waiter: Waiter) -> list[Header]:
    """Wait for the read models, and say how far they are (errors contract, section 2)."""
    if saved.position is None:
        return []
    lines = [(b"caracal-position", str(saved.position).encode())]
    if not await waiter.applied(saved):
        lines.append((b"caracal-consistency", b"pending"))
    return lines


def _session(claims: Claims) -> Session:
    user = claims.get("user", {})
    authenticated_at, ends = user.get("auth_time", claims["iat"]), claims["exp"]
    return Session.start(
        claims["sid"],
        zone_id=claims["zone_id"],
        session_type=claims["sub_type"],
        subject_id=claims["sub"],
        application_id=claims["client_id"],
        authenticated_at=datetime.fromtimestamp(authenticated_at, UTC),
        expires_at=datetime.fromtimestamp(ends, UTC),
        trusted_issuer_id=user.get("trusted_issuer_id"),
    )


@contextmanager
def _acting(claims: Claims, request_id: str) -> Iterator[None]:
    with acting(
        zone_id=claims["zone_id"],
        actor=claims["client_id"],
        action="POST /oauth/2/token",
        request_id=request_id,
        traceparent=telemetry.traceparent(),
    ):
        yield
