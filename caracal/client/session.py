"""``client.sessions``."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, Unpack

from caracal.client.call import Listing, merged, one_page
from caracal.client.method import D, many
from caracal.client.things import ZoneScoped

SessionStatus = Literal["active", "revoked", "expired"]


class Session(TypedDict):
    """A session: what an ambient token hangs on; ``id`` is the token's ``sid``."""

    id: str
    zone_id: str
    session_type: Literal["user", "application"]
    subject_id: str
    parent_id: str | None
    trusted_issuer_id: NotRequired[str | None]
    status: SessionStatus
    expires_at: str
    authenticated_at: str
    created_at: str


class SessionQuery(TypedDict, total=False):
    """Which sessions to list."""

    status: SessionStatus | None
    subject: str | None
    limit: int | None
    cursor: str | None


class Sessions(ZoneScoped[D]):
    """Sessions, read only: they end with their grant, issuer, application or zone.

    >>> client.sessions.list(zone_id, status="active", limit=10)
    """

    _plural = "sessions"

    @many
    def list(
        self, zone_id: str, query: SessionQuery | None = None, **more: Unpack[SessionQuery]
    ) -> Listing[Session]:
        """List sessions, newest first: one page, at most ``limit`` (the server's default: 100)."""
        return one_page(self._call("GET", zone_id, query=merged(SessionQuery, query, more).items()))

    list_page, iter = list.by_page(), list.each()
