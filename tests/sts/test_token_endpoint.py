"""Token endpoints of providers: what is sent, and what of hostile answers is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from caracal.services.sts import token_endpoint
from caracal.services.sts.provider_directive import NoCredential
from caracal.services.sts.token_endpoint import (
    Client,
    Failed,
    Issued,
    TokenEndpoint,
    client_of,
    issued_in,
)
from caracal.services.upstream_guard import Mode, UpstreamGuard
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
    assert failed.value.counts
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
    assert not failed.value.counts
    assert len(server.calls) == ONCE


async def test_private_addresses_are_not_called(server: OAuthServer) -> None:
    port = URL(server.url).port
    for host in (HOST, "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(Failed, match="address is not allowed") as failed:
            await ask(client(server, url=f"https://{host}:{port}/token"), "false")
        assert failed.value.counts
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
