"""An OAuth server over TLS on loopback, as good or as hostile as a test wants it."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web

from tests.certificates import certificate

HOST = "127.0.0.1"
CLIENT_ID, CLIENT_SECRET = "client/one", "s3cret: of provider"
MARK = "HushProvider7Qx"
"""Stands in every token that it issues."""

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OAuthServer:
    """Issues tokens; a refresh token works once, as RFC 9700 (section 4.14.2) wants it.

    Attributes:
        calls: forms of the requests, with ``Authorization`` as ``client``.
        behaviour: answers in place of it.
        gate: requests wait for it before they are answered.
        members: of an answer, over the usual ones; None leaves one out.
    """

    def __init__(self, folder: Path) -> None:
        self.calls: list[dict[str, str]] = []
        self.behaviour: Behaviour | None = None
        self.gate: asyncio.Event | None = None
        self.members: dict[str, Any] = {}
        self.refresh_tokens = {f"{MARK}-refresh-0"}
        self.ca = folder / "server.pem"
        self._tls = certificate(folder, HOST)
        self.url = ""

    def forget(self) -> None:
        """Be as at the beginning."""
        self.calls.clear()
        self.behaviour = self.gate = None
        self.members = {}
        self.refresh_tokens = {f"{MARK}-refresh-0"}

    def trusting(self) -> ssl.SSLContext:
        """Return a client's context."""
        return ssl.create_default_context(cafile=self.ca)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[OAuthServer]:
        app = web.Application()
        app.router.add_post("/token", self._token)
        app.router.add_route("*", "/elsewhere", self._token)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0, ssl_context=self._tls).start()
        self.url = f"https://{HOST}:{runner.addresses[0][1]}/token"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.calls.append(form | {"client": request.headers.get("Authorization", "")})
        if self.gate is not None:
            await self.gate.wait()
        if self.behaviour is not None:
            return await self.behaviour(request)
        if not _is_client(request, form):
            return web.json_response({"error": "invalid_client"}, status=401)
        return self._issued(form)

    def _issued(self, form: dict[str, str]) -> web.Response:
        number = len(self.calls)
        body: dict[str, Any] = {
            "access_token": f"{MARK}-access-{number}",
            "token_type": "Bearer",
            "expires_in": 600,
        }
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] not in self.refresh_tokens:
                return web.json_response({"error": "invalid_grant"}, status=400)
            self.refresh_tokens = {f"{MARK}-refresh-{number}"}
            body["refresh_token"] = f"{MARK}-refresh-{number}"
        given = body | self.members
        return web.json_response({name: v for name, v in given.items() if v is not None})


def _is_client(request: web.Request, form: dict[str, str]) -> bool:
    scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":
        client_id, _, secret = b64decode(pair).decode().partition(":")
        return (unquote_plus(client_id), unquote_plus(secret)) == (CLIENT_ID, CLIENT_SECRET)
    return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)


def answering(body: bytes | str, status: int = 200, **headers: str) -> Behaviour:
    """Answer with this."""

    async def answer(request: web.Request) -> web.StreamResponse:
        sent = {"Content-Type": "application/json"} | headers
        given = body.encode() if isinstance(body, str) else body
        return web.Response(body=given, status=status, headers=sent)

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    """Cut the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    """Never end the body, and never pause."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


async def breaking_off(request: web.Request) -> web.StreamResponse:
    """Cut the connection in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"access_token": "')
    return await cut(request)
