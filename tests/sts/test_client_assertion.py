"""``private_key_jwt`` (RFC 7523): what proves a client, what does not, and only once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from caracal import clock, key_sets, secret_hash
from caracal.embedded import EmbeddedServers
from caracal.ids import new_id
from caracal.services.sts.client_assertion import ASSERTION_TYPE
from tests.certificates import certificate
from tests.signing import PrivateKey, ec_key, public_jwk, rsa_key, signed
from tests.sts.world import ISSUER, World, new_world

EC, RSA, FOREIGN = ec_key(), rsa_key(), ec_key()
KEYS = {
    "keys": [
        public_jwk(EC, kid="ec"),
        public_jwk(RSA, kid="rsa"),
        public_jwk(RSA, kid="pss", alg="PS256"),
        public_jwk(EC, kid="enc", use="enc"),
    ]
}
PROVEN, NOT_PROVEN = (200, None), (401, "access_denied")


@dataclass
class KeyServer:
    """A client's own server of its keys, by https."""

    url: str = ""
    body: Any = field(default_factory=lambda: KEYS)
    fetched: int = 0
    status: int = 200

    async def answer(self, request: web.Request) -> web.Response:
        self.fetched += 1
        if self.status == 302:
            raise web.HTTPFound("/elsewhere")
        if isinstance(self.body, str):
            return web.Response(text=self.body, status=self.status)
        return web.json_response(self.body, status=self.status)


@pytest.fixture(scope="module")
async def key_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeyServer]:
    folder: Path = tmp_path_factory.mktemp("tls")
    context = certificate(folder, "localhost")
    served, app = KeyServer(), web.Application()
    app.router.add_get("/{any:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "server.pem"))
        await site.start()
        assert runner.addresses
        served.url = f"https://localhost:{runner.addresses[0][1]}"
        yield served
    await runner.cleanup()


@pytest.fixture(scope="module")
async def world(
    module_database_url: str, module_redis_url: str, key_server: KeyServer
) -> AsyncIterator[World]:
    given = {"ALLOW_PRIVATE_UPSTREAMS": "loopback"}
    async with new_world(module_database_url, module_redis_url, **given) as made:
        yield made


@pytest.fixture(scope="module")
async def app_id(world: World) -> str:
    """An application with registered keys and no secret."""
    return (await world.tenant.add_application(jwks=KEYS)).aggregate_id


@pytest.fixture
async def remote(world: World, key_server: KeyServer) -> str:
    """An application whose keys are behind a URI of its own."""
    key_server.body, key_server.status, key_server.fetched = KEYS, 200, 0
    uri = f"{key_server.url}/{new_id()}"
    return (await world.tenant.add_application(jwks_uri=uri)).aggregate_id


def claims(app_id: str, **members: Any) -> dict[str, Any]:
    """Claims of a right assertion; a member given as None is left out."""
    now = int(clock.now().timestamp())
    given = {"iss": app_id, "sub": app_id, "aud": ISSUER, "jti": new_id(), "exp": now + 60}
    given |= {"iat": now, **members}
    return {name: value for name, value in given.items() if value is not None}


def assertion(
    app_id: str,
    key: PrivateKey | bytes | None = EC,
    header: dict[str, Any] | None = None,
    **members: Any,
) -> str:
    head = {"alg": "ES256", "kid": "ec"} | (header or {})
    head = {name: value for name, value in head.items() if value is not None}
    return signed(key, head, claims(app_id, **members))


async def ask(world: World, app_id: str, given: str, **members: Any) -> httpx.Response:
    """Exchange an ambient token of this application."""
    token = world.tenant.token(client_id=app_id, sub=app_id)
    form = {"client_secret": None, "client_assertion_type": ASSERTION_TYPE} | members
    return await world.exchange(
        application_id=app_id, subject_token=token, client_assertion=given, **form
    )


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (EC, {}),
        (RSA, {"alg": "RS256", "kid": "rsa"}),
        (RSA, {"alg": "PS256", "kid": "rsa"}),
        (RSA, {"alg": "PS256", "kid": "pss"}),
        (EC, {"typ": "JWT"}),
        (EC, {"typ": "client-authentication+jwt"}),
        (EC, {"jwk": public_jwk(FOREIGN), "jku": "https://evil.example", "x5c": ["AA"]}),
    ],
)
async def test_a_registered_key_proves_its_application(
    world: World, app_id: str, key: PrivateKey, header: dict[str, Any]
) -> None:
    answer = await ask(world, app_id, assertion(app_id, key, header))
    assert told(answer) == PROVEN
    assert [event["decision"] for event in await world.audit(answer)] == ["allow"]


@pytest.mark.parametrize("aud", [ISSUER, f"{ISSUER}/oauth/2/token", [ISSUER]])
@pytest.mark.parametrize("iat", [None, -3600, 30])
async def test_audiences_and_times_that_fit(
    world: World, app_id: str, aud: Any, iat: int | None
) -> None:
    issued = None if iat is None else int(clock.now().timestamp()) + iat
    given = assertion(app_id, aud=aud, iat=issued, exp=clock.now().timestamp() + 290.5)
    assert told(await ask(world, app_id, given)) == PROVEN


PEM = b"-----BEGIN PUBLIC KEY-----"

FORGED: dict[str, tuple[PrivateKey | bytes | None, dict[str, Any]]] = {
    "no signature": (None, {}),
    "none": (None, {"alg": "none"}),
    "HMAC with the public key": (PEM, {"alg": "HS256"}),
    "HMAC called ES256": (PEM, {}),
    "ES256 by an RSA key": (RSA, {"kid": "ec"}),
    "RS256 by the EC key's kid": (RSA, {"alg": "RS256"}),
    "ES256 by the RSA key's kid": (EC, {"kid": "rsa"}),
    "RS256 by a key for PS256": (RSA, {"alg": "RS256", "kid": "pss"}),
    "a key for encryption": (EC, {"kid": "enc"}),
    "an unknown kid": (EC, {"kid": "other"}),
    "no kid": (EC, {"kid": None}),
    "an empty kid": (EC, {"kid": ""}),
    "a kid of another type": (EC, {"kid": ["ec"]}),
    "a foreign key": (FOREIGN, {}),
    "a foreign key that it brings": (FOREIGN, {"jwk": public_jwk(FOREIGN, kid="ec")}),
    "critical members": (EC, {"crit": ["exp"]}),
    "a DPoP proof": (EC, {"typ": "dpop+jwt"}),
    "an access token": (EC, {"typ": "at+jwt"}),
}


@pytest.mark.parametrize("what", FORGED)
async def test_forged(world: World, app_id: str, what: str) -> None:
    key, header = FORGED[what]
    answer = await ask(world, app_id, assertion(app_id, key, header))
    assert told(answer) == NOT_PROVEN
    assert answer.json()["error_description"] == "invalid client credentials"
    statuses = [event["evaluation_status"] for event in await world.audit(answer)]
    assert statuses == ["client_auth_failed"]


@pytest.mark.parametrize(
    "members",
    [
        {"iss": "another"},
        {"sub": "another"},
        {"iss": None},
        {"sub": None},
        {"iss": None, "sub": None},
        {"aud": None},
        {"aud": "https://other.example"},
        {"aud": ISSUER + "/"},
        {"aud": []},
        {"aud": [ISSUER, "https://other.example"]},
        {"aud": {"iss": ISSUER}},
        {"jti": None},
        {"jti": ""},
        {"jti": 1},
        {"jti": "j" * 257},
        {"exp": None},
        {"exp": "soon"},
        {"exp": -1},
        {"exp": 320},
        {"exp": 1e300},
        {"iat": 90},
        {"iat": "now"},
        {"nbf": 90},
    ],
)
async def test_claims_that_do_not_fit(world: World, app_id: str, members: dict[str, Any]) -> None:
    now = int(clock.now().timestamp())
    times = {
        name: value + now
        for name, value in members.items()
        if name in ("exp", "iat", "nbf") and isinstance(value, int | float)
    }
    answer = await ask(world, app_id, assertion(app_id, **members | times))
    assert told(answer) == NOT_PROVEN


async def test_an_assertion_is_good_once(world: World, app_id: str) -> None:
    given = assertion(app_id)
    answers = await asyncio.gather(*(ask(world, app_id, given) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    jti = new_id()
    assert told(await ask(world, app_id, assertion(app_id, jti=jti))) == PROVEN
    assert told(await ask(world, app_id, assertion(app_id, jti=jti))) == NOT_PROVEN
    keys = [key async for key in world.redis.scan_iter(f"sts:client-assertion:*{app_id}:*")]
    assert keys
    assert all([0 < await world.redis.ttl(key) <= 300 for key in keys])


async def test_a_refused_assertion_uses_nothing_up(world: World, app_id: str) -> None:
    jti = new_id()
    assert told(await ask(world, app_id, assertion(app_id, FOREIGN, jti=jti))) == NOT_PROVEN
    assert told(await ask(world, app_id, assertion(app_id, jti=jti))) == PROVEN


async def test_the_secret_decides_if_both_are_sent(world: World) -> None:
    made = await world.tenant.add_application(secret_hash.of_random("right"), jwks=KEYS)
    app_id = made.aggregate_id
    wrong = await ask(world, app_id, assertion(app_id), client_secret="wrong")
    assert told(wrong) == NOT_PROVEN
    right = await ask(world, app_id, "no assertion", client_secret="right")
    assert told(right) == PROVEN


@pytest.mark.parametrize("given", ["", "jwt-bearer", ASSERTION_TYPE + " "])
async def test_the_type_of_an_assertion(world: World, app_id: str, given: str) -> None:
    answer = await ask(world, app_id, assertion(app_id), client_assertion_type=given)
    assert told(answer) == NOT_PROVEN


async def test_who_has_no_keys_or_is_public_proves_nothing(world: World) -> None:
    keyless = await world.tenant.add_application()
    public = await world.tenant.add_application(jwks=KEYS, credential_type="public")
    for made in (keyless, public):
        given = assertion(made.aggregate_id)
        assert told(await ask(world, made.aggregate_id, given)) == NOT_PROVEN


async def test_keys_of_another_application(world: World, app_id: str) -> None:
    other = await world.tenant.add_application(jwks={"keys": [public_jwk(FOREIGN, kid="ec")]})
    other_id = other.aggregate_id
    assert told(await ask(world, other_id, assertion(other_id))) == NOT_PROVEN
    assert told(await ask(world, other_id, assertion(app_id, FOREIGN))) == NOT_PROVEN
    assert told(await ask(world, other_id, assertion(other_id, FOREIGN))) == PROVEN


async def test_keys_behind_a_uri_are_fetched_once(
    world: World, remote: str, key_server: KeyServer
) -> None:
    given = [assertion(remote) for _ in range(8)]
    answers = await asyncio.gather(*(ask(world, remote, one) for one in given))
    assert {answer.status_code for answer in answers} == {200}
    assert key_server.fetched == 1


async def test_an_unknown_kid_asks_once_more_in_30_seconds(
    world: World, remote: str, key_server: KeyServer
) -> None:
    assert told(await ask(world, remote, assertion(remote))) == PROVEN
    key_server.body = {"keys": [public_jwk(FOREIGN, kid="new")]}
    new = {"kid": "new"}
    assert told(await ask(world, remote, assertion(remote, FOREIGN, new))) == PROVEN
    assert told(await ask(world, remote, assertion(remote))) == NOT_PROVEN  # it was taken back
    assert told(await ask(world, remote, assertion(remote, EC, {"kid": "more"}))) == NOT_PROVEN
    assert key_server.fetched == 2


async def test_keys_that_were_taken_back_serve_no_longer_than_5_minutes(
    world: World, remote: str, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "LIFE", 0.0)
    assert told(await ask(world, remote, assertion(remote))) == PROVEN
    key_server.status = 500
    assert told(await ask(world, remote, assertion(remote))) == NOT_PROVEN


async def test_claims_are_looked_at_before_keys_are_fetched(
    world: World, remote: str, key_server: KeyServer
) -> None:
    for given in ("a.b.c", assertion("another"), assertion(remote, aud="https://other.example")):
        assert told(await ask(world, remote, given)) == NOT_PROVEN
    assert key_server.fetched == 0


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        "{}",
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "AA", "kid": "ec"}]},
        {**KEYS, "more": "x" * 65536},
    ],
)
async def test_what_is_no_key_set(
    world: World, remote: str, key_server: KeyServer, body: Any
) -> None:
    key_server.body = body
    assert told(await ask(world, remote, assertion(remote))) == NOT_PROVEN


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_another_answer_is_not_taken_and_no_redirect_followed(
    world: World, remote: str, key_server: KeyServer, status: int
) -> None:
    key_server.status = status
    assert told(await ask(world, remote, assertion(remote))) == NOT_PROVEN
    assert key_server.fetched == 1


@pytest.mark.parametrize(
    "uri", ["http://localhost:9/keys", "https://10.0.0.1/keys", "https://u:p@localhost/keys"]
)
async def test_a_uri_that_may_not_be_fetched(world: World, uri: str) -> None:
    made = await world.tenant.add_application(jwks_uri=uri)
    given = assertion(made.aggregate_id)
    assert told(await ask(world, made.aggregate_id, given)) == NOT_PROVEN


async def test_a_server_that_is_not_trusted_or_not_public_is_not_asked(
    database_url: str, redis_url: str, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_server.fetched
    async with new_world(database_url, redis_url) as world:
        made = await world.tenant.add_application(jwks_uri=key_server.url)
        given = assertion(made.aggregate_id)
        assert told(await ask(world, made.aggregate_id, given)) == NOT_PROVEN
    monkeypatch.delenv("SSL_CERT_FILE")
    async with new_world(database_url, redis_url, ALLOW_PRIVATE_UPSTREAMS="loopback") as world:
        made = await world.tenant.add_application(jwks_uri=key_server.url)
        given = assertion(made.aggregate_id)
        assert told(await ask(world, made.aggregate_id, given)) == NOT_PROVEN
    assert key_server.fetched == before


async def test_in_runtime_mode_no_private_address_is_asked(
    database_url: str, redis_url: str, key_server: KeyServer
) -> None:
    """It is the Gateway's to call private upstreams."""
    before = key_server.fetched
    lax = {"CARACAL_MODE": "runtime", "ALLOW_PRIVATE_UPSTREAMS": "true"}
    async with new_world(database_url, redis_url, **lax) as world:
        made = await world.tenant.add_application(jwks_uri=key_server.url)
        given = assertion(made.aggregate_id)
        assert told(await ask(world, made.aggregate_id, given)) == NOT_PROVEN
    assert key_server.fetched == before


async def test_others_failures_do_not_shut_out_who_can_prove_itself(
    database_url: str, redis_url: str
) -> None:
    limit = {"CLIENT_AUTH_FAIL_LIMIT_PER_MIN": "2"}
    async with new_world(database_url, redis_url, **limit) as world:
        app_id = (await world.tenant.add_application(jwks=KEYS)).aggregate_id
        answers = [await ask(world, app_id, assertion(app_id, FOREIGN)) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 2
        assert await world.audit(answers[-1]) == []
        assert told(await ask(world, app_id, assertion(app_id))) == PROVEN


async def test_without_redis_an_assertion_cannot_be_taken(own_servers: EmbeddedServers) -> None:
    async with new_world(own_servers.database_url, own_servers.redis_url) as world:
        made = await world.tenant.add_application(jwks=KEYS)
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        own_servers.valkey.process.wait()
        answer = await ask(world, made.aggregate_id, assertion(made.aggregate_id))
        assert told(answer) == (503, "audit_unavailable")
        forged = await ask(world, made.aggregate_id, assertion(made.aggregate_id, FOREIGN))
        assert told(forged) == NOT_PROVEN
