"""Providers, their resources and grants, as tests of their credentials make them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import orjson

from caracal import clock
from caracal.events.grant import Credential, Grant
from caracal.events.provider import Provider, Sealed
from caracal.events.resource import Resource
from caracal.ids import new_id
from tests.making import in_zone, new_grant
from tests.sts.oauth_server import CLIENT_ID, CLIENT_SECRET, HOST, MARK, OAuthServer
from tests.sts.world import VAULT, Tenant, World

USER = "ada"


def sealed(secrets: dict[str, Any]) -> Sealed:
    """Secrets of a provider, as the API seals them."""
    return Sealed(tuple(sorted(secrets)), VAULT.seal(orjson.dumps(secrets)) if secrets else None)


def config(server: OAuthServer, **more: Any) -> dict[str, Any]:
    """Where tokens come from; a member given as None is left out."""
    given = {"token_endpoint": server.url, "allowed_token_hosts": [HOST]} | more
    return {name: value for name, value in given.items() if value is not None}


@dataclass
class Brokerage:
    """A resource whose credential a provider gives."""

    tenant: Tenant
    provider: Provider
    resource: Resource

    def form(self, **members: Any) -> dict[str, Any]:
        """The form of an exchange for the user."""
        token = self.tenant.token(sub=USER, sub_type="user")
        given = {"resource": self.resource.identifier, "subject_token": token} | members
        return self.tenant.form(**given)

    async def grant(self, user_id: str | None = USER) -> Grant:
        made = new_grant(
            self.tenant.app_id, self.resource.aggregate_id, user_id=user_id, zone_id=self.tenant.id
        )
        await self.tenant.save(made)
        return made

    async def tokens(
        self, grant: Grant, *, access: str = "access-0", seconds: float | None = 600, **more: Any
    ) -> int:
        """Store tokens; ``seconds`` of life, None: unknown, negative: over; return the position."""
        refresh = more.get("refresh", "refresh-0")
        ends = None if seconds is None else clock.now() + timedelta(seconds=seconds)
        credential = Credential(
            VAULT.seal(f"{MARK}-{access}".encode()),
            VAULT.seal(f"{MARK}-{refresh}".encode()) if refresh else None,
            ends,
            more.get("provider_id"),
        )
        with in_zone(self.tenant.id):
            grant.store_credential(credential)
        return await self.tenant.save(grant)

    async def change(self, secrets: dict[str, Any] | None = None, **members: Any) -> int:
        """Change the provider."""
        with in_zone(self.tenant.id):
            self.provider.change(members, None if secrets is None else sealed(secrets))
        return await self.tenant.save(self.provider)


async def broker(
    tenant: Tenant,
    kind: str,
    settings: dict[str, Any] | None = None,
    *,
    secrets: dict[str, Any] | None = None,
    **members: Any,
) -> Brokerage:
    """Make a provider and a resource of it."""
    with in_zone(tenant.id):
        provider = Provider.create(
            new_id(),
            zone_id=tenant.id,
            identifier=f"provider://{new_id()}",
            name="provider",
            kind=kind,
            owner_type="customer",
            client_id=CLIENT_ID,
            config=settings or {},
            sealed=sealed({"client_secret": CLIENT_SECRET} if secrets is None else secrets),
        )
    await tenant.save(provider)
    given = {"upstream_url": "http://127.0.0.1:9"} | members
    resource = await tenant.add_resource(provider_id=provider.aggregate_id, **given)
    return Brokerage(tenant, provider, resource)


async def ask(world: World, made: Brokerage, **members: Any) -> httpx.Response:
    """Exchange as the Gateway does."""
    return await world.by_gateway(made.form(client_secret=None, **members))


def directive(answer: httpx.Response) -> dict[str, Any]:
    """The only member of ``upstreams``."""
    assert answer.status_code == 200, answer.text
    [told] = answer.json()["upstreams"].values()
    return dict(told)


async def status(world: World, answer: httpx.Response) -> tuple[int, str, str]:
    """HTTP status, error code, and what the trail says of the resource."""
    first = (await world.audit(answer))[0]
    return answer.status_code, answer.json().get("error", ""), first["evaluation_status"]
