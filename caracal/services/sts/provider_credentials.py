"""Step E for resources with a provider: which credential the upstream gets (contract, section 13).

Asked before policy, as the contract's order has it. What comes of it holds as long as provider and
grant are what they were: the decision looks once more, and the grant is an anchor of the mandate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from caracal.events.base import Fact
from caracal.events.store.vault import Unreadable
from caracal.projections.memory import Row
from caracal.services.provider_client import Client, client_of
from caracal.services.provider_kind import (
    GRANT_REQUIRED,
    NOT_PROVISIONED,
    Kind,
    NoCredential,
    Source,
    kind_of,
)
from caracal.services.sts.exchange import Exchange
from caracal.services.sts.opened_secrets import OpenedSecrets
from caracal.services.sts.provider_directive import Brokered, upstream_of, version_of
from caracal.services.sts.provider_tokens import ServiceTokens, UserTokens
from caracal.services.token_endpoint import Token, TokenEndpoint

_API_KEY_BYTES = 8192
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ProviderCredentials:
    """Finds credentials; ``close`` ends the calls to providers under way."""

    secrets: OpenedSecrets
    users: UserTokens
    services: ServiceTokens
    endpoint: TokenEndpoint

    def applied(self, fact: Fact) -> None:
        """Forget what has changed; a listener of the tail."""
        self.secrets.applied(fact)
        self.services.applied(fact)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew."""
        self.secrets.forget_all()
        self.services.forget_all()

    async def close(self) -> None:
        """End what is under way; a refresh token that was used must not be lost with its heir."""
        await self.users.flights.close(_GRACE_SECONDS)
        await self.services.flights.close()
        await self.endpoint.close()

    async def obtain(self, exchange: Exchange, resources: Iterable[Row]) -> dict[str, Brokered]:
        """Return what step E says of resources that have a provider, by their id.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read.
            psycopg.OperationalError: a secret is not in memory and the database is gone.
        """
        wanted = {resource["id"]: resource for resource in resources}
        found = await asyncio.gather(*(self._brokered(exchange, row) for row in wanted.values()))
        return dict(zip(wanted, found, strict=True))

    async def _brokered(self, exchange: Exchange, resource: Row) -> Brokered:
        provider = exchange.zone.provider(resource["provider_id"])
        if provider is None:
            missing = NoCredential(NOT_PROVISIONED, "there is no such provider", unknown=True)
            return Brokered((resource["provider_id"], 0), refused=missing)
        found = Brokered(version_of(provider))
        try:
            kind = kind_of(provider["kind"], provider["config"])
            found = replace(found, upstream=upstream_of(kind, provider["config"]))
            if kind.source is Source.MANDATE:
                return found
            grant, token = await self._token(exchange, resource, provider, kind)
        except NoCredential as refused:
            return replace(found, refused=refused)
        return replace(
            found,
            upstream=found.upstream.carrying(token),
            needs_grant=True,
            grant_id=grant["id"],
        )

    async def _token(
        self, exchange: Exchange, resource: Row, provider: Row, kind: Kind
    ) -> tuple[Row, Token]:
        if kind.source is Source.USER:
            grant = _with_token(exchange, resource, provider)
            return grant, await self.users.token(provider["id"], self._client(provider), grant)
        grant = _newest(exchange, resource)
        if kind.source is Source.SERVICE:
            return grant, await self.services.token(provider, await self._client(provider)())
        return grant, _stored(await self._secrets(provider), kind.secret)

    def _client(self, provider: Row) -> Callable[[], Awaitable[Client]]:
        async def client() -> Client:
            return client_of(provider, await self._secrets(provider))

        return client

    async def _secrets(self, provider: Row) -> Mapping[str, Any]:
        if (ref := provider["secret_config_ref"]) is None:
            return {}
        try:
            return dict(orjson.loads(await self.secrets.opened(provider["id"], ref)))
        except (Unreadable, ValueError):
            # erased by a change that the view does not know yet, or the vault's key is lost
            raise NoCredential(
                NOT_PROVISIONED, "the provider's secrets cannot be opened", unknown=True
            ) from None


def _newest(exchange: Exchange, resource: Row) -> Row:
    for grant in exchange.grants(resource):
        return grant
    raise _no_grant()


def _with_token(exchange: Exchange, resource: Row, provider: Row) -> Row:
    """Return the newest grant of the user that has tokens: of this provider, no other gets them."""
    if exchange.subject is None:
        raise NoCredential(NOT_PROVISIONED, "there is no user without a subject token")
    own = [one for one in exchange.grants(resource) if one["user_id"] == exchange.user]
    if not own:
        raise _no_grant()
    for grant in own:
        issuer = grant.get("token_provider_id")  # older rows do not say
        if grant["access_token_ref"] is not None and issuer in (None, provider["id"]):
            return grant
    raise NoCredential(NOT_PROVISIONED, "the grant has no tokens of this provider", unknown=True)


def _stored(secrets: Mapping[str, Any], name: str) -> Token:
    value = secrets.get(name)
    if not isinstance(value, str) or not value or len(value) > _API_KEY_BYTES:
        raise NoCredential(NOT_PROVISIONED, f"the provider has no usable {name}")
    return Token(value)


def _no_grant() -> NoCredential:
    return NoCredential(GRANT_REQUIRED, "no grant of these scopes", unknown=True)
