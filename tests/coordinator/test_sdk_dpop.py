"""Bound mandates on the agents' side, at a running STS that wants nonces, and a Coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from caracal import clock
from caracal.client import AdminApiError, AdminTransportError, Caracal, SyncCaracal
from caracal.client.key import ClientKey
from caracal.mandate import peek
from caracal.services.sts.app import create_app
from tests.client.both import KINDS, Kind
from tests.coordinator.running import Crew, Ship
from tests.coordinator.test_sdk import options
from tests.sts.world import ISSUER, serving, settings
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

KEY = ClientKey.generate()


@pytest.fixture(scope="module")
async def asking(coordinator: Ship) -> AsyncIterator[str]:
    """An STS beside the other one, which wants a nonce in each proof."""
    given = coordinator.settings
    app = create_app(settings(given.database_url, given.redis_url, DPOP_NONCE="true"))
    async with serving(app) as url:
        yield url


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


def bound(crew: Crew, sts_url: str, **more: Any) -> dict[str, Any]:
    return options(crew, **{"sts_url": sts_url, "issuer": ISSUER, "dpop": KEY, **more})


async def worked(kind: Kind, given: dict[str, Any], resource: str) -> tuple[str, str, list[str]]:
    """Spawn, delegate, get a mandate; return the ambient one, that one, and the agents."""

    def work() -> tuple[str, str, list[str]]:
        with SyncCaracal(**given) as caracal, caracal.spawn() as lead:
            with caracal.delegate_to_spawn(scopes=["read"]) as (child, _):
                issued = caracal.mandate(resource, scopes=["read"])
            return caracal.tokens.token(), issued["access_token"], [lead["id"], child["id"]]

    if kind == "sync":
        return await asyncio.to_thread(work)
    async with Caracal(**given) as caracal, caracal.spawn() as lead:
        async with caracal.delegate_to_spawn(scopes=["read"]) as (child, _):
            issued = await caracal.mandate(resource, scopes=["read"])
        token = await caracal.tokens.token()
        return token, issued["access_token"], [lead["id"], child["id"]]


async def test_everything_is_bound_to_the_key(crew: Crew, asking: str, kind: Kind) -> None:
    resource = crew.tenant.resource.identifier
    ambient, issued, agents = await worked(kind, bound(crew, asking), resource)
    for token, use in ((ambient, "ambient"), (issued, "per_call")):
        claims = peek(token).claims
        assert (claims["cnf"], claims["use"]) == ({"jkt": KEY.thumbprint}, use)
    assert await crew.statuses() == dict.fromkeys(agents, "terminated")
    stolen = await crew.call("GET", "/agents", token=ambient)
    assert (stolen.status_code, stolen.json()["error"]) == (401, "invalid_token")


async def test_a_key_of_the_process(crew: Crew, asking: str) -> None:
    tokens = []
    for _ in range(2):
        async with Caracal(**bound(crew, asking, dpop=True)) as caracal:
            tokens.append(await caracal.tokens.token())
    assert len({peek(token).claims["cnf"]["jkt"] for token in tokens}) == 2


async def test_the_issuer_is_what_proofs_are_made_for(crew: Crew, asking: str) -> None:
    async with Caracal(**bound(crew, asking, issuer=None)) as caracal:
        with pytest.raises(AdminApiError, match="invalid_dpop_proof"):
            await caracal.tokens.token()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_wrong(
    crew: Crew, asking: str, kind: Kind, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SimpleNamespace(now=lambda: clock.now() + timedelta(hours=hours))
    monkeypatch.setattr("caracal.client.dpop.clock", wrong)
    resource = crew.tenant.resource.identifier
    await worked(kind, bound(crew, asking), resource)


@pytest.mark.parametrize("dpop", [False, True], ids=["bearer", "dpop"])
async def test_a_key_in_place_of_the_secret(
    crew: Crew, asking: str, kind: Kind, dpop: bool
) -> None:
    key = ClientKey.generate()
    public = key.public_jwk(kid=key.thumbprint)
    signing = await crew.another(jwks={"keys": [public]})
    given = bound(signing, asking, client_secret=None, client_key=key, dpop=dpop)
    resource = crew.tenant.resource.identifier
    token, _, agents = await worked(kind, given, resource)
    claims = peek(token).claims
    assert (claims["client_id"], "cnf" in claims) == (signing.application_id, dpop)
    assert len(agents) == 2
    given["client_key"] = ClientKey.generate()
    with pytest.raises(AdminApiError, match="access_denied"):
        await worked(kind, given, resource)


class Moving(httpx.AsyncHTTPTransport):
    """Takes what is for ``http://sts.example`` to where the STS is now."""

    def __init__(self) -> None:
        super().__init__()
        self.base = httpx.URL("http://127.0.0.1:9")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "sts.example":
            request.url = request.url.copy_with(host=self.base.host, port=self.base.port)
        return await super().handle_async_request(request)


async def test_an_sts_that_is_started_anew(crew: Crew, asking: str) -> None:
    """One that asks for nonces, nobody, one that asks for none, and the first one again."""
    moving = Moving()
    plain = crew.settings.sts_url
    async with httpx.AsyncClient(transport=moving) as http:
        given = bound(crew, "http://sts.example", http_client=http, retries=0)
        async with Caracal(**given) as caracal, AsyncExitStack() as stack:
            for base in (asking, None, plain, asking):
                moving.base = httpx.URL(base or "http://127.0.0.1:9")
                if base is None:
                    caracal.tokens.forget()
                    with pytest.raises(AdminTransportError):
                        await caracal.tokens.token()
                    continue
                caracal.tokens.forget()
                await stack.enter_async_context(caracal.spawn())
    assert set((await crew.statuses()).values()) == {"terminated"}
