"""What stands in ``upstreams`` of the answer (contract, sections 12 and 13). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import Any

from caracal.projections.memory import Row

NOT_PROVISIONED = "credential_not_provisioned"
REFRESH_FAILED = "credential_refresh_failed"
GRANT_REQUIRED = "grant_required"


class NoCredential(Exception):
    """A resource is refused in step E.

    Attributes:
        status: ``evaluation_status`` of the audit entry.
        reason: what the operator is told there, never a secret.
        unknown: the view knows no such thing: to be looked for once more.
    """

    def __init__(self, status: str, reason: str, *, unknown: bool = False) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason, self.unknown = status, reason, unknown


class Source(Enum):
    """Where the credential of a kind of provider comes from."""

    MANDATE = auto()
    STORED = auto()
    SERVICE = auto()
    USER = auto()


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind authenticates: default scheme, and the name of a stored secret."""

    source: Source
    auth_mode: str
    auth_scheme: str = "Bearer"
    secret: str = ""


_USER = Kind(Source.USER, "provider_oauth")
_SERVICE = Kind(Source.SERVICE, "provider_oauth")
_MANDATE = Kind(Source.MANDATE, "caracal_jwt")
_API_KEY = Kind(Source.STORED, "provider_apikey", "", "api_key")
_KINDS: Mapping[str, Kind] = {
    "oauth2": _USER,
    "oidc": _USER,
    "apikey": _API_KEY,
    "none": _MANDATE,
    "caracal_mandate": _MANDATE,
    "oauth2_authorization_code": _USER,
    "oauth2_client_credentials": _SERVICE,
    "api_key": _API_KEY,
    "bearer_token": Kind(Source.STORED, "provider_apikey", "Bearer", "bearer_token"),
}


@dataclass(frozen=True, slots=True)
class Token:
    """What the upstream takes; ``expires_at`` where its end is known."""

    value: str = field(repr=False)
    expires_at: datetime | None = None


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


def kind_of(provider: Row) -> Kind:
    """Return how the provider authenticates.

    Raises:
        NoCredential: ``workload`` and unknown kinds have no credential.
    """
    name = provider["kind"]
    if name == "oauth2" and provider["config"].get("grant_type") == "client_credentials":
        return _SERVICE
    if (kind := _KINDS.get(name)) is None:
        raise NoCredential(NOT_PROVISIONED, f"no credential of kind {name}")
    return kind


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
