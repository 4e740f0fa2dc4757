"""A user who consents at a provider, for tests of grants: API, browser, OAuth server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.running import Plane, plane
from tests.sts.oauth_server import CLIENT_ID, CLIENT_SECRET, HOST, OAuthServer

HERE = "https://caracal.example"
"""What the API is called: its ``API_URL``."""
USER = "ada"


@dataclass(frozen=True)
class Case:
    """A grant whose user is asked; ``url`` is where."""

    zone: str
    provider: dict[str, Any]
    resource: dict[str, Any]
    grant: dict[str, Any]
    url: str = ""

    @property
    def path(self) -> str:
        return f"/zones/{self.zone}/provider-grants"

    @property
    def id(self) -> str:
        return str(self.grant["id"])


@dataclass
class Desk:
    """Who asks, where, and with which browser."""

    api: Plane
    server: OAuthServer
    browser: httpx.AsyncClient
    usual: Case | None = None

    def config(self, **more: Any) -> dict[str, Any]:
        """The configuration of a provider; a member given as None is left out."""
        given = {
            "authorization_endpoint": f"{self.server.issuer}/authorize",
            "token_endpoint": self.server.url,
            "revocation_endpoint": f"{self.server.issuer}/revoke",
            "allowed_token_hosts": [HOST],
            "issuer": self.server.issuer,
            "scopes": ["mail.read", "offline"],
        } | more
        return {name: value for name, value in given.items() if value is not None}

    async def granted(self, *, alone: bool = False, **config: Any) -> Case:
        """Make a grant for a user, in a zone of its own if it says so, or what it is about."""
        if alone or config:
            return await self._granted(**config)
        if self.usual is None:
            self.usual = await self._granted()
        usual = self.usual
        names = ("application_id", "resource_id", "scopes", "user_id")
        grant = await self.api.made(usual.path, {name: usual.grant[name] for name in names})
        return replace(usual, grant=grant)

    async def _granted(self, **config: Any) -> Case:
        zone = await self.api.zone()
        provider = await self.api.provider(
            zone,
            identifier="provider://mail",
            kind="oauth2_authorization_code",
            client_id=CLIENT_ID,
            config_json=self.config(**config),
            secret_config={"client_secret": CLIENT_SECRET},
        )
        resource = await self.api.resource(zone, provider_id=provider["id"])
        app = await self.api.application(zone)
        body = {
            "application_id": app["id"],
            "resource_id": resource["id"],
            "scopes": ["read"],
            "user_id": USER,
        }
        grant = await self.api.made(f"/zones/{zone}/provider-grants", body)
        return Case(zone, provider, resource, grant)

    async def asked(self, case: Case | None = None, **body: Any) -> Case:
        """Ask for the user's consent."""
        case = case or await self.granted()
        given = {"grant_id": case.id} | body
        made = await self.api.made(f"{case.path}/oauth/authorize", given)
        return replace(case, url=made["authorization_url"])

    async def consent(self, case: Case) -> str:
        """Consent at the provider; return where the browser is sent then."""
        return await self.browser_at(case.url)

    async def browser_at(self, url: str) -> str:
        """Open the provider's page and consent; return where the browser is sent then."""
        answer = await self.browser.get(url)
        assert answer.status_code == 302, answer.text
        return str(answer.headers["Location"])

    async def back(self, location: str, **headers: str) -> httpx.Response:
        """Follow the browser back to the API."""
        assert location.startswith(f"{HERE}/v1/")
        url = location.replace(HERE, self.api.url)
        return await self.browser.get(url, headers=headers)

    async def connected(self, case: Case | None = None) -> Case:
        """Ask, consent, come back."""
        case = await self.asked(case)
        answer = await self.back(await self.consent(case))
        assert (answer.status_code, answer.json()) == (200, {"status": "connected"}), answer.text
        return case

    async def shown(self, case: Case) -> dict[str, Any]:
        answer = await self.api.call("GET", f"{case.path}/{case.id}")
        assert answer.status_code == 200
        return dict(answer.json())


@asynccontextmanager
async def desk(api: Plane, folder: Path, **more: str) -> AsyncIterator[Desk]:
    """An API beside the given one that trusts an OAuth server, on the same log."""
    given = {"ALLOW_PRIVATE_UPSTREAMS": "loopback", "API_URL": HERE} | more
    with pytest.MonkeyPatch.context() as patch:
        async with OAuthServer(folder).serving() as server:
            patch.setenv("SSL_CERT_FILE", str(server.ca))
            async with (
                plane(api.database_url, api.redis_url, api.log, **given) as consenting,
                httpx.AsyncClient(verify=server.trusting(), timeout=30) as browser,
            ):
                yield Desk(consenting, server, browser)
