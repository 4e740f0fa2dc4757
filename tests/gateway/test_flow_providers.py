"""Credentials of providers through the Gateway, before a real STS and a real OAuth server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from caracal import mandate
from caracal.events.base import Fall
from caracal.services.http import Receive, Send, respond
from caracal.services.sts.app import create_app as create_sts
from tests.backbone import eventually
from tests.gateway.doubles import Request
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.making import in_zone
from tests.sts.brokering import USER, Brokerage, broker, config
from tests.sts.oauth_server import MARK, OAuthServer
from tests.sts.world import serving

KEY = f"{MARK}-key"


@dataclass
class Before:
    """A Gateway before a real STS, which asks a real OAuth server."""

    scene: Scene
    server: OAuthServer

    async def broker(self, kind: str, *args: Any, **members: Any) -> Brokerage:
        """Make a resource of a provider, at the scene's upstream."""
        given = {"upstream_url": self.scene.sts.upstream} | members
        return await broker(self.scene.tenant, kind, *args, **given)

    async def call(self, made: Brokerage, **headers: str) -> httpx.Response:
        """Call the resource as the user's agent."""
        return await self.scene.call(
            claims={"sub": USER, "sub_type": "user"},
            headers={"X-Caracal-Resource": made.resource.identifier, **headers},
        )

    def seen(self) -> Request:
        """The only request that reached the upstream."""
        (request,) = self.scene.upstream.requests
        return request


@pytest.fixture(scope="module")
async def module_before(
    module_database_url: str, module_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Before]:
    urls = module_database_url, module_redis_url
    settings = sts_settings(*urls, ALLOW_PRIVATE_UPSTREAMS="loopback")
    with pytest.MonkeyPatch.context() as patch:
        async with OAuthServer(tmp_path_factory.mktemp("oauth")).serving() as server:
            patch.setenv("SSL_CERT_FILE", str(server.ca))
            async with (
                serving(create_sts(settings)) as sts,
                new_scene(*urls, sts_url=sts) as scene,
            ):
                yield Before(scene, server)


@pytest.fixture
def before(module_before: Before) -> Before:
    """The same, with what earlier tests told it forgotten."""
    module_before.server.forget()
    module_before.scene.upstream.behaviour = None
    module_before.scene.upstream.requests.clear()
    return module_before


def assert_brokered(request: Request, header: str, value: str) -> None:
    """The upstream saw the provider's credential there, and the mandate as an identity only."""
    assert request.all(header) == [value]
    (identity,) = request.all("X-Caracal-Identity")
    assert mandate.peek(identity).claims["use"] == "per_call"
    for name, sent in request.headers:
        assert name == b"x-caracal-identity" or identity.encode() not in sent
    if header != "Authorization":
        assert request.all("Authorization") == []


async def test_the_upstream_sees_the_key_and_not_the_mandate(before: Before) -> None:
    made = await before.broker("apikey", {"header_name": "X-Key"}, secrets={"api_key": KEY})
    await made.grant()
    answer = await before.call(made, **{"X-Key": "of the agent"})
    assert answer.status_code == 200, answer.text
    assert_brokered(before.seen(), "X-Key", KEY)
    assert KEY not in answer.text + str(answer.headers)


async def test_the_upstream_sees_the_token_that_the_sts_refreshed(before: Before) -> None:
    made = await before.broker("oauth2", config(before.server))
    await made.tokens(await made.grant(), seconds=-1)
    answer = await before.call(made)
    assert answer.status_code == 200, answer.text
    assert_brokered(before.seen(), "Authorization", f"Bearer {MARK}-access-1")
    assert [call["grant_type"] for call in before.server.calls] == ["refresh_token"]


async def test_a_service_token_with_a_scheme_of_its_own(before: Before) -> None:
    made = await before.broker(
        "oauth2_client_credentials", config(before.server, auth_scheme="Token")
    )
    await made.grant()
    assert (await before.call(made)).status_code == 200
    assert_brokered(before.seen(), "Authorization", f"Token {MARK}-access-1")


async def test_only_allowed_hosts_get_the_credential(before: Before) -> None:
    for hosts, status in ((["127.0.0.1"], 200), (["api.example"], 502), ([], 502), ("x", 502)):
        before.scene.upstream.requests.clear()
        settings = {"allowed_upstream_hosts": hosts}
        made = await before.broker("apikey", settings, secrets={"api_key": KEY})
        await made.grant()
        answer = await before.call(made)
        assert answer.status_code == status, hosts
        assert len(before.scene.upstream.requests) == (status == 200)
        assert KEY not in answer.text


async def test_a_redirect_of_the_upstream_is_not_followed(before: Before) -> None:
    async def redirect(request: Request, receive: Receive, send: Send) -> None:
        await respond(send, 307, b"", [(b"location", b"/elsewhere")])

    before.scene.upstream.behaviour = redirect
    made = await before.broker("bearer_token", secrets={"bearer_token": KEY})
    await made.grant()
    answer = await before.call(made)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/elsewhere")
    assert_brokered(before.seen(), "Authorization", f"Bearer {KEY}")


async def test_without_a_grant_nothing_reaches_the_upstream(before: Before) -> None:
    made = await before.broker("apikey", secrets={"api_key": KEY})
    refused = await before.call(made)
    assert (refused.status_code, refused.json()["error"]) == (403, "access_denied")
    grant = await made.grant()
    assert (await before.call(made)).status_code == 200
    with in_zone(before.scene.tenant.id):
        grant.revoke(Fall("test", ()))
    await before.scene.tenant.save(grant)

    async def refused_again() -> bool:
        return (await before.call(made)).status_code in (401, 403)

    await eventually(refused_again, what="the revoked grant")


async def test_no_log_tells_a_credential(before: Before, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = await before.broker("apikey", {"header_name": "X-Key"}, secrets={"api_key": KEY})
    await made.grant()
    assert (await before.call(made)).status_code == 200
    closed = await before.broker(
        "apikey", secrets={"api_key": KEY}, upstream_url="http://127.0.0.1:9"
    )
    await closed.grant()
    assert (await before.call(closed)).status_code == 502
    assert MARK not in caplog.text
