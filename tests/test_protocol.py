"""The protocol on the wire: a real server on both loops, read by h11, curl and bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from websockets.sync.client import connect

from caracal.services.protocol import CutConnection, protocol_class
from caracal.services.response_cycle import check_uvicorn

LIMIT = 10.0  # seconds a test waits before it calls something lost
TRAILER = (b"x-caracal-revoked", b"true")


class Seen:
    """What the application met, for a test to wait on."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.gone = threading.Event()
        self.reading = threading.Event()
        self.go = threading.Event()


class App:
    """Answers by path; each handler is one way an application may behave."""

    def __init__(self) -> None:
        self.seen = Seen()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.seen.scopes.append(scope)
        if scope["type"] == "websocket":
            await self.websocket(receive, send)
        else:
            await getattr(self, scope["path"].strip("/").replace("-", "_"))(receive, send)

    async def start(self, send: Any, *headers: tuple[bytes, bytes], **more: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers, **more})

    async def websocket(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        while message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
            message = await receive()

    async def plain(self, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        text = b"%d" % len(body)
        await self.start(send, (b"content-length", b"%d" % len(text)))
        await send({"type": "http.response.body", "body": text})

    async def early(self, receive: Any, send: Any) -> None:
        await self.start(send, (b"content-length", b"5"))
        await send({"type": "http.response.body", "body": b"early"})

    async def chunks(self, receive: Any, send: Any) -> None:
        await self.start(send)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async def trailers(self, receive: Any, send: Any) -> None:
        await self.start(send, (b"trailer", b"X-Caracal-Revoked"), trailers=True)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
        await send({"type": "http.response.trailers", "headers": [TRAILER], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-more", b"1")]})

    async def no_trailers_after_all(self, receive: Any, send: Any) -> None:
        await self.start(send, trailers=True)
        await send({"type": "http.response.body", "body": b"one"})
        await send({"type": "http.response.trailers"})

    async def length_and_trailers(self, receive: Any, send: Any) -> None:
        await self.start(send, (b"content-length", b"3"), trailers=True)
        await send({"type": "http.response.body", "body": b"one"})
        await send({"type": "http.response.trailers", "headers": [TRAILER]})

    async def not_modified(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 304, "trailers": True})
        await send({"type": "http.response.body"})
        await send({"type": "http.response.trailers", "headers": [TRAILER]})

    async def owed(self, receive: Any, send: Any) -> None:
        await self.start(send, trailers=True)
        await send({"type": "http.response.body", "body": b"one"})

    async def unannounced(self, receive: Any, send: Any) -> None:
        await self.start(send)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.trailers", "headers": [TRAILER]})

    async def split(self, receive: Any, send: Any) -> None:
        await self.start(send, trailers=True)
        await send({"type": "http.response.body", "body": b"one"})
        evil = (b"x", b"1\r\nevil: 1")
        await send({"type": "http.response.trailers", "headers": [evil]})

    async def body_after_end(self, receive: Any, send: Any) -> None:
        await self.start(send, trailers=True)
        await send({"type": "http.response.body", "body": b"one"})
        await send({"type": "http.response.body", "body": b"two"})

    async def fail(self, receive: Any, send: Any) -> None:
        await self.start(send, trailers=True)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise RuntimeError("upstream broke")

    async def cut(self, receive: Any, send: Any) -> None:
        await self.start(send)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise CutConnection

    async def cut_first(self, receive: Any, send: Any) -> None:
        raise CutConnection

    async def upload(self, receive: Any, send: Any) -> None:
        self.seen.reading.set()
        message = await receive()
        while message["type"] == "http.request" and message["more_body"]:
            message = await receive()
        if message["type"] == "http.disconnect":
            self.seen.gone.set()
            return
        await self.early(receive, send)

    async def hold(self, receive: Any, send: Any) -> None:
        self.seen.reading.set()
        await asyncio.to_thread(self.seen.go.wait, LIMIT)
        await self.early(receive, send)

    async def flood(self, receive: Any, send: Any) -> None:
        await receive()
        gone = asyncio.create_task(receive())
        await self.start(send)
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        assert (await gone)["type"] == "http.disconnect"
        self.seen.gone.set()

    async def flood_end(self, receive: Any, send: Any) -> None:
        body = b"x" * (32 << 20)
        await self.start(send, (b"content-length", b"%d" % len(body)), (b"connection", b"close"))
        await send({"type": "http.response.body", "body": body})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.seen.gone.set()


class Served:
    def __init__(self, app: App, port: int) -> None:
        self.app = app
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(LIMIT)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def raw(self, request: bytes) -> bytes:
        """Send ``request``, answer everything until the server closes."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_all(sock)


def send_for_ever(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x" * 65536)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return data


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = sock.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def get(path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    head = [f"{method} {path} HTTP/{version}", "host: x", *fields, "", ""]
    return "\r\n".join(head).encode()


Serve = Callable[..., Served]
Running = tuple[uvicorn.Server, threading.Thread, socket.socket, App]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[Any, Running]]:
    """One server for each loop and set of limits that the tests of this file ask for."""
    running: dict[Any, Running] = {}
    yield running
    for server, *_ in running.values():
        server.should_exit = True
    for _, thread, sock, _ in running.values():
        thread.join(LIMIT)
        sock.close()
        assert not thread.is_alive()


@pytest.fixture(params=["uvloop", "asyncio"])
def serve(request: pytest.FixtureRequest, servers: dict[Any, Running]) -> Serve:
    def start(**options: Any) -> Served:
        key = (request.param, *sorted(options.items()))
        if key not in servers:
            servers[key] = run_server(request.param, **options)
        _, _, sock, app = servers[key]
        app.seen = Seen()
        return Served(app, sock.getsockname()[1])

    return start


def run_server(
    loop: str, keep_alive: float = 5, limit_concurrency: int | None = None, **limits: Any
) -> Running:
    app = App()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    config = uvicorn.Config(
        app,
        http=protocol_class(**limits),
        loop=loop,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
        timeout_graceful_shutdown=1,
        limit_concurrency=limit_concurrency,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    return server, thread, sock, app


def h11_exchange(sock: socket.socket, client: h11.Connection, path: str, **more: Any) -> Any:
    """Send one request, return status, headers, body and trailers as h11 reads them."""
    request = h11.Request(method=more.get("method", "GET"), target=path, headers=[("host", "x")])
    sock.sendall(client.send(request) + client.send(h11.EndOfMessage()))
    body, head = b"", None
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.EndOfMessage)
            assert head is not None
            return head.status_code, dict(head.headers), body, list(event.headers)


def test_trailers_reach_h11_and_the_connection_stays(serve: Serve) -> None:
    server = serve()
    client = h11.Connection(h11.CLIENT)
    with server.connect() as sock:
        for _ in range(3):
            status, headers, body, trailers = h11_exchange(sock, client, "/trailers")
            assert (status, body) == (200, b"onetwo")
            assert headers[b"trailer"] == b"X-Caracal-Revoked"
            assert trailers == [TRAILER, (b"x-more", b"1")]
            client.start_next_cycle()
            assert h11_exchange(sock, client, "/plain")[2] == b"0"
            client.start_next_cycle()
    assert server.app.seen.scopes[0]["extensions"] == {"http.response.trailers": {}}


def test_trailers_reach_curl_raw(serve: Serve) -> None:
    url = serve().url
    command = ["curl", "-sS", "--raw", "--max-time", "10", url + "/trailers"]
    answer = subprocess.run(command, capture_output=True, check=True).stdout
    assert answer == (b"3\r\none\r\n3\r\ntwo\r\n0\r\nx-caracal-revoked: true\r\nx-more: 1\r\n\r\n")
    headers = ["curl", "-sS", "-D-", "--max-time", "10", url + "/trailers"]
    assert b"x-caracal-revoked: true" in subprocess.run(headers, capture_output=True).stdout


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/no-trailers-after-all", "GET", b"one"),
        ("/length-and-trailers", "GET", b"one"),
        ("/trailers", "HEAD", b""),
        ("/not-modified", "GET", b""),
        ("/chunks", "GET", b"onetwo"),
        ("/chunks", "HEAD", b""),
    ],
)
def test_no_trailers_where_none_can_be(serve: Serve, path: str, method: str, body: bytes) -> None:
    client = h11.Connection(h11.CLIENT)
    with serve().connect() as sock:
        *_, read, trailers = h11_exchange(sock, client, path, method=method)
        assert (read, trailers) == (body, [])
        client.start_next_cycle()
        assert h11_exchange(sock, client, "/plain")[2] == b"0"


@pytest.mark.parametrize("path", ["/trailers", "/chunks"])
def test_http_1_0_gets_a_body_ended_by_the_close(serve: Serve, path: str) -> None:
    server = serve()
    head, _, body = server.raw(get(path, version="1.0")).partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"chunked" not in head
    assert "extensions" not in server.app.seen.scopes[0]
    with_length = server.raw(get("/plain", version="1.0"))
    assert b"content-length: 1\r\n" in with_length
    assert with_length.endswith(b"\r\n\r\n0")


@pytest.mark.parametrize(
    "path", ["/fail", "/cut", "/owed", "/unannounced", "/split", "/body-after-end"]
)
def test_failure_after_the_start_cuts_without_a_clean_end(serve: Serve, path: str) -> None:
    answer = serve().raw(get(path))
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n")
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target=path, headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    assert isinstance(client.next_event(), h11.Response)
    assert isinstance(client.next_event(), h11.Data)
    with pytest.raises(h11.RemoteProtocolError):
        client.next_event()


def test_ordered_cut_is_silent_in_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    with caplog.at_level(logging.WARNING):
        assert server.raw(get("/cut-first")) == b""
        server.raw(get("/cut"))
    assert caplog.records == []


@pytest.mark.parametrize(
    "request_head",
    [
        get("/plain", *(f"x-{n}: {'v' * 100}" for n in range(200))),
        get("/plain", "x: " + "v" * 20000),
        get("/plain?" + "q" * 20000),
        get("/plain", *("a:" for _ in range(5000))),
    ],
)
def test_head_over_the_limit_is_431(serve: Serve, request_head: bytes) -> None:
    server = serve()
    head, _, body = server.raw(request_head).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    answer = json.loads(body)
    assert answer["error"] == "headers_too_large"
    assert f"x-request-id: {answer['requestId']}".encode() in head
    assert server.app.seen.scopes == []


def test_head_that_comes_in_pieces_is_limited_too(serve: Serve) -> None:
    """The answer arrives although the client is still sending."""
    with serve().connect() as sock:
        sock.sendall(b"GET /plain HTTP/1.1\r\nhost: x\r\nx: ")
        for _ in range(100):
            sock.sendall(b"v" * 1000)
        assert read_all(sock).startswith(b"HTTP/1.1 431 ")


def test_head_that_never_ends_is_limited_in_one_piece(serve: Serve) -> None:
    answer = serve().raw(b"GET /plain HTTP/1.1\r\nhost: x\r\nx: " + b"v" * 30000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_refused_client_may_still_send_without_being_reset(serve: Serve) -> None:
    """A reset would take away the answer from a client that is slow to read it."""
    with serve().connect() as sock:
        sock.sendall(b"GET /plain HTTP/1.1\r\nhost: x\r\nx: " + b"v" * 30000)
        assert read_all(sock).startswith(b"HTTP/1.1 431 ")
        for _ in range(3):
            sock.sendall(b"v")


def test_body_before_a_head_is_no_part_of_it(serve: Serve) -> None:
    with serve().connect() as sock:
        body = b"x" * 40000
        sock.sendall(get("/plain", "content-length: 40000", method="POST") + body + b"GET /pl")
        assert read_until(sock, b"40000").startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"ain HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n0").startswith(b"HTTP/1.1 200 ")


def test_head_within_the_limit_passes_and_is_counted_per_request(serve: Serve) -> None:
    server = serve()
    with server.connect() as sock:
        for _ in range(5):
            sock.sendall(get("/plain", "x: " + "v" * 16000))
            assert read_until(sock, b"\r\n\r\n0").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /plain HTTP/1.1\r\n\r\n",
        get("/plain", "host: y"),
    ],
)
def test_what_is_not_http_is_400(serve: Serve, request_head: bytes) -> None:
    head, _, body = serve().raw(request_head).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["error"] == "invalid_request"


def test_length_and_chunks_together_are_refused(serve: Serve) -> None:
    fields = ("content-length: 4", "transfer-encoding: chunked")
    server = serve()
    assert b" 400 " in server.raw(get("/plain", *fields, method="POST") + b"0\r\n\r\n")


def test_trailer_fields_of_a_request_are_no_headers(serve: Serve) -> None:
    server = serve()
    post = get("/plain", "transfer-encoding: chunked", "connection: close", method="POST")
    answer = server.raw(post + b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n3")
    names = [name for name, _ in server.app.seen.scopes[0]["headers"]]
    assert b"authorization" not in names


def test_slow_head_is_408(serve: Serve) -> None:
    server = serve(read_header_timeout=0.2)
    assert server.raw(b"GET /plain HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")
    assert server.raw(b"") == b""
    assert server.raw(b"\r\n") == b""


def test_slow_head_on_a_kept_connection_is_408(serve: Serve) -> None:
    server = serve(read_header_timeout=0.2)
    with server.connect() as sock:
        sock.sendall(get("/plain"))
        read_until(sock, b"\r\n\r\n0")
        sock.sendall(b"GET ")
        assert read_all(sock).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("kept", [False, True])
def test_trickle_does_not_extend_the_time_for_a_head(serve: Serve, kept: bool) -> None:
    answer = b""
    with serve(read_header_timeout=0.2).connect() as sock:
        if kept:
            sock.sendall(get("/plain"))
            read_until(sock, b"\r\n\r\n0")
        sock.sendall(b"GET /")
        sock.settimeout(0.05)
        for _ in range(400):
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(100)
                break
            sock.sendall(b"a")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_idle_connection_outlives_the_head_timeout(serve: Serve) -> None:
    """The time for a head runs only once a head has begun; idle ends by keep-alive."""
    server = serve(read_header_timeout=0.1, keep_alive=1.5)
    with server.connect() as sock:
        sock.sendall(get("/plain"))
        read_until(sock, b"\r\n\r\n0")
        sock.settimeout(0.25)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(LIMIT)
        assert sock.recv(1) == b""


def test_slow_body_is_cut(serve: Serve) -> None:
    server = serve(read_timeout=0.2, read_header_timeout=60)
    with server.connect() as sock:
        sock.sendall(get("/upload", "content-length: 10", method="POST") + b"abc")
        assert read_all(sock) == b""
    assert server.app.seen.gone.wait(LIMIT)


def test_slow_application_is_not_a_slow_client(serve: Serve) -> None:
    """While we have told the client to stop, or to wait for 100, its silence is ours."""
    server = serve(read_timeout=0.1, read_header_timeout=0.1)
    with server.connect() as full, server.connect() as polite, server.connect() as pipelined:
        full.sendall(get("/hold", "content-length: 999999", method="POST") + b"x" * 200000)
        polite.sendall(get("/hold", "content-length: 3", "expect: 100-continue", method="POST"))
        pipelined.sendall(get("/hold") + b"GET /ha")
        threading.Event().wait(0.5)
        server.app.seen.go.set()
        for sock in (full, polite, pipelined):
            assert read_until(sock, b"early").startswith(b"HTTP/1.1 200 ")


def test_unread_body_is_drained_up_to_a_limit(serve: Serve) -> None:
    server = serve()
    with server.connect() as sock:
        sock.sendall(get("/early", "content-length: 500000", method="POST"))
        assert b"early" in read_until(sock, b"early")
        sock.sendall(b"x" * 500000 + get("/plain"))
        assert read_until(sock, b"\r\n\r\n0").startswith(b"HTTP/1.1 200 ")
        sock.sendall(get("/early", "content-length: 99000000", method="POST"))
        read_until(sock, b"early")
        sock.sendall(b"x" * 2_000_000)
        assert sock.recv(1) == b""


def test_an_early_answer_reaches_who_sends_everything_first(serve: Serve) -> None:
    server = serve()
    for _ in range(8):
        with server.connect() as sock:
            body = b"x" * 9_000_000
            sock.sendall(get("/early", f"content-length: {len(body)}", method="POST"))
            sock.sendall(body + get("/plain"))  # a request that is too late
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"early")


def test_a_body_without_end_is_not_read_for_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caracal.services.protocol._LINGER", 0.3)
    with serve().connect() as sock:
        sock.sendall(get("/early", "content-length: 999999999999", method="POST"))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(sock)


@pytest.mark.parametrize("path", ["/flood", "/flood-end"])
def test_reader_that_takes_nothing_is_cut(serve: Serve, path: str) -> None:
    server = serve(write_timeout=0.3)
    with server.connect(receive_buffer=4096) as sock:
        sock.sendall(get(path))
        sock.recv(10)
        assert server.app.seen.gone.wait(LIMIT)
        assert len(read_all(sock)) < 32 << 20


def test_slow_reader_that_keeps_taking_is_served(serve: Serve) -> None:
    server = serve(write_timeout=5)
    with server.connect(receive_buffer=4096) as sock:
        sock.sendall(get("/flood-end"))
        _, _, body = read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        size = len(body)
        while piece := sock.recv(1 << 20):
            size += len(piece)
        assert size == 32 << 20


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    with serve().connect() as sock:
        sock.sendall(get("/trailers") + get("/chunks") + get("/plain"))
        answer = read_until(sock, b"\r\n\r\n0")
    first, second, third = answer.split(b"HTTP/1.1 200 OK")[1:]
    assert first.endswith(b"x-more: 1\r\n\r\n")
    assert second.endswith(b"3\r\ntwo\r\n0\r\n\r\n")
    assert third.endswith(b"\r\n\r\n0")


def test_bad_second_request_does_not_write_into_the_first_answer(serve: Serve) -> None:
    server = serve()
    with server.connect() as sock:
        sock.sendall(get("/hold") + b"\x00\x01 nonsense\r\n\r\n")
        assert read_all(sock) == b""
        server.app.seen.go.set()


def test_websocket_upgrade_is_left_to_uvicorn(serve: Serve) -> None:
    server = serve(read_header_timeout=0.2, read_timeout=0.2, write_timeout=0.2)
    with connect(server.url.replace("http", "ws"), open_timeout=LIMIT) as socket_:
        socket_.send("one")
        assert socket_.recv(LIMIT) == "one"
        threading.Event().wait(0.5)
        socket_.send("two")
        assert socket_.recv(LIMIT) == "two"


def test_other_upgrades_are_ignored(serve: Serve) -> None:
    with serve().connect() as sock:
        for _ in range(2):
            sock.sendall(get("/plain", "connection: upgrade", "upgrade: h2c"))
            assert read_until(sock, b"\r\n\r\n0").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in pieces"])
@pytest.mark.parametrize("framing", ["content-length", "transfer-encoding"])
def test_body_behind_an_ignored_upgrade_is_a_body(
    serve: Serve, framing: str, at_once: bool
) -> None:
    hidden = get("/early")
    length = b"%x\r\n" % len(hidden)
    field, body = (
        (f"content-length: {len(hidden)}", hidden)
        if framing == "content-length"
        else ("transfer-encoding: chunked", length + hidden + b"\r\n0\r\n\r\n")
    )
    upgrade = ("connection: upgrade, http2-settings", "upgrade: h2c", field)
    head = get("/plain", *upgrade, method="POST")
    server = serve()
    with server.connect() as sock:
        for _ in range(2):
            if at_once:
                sock.sendall(head + body + get("/chunks"))
            else:
                sock.sendall(head)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in body:
                    sock.sendall(bytes([byte]))
                sock.sendall(get("/chunks"))
            answers = read_until(sock, b"\r\n0\r\n\r\n")
            assert answers.count(b"HTTP/1.1 200 ") == 2
            assert b"\r\n\r\n%d" % len(hidden) in answers
    assert [scope["path"] for scope in server.app.seen.scopes] == ["/plain", "/chunks"] * 2


def test_many_ignored_upgrades_at_once(serve: Serve) -> None:
    count = 1000
    server = serve()
    with server.connect() as sock:
        sock.sendall(get("/early", "connection: upgrade", "upgrade: h2c") * count)
        sock.sendall(get("/early", "connection: close"))
        assert read_all(sock).count(b"HTTP/1.1 200 ") == count + 1


def test_concurrency_limit_of_uvicorn_still_holds(serve: Serve) -> None:
    server = serve(limit_concurrency=2)
    with server.connect() as first:
        first.sendall(get("/hold"))
        assert server.app.seen.reading.wait(LIMIT)
        assert server.raw(get("/plain")).startswith(b"HTTP/1.1 503 ")
        server.app.seen.go.set()
        read_until(first, b"early")


def test_another_uvicorn_is_refused_with_a_clear_line() -> None:
    with pytest.raises(ImportError, match=r"RequestResponseCycle lacks no_such_hook; .*0\.54"):
        check_uvicorn(RequestResponseCycle, "send no_such_hook")
    with pytest.raises(ImportError, match="lacks known arguments"):
        check_uvicorn(RequestResponseCycle, "send", arguments="scope transport")
