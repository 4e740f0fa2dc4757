"""Admin token: who may use the control plane. Known only by the digest of its text."""

from __future__ import annotations

from typing import Literal, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.base import Aggregate, Private
from caracal.events.guards import Take

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

    def __init__(self, name: str) -> None:
        self.name, self.revoked = name, False

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
            Take(f"admin_token:{token_sha256}", token_id, known),
            name=name,
            token_sha256=token_sha256,
            scope=scope,
            zone_id=zone_id,
            capability=capability,
            created_by=created_by,
        )

    def revoke(self) -> None:
        """End the token.

        Raises:
            NotFound: it has ended before.
        """
        if self.revoked:
            raise NotFound("admin_token_not_found", "there is no such admin token")
        self._record(self.Revoked)
