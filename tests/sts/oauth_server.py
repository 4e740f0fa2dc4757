"""An OAuth server over TLS on loopback, as good or as hostile as a test wants it."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit, urlunsplit

from aiohttp import web

from caracal import clock, jwk
from caracal.foreign_jwt import taken_apart
from caracal.mandate import encode_base64url
from tests.certificates import certificate

HOST = "127.0.0.1"
CLIENT_ID, CLIENT_SECRET = "client/one", "s3cret: of provider"
MARK = "HushProvider7Qx"
"""Stands in every token and code that it issues."""

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OAuthServer:
    """Issues tokens; a refresh token works once, as RFC 9700 (section 4.14.2) wants it.

    Attributes:
        calls: forms of the requests, with ``Authorization`` as ``client``.
        behaviour: answers in place of it.
        gate: requests wait for it before they are answered.
        members: of an answer, over the usual ones; None leaves one out.
        consent: of an authorization response, over the usual ones; None leaves one out.
        asked: queries of the authorization requests.
        revoked: forms of the revocation requests.
        key: of a client that signs assertions; each is good for one request.
    """

    def __init__(self, folder: Path) -> None:
        self.calls: list[dict[str, str]] = []
        self.asked: list[dict[str, str]] = []
        self.revoked: list[dict[str, str]] = []
        self.behaviour: Behaviour | None = None
        self.gate: asyncio.Event | None = None
        self.members: dict[str, Any] = {}
        self.consent: dict[str, Any] = {}
        self.refresh_tokens = {f"{MARK}-refresh-0"}
        self.codes: dict[str, dict[str, str]] = {}
        self.key: jwk.PublicKey | None = None
        self.assertions: set[str] = set()
        self.ca = folder / "server.pem"
        self._tls = certificate(folder, HOST)
        self.url = ""

    def forget(self) -> None:
        """Be as at the beginning."""
        for memory in (self.calls, self.asked, self.revoked, self.codes, self.assertions):
            memory.clear()
        self.behaviour = self.gate = self.key = None
        self.members, self.consent = {}, {}
        self.refresh_tokens = {f"{MARK}-refresh-0"}

    @property
    def issuer(self) -> str:
        """What it calls itself."""
        return self.url.removesuffix("/token")

    def trusting(self) -> ssl.SSLContext:
        """Return a client's context."""
        return ssl.create_default_context(cafile=self.ca)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[OAuthServer]:
        app = web.Application()
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        app.router.add_post("/revoke", self._revoke)
        app.router.add_route("*", "/elsewhere", self._token)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0, ssl_context=self._tls).start()
        self.url = f"https://{HOST}:{runner.addresses[0][1]}/token"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        """Consent at once, as a user who is signed in and has a finger on the button."""
        query = dict(request.query)
        self.asked.append(query)
        code = f"{MARK}-code-{len(self.asked)}"
        self.codes[code] = query
        given = {"code": code, "state": query["state"], "iss": self.issuer} | self.consent
        back = urlsplit(query["redirect_uri"])
        told = parse_qsl(back.query) + [(n, v) for n, v in given.items() if v is not None]
        raise web.HTTPFound(urlunsplit(back._replace(query=urlencode(told))))

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await _form(request)
        self.calls.append(form)
        if self.gate is not None:
            await self.gate.wait()
        if self.behaviour is not None:
            return await self.behaviour(request)
        if not self._is_client(form):
            return web.json_response({"error": "invalid_client"}, status=401)
        return self._issued(form)

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        form = await _form(request)
        self.revoked.append(form)
        if self.behaviour is not None:
            return await self.behaviour(request)
        if not self._is_client(form):
            return web.json_response({"error": "invalid_client"}, status=401)
        self.refresh_tokens.discard(form["token"])
        return web.Response()

    def _issued(self, form: dict[str, str]) -> web.Response:
        number = len(self.calls)
        body: dict[str, Any] = {
            "access_token": f"{MARK}-access-{number}",
            "token_type": "Bearer",
            "expires_in": 600,
        }
        if form["grant_type"] != "client_credentials":
            if not self._is_granted(form):
                return web.json_response({"error": "invalid_grant"}, status=400)
            self.refresh_tokens = {f"{MARK}-refresh-{number}"}
            body["refresh_token"] = f"{MARK}-refresh-{number}"
        given = body | self.members
        return web.json_response({name: v for name, v in given.items() if v is not None})

    def _is_granted(self, form: dict[str, str]) -> bool:
        if form["grant_type"] == "refresh_token":
            return form["refresh_token"] in self.refresh_tokens
        asked = self.codes.pop(form["code"], None)  # good for one request
        challenge = encode_base64url(sha256(form["code_verifier"].encode()).digest()).decode()
        return asked is not None and (
            (asked["redirect_uri"], asked["client_id"]) == (form["redirect_uri"], CLIENT_ID)
            and (asked["code_challenge"], asked["code_challenge_method"]) == (challenge, "S256")
        )

    def _is_client(self, form: dict[str, str]) -> bool:
        if "client_assertion" in form:
            return form["client_id"] == CLIENT_ID and self._is_proven(form["client_assertion"])
        scheme, _, pair = form["client"].partition(" ")
        if scheme == "Basic":
            client_id, _, secret = b64decode(pair).decode().partition(":")
            return (unquote_plus(client_id), unquote_plus(secret)) == (CLIENT_ID, CLIENT_SECRET)
        return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)

    def _is_proven(self, assertion: str) -> bool:
        """RFC 7523, section 3."""
        token = taken_apart(assertion, (None, "jwt"))
        if token is None or self.key is None or not token.is_signed_by(self.key):
            return False
        claims, now = token.claims, clock.now().timestamp()
        fits = (
            claims["iss"] == claims["sub"] == CLIENT_ID
            and compare_digest(claims["aud"], self.url)
            and now < claims["exp"] <= now + 300
            and claims["jti"] not in self.assertions
        )
        self.assertions.add(claims["jti"])
        return fits


async def _form(request: web.Request) -> dict[str, str]:
    form = {name: str(value) for name, value in (await request.post()).items()}
    return form | {"client": request.headers.get("Authorization", "")}


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
