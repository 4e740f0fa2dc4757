"""Grant: a user, or an application for itself, lets an application use scopes of a resource."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from caracal import clock
from caracal.errors import Conflict, Forbidden, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate, Fall, Private
from caracal.events.guards import Erase, Guard, Secret
from caracal.events.resource import needs_resource
from caracal.events.zone import needs_zone

GrantStatus = Literal["active", "revoked", "expired"]

_NAMED = 5  # scopes in a sentence


@dataclass(frozen=True, slots=True)
class Credential:
    """A provider's tokens for a user, sealed; ``expires_at`` of the access token, if known."""

    access_token: Secret
    refresh_token: Secret | None = None
    expires_at: datetime | None = None


class RefreshedMeanwhile(Conflict):
    """Another process has refreshed the credential: its token is the one to use."""

    def __init__(self) -> None:
        super().__init__("concurrent_update", "the credential has been refreshed meanwhile")


class Grant(Aggregate):
    """created -> (credential_stored | credential_refreshed)* -> revoked | expired"""

    TOPIC = "grant"
    PLURAL = "grants"

    class Created(base.Created):
        TOPIC = "grant.created"
        application_id: str
        resource_id: str
        scopes: list[str]
        user_id: str | None
        expires_at: str | None

    class CredentialStored(Aggregate.Event):
        TOPIC = "grant.credential_stored"
        access_token_ref: Private
        refresh_token_ref: Private
        expires_at: str | None
        token_version: int

        def apply(self, aggregate: Grant) -> None:
            aggregate.access_token_ref = self.access_token_ref
            aggregate.refresh_token_ref = self.refresh_token_ref
            aggregate.token_version = self.token_version

    class CredentialRefreshed(CredentialStored):
        TOPIC = "grant.credential_refreshed"

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
        self.access_token_ref: str | None = None
        self.refresh_token_ref: str | None = None
        self.token_version = 0

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
        if lacking := sorted(set(scopes) - set(of)):
            named = ", ".join(lacking[:_NAMED]) + (", …" if len(lacking) > _NAMED else "")
            raise Forbidden("grant_scopes_exceed_resource", f"the resource does not have: {named}")
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

    def store_credential(self, credential: Credential) -> None:
        """Keep the tokens that the user has consented to, in place of any there were.

        Raises:
            NotFound: 404 ``grant_not_found``, the grant has ended.
        """
        self._check_active()
        self._record_credential(self.CredentialStored, credential)

    def refresh_credential(self, credential: Credential, *, token_version: int) -> None:
        """Keep refreshed tokens in place of those of ``token_version``.

        Without a new refresh token the old one stays (RFC 6749, section 6).

        Raises:
            NotFound: 404 ``grant_not_found``, the grant has ended.
            RefreshedMeanwhile: it has no tokens, or those of another version.
        """
        self._check_active()
        if self.access_token_ref is None or token_version != self.token_version:
            raise RefreshedMeanwhile
        kept = self.refresh_token_ref if credential.refresh_token is None else None
        self._record_credential(self.CredentialRefreshed, credential, kept)

    def revoke(self, fall: Fall) -> None:
        """End the grant, and with it its tokens and the sessions of ``fall``. Again: nothing."""
        if self.status == "active":
            self.guards += self._erased()
            self._record_fall(self.Revoked, fall)

    def revoke_late(self, fall: Fall) -> None:
        """End what began while :meth:`revoke` was deciding what falls."""
        if self.status == "revoked" and fall:
            self._record_fall(self.Revoked, fall)

    def expire(self) -> None:
        """Note that its time has run out."""
        if self.status == "active":
            self._record(self.Expired, *self._erased())

    def _record_credential(
        self, event: type[CredentialStored], credential: Credential, kept: str | None = None
    ) -> None:
        access, refresh = credential.access_token, credential.refresh_token
        expires_at = credential.expires_at
        self._record(
            event,
            *self._erased(kept),
            access,
            *([refresh] if refresh else []),
            access_token_ref=access.ref,
            refresh_token_ref=refresh.ref if refresh else kept,
            expires_at=clock.rfc3339(expires_at) if expires_at else None,
            token_version=self.token_version + 1,
        )

    def _check_active(self) -> None:
        if self.status != "active":
            raise grant_not_found(self.aggregate_id)

    def _erased(self, kept: str | None = None) -> list[Guard]:
        refs = (self.access_token_ref, self.refresh_token_ref)
        gone = tuple(ref for ref in refs if ref is not None and ref != kept)
        return [Erase(gone)] if gone else []


def grant_not_found(grant_id: str) -> NotFound:
    return NotFound("grant_not_found", f"there is no grant {grant_id!r}")
