"""Tells a provider to end a user's tokens (RFC 7009). Best effort: no decision depends on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from caracal.events.grant import Grant
from caracal.events.provider import Provider
from caracal.events.store.vault import Unreadable
from caracal.services.api.call import Call
from caracal.services.api.provider_consent import client_at, live_provider
from caracal.services.provider_client import endpoint_of
from caracal.services.provider_kind import NoCredential

logger = logging.getLogger(__name__)

Tokens = Mapping[str, str]
"""Tokens by their kind (RFC 7009, section 2.1), the refresh token first: its end is that of all."""


async def tokens_of(call: Call, grant: Grant) -> Tokens:
    """Return the tokens of a grant, as far as they open."""
    refs = {"refresh_token": grant.refresh_token_ref, "access_token": grant.access_token_ref}
    tokens = {}
    async with call.database() as db:
        for kind, ref in refs.items():
            if ref is not None:
                try:
                    tokens[kind] = (await call.api.vault.read(db, ref)).decode()
                except (Unreadable, UnicodeDecodeError):
                    logger.warning("the %s of grant %s does not open", kind, grant.aggregate_id)
    return tokens


async def tell_issuer(call: Call, grant: Grant, tokens: Tokens) -> bool | None:
    """Tell who issued the tokens of a grant; see :func:`tell`."""
    if grant.token_provider_id is None or not tokens:
        return None
    provider = await live_provider(call, str(grant.zone_id), grant.token_provider_id)
    return None if provider is None else await tell(call, provider, tokens)


async def tell(call: Call, provider: Provider, tokens: Tokens) -> bool | None:
    """Return whether the provider has ended all of the tokens; None: it has no such endpoint."""
    try:
        if (url := endpoint_of(provider.config, "revocation_endpoint")) is None:
            return None
        client = await client_at(call, provider)
    except NoCredential as failure:
        logger.warning("provider %s: not revoked: %s", provider.aggregate_id, failure.reason)
        return False
    return await call.api.endpoint.end(client, url, tokens)
