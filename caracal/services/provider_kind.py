"""How each kind of provider authenticates to an upstream, and why there may be no credential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

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


def kind_of(name: str, config: Mapping[str, Any]) -> Kind:
    """Return how a provider of this kind and configuration authenticates.

    Raises:
        NoCredential: ``workload`` and unknown kinds have no credential.
    """
    if name == "oauth2" and config.get("grant_type") == "client_credentials":
        return _SERVICE
    if (kind := _KINDS.get(name)) is None:
        raise NoCredential(NOT_PROVISIONED, f"no credential of kind {name}")
    return kind
