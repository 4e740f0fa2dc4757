"""What stands in ``upstreams`` of the answer (contract, sections 12 and 13). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from caracal.projections.memory import Row
from caracal.services.provider_kind import NOT_PROVISIONED, Kind, NoCredential
from caracal.services.token_endpoint import Token


@dataclass(frozen=True, slots=True)
class Upstream:
    """How the Gateway authenticates to an upstream; without ``token``, by the mandate.

    ``allowed_hosts`` are as configured, when they are: the Gateway refuses what is no list.
    """

    auth_mode: str = "caracal_jwt"
    auth_header: str = "Authorization"
    auth_scheme: str = "Bearer"
    limits: Mapping[str, Any] = field(default_factory=dict)
    token: Token | None = None

    def directive(self, url: str | None, *, by_gateway: bool) -> dict[str, Any]:
        """Return the member of ``upstreams``; the secret is for the Gateway alone."""
        told: dict[str, Any] = {
            "url": url or "",
            "auth_mode": self.auth_mode,
            "auth_header": self.auth_header,
            "auth_scheme": self.auth_scheme,
            **self.limits,
        }
        if self.token is not None and by_gateway:
            told["provider_token"] = self.token.value
            if self.token.expires_at is not None:
                told["expires_at"] = int(self.token.expires_at.timestamp())
        return told

    def carrying(self, token: Token) -> Upstream:
        """Return it with the credential."""
        return replace(self, token=token)


BY_MANDATE = Upstream()
"""Of a resource without a provider."""


@dataclass(frozen=True, slots=True)
class Brokered:
    """What step E says of a resource with a provider, as long as that row is the provider's.

    Attributes:
        provider: (id, position) of the row that this was made of.
        needs_grant: the credential is the provider's; ``grant_id`` says which grant allows it.
        refused: there is no credential.
    """

    provider: tuple[str, int]
    upstream: Upstream = BY_MANDATE
    needs_grant: bool = False
    grant_id: str | None = None
    refused: NoCredential | None = None

    def is_of(self, provider: Row | None) -> bool:
        """Say whether the provider has not changed or ended meanwhile."""
        return provider is not None and self.provider == version_of(provider)


def version_of(provider: Row) -> tuple[str, int]:
    """Return what differs when the provider has changed."""
    return provider["id"], provider["position"]


def upstream_of(kind: Kind, config: Mapping[str, Any]) -> Upstream:
    """Return how the credential is carried, and where it may go.

    Raises:
        NoCredential: the configuration names no header.
    """
    header = config.get("header_name", "Authorization")
    scheme = config.get("auth_scheme", kind.auth_scheme)
    if not (isinstance(header, str) and header and isinstance(scheme, str)):
        raise NoCredential(NOT_PROVISIONED, "header_name or auth_scheme is no text")
    limits = {}
    if "allowed_upstream_hosts" in config:
        limits["allowed_hosts"] = config["allowed_upstream_hosts"]
    return Upstream(kind.auth_mode, header, scheme, limits)
