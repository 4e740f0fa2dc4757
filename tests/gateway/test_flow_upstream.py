"""The call to the upstream on the wire, both ways: headers, bodies, URLs, and what fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any

import h11
import pytest

from tests.backbone import eventually
from tests.gateway.doubles import Feed, Request, Wire
from tests.gateway.scene import Scene, new_scene


async def test_what_reaches_the_upstream(scene: Scene) -> None:
    headers = scene.headers()
    sent = {
        "X-Request-Id": "req-1",
        "X-Mine": "kept",
        "Cookie": "a=1",
        "User-Agent": "client",
        "Accept-Encoding": "br",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "TE": "trailers",
        "Upgrade": "h2c",
        "Proxy-Authorization": "Basic x",
        "X-Caracal-Scope": "read",
        "X-Caracal-Identity": "forged",
        "X-Forwarded-For": "10.0.0.1",
        "X_Forwarded_For": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "X-Real-IP": "10.0.0.1",
        "Caracal-Min-Position": "1",
        "baggage": "caracal.hop=1,other=2",
    }
    await scene.call("/a/b%2Fc/?x=1&y", "PUT", headers=headers | sent, content=b"body")
    (request,) = scene.upstream.requests
    assert (request.method, request.raw_path, request.query) == ("PUT", b"/a/b%2Fc/", b"x=1&y")
    assert request.body == b"body"
    names = {name.decode() for name, _ in request.headers}
    assert names == {
        "host",
        "authorization",
        "accept",
        "accept-encoding",
        "user-agent",
        "cookie",
        "x-mine",
        "content-length",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "traceparent",
        "baggage",
    }
    (authorization,) = request.all("authorization")
    assert authorization.startswith("Bearer ey")
    assert authorization != headers["Authorization"]
    assert request.all("x-request-id") == ["req-1"]
    assert request.all("x-forwarded-for") == ["127.0.0.1"]
    assert request.all("x-forwarded-proto") == ["http"]
    assert request.all("x-forwarded-host") == [scene.url.removeprefix("http://")]
    assert request.all("host") == [scene.sts.upstream.removeprefix("http://")]
    assert request.all("baggage") == ["caracal.hop=1,other=2"]
    assert request.all("traceparent")[0].startswith(f"00-{sha256(b'req-1').hexdigest()[:32]}-")


async def test_nothing_is_added_that_the_client_did_not_send(scene: Scene) -> None:
    async with Wire.opened(scene.url) as wire:
        assert (await wire.ask("/", scene.headers())).status_code == 200
    names = {name.decode() for name, _ in scene.upstream.requests[0].headers}
    assert not names & {"user-agent", "accept", "accept-encoding", "content-type"}


async def test_the_upstream_s_own_path_and_query_win(scene: Scene) -> None:
    scene.sts.directive = {"url": f"{scene.sts.upstream}/base/?key=own#part"}
    await scene.call("/x/?key=client&a=1")
    assert scene.upstream.requests[0].raw_path == b"/base/x/"
    assert scene.upstream.requests[0].query == b"key=own&a=1"


async def test_a_provider_s_credential_and_the_mandate_go_apart(scene: Scene) -> None:
    scene.sts.directive = {
        "auth_mode": "provider_apikey",
        "auth_header": "X-Api-Key",
        "auth_scheme": "",
        "provider_token": "the-key",
    }
    await scene.call(headers={"X-Api-Key": "mine", "baggage": "caracal.hop=1,other=2"})
    (request,) = scene.upstream.requests
    assert request.all("x-api-key") == ["the-key"]
    assert request.all("x-caracal-identity")[0].startswith("ey")
    assert request.all("authorization") == []
    assert request.all("baggage") == ["other=2"]


@pytest.mark.parametrize(
    "directive",
    [
        {"auth_mode": "none"},
        {"auth_mode": "provider_oauth"},
        {"auth_header": "X Y"},
        {"auth_scheme": "Bearer\r\nevil: 1"},
        {"allowed_hosts": ["api.example"]},
    ],
    ids=lambda directive: next(iter(directive)),
)
async def test_a_credential_that_cannot_be_sent(scene: Scene, directive: dict[str, Any]) -> None:
    scene.sts.directive = directive
    before = await scene.counted()
    answer = await scene.call()
    after = await scene.counted()
    assert (answer.status_code, answer.json()["error"]) == (502, "internal_error")
    assert after["upstream_errors"] == before["upstream_errors"] + 1
    assert after["requests_denied"] == before["requests_denied"]
    assert not scene.upstream.requests


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "http://user@127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://2130706433/",
        "http://no-such-host.invalid/",
    ],
)
async def test_the_guard_stands_before_the_upstream(scene: Scene, url: str) -> None:
    scene.sts.directive = {"url": url}
    before = await scene.counted()
    answer = await scene.call()
    body = answer.json()
    assert (answer.status_code, body["error"], body["error_description"]) == (
        403,
        "access_denied",
        "upstream not allowed",
    )
    assert (await scene.counted())["upstream_errors"] == before["upstream_errors"] + 1


ANSWER = b"""HTTP/1.1 418 Teapot
Content-Type: text/plain
Content-Encoding: br
Content-Length: 10
Set-Cookie: a=1
Set-Cookie: b=2
Connection: x-hop
X-Hop: 1
Date: Thu, 01 Jan 1970 00:00:00 GMT
Server: theirs
X-Request-Id: theirs
X-Caracal-Identity: leak
X-Caracal-Revoked: forged
Caracal-Position: 7

not brotli"""


async def test_what_reaches_the_client(scene: Scene) -> None:
    before = await scene.counted()
    async with raw_upstream(says(ANSWER)) as url, Wire.opened(scene.url) as wire:
        scene.sts.directive = {"url": url}
        head = await wire.ask("/", scene.headers() | {"X-Request-Id": "req-1"})
        assert await wire.rest() == (b"not brotli", {})
    names = [(k.decode().lower(), v.decode()) for k, v in head.headers]
    assert head.status_code == 418  # the upstream's own failures are its business
    assert sorted(names) == sorted(
        [
            ("content-type", "text/plain"),
            ("content-encoding", "br"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("server", "theirs"),
            ("x-request-id", "req-1"),
            ("x-caracal-token-expires-in", dict(names)["x-caracal-token-expires-in"]),
            ("trailer", "X-Caracal-Revoked, X-Caracal-Stale"),
            ("transfer-encoding", "chunked"),
        ]
    )
    assert (await scene.counted())["requests_allowed"] == before["requests_allowed"] + 1


async def test_an_answer_without_a_date_gets_one(scene: Scene) -> None:
    async def dateless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with raw_upstream(dateless) as url:
        scene.sts.directive = {"url": url}
        answer = await scene.call()
    assert answer.text == "ok"
    assert answer.headers["date"].endswith(" GMT")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_a_body_have_no_trailers(
    scene: Scene, method: str, status: int
) -> None:
    async def bare(request: Request, receive: Any, send: Any) -> None:
        length = [(b"content-length", b"5")] if method == "HEAD" else []
        await send({"type": "http.response.start", "status": status, "headers": length})
        await send({"type": "http.response.body", "body": b""})

    scene.upstream.behaviour = bare
    async with Wire.opened(scene.url) as wire:
        head = await wire.ask("/", scene.headers(), method)
        names = {name.decode().lower() for name, _ in head.headers}
        assert await wire.rest() == (b"", {})
        assert head.status_code == status
        assert not names & {"trailer", "transfer-encoding"}
        assert ("content-length" in names) == (method == "HEAD")
        wire.parser.start_next_cycle()
        assert (await wire.ask("/", scene.headers(), method)).status_code == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_the_client_s_to_follow(scene: Scene, status: int) -> None:
    scene.upstream.behaviour = feed = Feed(
        (b"location", scene.sts.upstream.encode() + b"/elsewhere"), status=status
    )
    feed.give(b"")
    answer = await scene.call()
    assert answer.status_code == status
    assert answer.headers["location"] == f"{scene.sts.upstream}/elsewhere"
    assert len(scene.upstream.requests) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5_000_000])
async def test_bodies_pass_whole_both_ways(scene: Scene, size: int, chunked: bool) -> None:
    body = b"0123456789abcdef" * (size // 16) + b"x" * (size % 16)

    async def echo(request: Request, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            request.body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": request.body})

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 50_000):
            yield body[start : start + 50_000]

    scene.upstream.behaviour = echo
    answer = await scene.call("/", "POST", content=pieces() if chunked else body)
    assert answer.status_code == 200
    assert sha256(answer.content).digest() == sha256(body).digest()
    (request,) = scene.upstream.requests
    framed = request.all("transfer-encoding") == ["chunked"]
    assert framed == chunked


async def test_an_upstream_may_answer_while_the_body_is_still_coming(scene: Scene) -> None:
    async def talk(request: Request, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            piece = message.get("body", b"").upper()
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    scene.upstream.behaviour = talk
    async with Wire.opened(scene.url) as wire:
        lines = "".join(f"{k}: {v}\r\n" for k, v in scene.headers().items())
        chunked = "Host: x\r\nTransfer-Encoding: chunked\r\n"
        wire.writer.write(f"POST / HTTP/1.1\r\n{chunked}{lines}\r\n3\r\none\r\n".encode())
        wire.parser.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
        wire.parser.send(h11.EndOfMessage())
        assert isinstance(await wire.event(), h11.Response)
        assert await wire.piece() == b"ONE"
        wire.writer.write(b"3\r\ntwo\r\n")
        assert await wire.piece() == b"TWO"
        wire.writer.write(b"0\r\n\r\n")
        assert await wire.rest() == (b"", {})


@pytest.fixture(scope="module")
async def small(module_database_url: str, module_redis_url: str) -> AsyncIterator[Scene]:
    """A Gateway that lets little through and has no patience."""
    limits = {"MAX_REQUEST_BYTES": "200000", "UPSTREAM_TIMEOUT": "300ms"}
    async with new_scene(module_database_url, module_redis_url, **limits) as made:
        yield made


@pytest.mark.parametrize("protocol", ["http", "mcp"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_over_the_limit(small: Scene, chunked: bool, protocol: str) -> None:
    made = await small.resource_with(upstream_url="http://127.0.0.1:9", protocol=protocol)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 20_000

    small.upstream.requests.clear()
    before = await small.counted()
    answer = await small.call(
        "/",
        "POST",
        headers={"X-Caracal-Resource": made.identifier},
        content=pieces() if chunked else b"x" * 200_001,
    )
    assert (answer.status_code, answer.json()["error"], answer.json()["error_description"]) == (
        413,
        "payload_too_large",
        "request body too large",
    )
    after = await small.counted()
    assert after["upstream_errors"] == before["upstream_errors"] + 1
    assert not any(request.complete for request in small.upstream.requests)
    assert chunked or not small.upstream.requests


async def test_an_upstream_that_does_not_answer_in_time(small: Scene) -> None:
    waiting = asyncio.Event()

    async def silent(request: Request, receive: Any, send: Any) -> None:
        await waiting.wait()

    small.upstream.behaviour = silent
    answer = await small.call()
    waiting.set()
    assert (answer.status_code, answer.json()["error_description"]) == (504, "upstream timeout")


async def test_only_the_wait_for_the_head_is_bounded(small: Scene) -> None:
    small.upstream.behaviour = feed = Feed()
    async with Wire.opened(small.url) as wire:
        feed.give(b"one")
        await wire.ask("/", small.headers())
        assert await wire.piece() == b"one"
        await asyncio.sleep(0.5)  # more than UPSTREAM_TIMEOUT
        feed.give(b"two", b"")
        assert await wire.rest() == (b"two", {})


async def test_a_slow_body_does_not_use_up_the_wait(small: Scene) -> None:
    small.upstream.behaviour = None

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x"
            await asyncio.sleep(0.12)

    answer = await small.call("/", "POST", content=pieces())
    assert answer.status_code == 200
    assert small.upstream.requests[-1].body == b"xxxxx"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_upstream(serve: Serve) -> AsyncIterator[str]:
    """An upstream that does with a connection what it likes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def says(text: bytes) -> Serve:
    """Read a head, say something, and close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)

    return serve


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"HTTP/1.1 101 Go\r\n\r\n",
    ],
    ids=["closed", "no HTTP", "endless head", "another protocol"],
)
async def test_an_upstream_that_fails_before_its_head(scene: Scene, text: bytes) -> None:
    before = await scene.counted()
    async with raw_upstream(says(text)) as url:
        scene.sts.directive = {"url": url}
        answer = await scene.call("/", "POST")
    body = answer.json()
    assert (answer.status_code, body["error"], body["error_description"]) == (
        502,
        "internal_error",
        "upstream unreachable",
    )
    after = await scene.counted()
    assert after["upstream_errors"] == before["upstream_errors"] + 1
    assert after["requests_denied"] == before["requests_denied"]


async def test_an_upstream_that_is_not_there(scene: Scene) -> None:
    async with raw_upstream(says(b"")) as url:
        pass
    scene.sts.directive = {"url": url}
    answer = await scene.call()
    assert (answer.status_code, answer.json()["error_description"]) == (
        502,
        "upstream unreachable",
    )


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ],
    ids=["length", "chunks"],
)
async def test_an_answer_that_breaks_off_is_cut(scene: Scene, text: bytes) -> None:
    before = await scene.counted()
    async with raw_upstream(says(text)) as url, Wire.opened(scene.url) as wire:
        scene.sts.directive = {"url": url}
        assert (await wire.ask("/", scene.headers())).status_code == 200
        with pytest.raises(h11.RemoteProtocolError):  # no clean end
            await wire.rest()
    after = await scene.counted()
    assert after["upstream_errors"] == before["upstream_errors"] + 1
    assert after["requests_allowed"] == before["requests_allowed"]


async def test_an_unreadable_query_is_refused(scene: Scene) -> None:
    answer = await scene.http.get(
        scene.url, headers=scene.headers(), extensions={"target": b"/?a=%zz"}
    )
    assert (answer.status_code, answer.json()["error"], answer.json()["error_description"]) == (
        400,
        "internal_error",
        "upstream request build failed",
    )


async def test_connections_to_the_upstream_are_kept(scene: Scene) -> None:
    peers = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await serve(reader, writer)

    async with raw_upstream(quietly) as url:
        scene.sts.directive = {"url": url}
        for _ in range(5):
            assert (await scene.call()).text == "ok"
    assert len(peers) == 1


async def test_no_call_is_left_over(scene: Scene) -> None:
    async def over() -> bool:
        return not len(scene.gateway.streams) and not scene.gateway.streams._by_anchor

    await eventually(over)
