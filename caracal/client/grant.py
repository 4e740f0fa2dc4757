"""``client.grants``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict, Unpack

from caracal.client.call import Call, Listing, listing, merged, nothing
from caracal.client.method import D, many, one
from caracal.client.things import ZoneScoped

GrantStatus = Literal["active", "revoked", "expired"]


class Grant(TypedDict):
    """A grant; without ``user_id`` it is the application's own."""

    id: str
    zone_id: str
    application_id: str
    user_id: str | None
    resource_id: str
    scopes: list[str]
    status: GrantStatus
    created_at: str


class GrantInput(TypedDict):
    """A new grant; the resource must have the scopes."""

    application_id: str
    resource_id: str
    scopes: Sequence[str]
    user_id: NotRequired[str | None]


class GrantQuery(TypedDict, total=False):
    """Which grants to list; all of ``scopes`` (a list, or with commas) must be there."""

    application_id: str | None
    user_id: str | None
    resource_id: str | None
    provider_id: str | None
    status: GrantStatus | None
    scopes: str | Sequence[str] | None
    limit: int | None
    cursor: str | None


class Grants(ZoneScoped[D]):
    """Grants: which application may use which scopes of a resource.

    >>> client.grants.create(
    ...     zone_id,
    ...     {"application_id": app["id"], "resource_id": res["id"], "scopes": ["read"]},
    ... )
    >>> client.grants.list(zone_id, status="active", application_id=app["id"])
    """

    _plural = "grants"

    @many
    def list(
        self, zone_id: str, query: GrantQuery | None = None, **more: Unpack[GrantQuery]
    ) -> Listing[Grant]:
        """List grants of any status, newest first: all of them, or a page of ``limit``."""
        chosen = merged(GrantQuery, query, more)
        return listing(self._call("GET", zone_id, query=chosen.items()), chosen.get("limit"))

    list_page, iter = list.by_page(), list.each()

    @one
    def get(self, zone_id: str, id: str) -> Call[Grant]:
        """Show a grant, ended or not."""
        return self._call("GET", zone_id, id)

    @one
    def create(self, zone_id: str, input: GrantInput) -> Call[Grant]:
        """Grant scopes of a resource."""
        return self._call("POST", zone_id, body=input)

    @one
    def revoke(self, zone_id: str, id: str) -> Call[None]:
        """Revoke a grant and end the sessions of its user, or of its application."""
        return nothing(self._call("DELETE", zone_id, id))
