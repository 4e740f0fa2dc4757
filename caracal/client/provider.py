"""``client.providers``."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from caracal.client.call import Null
from caracal.client.method import D
from caracal.client.things import Editable

ProviderKind = Literal[
    "oauth2",
    "oidc",
    "apikey",
    "workload",
    "none",
    "caracal_mandate",
    "oauth2_authorization_code",
    "oauth2_client_credentials",
    "api_key",
    "bearer_token",
]


class Provider(TypedDict):
    """A provider; of its secrets only the names are ever shown."""

    id: str
    zone_id: str
    name: str
    identifier: str
    kind: ProviderKind
    owner_type: str
    client_id: str | None
    config_json: dict[str, Any]
    secret_config_keys: list[str]
    created_at: str
    updated_at: str


class _ProviderMembers(TypedDict, total=False):
    name: str | None
    owner_type: str | None
    client_id: str | Null | None
    config_json: dict[str, Any] | None
    secret_config: dict[str, Any] | None


class ProviderInput(_ProviderMembers):
    """A new provider: ``config_json`` is public, ``secret_config`` is sealed by the API."""

    identifier: str
    kind: ProviderKind


class ProviderPatch(_ProviderMembers, total=False):
    """Changes of a provider; secrets merge by key, a None in ``secret_config`` removes one."""

    identifier: NotRequired[str | None]
    kind: NotRequired[ProviderKind | None]


class Providers(Editable[D, Provider, ProviderInput, ProviderPatch]):
    """Providers: where credentials for upstreams come from.

    >>> client.providers.create(
    ...     zone_id,
    ...     {"identifier": "provider://mail", "kind": "apikey", "secret_config": {"key": "..."}},
    ... )
    """

    _plural = "providers"
