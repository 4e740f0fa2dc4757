"""What an authorization at a provider is made of: who it is, how it knows us, what it is asked.

RFC 6749, section 4.1, with a challenge (RFC 7636, S256 only) and, against mix-up, a redirect URI
for each provider (RFC 9700, section 4.4.2.2) and ``iss`` (RFC 9207).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import orjson

from caracal.errors import Conflict
from caracal.events.provider import Provider, provider_not_found
from caracal.events.resource import Resource
from caracal.events.store.vault import Unreadable
from caracal.mandate import encode_base64url
from caracal.services.api.call import Call
from caracal.services.fields import url_of
from caracal.services.provider_client import Client, client_of, wanted
from caracal.services.provider_kind import NOT_PROVISIONED, NoCredential, Source, kind_of
from caracal.settings import Settings

_RANDOM_BYTES = 32
_https = url_of("https")
_OURS = frozenset(
    {
        *("response_type", "client_id", "redirect_uri", "scope", "state", "audience"),
        *("code_challenge", "code_challenge_method", "response_mode", "request", "request_uri"),
    }
)
"""Parameters that an authorization endpoint's own query must not have."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request: where the user goes, and what is remembered of it."""

    url: str = field(repr=False)
    state: str = field(repr=False)
    verifier: str = field(repr=False)


async def consenting_provider(call: Call, zone_id: str, resource: Resource) -> Provider:
    """Return the provider whose users consent to the resource's credential.

    Raises:
        NotFound: 404 ``provider_not_found``, it is archived.
        Conflict: 409 ``provider_takes_no_consent``, the resource has none, or one of another kind.
    """
    if resource.provider_id is None:
        raise _no_consent("the resource has no provider")
    provider = await live_provider(call, zone_id, resource.provider_id)
    if provider is None:
        raise provider_not_found(resource.provider_id)
    try:
        kind = kind_of(provider.kind, provider.config)
    except NoCredential as unknown:
        raise _no_consent(unknown.reason) from None
    if kind.source is not Source.USER:
        raise _no_consent(f"a provider of kind {provider.kind} has no tokens of users")
    return provider


async def live_provider(call: Call, zone_id: str, provider_id: str) -> Provider | None:
    """Return a provider of the zone that is not archived."""
    provider = await call.find(Provider, provider_id, zone_id)
    return None if provider is None or provider.archived else provider


async def client_at(call: Call, provider: Provider) -> Client:
    """Return how we are known to the provider.

    Raises:
        NoCredential: something is missing, does not open, or is not to be called.
    """
    return client_of(vars(provider), await _secrets(call, provider))


async def _secrets(call: Call, provider: Provider) -> Mapping[str, Any]:
    if (ref := provider.secret_config_ref) is None:
        return {}
    try:
        async with call.database() as db:
            return dict(orjson.loads(await call.api.vault.read(db, ref)))
    except (Unreadable, ValueError):
        raise NoCredential(NOT_PROVISIONED, "the provider's secrets cannot be opened") from None


def redirect_uri(settings: Settings, zone_id: str, provider_id: str) -> str:
    """Return where browsers come back from a provider; it has to know this very URI.

    Raises:
        Conflict: 409 ``callback_url_not_configured``: who is called only knows what ``Host`` says,
            and that is the caller's word.
    """
    if not settings.api_url:
        raise Conflict("callback_url_not_configured", "API_URL is not set")
    path = f"/v1/zones/{quote(zone_id, safe='')}/provider-grants/oauth/callback"
    return f"{settings.api_url}{path}?provider={quote(provider_id, safe='')}"


def asked(provider: Provider, client: Client, back: str, grant_id: str) -> Asked:
    """Return a new authorization request (RFC 6749, section 4.1.1).

    Raises:
        NoCredential: the provider has no usable ``authorization_endpoint``.
    """
    state = f"{grant_id}.{secrets.token_urlsafe(_RANDOM_BYTES)}"
    verifier = secrets.token_urlsafe(_RANDOM_BYTES)
    query = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": back,
        **wanted(provider.config),
        "state": state,
        "code_challenge": encode_base64url(sha256(verifier.encode()).digest()).decode(),
        "code_challenge_method": "S256",
    }
    return Asked(_with_query(provider.config.get("authorization_endpoint"), query), state, verifier)


def _with_query(endpoint: Any, query: Mapping[str, str]) -> str:
    """Return the endpoint with more parameters; its own stay (RFC 6749, section 3.1)."""
    try:
        parts = urlsplit(_https(endpoint))
        own = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=32)
    except (TypeError, ValueError):
        raise NoCredential(NOT_PROVISIONED, "no usable authorization_endpoint") from None
    if parts.fragment or _OURS & {name for name, _ in own}:
        raise NoCredential(NOT_PROVISIONED, "authorization_endpoint has a part that is ours")
    return urlunsplit(parts._replace(query=urlencode([*own, *query.items()])))


def is_of_issuer(config: Mapping[str, Any], iss: str | None) -> bool:
    """Say whether an answer with this ``iss`` is the provider's (RFC 9207, section 2.4).

    One that names an issuer needs a configured one to be compared with.
    """
    if iss is None:
        return config.get("authorization_response_iss_parameter_supported") is not True
    issuer = config.get("issuer")
    return isinstance(issuer, str) and compare_digest(issuer.encode(), iss.encode())


def may_return_to(config: Mapping[str, Any], url: str) -> bool:
    """Say whether a browser may be sent to this very URL."""
    listed = config.get("allowed_return_urls")
    return isinstance(listed, list) and url in listed


def _no_consent(reason: str) -> Conflict:
    return Conflict("provider_takes_no_consent", reason)
