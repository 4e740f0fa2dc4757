"""Admin token: who may use the control plane. Known only by the digest of its text."""

from __future__ import annotations

from typing import Literal, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.base import Aggregate, Private
from caracal.events.guards import Free, Need, Take, live
from caracal.events.zone import needs_zone

Scope = Literal["global", "zone"]
Capability = Literal["read", "write", "approve"]


class AdminToken(Aggregate):
    """created -> revoked"""

    TOPIC = "admin_token"
    PLURAL = "admin_tokens"

    class Created(base.Created):
        TOPIC = "admin_token.created"
        name: str
        token_sha256: Private
        scope: str
        zone_id: str | None
        capability: str
        created_by: str

    class Revoked(Aggregate.Event):
        TOPIC = "admin_token.revoked"

        def apply(self, aggregate: AdminToken) -> None:
            aggregate.revoked = True

    def __init__(
        self, name: str, scope: str, zone_id: str | None, capability: str, created_by: str
    ) -> None:
        self.name, self.scope, self.zone_id = name, scope, zone_id
        self.capability, self.created_by = capability, created_by
        self.revoked = False

    @classmethod
    def create(
        cls,
        token_id: str,
        *,
        name: str,
        token_sha256: str,
        scope: Scope,
        zone_id: str | None,
        capability: Capability,
        created_by: str,
    ) -> Self:
        """Begin a token. The digest is never free again: a revoked token is not revived."""
        known = Conflict("admin_token_known", "a token with this digest was made before")
        return cls._begin(
            cls.Created,
            token_id,
            *([needs_zone(zone_id)] if zone_id is not None else []),
            Take(f"admin_token:{token_sha256}", token_id, known),
            Take(live("admin_token", token_id), token_id, known),
            name=name,
            token_sha256=token_sha256,
            scope=scope,
            zone_id=zone_id,
            capability=capability,
            created_by=created_by,
        )

    @property
    def manages(self) -> bool:
        """Say whether the token can make and revoke tokens."""
        return self.scope == "global" and self.capability == "write"

    def revoke(self, survivor: str) -> None:
        """End the token; one that manages goes only while ``survivor``, another one, is live.

        So at least one is left, whoever revokes what at the same time.

        Raises:
            NotFound: it has ended before.
        """
        if self.revoked:
            raise admin_token_not_found(self.aggregate_id)
        key = live("admin_token", self.aggregate_id)
        needed = [Need(live("admin_token", survivor), LastToken())] if self.manages else []
        self._record(self.Revoked, *needed, Free((key,), self.aggregate_id))


class LastToken(Conflict):
    """Without this token nobody could make or revoke one."""

    def __init__(self) -> None:
        super().__init__(
            "last_admin_token", "no other global write token is live; make another one first"
        )


def admin_token_not_found(token_id: str) -> NotFound:
    return NotFound("admin_token_not_found", f"there is no admin token {token_id!r}")
