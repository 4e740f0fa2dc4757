"""Grant: a user, or an application for itself, lets an application use scopes of a resource."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, Self

from caracal.errors import Forbidden, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate, Fall
from caracal.events.resource import needs_resource
from caracal.events.zone import needs_zone

GrantStatus = Literal["active", "revoked", "expired"]


class Grant(Aggregate):
    """created -> revoked | expired"""

    TOPIC = "grant"
    PLURAL = "grants"

    class Created(base.Created):
        TOPIC = "grant.created"
        application_id: str
        resource_id: str
        scopes: list[str]
        user_id: str | None
        expires_at: str | None

    class Revoked(base.Cascade):
        TOPIC = "grant.revoked"

        def apply(self, aggregate: Grant) -> None:
            aggregate.status, aggregate.parts = "revoked", self.part

    class Expired(Aggregate.Event):
        TOPIC = "grant.expired"

        def apply(self, aggregate: Grant) -> None:
            aggregate.status = "expired"

    def __init__(
        self,
        application_id: str,
        resource_id: str,
        scopes: list[str],
        user_id: str | None,
        expires_at: str | None,
    ) -> None:
        self.application_id, self.resource_id = application_id, resource_id
        self.scopes, self.user_id, self.expires_at = scopes, user_id, expires_at
        self.status: GrantStatus = "active"

    @classmethod
    def create(
        cls,
        grant_id: str,
        *,
        zone_id: str,
        application_id: str,
        resource_id: str,
        scopes: list[str],
        of: Collection[str],
        user_id: str | None = None,
    ) -> Self:
        """Begin a grant of ``scopes``; ``of`` are the resource's scopes.

        Raises:
            Forbidden: 403 ``grant_scopes_exceed_resource``.
        """
        if not set(scopes) <= set(of):
            raise Forbidden("grant_scopes_exceed_resource", "the resource has not all these scopes")
        return cls._begin(
            cls.Created,
            grant_id,
            needs_zone(zone_id),
            needs_application(application_id),
            needs_resource(resource_id),
            application_id=application_id,
            resource_id=resource_id,
            scopes=scopes,
            user_id=user_id,
            expires_at=None,
        )

    def revoke(self, fall: Fall) -> None:
        """End the grant, and with it the sessions of ``fall``. Again changes nothing."""
        if self.status == "active":
            self._record_fall(self.Revoked, fall)

    def revoke_late(self, fall: Fall) -> None:
        """End what began while :meth:`revoke` was deciding what falls."""
        if self.status == "revoked" and fall:
            self._record_fall(self.Revoked, fall)

    def expire(self) -> None:
        """Note that its time has run out."""
        if self.status == "active":
            self._record(self.Expired)


def grant_not_found(grant_id: str) -> NotFound:
    return NotFound("grant_not_found", f"there is no grant {grant_id!r}")
