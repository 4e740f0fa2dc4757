"""What stands around a Gateway under test: an STS and upstreams as told, and a bare client."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import h11
import orjson

from caracal.ids import new_id
from caracal.services import gateway_signature
from caracal.services.http import Receive, Scope, Send, read_body, respond
from tests.sts.world import GATEWAY_KEY, ISSUER, Tenant

LIMIT = 10.0
"""Seconds a test waits before it calls something lost."""


@dataclass
class Told:
    """An answer of the STS, as a test wants it."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class StsDouble:
    """Grants every exchange of a signed call, until it is told otherwise."""

    def __init__(self, tenant: Tenant, upstream: str) -> None:
        self.tenants = {tenant.id: tenant}
        self.upstream = upstream
        self.calls: list[dict[str, str]] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.key_fetches = 0
        self.told: Told | None = None
        self.directive: dict[str, Any] = {}
        self.anchors: list[str] = []
        self.hold: asyncio.Event | None = None
        self.healthy = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"] == "/health":
            await respond(send, 200 if self.healthy else 500, b"{}", [])
        elif scope["path"].endswith("/jwks.json"):
            self.key_fetches += 1
            zone_id = parse_qs(scope["query_string"].decode())["zone_id"][0]
            keys = [self.tenants[zone_id].key.public_jwk()] if zone_id in self.tenants else []
            await respond(send, 200, orjson.dumps({"keys": keys}), [])
        else:
            await self._token(scope, receive, send)

    async def _token(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, scope, 1 << 20)
        headers = dict(scope["headers"])
        signed = gateway_signature.verify(
            GATEWAY_KEY,
            scope["headers"],
            request_id=headers[b"x-request-id"].decode(),
            method="POST",
            path="/oauth/2/token",
            body=body,
            now=time.time(),
        )
        assert signed
        form = dict(parse_qsl(body.decode(), strict_parsing=True))
        self.calls.append(form)
        self.headers.append(headers)
        if self.hold is not None:
            await self.hold.wait()
        told = self.told or Told(body=self.granted(form))
        text = told.body if isinstance(told.body, bytes) else orjson.dumps(told.body)
        extra = [(name.encode(), value.encode()) for name, value in told.headers.items()]
        await respond(send, told.status, text, extra)

    def granted(self, form: Mapping[str, str]) -> dict[str, Any]:
        """What the STS answers to an allowed call."""
        now, resource = int(time.time()), form["resource"]
        tenant = self.tenants[form["zone_id"]]
        mandate = tenant.key.sign({"use": "per_call", "aud": [resource], "exp": now + 900})
        directive = {"url": self.upstream, "auth_mode": "caracal_jwt"} | self.directive
        return {
            "access_token": mandate,
            "token_type": "Bearer",
            "expires_in": 900,
            "anchors": [tenant.id, tenant.app_id, *self.anchors],
            "upstreams": {resource: directive},
        }


@dataclass
class Request:
    """A request as an upstream got it."""

    method: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [v.decode("latin-1") for k, v in self.headers if k == name.lower().encode()]


Behaviour = Callable[[Request, Receive, Send], Awaitable[None]]


class Upstream:
    """Answers as the test's ``behaviour`` does; keeps each request."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.behaviour: Behaviour | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        request = Request(
            scope["method"], scope["raw_path"], scope["query_string"], list(scope["headers"])
        )
        self.requests.append(request)
        if self.behaviour is not None:
            await self.behaviour(request, receive, send)
            return
        request.body = await read_body(receive, scope, 1 << 30)
        request.complete = True
        await respond(send, 200, b"hello", [(b"x-of", b"upstream")], b"text/plain")


class Feed:
    """A stream of an upstream, piece by piece, as the test gives them."""

    def __init__(self, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        self._headers = headers or ((b"content-type", b"text/event-stream"),)
        self._status = status
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.gone = asyncio.Event()
        """The Gateway has left."""
        self.taken = 0

    def give(self, *pieces: bytes) -> None:
        """Send pieces; an empty one is the end."""
        for piece in pieces:
            self._pieces.put_nowait(piece)

    async def __call__(self, request: Request, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(receive))
        head = {"status": self._status, "headers": list(self._headers)}
        await send({"type": "http.response.start", **head})
        more = True
        while more:
            piece = await self._pieces.get()
            more = bool(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            self.taken += len(piece)
        watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        self.give(b"")


class Wire:
    """One request over a bare socket; trailers are seen, and where the pieces end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.parser = h11.Connection(h11.CLIENT)

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str, *, window: int | None = None) -> AsyncIterator[Wire]:
        """Connect to where ``url`` points; ``window`` is how much may wait to be read."""
        parts = urlsplit(url)
        plug = socket.socket()
        plug.setblocking(False)
        if window is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await asyncio.get_running_loop().sock_connect(plug, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=plug, limit=window or 65_536)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def ask(
        self, path: str, headers: Mapping[str, str], method: str = "GET", body: bytes = b""
    ) -> h11.Response:
        """Send a request; return the head of its answer."""
        lines = [("Host", "gateway.test"), *headers.items()]
        if body:
            lines.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=path, headers=lines)
        data = self.parser.send(request) or b""
        if body:
            data += self.parser.send(h11.Data(data=body)) or b""
        self.writer.write(data + (self.parser.send(h11.EndOfMessage()) or b""))
        event = await self.event()
        assert isinstance(event, h11.Response), event
        return event

    async def event(self) -> Any:
        """Return the next event; waits no longer than the limit."""
        async with asyncio.timeout(LIMIT):
            while (event := self.parser.next_event()) is h11.NEED_DATA:
                self.parser.receive_data(await self.reader.read(65536))
        return event

    async def piece(self) -> bytes:
        """Return the next piece of the body."""
        event = await self.event()
        assert isinstance(event, h11.Data), event
        return bytes(event.data)

    async def rest(self) -> tuple[bytes, dict[str, str]]:
        """Return what is left of the body, and the trailers.

        Raises:
            h11.RemoteProtocolError: it was cut.
        """
        body = b""
        while isinstance(event := await self.event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        return body, {k.decode().lower(): v.decode() for k, v in event.headers}


def bearer(tenant: Tenant, resource: str, *, token: str | None = None, **claims: Any) -> Any:
    """Return the headers of a call with an ambient token of a tenant."""
    token = token or tenant.token(**claims)
    return {"Authorization": f"Bearer {token}", "X-Caracal-Resource": resource}


__all__ = ["ISSUER", "Feed", "Request", "StsDouble", "Told", "Upstream", "Wire", "bearer", "new_id"]
