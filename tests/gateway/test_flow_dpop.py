"""Bound tokens at the Gateway (RFC 9449, section 7), before a real STS."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from caracal import jwk, mandate
from caracal.embedded import EmbeddedServers
from caracal.services.sts.app import create_app as create_sts
from tests.gateway.doubles import Wire
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.signing import PrivateKey, ath_of, dpop_proof, ec_key
from tests.sts.world import ISSUER, serving

KEY, OTHER = ec_key(), ec_key()
PATH = "/things/%7e1"


@dataclass
class Bound:
    """A scene whose client holds a bound token."""

    scene: Scene
    resource: str
    token: str

    def proof(self, key: PrivateKey = KEY, *, path: str = PATH, **claims: Any) -> str:
        uri = self.scene.url + path
        return dpop_proof(key, "GET", uri, **{"ath": ath_of(self.token)} | claims)

    async def call(
        self,
        sent: str | None,
        *,
        scheme: str = "DPoP",
        token: str = "",
        path: str = PATH,
        **headers: str,
    ) -> httpx.Response:
        given = {"X-Caracal-Resource": self.resource} | headers
        given["Authorization"] = f"{scheme} {token or self.token}"
        if sent is not None:
            given["DPoP"] = sent
        return await self.scene.http.get(self.scene.url + path, headers=given)


@pytest.fixture(scope="module")
async def bound(module_database_url: str, module_redis_url: str) -> AsyncIterator[Bound]:
    urls = module_database_url, module_redis_url
    async with (
        serving(create_sts(sts_settings(*urls))) as sts,
        new_scene(*urls, sts_url=sts) as scene,
    ):
        made = await scene.resource_with(upstream_url=scene.sts.upstream)
        form = scene.tenant.form(resource=made.identifier)
        proof = dpop_proof(KEY, "POST", f"{ISSUER}/oauth/2/token")
        url = f"{sts}/oauth/2/token"
        answer = await scene.http.post(url, data=form, headers={"DPoP": proof})
        assert answer.json()["token_type"] == "DPoP"
        yield Bound(scene, made.identifier, answer.json()["access_token"])


def refused(answer: httpx.Response, code: str) -> bool:
    """Whether it is a 401 of this code that says how to authenticate."""
    challenge = answer.headers.get("www-authenticate", "")
    assert challenge.startswith("DPoP resource_metadata="), answer.text
    assert f'error="{code}", algs="ES256 RS256 PS256"' in challenge
    return (answer.status_code, answer.json()["error"]) == (401, code)


@pytest.mark.parametrize("scheme", ["DPoP", "dpop"])
async def test_who_holds_the_key_is_let_through(bound: Bound, scheme: str) -> None:
    bound.scene.upstream.requests.clear()
    answer = await bound.call(bound.proof(), scheme=scheme, path=PATH + "?a=b")
    assert answer.status_code == 200
    (request,) = bound.scene.upstream.requests
    sent = {name.lower(): value for name, value in request.headers}
    assert b"dpop" not in sent
    scheme_up, _, token = sent[b"authorization"].decode().partition(" ")
    assert scheme_up == "Bearer"
    assert "cnf" not in mandate.peek(token).claims


async def test_a_bound_token_is_no_bearer_token(bound: Bound) -> None:
    for sent in (None, bound.proof()):
        assert refused(await bound.call(sent, scheme="Bearer"), "invalid_token")


async def test_a_bearer_token_is_not_bound(bound: Bound) -> None:
    token = bound.scene.tenant.token()
    sent = bound.proof(ath=ath_of(token))
    assert refused(await bound.call(sent, token=token), "invalid_token")
    assert (await bound.call(None, scheme="Bearer", token=token)).status_code == 200
    assert (await bound.call(sent, scheme="Bearer", token=token)).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"ath": None},
        {"ath": ath_of("another")},
        {"htm": "POST"},
        {"htu": "https://elsewhere.example/things/%7e1"},
        {"iat": 1},
        {"jti": None},
    ],
)
async def test_proofs_that_do_not_fit(bound: Bound, claims: dict[str, Any]) -> None:
    assert refused(await bound.call(bound.proof(**claims)), "invalid_dpop_proof")


async def test_no_proof_many_or_one_of_another_path(bound: Bound) -> None:
    assert refused(await bound.call(None), "invalid_dpop_proof")
    assert refused(await bound.call("proof"), "invalid_dpop_proof")
    assert refused(await bound.call(bound.proof(path="/other")), "invalid_dpop_proof")
    two = [
        ("Authorization", f"DPoP {bound.token}"),
        ("X-Caracal-Resource", bound.resource),
        ("DPoP", bound.proof()),
        ("DPoP", bound.proof()),
    ]
    answer = await bound.scene.http.get(bound.scene.url + PATH, headers=two)
    assert refused(answer, "invalid_dpop_proof")


async def test_another_key(bound: Bound) -> None:
    assert refused(await bound.call(bound.proof(OTHER)), "invalid_token")


async def test_a_proof_is_good_once(bound: Bound) -> None:
    sent = bound.proof()
    answers = await asyncio.gather(*(bound.call(sent) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_a_refused_call_counts(bound: Bound) -> None:
    before = (await bound.scene.counted())["denials_signature"]
    await bound.call(None)
    assert (await bound.scene.counted())["denials_signature"] == before + 1


async def test_a_websocket_shows_its_key(bound: Bound) -> None:
    right, other = (bound.proof(key, path="/ws") for key in (KEY, OTHER))
    for sent, unproven in ((right, False), (other, True), (None, True)):
        async with Wire.opened(bound.scene.url) as wire:
            lines = [
                "GET /ws HTTP/1.1",
                "Host: " + bound.scene.url.removeprefix("http://"),
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                f"Authorization: DPoP {bound.token}",
                f"X-Caracal-Resource: {bound.resource}",
                *([f"DPoP: {sent}"] if sent else []),
            ]
            wire.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            first = await wire.reader.readline()
            assert (b" 401 " in first) is unproven


async def test_the_metadata_says_so(bound: Bound) -> None:
    url = f"{bound.scene.url}/.well-known/oauth-protected-resource"
    document = (await bound.scene.http.get(url)).json()
    assert document["dpop_signing_alg_values_supported"] == ["ES256", "RS256", "PS256"]


@pytest.mark.parametrize(("fail_open", "status"), [("false", 401), ("true", 200)])
async def test_without_redis_a_proof_is_not_taken(
    own_servers: EmbeddedServers, fail_open: str, status: int
) -> None:
    urls = own_servers.database_url, own_servers.redis_url
    async with new_scene(*urls, JTI_FAIL_OPEN=fail_open) as scene:
        jkt = jwk.thumbprint(KEY.public_key())
        made = Bound(scene, scene.resource, scene.tenant.token(cnf={"jkt": jkt}))
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        own_servers.valkey.process.wait()
        assert (await made.call(made.proof())).status_code == status
        shown = [form.get("dpop_jkt") for form in scene.sts.calls]
        assert shown == ([jkt] if status == 200 else [])
