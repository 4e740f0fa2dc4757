"""``client.provider_grants``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from caracal.client.call import Call
from caracal.client.grant import GrantStatus
from caracal.client.method import D, one
from caracal.client.things import ZoneScoped


class ProviderGrant(TypedDict):
    """A grant whose user consents at a provider.

    ``credential_status`` says whether there are tokens, ``authorization_status`` what has become
    of the last authorization; ``authorization_error`` is the code of one that failed.
    """

    id: str
    zone_id: str
    provider_id: str | None
    application_id: str
    user_id: str | None
    resource_id: str
    scopes: list[str]
    status: GrantStatus
    credential_status: Literal["none", "stored", "expired"]
    authorization_status: Literal["pending", "answered", "connected", "failed", "expired"] | None
    authorization_error: str | None
    authorization_expires_at: str | None
    created_at: str


class ProviderGrantInput(TypedDict):
    """A new grant for a user; the resource must have the scopes, and a provider that asks users."""

    application_id: str
    resource_id: str
    scopes: Sequence[str]
    user_id: str


class ProviderAuthorization(TypedDict):
    """Where a user consents; good for one answer until ``expires_at``.

    ``redirect_uri`` is what the provider has to know of us.
    """

    grant_id: str
    provider_id: str
    authorization_url: str
    redirect_uri: str
    expires_at: str


class RevokedProviderGrant(TypedDict):
    """That a grant is revoked; ``provider_revoked`` is None when there was nothing to tell."""

    id: str
    status: Literal["revoked"]
    provider_revoked: bool | None


class ProviderGrants(ZoneScoped[D]):
    """Grants of users for a provider's tokens: each user consents at the provider, once.

    >>> grant = client.provider_grants.create(
    ...     zone_id,
    ...     {
    ...         "application_id": app["id"],
    ...         "resource_id": mail["id"],
    ...         "scopes": ["read"],
    ...         "user_id": "ada",
    ...     },
    ... )
    >>> asked = client.provider_grants.authorize(zone_id, grant["id"])
    >>> print("Ada, please open", asked["authorization_url"])
    >>> client.provider_grants.get(zone_id, grant["id"])["authorization_status"]
    """

    _plural = "provider-grants"

    @one
    def get(self, zone_id: str, id: str) -> Call[ProviderGrant]:
        """Show a grant, and how its authorization stands."""
        return self._call("GET", zone_id, id)

    @one
    def create(self, zone_id: str, input: ProviderGrantInput) -> Call[ProviderGrant]:
        """Grant a user's scopes; nothing is brokered before the user has consented."""
        return self._call("POST", zone_id, body=input)

    @one
    def authorize(
        self, zone_id: str, id: str, return_to: str | None = None
    ) -> Call[ProviderAuthorization]:
        """Ask for the user's consent; hand the URL to this user alone.

        ``return_to`` is one of the provider's ``allowed_return_urls``.
        """
        body = {"grant_id": id, "return_to": return_to}
        return self._call("POST", zone_id, "oauth", "authorize", body=body)

    @one
    def revoke(self, zone_id: str, id: str) -> Call[RevokedProviderGrant]:
        """Revoke a grant at once, and then its tokens at the provider, if that can be."""
        return self._call("POST", zone_id, "revoke", body={"grant_id": id})
