"""The guard: a table of addresses, names that change their mind, and the dial itself."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from caracal.services.upstream_guard import NotAllowed, UpstreamGuard

PUBLIC = ["8.8.8.8", "93.184.216.34", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1"]
PUBLIC += ["172.32.0.0", "192.0.1.1", "198.17.255.255", "198.20.0.0", "223.255.255.255"]
PUBLIC += ["2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"]
PRIVATE = ["0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.0", "100.127.255.255"]
PRIVATE += ["169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.168.1.1"]
PRIVATE += ["198.18.0.0", "198.19.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1"]
PRIVATE += ["255.255.255.255", "::", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%1", "ff02::1"]
PRIVATE += ["fec0::1", "::10.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:0"]
PRIVATE += ["64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"]
PRIVATE += ["::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"]
PRIVATE += ["2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "2001:0:808:808::f5ff:fffe"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass_in_every_mode(address: str) -> None:
    assert all(UpstreamGuard(mode).allows(address) for mode in ("false", "loopback", "true"))


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_passes_by_setting(address: str) -> None:
    assert not UpstreamGuard("false").allows(address)
    assert UpstreamGuard("loopback").allows(address)
    assert UpstreamGuard("true").allows(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_other_addresses_pass_only_when_all_do(address: str) -> None:
    assert not UpstreamGuard("false").allows(address)
    assert not UpstreamGuard("loopback").allows(address)
    assert UpstreamGuard("true").allows(address)


def test_what_is_no_address_never_passes() -> None:
    assert not UpstreamGuard("true").allows("example.com")


@given(st.ip_addresses(v=4))
def test_carried_forms_are_judged_by_what_they_carry(address: object) -> None:
    guard = UpstreamGuard("false")
    high, low = divmod(int(address), 65536)  # type: ignore[call-overload]
    for form in (f"::ffff:{address}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::9"):
        assert guard.allows(form) == guard.allows(str(address))


Tls = tuple[ssl.SSLContext, ssl.SSLContext]


class Names:
    """A resolver under our control; each answer but the last is given once."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "http:///x",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://:secret@example.com/",
        "http://2130706433/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://8.8.8.8./",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://bücher.example/",
    ],
)
async def test_urls_refused_without_a_lookup(url: str) -> None:
    names = Names(["8.8.8.8"])
    with pytest.raises(NotAllowed) as refused:
        await UpstreamGuard("false", lookup=names).check(URL(url, encoded=True))
    assert (refused.value.status, refused.value.code) == (403, "access_denied")
    assert refused.value.description == "upstream not allowed"
    assert names.asked == 0


async def test_every_address_must_pass() -> None:
    url = URL("https://example.com/")
    await UpstreamGuard(lookup=Names(["8.8.8.8", "2606:4700::1111"])).check(url)
    for answer in (["8.8.8.8", "10.0.0.1"], ["::1", "8.8.8.8"], []):
        with pytest.raises(NotAllowed):
            await UpstreamGuard(lookup=Names(answer)).check(url)


async def test_name_that_does_not_resolve_is_refused() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(NotAllowed):
        await UpstreamGuard("true", lookup=lookup).check(URL("http://nowhere.example/"))


async def test_real_resolver_knows_localhost() -> None:
    with pytest.raises(NotAllowed):
        await UpstreamGuard("false").check(URL("http://localhost/"))
    await UpstreamGuard("loopback").check(URL("http://localhost/"))


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("api.example.com", True),
        ("API.Example.COM", True),
        ("example.com", False),
        ("x.api.example.com", False),
        ("api.example.com.", False),
        ("api.example.com.evil.test", False),
    ],
)
async def test_allowlist_holds_exact_hosts(host: str, passes: bool) -> None:
    guard = UpstreamGuard(allowlist=["Api.Example.Com"], lookup=Names(["8.8.8.8"]))
    if passes:
        await guard.check(URL(f"https://{host}/", encoded=True))
    else:
        with pytest.raises(NotAllowed):
            await guard.check(URL(f"https://{host}/", encoded=True))


async def test_allowlist_does_not_make_an_address_public() -> None:
    guard = UpstreamGuard(allowlist=["in.example"], lookup=Names(["10.0.0.1"]))
    with pytest.raises(NotAllowed):
        await guard.check(URL("http://in.example/"))


async def test_verdict_is_kept_for_five_seconds_and_only_when_good() -> None:
    now = [100.0]
    names = Names(["8.8.8.8"], ["10.0.0.1"])
    guard = UpstreamGuard(lookup=names, clock=lambda: now[0])
    url = URL("http://example.com/")
    for _ in range(3):
        await guard.check(url)
    assert names.asked == 1
    now[0] += 5
    for asked in (2, 3):
        with pytest.raises(NotAllowed):
            await guard.check(url)
        assert names.asked == asked


class Upstream:
    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.connections = 0
        self.sni: list[str] = []
        self.port = 0


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    seen = Upstream()

    async def handle(request: web.Request) -> web.Response:
        seen.hosts.append(request.headers["Host"])
        return web.Response(text="hello")

    class Counting(web.Server):
        def __call__(self):  # type: ignore[no-untyped-def]
            seen.connections += 1
            return super().__call__()

    server = await asyncio.get_running_loop().create_server(Counting(handle), "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    yield seen
    server.close()
    await server.wait_closed()


async def fetch(guard: UpstreamGuard, url: str) -> str:
    async with (
        aiohttp.ClientSession(connector=guard.connector()) as session,
        session.get(URL(url, encoded=True), allow_redirects=False) as answer,
    ):
        return await answer.text()


async def test_dial_goes_to_the_checked_address_under_the_name(upstream: Upstream) -> None:
    guard = UpstreamGuard("loopback", lookup=Names(["127.0.0.1"]))
    host = f"some.example:{upstream.port}"
    assert await fetch(guard, f"http://{host}/") == "hello"
    assert upstream.hosts == [host]


async def test_name_that_rebinds_after_the_check_gets_no_connection(upstream: Upstream) -> None:
    url = f"http://rebind.example:{upstream.port}/"
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    guard = UpstreamGuard("false", lookup=names)
    await guard.check(URL(url))
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(guard, url)
    assert names.asked == 2
    assert upstream.connections == 0


async def test_one_bad_address_spoils_the_name_at_the_dial_too(upstream: Upstream) -> None:
    guard = UpstreamGuard("loopback", lookup=Names(["10.0.0.1", "127.0.0.1"]))
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(guard, f"http://mixed.example:{upstream.port}/")
    assert upstream.connections == 0


async def test_every_dial_resolves_anew(upstream: Upstream) -> None:
    names = Names(["127.0.0.1"])
    connector = UpstreamGuard("loopback", lookup=names).connector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        for asked in (1, 2):
            async with session.get(f"http://some.example:{upstream.port}/") as answer:
                assert await answer.text() == "hello"
            assert names.asked == asked


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]"])
async def test_literal_address_is_refused_at_the_dial_too(upstream: Upstream, host: str) -> None:
    """aiohttp asks no resolver for a literal address."""
    url = f"http://{host}:{upstream.port}/"
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(UpstreamGuard("false"), url)
    assert upstream.connections == 0
    if host == "127.0.0.1":
        assert await fetch(UpstreamGuard("loopback"), url) == "hello"


async def test_environment_proxy_is_not_used(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    guard = UpstreamGuard("loopback", lookup=Names(["127.0.0.1"]))
    assert await fetch(guard, f"http://some.example:{upstream.port}/") == "hello"


async def test_tls_is_verified_against_the_name_not_the_address(tls: Tls) -> None:
    server_side, client_side = tls
    names_sent: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: names_sent.append(name)  # type: ignore[assignment]
    server = web.Server(lambda _request: asyncio.sleep(0, web.Response(text="tls")))
    listening = await asyncio.get_running_loop().create_server(
        server, "127.0.0.1", 0, ssl=server_side
    )
    port = listening.sockets[0].getsockname()[1]
    guard = UpstreamGuard("loopback", lookup=Names(["127.0.0.1"]))
    async with aiohttp.ClientSession(connector=guard.connector(ssl=client_side)) as session:
        async with session.get(f"https://tls.example:{port}/") as answer:
            assert await answer.text() == "tls"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"https://other.example:{port}/")
    assert names_sent == ["tls.example", "other.example"]
    listening.close()
    await server.shutdown()
    await listening.wait_closed()
