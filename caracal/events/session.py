"""Session: what an ambient mandate opens, for a user or for an application itself."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import Literal, Self

from caracal import clock
from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate
from caracal.events.guards import Free, Guard, Need, Take, live
from caracal.events.trusted_issuer import needs_trusted_issuer
from caracal.events.zone import needs_zone

SessionType = Literal["user", "application"]


class Session(Aggregate):
    """started -> revoked | expired, or ended with its grant, issuer, application or zone"""

    TOPIC = "session"
    PLURAL = "sessions"

    class Started(base.Created):
        TOPIC = "session.started"
        session_type: str
        subject_id: str
        application_id: str
        parent_id: str | None
        authenticated_at: str
        expires_at: str
        trusted_issuer_id: str | None = field(default=None, kw_only=True)

    class Revoked(Aggregate.Event):
        TOPIC = "session.revoked"
        reason: str

        def apply(self, aggregate: Session) -> None:
            aggregate.ended = True

    class Expired(Aggregate.Event):
        TOPIC = "session.expired"

        def apply(self, aggregate: Session) -> None:
            aggregate.ended = True

    def __init__(
        self,
        session_type: str,
        subject_id: str,
        application_id: str,
        parent_id: str | None,
        authenticated_at: str,
        expires_at: str,
        trusted_issuer_id: str | None = None,
    ) -> None:
        self.session_type, self.subject_id = session_type, subject_id
        self.application_id, self.parent_id = application_id, parent_id
        self.authenticated_at, self.expires_at = authenticated_at, expires_at
        self.trusted_issuer_id = trusted_issuer_id
        self.ended = False

    @classmethod
    def start(
        cls,
        sid: str,
        *,
        zone_id: str,
        session_type: SessionType,
        subject_id: str,
        application_id: str,
        authenticated_at: datetime,
        expires_at: datetime,
        parent_id: str | None = None,
        trusted_issuer_id: str | None = None,
    ) -> Self:
        """Begin a session. The zone owns its key, so that a cascade frees many at once.

        ``trusted_issuer_id`` names who has said who the user is.
        """
        known = Conflict("concurrent_update", f"the session {sid!r} is there already")
        return cls._begin(
            cls.Started,
            sid,
            needs_zone(zone_id),
            needs_application(application_id),
            *([needs_trusted_issuer(trusted_issuer_id)] if trusted_issuer_id else []),
            Take(live("session", sid), zone_id, known),
            session_type=session_type,
            subject_id=subject_id,
            application_id=application_id,
            parent_id=parent_id,
            authenticated_at=clock.rfc3339(authenticated_at),
            expires_at=clock.rfc3339(expires_at),
            trusted_issuer_id=trusted_issuer_id,
        )

    def revoke(self, reason: str) -> None:
        """End the session at once. One that has ended is refused, also by its guard."""
        self._check_live()
        self._record(self.Revoked, *self._ending(), reason=reason)

    def expire(self) -> None:
        """Note that its time has run out."""
        self._check_live()
        self._record(self.Expired, *self._ending())

    def _ending(self) -> list[Guard]:
        # A cascade ends a session without an event of its own; then only the key knows.
        return [
            needs_session(self.aggregate_id),
            Free((live("session", self.aggregate_id),), str(self.zone_id)),
        ]

    def _check_live(self) -> None:
        if self.ended:
            raise session_not_found(self.aggregate_id)


def needs_session(sid: str) -> Need:
    """Return the guard by which nothing hangs on a dead session."""
    return Need(live("session", sid), session_not_found(sid))


def session_not_found(sid: str) -> NotFound:
    return NotFound("session_not_found", f"there is no session {sid!r}")
