"""Grant: a user, or an application for itself, lets an application use scopes of a resource."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, Self

from caracal import clock
from caracal.errors import Conflict, Forbidden, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate, Fall, Private
from caracal.events.guards import Erase, Guard, Secret
from caracal.events.provider import needs_provider
from caracal.events.provider_authorization import (
    LIFE,
    AuthorizationStatus,
    ProviderAuthorization,
    state_invalid,
    state_sha256,
)
from caracal.events.resource import needs_resource
from caracal.events.zone import needs_zone

GrantStatus = Literal["active", "revoked", "expired"]

_NAMED = 5  # scopes in a sentence


@dataclass(frozen=True, slots=True)
class Credential:
    """A provider's tokens for a user, sealed.

    Attributes:
        expires_at: of the access token, if known.
        provider_id: who issued them; they go to no other one.
    """

    access_token: Secret
    refresh_token: Secret | None = None
    expires_at: datetime | None = None
    provider_id: str | None = None


class RefreshedMeanwhile(Conflict):
    """Another process has refreshed the credential: its token is the one to use."""

    def __init__(self) -> None:
        super().__init__("concurrent_update", "the credential has been refreshed meanwhile")


class Grant(Aggregate):
    """created -> (credential_stored -> credential_refreshed* -> credential_expired?)*
    -> revoked | expired; before a credential is stored, a user is asked:
    authorization_started -> authorization_answered -> (credential_stored | authorization_failed),
    or authorization_started -> authorization_expired
    """

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
        provider_id: str | None = field(default=None, kw_only=True)

        def apply(self, aggregate: Grant) -> None:
            _keep(aggregate, self)
            _note(aggregate, "connected")

    class CredentialRefreshed(CredentialStored):
        TOPIC = "grant.credential_refreshed"

        def apply(self, aggregate: Grant) -> None:
            _keep(aggregate, self)

    class CredentialExpired(Aggregate.Event):
        TOPIC = "grant.credential_expired"
        token_version: int

        def apply(self, aggregate: Grant) -> None:
            aggregate.access_token_ref = aggregate.refresh_token_ref = None
            aggregate.credential_expired = True

    class AuthorizationStarted(Aggregate.Event):
        TOPIC = "grant.authorization_started"
        provider_id: str
        state_sha256: Private
        verifier_ref: Private
        initiated_by: str
        return_to: str | None
        expires_at: str

        def apply(self, aggregate: Grant) -> None:
            aggregate.authorization = ProviderAuthorization(
                self.provider_id,
                str(self.state_sha256),
                str(self.verifier_ref),
                self.initiated_by,
                self.return_to,
                self.expires_at,
            )

    class AuthorizationAnswered(Aggregate.Event):
        TOPIC = "grant.authorization_answered"

        def apply(self, aggregate: Grant) -> None:
            _note(aggregate, "answered")

    class AuthorizationFailed(Aggregate.Event):
        TOPIC = "grant.authorization_failed"
        error: str

        def apply(self, aggregate: Grant) -> None:
            _note(aggregate, "failed", self.error)

    class AuthorizationExpired(Aggregate.Event):
        TOPIC = "grant.authorization_expired"

        def apply(self, aggregate: Grant) -> None:
            waited = aggregate.authorization
            aggregate.authorization = waited and replace(waited, status="expired")

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
        self.token_provider_id: str | None = None
        self.token_expires_at: str | None = None
        self.credential_expired = False
        self.authorization: ProviderAuthorization | None = None

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

        Without a new refresh token the old one stays (RFC 6749, section 6), and the provider is
        the same.

        Raises:
            NotFound: 404 ``grant_not_found``, the grant has ended.
            RefreshedMeanwhile: it has no tokens, or those of another version.
        """
        self._check_version(token_version)
        kept = self.refresh_token_ref if credential.refresh_token is None else None
        credential = replace(credential, provider_id=self.token_provider_id)
        self._record_credential(self.CredentialRefreshed, credential, kept)

    def expire_credential(self, *, token_version: int) -> None:
        """Erase the tokens of ``token_version``: the provider has ended them, nothing renews them.

        Raises:
            NotFound: 404 ``grant_not_found``, the grant has ended.
            RefreshedMeanwhile: it has no tokens, or those of another version.
        """
        self._check_version(token_version)
        self._record(self.CredentialExpired, *self._erased(), token_version=token_version)

    def start_authorization(
        self,
        *,
        provider_id: str,
        state: str,
        verifier: Secret,
        initiated_by: str,
        return_to: str | None,
        now: datetime,
    ) -> None:
        """Wait for the user's consent, for 10 minutes, in place of any wait before.

        Args:
            state: 32 random bytes in base64url, told to who asks alone.
            verifier: of the challenge (RFC 7636, section 4.1), sealed.
            initiated_by: the admin token that asks.
            return_to: where the user's browser goes afterwards.

        Raises:
            NotFound: 404 ``grant_not_found``, the grant has ended.
        """
        self._check_active()
        self._record(
            self.AuthorizationStarted,
            needs_provider(provider_id),
            *self._verifier_erased(),
            verifier,
            provider_id=provider_id,
            state_sha256=state_sha256(state),
            verifier_ref=verifier.ref,
            initiated_by=initiated_by,
            return_to=return_to,
            expires_at=clock.rfc3339(now + LIFE),
        )

    def answer_authorization(
        self, state: str, provider_id: str, now: datetime, error: str | None = None
    ) -> None:
        """Use the state up: its answer came by way of this provider. With ``error`` it failed.

        Of several answers at once the log lets one win.

        Raises:
            BadInput: 400 ``authorization_state_invalid``, nothing waits for this answer.
        """
        waiting = self.authorization
        if self.status != "active" or waiting is None:
            raise state_invalid()
        if not waiting.awaits(state, provider_id, now):
            raise state_invalid()
        self._record(self.AuthorizationAnswered, *self._verifier_erased())
        if error is not None:
            self._record(self.AuthorizationFailed, error=error)

    def fail_authorization(self, state: str, error: str) -> None:
        """Note that no tokens came of the answer with this state; none of another one: nothing."""
        if self._is_answered(state):
            self._record(self.AuthorizationFailed, error=error)

    def expire_authorization(self, now: datetime) -> None:
        """Note that nobody has answered in time. Too early, or nobody is waited for: nothing."""
        waiting = self.authorization
        if self.status != "active" or waiting is None or waiting.status != "pending":
            return
        if waiting.is_over(now):
            self._record(self.AuthorizationExpired, *self._verifier_erased())

    def connect(self, state: str, credential: Credential) -> None:
        """Keep the tokens that came of the answer with this state.

        Raises:
            NotFound: 404 ``grant_not_found``, the grant has ended.
            BadInput: 400 ``authorization_state_invalid``, the user is asked anew meanwhile.
        """
        self._check_active()
        if not self._is_answered(state):
            raise state_invalid()
        self.store_credential(credential)

    def revoke(self, fall: Fall) -> None:
        """End the grant, and with it its tokens and the sessions of ``fall``. Again: nothing."""
        if self.status == "active":
            self.guards += [*self._erased(), *self._verifier_erased()]
            self._record_fall(self.Revoked, fall)

    def revoke_late(self, fall: Fall) -> None:
        """End what began while :meth:`revoke` was deciding what falls."""
        if self.status == "revoked" and fall:
            self._record_fall(self.Revoked, fall)

    def expire(self) -> None:
        """Note that its time has run out."""
        if self.status == "active":
            self._record(self.Expired, *self._erased(), *self._verifier_erased())

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
            provider_id=credential.provider_id,
        )

    def _check_version(self, token_version: int) -> None:
        self._check_active()
        if self.access_token_ref is None or token_version != self.token_version:
            raise RefreshedMeanwhile

    def _is_answered(self, state: str) -> bool:
        waited = self.authorization
        return (
            waited is not None
            and waited.status == "answered"
            and waited.state_sha256 == state_sha256(state)
        )

    def _verifier_erased(self) -> list[Guard]:
        waiting = self.authorization
        if waiting is None or waiting.status != "pending":
            return []
        return [Erase((waiting.verifier_ref,))]

    def _check_active(self) -> None:
        if self.status != "active":
            raise grant_not_found(self.aggregate_id)

    def _erased(self, kept: str | None = None) -> list[Guard]:
        refs = (self.access_token_ref, self.refresh_token_ref)
        gone = tuple(ref for ref in refs if ref is not None and ref != kept)
        return [Erase(gone)] if gone else []


def _keep(grant: Grant, event: Grant.CredentialStored) -> None:
    grant.access_token_ref = event.access_token_ref
    grant.refresh_token_ref = event.refresh_token_ref
    grant.token_version, grant.token_expires_at = event.token_version, event.expires_at
    grant.token_provider_id, grant.credential_expired = event.provider_id, False


def _note(grant: Grant, status: AuthorizationStatus, error: str | None = None) -> None:
    """Note what has become of an authorization; one that still waits is not connected by others."""
    waited = grant.authorization
    if waited is not None and (waited.status == "answered" or status == "answered"):
        grant.authorization = replace(waited, status=status, error=error)


def grant_not_found(grant_id: str) -> NotFound:
    return NotFound("grant_not_found", f"there is no grant {grant_id!r}")
