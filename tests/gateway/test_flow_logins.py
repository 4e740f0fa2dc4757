"""A user's id_token through the whole product: session, mandate, call; and its end at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest

from caracal.events.base import Fall
from caracal.events.session import Session
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.mandate import peek
from caracal.services.sts.app import create_app as create_sts
from tests.gateway.doubles import Feed, Wire
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.making import in_zone, new_trusted_issuer
from tests.sts.oidc_provider import CLIENT, Issuer, OidcProvider, trusted
from tests.sts.test_logins import ID_TOKEN
from tests.sts.world import serving, working


@dataclass
class Login:
    """A user who has signed in: what the STS gave, and what stands around it."""

    scene: Scene
    issuer: Issuer
    rules: TrustedIssuer
    token: str
    headers: dict[str, str]

    @property
    def sid(self) -> str:
        return str(peek(self.token).claims["sid"])

    async def call(self) -> httpx.Response:
        return await self.scene.call(headers=self.headers)


Ending = Callable[[Login], Awaitable[None]]


@pytest.fixture(scope="module")
async def before(
    module_database_url: str, module_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Scene, OidcProvider]]:
    urls = module_database_url, module_redis_url
    settings = sts_settings(*urls, ALLOW_PRIVATE_UPSTREAMS="loopback")
    with pytest.MonkeyPatch.context() as patch:
        async with OidcProvider(tmp_path_factory.mktemp("oidc")).serving() as provider:
            trusted(patch, provider)
            async with (
                serving(create_sts(settings)) as sts,
                working(settings),
                new_scene(*urls, sts_url=sts) as made,
            ):
                yield made, provider


@pytest.fixture
async def login(before: tuple[Scene, OidcProvider]) -> Login:
    scene, provider = before
    issuer, tenant = provider.issuer(), scene.tenant
    rules = new_trusted_issuer(tenant.id, issuer=issuer.url, audiences=[CLIENT])
    resource = await tenant.add_resource(upstream_url=scene.sts.upstream)
    position = await scene.save(rules)
    form = tenant.form(
        subject_token=issuer.token(),
        subject_token_type=ID_TOKEN,
        resource=resource.identifier,
        scope="read",
    )
    known = {"Caracal-Min-Position": str(position)}
    url = f"{scene.settings.sts_url}/oauth/2/token"
    answer = await scene.http.post(url, data=form, headers=known)
    assert answer.status_code == 200, answer.text
    token = str(answer.json()["access_token"])
    headers = {
        "Authorization": f"Bearer {token}",
        "X-Caracal-Resource": resource.identifier,
        "Caracal-Min-Position": answer.headers["caracal-position"],
    }
    scene.upstream.behaviour = None
    scene.upstream.requests.clear()
    return Login(scene, issuer, rules, token, headers)


async def of_the_session(login: Login) -> None:
    session = await login.scene.tenant.log.find(Session, login.sid)
    assert session is not None
    with in_zone(login.scene.tenant.id):
        session.revoke("token_revoked")
    await login.scene.save(session)


async def of_the_issuer(login: Login) -> None:
    """By its own id alone: as for a session that the cascade did not know of."""
    with in_zone(login.scene.tenant.id):
        login.rules.archive(Fall())
    await login.scene.save(login.rules)


ENDS: dict[str, Ending] = {"session": of_the_session, "issuer": of_the_issuer}


async def test_a_users_call_reaches_the_upstream(login: Login) -> None:
    answer = await login.call()
    assert answer.status_code == 200
    (request,) = login.scene.upstream.requests
    sent = request.all("authorization")[0].removeprefix("Bearer ")
    claims = peek(sent).claims
    assert claims["sub"].startswith("usr_")
    assert (claims["sub_type"], claims["sid"]) == ("user", login.sid)
    assert "user" not in claims  # the upstream is told no more of the user


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_ends_it_ends_calls_at_once(login: Login, end: str) -> None:
    assert (await login.call()).status_code == 200
    await ENDS[end](login)
    refused = await login.call()
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_ends_it_ends_streams_at_once(login: Login, end: str) -> None:
    login.scene.upstream.behaviour = feed = Feed()
    async with Wire.opened(login.scene.url) as wire:
        feed.give(b"data: 1\n\n")
        await wire.ask("/events", login.headers | {"Accept": "text/event-stream"})
        assert await wire.piece() == b"data: 1\n\n"
        await ENDS[end](login)
        assert await wire.rest() == (b"", {"x-caracal-revoked": "true"})
