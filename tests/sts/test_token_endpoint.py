"""Token endpoints of providers: what is sent, and what of hostile answers is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from caracal.foreign_jwt import taken_apart
from caracal.services import token_endpoint
from caracal.services.provider_client import ASSERTION_TYPE, Client, algorithm_of, client_of
from caracal.services.provider_kind import NoCredential
from caracal.services.token_endpoint import Failed, Issued, TokenEndpoint, issued_in
from caracal.services.upstream_guard import Mode, UpstreamGuard
from tests.signing import PrivateKey, ec_key, pem_of, rsa_key
from tests.sts.oauth_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    HOST,
    MARK,
    OAuthServer,
    answering,
    breaking_off,
    cut,
    endless,
)

REFRESH = {"grant_type": "refresh_token", "refresh_token": f"{MARK}-refresh-0"}


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path).serving() as made:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
        yield made


def client(server: OAuthServer, method: str = "client_secret_basic", url: str = "") -> Client:
    return Client(URL(url or server.url), CLIENT_ID, CLIENT_SECRET, method)


async def ask(client: Client, mode: Mode = "loopback") -> Issued:
    endpoint = TokenEndpoint(UpstreamGuard(mode))
    try:
        return await endpoint.ask(client, REFRESH)
    finally:
        await endpoint.close()


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_refresh(server: OAuthServer, method: str) -> None:
    issued = await ask(client(server, method))
    assert issued == Issued(f"{MARK}-access-1", f"{MARK}-refresh-1", 600)
    [call] = server.calls
    assert call["grant_type"] == "refresh_token"
    assert ("client_secret" in call) == (method == "client_secret_post")
    assert MARK not in repr(issued)
    assert CLIENT_SECRET not in repr(client(server))


async def test_a_client_without_a_secret_names_itself(server: OAuthServer) -> None:
    server.behaviour = answering('{"access_token": "a"}')
    assert await ask(client(server, "none")) == Issued("a", None, None)
    assert server.calls == [REFRESH | {"client_id": CLIENT_ID, "client": ""}]


ONCE, TWICE = 1, 2
TOKEN = '{"access_token": "a", "expires_in": '
HOSTILE: dict[str, tuple[Any, int]] = {
    "cut": (cut, TWICE),
    "cut in the body": (breaking_off, TWICE),
    "500": (answering("{}", 500), TWICE),
    "503 with a token": (answering('{"access_token": "a"}', 503), TWICE),
    "endless": (endless, ONCE),
    "huge": (answering(b"[" * 70_000), ONCE),
    "redirect": (answering("", 307, Location="/elsewhere"), ONCE),
    "redirect with a token": (answering('{"access_token": "a"}', 302), ONCE),
    "created": (answering('{"access_token": "a"}', 201), ONCE),
    "invalid_client": (answering('{"error": "invalid_client"}', 401), ONCE),
    "wrong content type": (answering('{"access_token": "a"}', **{"Content-Type": "text/html"}), 1),
    "garbage": (answering("{access_token"), ONCE),
    "deep": (answering(b"[" * 60_000 + b"]" * 5), ONCE),
    "no object": (answering('["a"]'), ONCE),
    "not UTF-8": (answering(b'{"access_token": "\xff"}'), ONCE),
    "compressed": (answering(b"\x1f\x8b\x08\x00", **{"Content-Encoding": "gzip"}), ONCE),
    "no token": (answering('{"expires_in": 5}'), ONCE),
    "empty token": (answering('{"access_token": ""}'), ONCE),
    "a number for a token": (answering('{"access_token": 5}'), ONCE),
    "line break": (answering('{"access_token": "a\\r\\nX: y"}'), ONCE),
    "space": (answering('{"access_token": "a b"}'), ONCE),
    "long token": (answering(orjson.dumps({"access_token": "a" * 17_000})), ONCE),
    "odd refresh token": (answering('{"access_token": "a", "refresh_token": ["r"]}'), ONCE),
    "no bearer": (answering('{"access_token": "a", "token_type": "DPoP"}'), ONCE),
    "odd token type": (answering('{"access_token": "a", "token_type": {}}'), ONCE),
    "negative": (answering(TOKEN + "-1}"), ONCE),
    "zero": (answering(TOKEN + "0}"), ONCE),
    "true": (answering(TOKEN + "true}"), ONCE),
    "fraction": (answering(TOKEN + "1.5}"), ONCE),
    "words": (answering(TOKEN + '"soon"}'), ONCE),
    "list": (answering(TOKEN + "[]}"), ONCE),
    "beyond all numbers": (answering(TOKEN + "9" * 5000 + "}"), ONCE),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_answer_gives_no_token(server: OAuthServer, name: str) -> None:
    server.behaviour, asked = HOSTILE[name]
    with pytest.raises(Failed) as failed:
        await ask(client(server))
    assert not failed.value.ended
    assert failed.value.status == "credential_refresh_failed"
    assert len(server.calls) == asked
    assert MARK not in str(failed.value)


async def test_a_slow_provider_is_given_up(
    server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_endpoint, "CALL_SECONDS", 0.2)

    async def slow(request: Any) -> Any:
        await asyncio.sleep(30)

    server.behaviour = slow
    with pytest.raises(Failed, match="TimeoutError"):
        await ask(client(server))
    assert len(server.calls) == TWICE


async def test_the_second_try_may_help(server: OAuthServer) -> None:
    async def first(request: Any) -> Any:
        server.behaviour = None
        return await answering("", 502)(request)

    server.behaviour = first
    assert (await ask(client(server))).access_token == f"{MARK}-access-2"


async def test_a_grant_that_the_provider_ended_is_not_its_failure(server: OAuthServer) -> None:
    server.refresh_tokens.clear()
    with pytest.raises(Failed, match="invalid_grant") as failed:
        await ask(client(server))
    assert failed.value.ended
    assert len(server.calls) == ONCE


async def test_private_addresses_are_not_called(server: OAuthServer) -> None:
    port = URL(server.url).port
    for host in (HOST, "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(Failed, match="address is not allowed") as failed:
            await ask(client(server, url=f"https://{host}:{port}/token"), "false")
        assert not failed.value.ended
    assert server.calls == []


async def test_a_name_that_changes_its_mind_is_not_dialled(server: OAuthServer) -> None:
    """DNS rebinding: public when it is checked, loopback at the dial."""
    told = iter([["93.184.215.14"]] + [["127.0.0.1"]] * 9)

    async def lookup(host: str, port: int) -> list[str]:
        return next(told)

    endpoint = TokenEndpoint(UpstreamGuard(lookup=lookup))
    url = server.url.replace(HOST, "login.example")
    with pytest.raises(Failed, match=r"cannot be asked|not allowed"):
        await endpoint.ask(client(server, url=url), REFRESH)
    await endpoint.close()
    assert server.calls == []


async def test_a_certificate_nobody_vouches_for_is_refused(
    server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Failed, match="Certificate"):
        await ask(client(server))
    assert server.calls == []


def row(**config: Any) -> dict[str, Any]:
    given = {"token_endpoint": "https://login.example/t", "allowed_token_hosts": ["login.example"]}
    merged = {name: value for name, value in (given | config).items() if value is not None}
    return {"client_id": "id", "config": merged}


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({"token_endpoint": "http://login.example/t"}, "credential_refresh_failed"),
        ({"token_endpoint": "https://login.example.evil/t"}, "credential_refresh_failed"),
        ({"token_endpoint": "https://sub.login.example/t"}, "credential_refresh_failed"),
        ({"token_endpoint": "https://login.example@evil/t"}, "credential_refresh_failed"),
        ({"token_endpoint": "https:///t"}, "credential_refresh_failed"),
        ({"token_endpoint": "https://[login/t"}, "credential_not_provisioned"),
        ({"token_endpoint": None}, "credential_not_provisioned"),
        ({"token_endpoint": 5}, "credential_not_provisioned"),
        ({"allowed_token_hosts": None}, "credential_not_provisioned"),
        ({"allowed_token_hosts": []}, "credential_not_provisioned"),
        ({"allowed_token_hosts": "login.example"}, "credential_not_provisioned"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "credential_not_provisioned"),
    ],
)
def test_endpoints_that_are_not_called(config: dict[str, Any], status: str) -> None:
    with pytest.raises(NoCredential) as refused:
        client_of(row(**config), {"client_secret": "s"})
    assert refused.value.status == status


def test_how_we_are_known() -> None:
    assert client_of(row(), {"client_secret": "s"}).method == "client_secret_basic"
    assert client_of(row(), {}).method == "none"
    alias = row(token_endpoint=None, token_url="https://LOGIN.example:8443/t", client_id="x")
    assert client_of(alias, {}).url == URL("https://login.example:8443/t")
    in_config = row(client_id="of config") | {"client_id": None}
    assert client_of(in_config, {}).client_id == "of config"
    for provider, secrets in (
        (row() | {"client_id": None}, {}),
        (row(), {"client_secret": 5}),
        (row(token_endpoint_auth_method="client_secret_post"), {}),
    ):
        with pytest.raises(NoCredential, match="credential_not_provisioned"):
            client_of(provider, secrets)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = ("access_token", "refresh_token", "expires_in", "token_type")


@given(st.dictionaries(st.sampled_from(NAMES), JSON) | JSON)
def test_whatever_is_answered_a_token_can_be_sent_or_there_is_none(body: Any) -> None:
    try:
        issued = issued_in(orjson.dumps(body))
    except Failed:
        return
    for token in (issued.access_token, issued.refresh_token or "r"):
        assert token.isascii()
        assert token.isprintable()
        assert " " not in token
    assert issued.seconds is None or issued.seconds > 0


@given(st.binary(max_size=200))
def test_no_bytes_are_a_surprise(content: bytes) -> None:
    with pytest.raises(Failed):
        issued_in(content)


# --- private_key_jwt (RFC 7523) ---------------------------------------------------------------


def signing(server: OAuthServer, key: PrivateKey, **config: Any) -> Client:
    given = {"token_endpoint": server.url, "allowed_token_hosts": [HOST]} | config
    known = {"client_id": CLIENT_ID, "config": given}
    return client_of(known, {"private_key": pem_of(key)})


@pytest.mark.parametrize(
    ("make", "alg"), [(ec_key, "ES256"), (rsa_key, "RS256")], ids=["ec", "rsa"]
)
async def test_a_client_that_signs(
    server: OAuthServer, make: Callable[[], PrivateKey], alg: str
) -> None:
    key = make()
    server.key = key.public_key()
    known = signing(server, key, assertion_key_id="k1")
    assert known.method == "private_key_jwt"
    assert (await ask(known)).access_token == f"{MARK}-access-1"
    [call] = server.calls
    assert (call["client"], call["client_assertion_type"]) == ("", ASSERTION_TYPE)
    assert not {"client_secret"} & call.keys()
    token = taken_apart(call["client_assertion"], ("jwt",))
    assert token is not None
    assert (token.alg, token.header["kid"]) == (alg, "k1")
    assert pem_of(key) not in repr(known)


async def test_each_request_has_an_assertion_of_its_own(server: OAuthServer) -> None:
    key = ec_key()
    server.key = key.public_key()

    async def first(request: Any) -> Any:
        server.behaviour = None
        server.assertions.add(token_id(server.calls[0]))
        return await answering("", 502)(request)

    server.behaviour = first
    assert (await ask(signing(server, key))).access_token == f"{MARK}-access-2"


def token_id(call: dict[str, str]) -> str:
    token = taken_apart(call["client_assertion"], ("jwt",))
    assert token is not None
    return str(token.jti)


async def test_an_assertion_for_somebody_else_is_refused(server: OAuthServer) -> None:
    key = ec_key()
    server.key = ec_key().public_key()
    with pytest.raises(Failed, match="answers 401"):
        await ask(signing(server, key))
    server.key = key.public_key()
    with pytest.raises(Failed, match="answers 401"):
        await ask(signing(server, key, assertion_audience="https://other.example"))


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "hush",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(ed25519.Ed25519PrivateKey.generate()),
        pem_of(ec_key()).replace("PRIVATE KEY", "PUBLIC KEY"),
    ],
    ids=["empty", "text", "P-384", "Ed25519", "public"],
)
async def test_what_is_no_key_signs_nothing(server: OAuthServer, pem: str) -> None:
    with pytest.raises(ValueError) as refused:
        algorithm_of(pem)
    assert "hush" not in str(refused.value)
    known = Client(URL(server.url), CLIENT_ID, pem, "private_key_jwt")
    with pytest.raises(NoCredential, match="credential_not_provisioned"):
        await ask(known)
    assert server.calls == []


# --- revocation (RFC 7009) --------------------------------------------------------------------


async def revoke(server: OAuthServer, mode: Mode = "loopback") -> None:
    endpoint = TokenEndpoint(UpstreamGuard(mode))
    url = URL(f"{server.issuer}/revoke")
    try:
        await endpoint.revoke(client(server), url, f"{MARK}-refresh-0", "refresh_token")
    finally:
        await endpoint.close()


async def test_a_token_is_revoked(server: OAuthServer) -> None:
    await revoke(server)
    [call] = server.revoked
    assert call["token"] == f"{MARK}-refresh-0"
    assert call["token_type_hint"] == "refresh_token"
    assert server.refresh_tokens == set()


@pytest.mark.parametrize("name", ["cut", "500", "endless", "huge", "redirect", "created"])
async def test_a_hostile_answer_is_no_revocation(server: OAuthServer, name: str) -> None:
    server.behaviour, _ = HOSTILE[name]
    with pytest.raises(Failed):
        await revoke(server)


async def test_no_token_goes_to_a_private_address(server: OAuthServer) -> None:
    with pytest.raises(Failed, match="address is not allowed"):
        await revoke(server, "false")
    assert server.revoked == []
