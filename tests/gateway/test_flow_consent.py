"""The whole way of a user's token: consent, call, refresh, revocation; every part is real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from caracal.services.api.app import create_app as create_api
from caracal.services.sts.app import create_app as create_sts
from caracal.settings import load_settings
from tests.backbone import eventually
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.sts.oauth_server import CLIENT_ID, CLIENT_SECRET, HOST, MARK, OAuthServer
from tests.sts.world import serving, variables, working

USER, OPERATOR = "ada", "operator-token"


@dataclass
class Whole:
    """All services, an upstream, a provider, and a user's browser."""

    scene: Scene
    server: OAuthServer
    api: str
    browser: httpx.AsyncClient

    async def operate(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Call the control plane in the tenant's zone."""
        url = f"{self.api}/v1/zones/{self.scene.tenant.id}{path}"
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        answer = await self.browser.request(method, url, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        assert "Caracal-Consistency" not in answer.headers
        return dict(answer.json())

    async def consent(self, grant_id: str) -> None:
        """Ask the user, who consents at once."""
        asked = await self.operate(
            "POST", "/provider-grants/oauth/authorize", {"grant_id": grant_id}
        )
        at_provider = await self.browser.get(asked["authorization_url"])
        back = await self.browser.get(at_provider.headers["Location"])
        assert back.status_code == 200, back.text

    async def call(self, resource: str) -> tuple[int, list[str]]:
        """Call the resource as the user's agent; return the status and what the upstream saw."""
        self.scene.upstream.requests.clear()
        answer = await self.scene.call(
            claims={"sub": USER, "sub_type": "user"}, headers={"X-Caracal-Resource": resource}
        )
        assert MARK not in answer.text
        seen = [request.all("Authorization") for request in self.scene.upstream.requests]
        return answer.status_code, [value for values in seen for value in values]


@pytest.fixture
async def whole(
    module_database_url: str, module_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Whole]:
    urls, own = (module_database_url, module_redis_url), {"ALLOW_PRIVATE_UPSTREAMS": "loopback"}
    sts_given = sts_settings(*urls, **own)
    with pytest.MonkeyPatch.context() as patch:
        async with OAuthServer(tmp_path_factory.mktemp("oauth")).serving() as server:
            patch.setenv("SSL_CERT_FILE", str(server.ca))
            own |= {"CARACAL_ADMIN_TOKEN": OPERATOR, "API_URL": "https://caracal.example"}
            api_given = load_settings("api", variables(*urls) | own)
            async with (
                working(sts_given),
                serving(create_sts(sts_given)) as sts,
                serving(create_api(api_given)) as api,
                new_scene(*urls, sts_url=sts) as scene,
                httpx.AsyncClient(verify=server.trusting(), timeout=10) as browser,
            ):
                _leads_to(browser, api)
                yield Whole(scene, server, api, browser)


def _leads_to(browser: httpx.AsyncClient, api: str) -> None:
    """Let the browser find the API under its public name."""

    async def found(request: httpx.Request) -> None:
        if request.url.host == "caracal.example":
            there = httpx.URL(api)
            request.url = request.url.copy_with(
                scheme=there.scheme, host=there.host, port=there.port
            )

    browser.event_hooks["request"].append(found)


async def granted(whole: Whole) -> tuple[str, str]:
    """Make provider, resource and grant; return the resource's identifier and the grant's id."""
    server, identifier = whole.server, "resource://mail"
    provider = await whole.operate(
        "POST",
        "/providers",
        {
            "identifier": "provider://mail",
            "kind": "oauth2_authorization_code",
            "client_id": CLIENT_ID,
            "config_json": {
                "issuer": server.issuer,
                "authorization_endpoint": f"{server.issuer}/authorize",
                "token_endpoint": server.url,
                "revocation_endpoint": f"{server.issuer}/revoke",
                "allowed_token_hosts": [HOST],
            },
            "secret_config": {"client_secret": CLIENT_SECRET},
        },
    )
    resource = {
        "identifier": identifier,
        "scopes": ["read"],
        "provider_id": provider["id"],
        "upstream_url": whole.scene.sts.upstream,
    }
    made = await whole.operate("POST", "/resources", resource)
    body = {
        "application_id": whole.scene.tenant.app_id,
        "resource_id": made["id"],
        "scopes": ["read"],
        "user_id": USER,
    }
    return identifier, (await whole.operate("POST", "/provider-grants", body))["id"]


async def test_from_consent_to_revocation(whole: Whole) -> None:
    resource, grant_id = await granted(whole)
    assert (await whole.call(resource))[0] == 403
    await whole.consent(grant_id)
    assert await whole.call(resource) == (200, [f"Bearer {MARK}-access-1"])
    whole.server.members = {"expires_in": 1}
    await whole.consent(grant_id)
    whole.server.members = {}

    async def refreshed() -> bool:
        return await whole.call(resource) == (200, [f"Bearer {MARK}-access-3"])

    await eventually(refreshed, what="the refreshed token")
    kinds = [call["grant_type"] for call in whole.server.calls]
    assert kinds == ["authorization_code", "authorization_code", "refresh_token"]
    revoked = await whole.operate("POST", "/provider-grants/revoke", {"grant_id": grant_id})
    status, seen = await whole.call(resource)  # the first one afterwards
    assert (status in (401, 403), seen) == (True, [])
    assert revoked["provider_revoked"] is True
    sent = [call["token"] for call in whole.server.revoked]
    assert sent == [f"{MARK}-refresh-3", f"{MARK}-access-3"]
