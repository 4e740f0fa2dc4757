"""An OpenID provider over TLS on loopback, as good or as hostile as a test wants it.

It is many issuers, one for each path, so that no test meets the keys that another one had fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from caracal import clock
from caracal.ids import new_id
from caracal.services.sts import issuer_keys
from tests.certificates import certificate
from tests.signing import PrivateKey, ec_key, public_jwk, signed
from tests.sts.oauth_server import HOST, Behaviour
from tests.sts.spoiling import Token

CLIENT = "client-at-the-provider"
WELL_KNOWN = "/.well-known/openid-configuration"


def trusted(patch: pytest.MonkeyPatch, provider: OidcProvider) -> None:
    """Let an STS that is made now trust the provider's certificate, and wait on a busy machine."""
    patch.setenv("SSL_CERT_FILE", str(provider.ca))
    patch.setattr(issuer_keys, "FETCH_SECONDS", 30.0)
    patch.setattr(issuer_keys, "PATIENCE_SECONDS", 60.0)


class Issuer:
    """One issuer: its keys, what it says of itself, and who asked.

    Attributes:
        keys: by ``kid``; all are published, the last signs.
        published: JWKs in place of those of ``keys``.
        metadata: of discovery, over the usual; a member given as None is left out.
        calls: paths that were asked for, ``/keys`` or the well-known one.
        behaviour: answers requests for the keys in its place.
        gate: requests for the keys wait for it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, PrivateKey] = {"one": ec_key()}
        self.published: list[Any] | None = None
        self.metadata: dict[str, Any] = {}
        self.calls: list[str] = []
        self.behaviour: Behaviour | None = None
        self.gate: asyncio.Event | None = None

    @property
    def jwks_uri(self) -> str:
        return f"{self.url}/keys"

    def claims(self, **members: Any) -> dict[str, Any]:
        """Claims of an id_token; a member given as None is left out."""
        now = int(clock.now().timestamp())
        given = {
            "iss": self.url,
            "sub": "248289761001",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 600,
            "nonce": new_id(),
            "auth_time": now - 30,
            "email": "ada@corp.example",
            "groups": ["staff", "on call"],
        } | members
        return {name: value for name, value in given.items() if value is not None}

    def token(self, *, kid: str = "", alg: str = "", **members: Any) -> str:
        """An id_token, signed by the newest key or another one."""
        name = kid or list(self.keys)[-1]
        key = self.keys[name]
        header = {"alg": alg or _alg(key), "typ": "JWT", "kid": name}
        return signed(key, header, self.claims(**members))

    def made_of(self) -> Token:
        """An id_token by its parts, to be spoilt."""
        key = self.keys["one"]
        header = {"alg": "ES256", "typ": "JWT", "kid": "one"}
        return Token(key, header, self.claims())  # type: ignore[arg-type]

    def fetched(self) -> int:
        """How often its keys were asked for."""
        return self.calls.count("/keys")

    async def answer(self, path: str, request: web.Request) -> web.StreamResponse:
        self.calls.append(path)
        if path == WELL_KNOWN:
            said = {"issuer": self.url, "jwks_uri": self.jwks_uri} | self.metadata
            known = {name: value for name, value in said.items() if value is not None}
            return web.json_response(known)
        if self.gate is not None:
            await self.gate.wait()
        if self.behaviour is not None:
            return await self.behaviour(request)
        keys = [public_jwk(key, kid=kid, use="sig") for kid, key in self.keys.items()]
        return web.json_response({"keys": keys if self.published is None else self.published})


def _alg(key: PrivateKey) -> str:
    return "ES256" if public_jwk(key)["kty"] == "EC" else "RS256"


class OidcProvider:
    """The server; ``ca`` is what its clients must trust."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "server.pem"
        self._tls = certificate(folder, HOST)
        self._issuers: dict[str, Issuer] = {}
        self.url = ""

    def issuer(self) -> Issuer:
        """Return another issuer."""
        name = new_id()
        made = self._issuers[name] = Issuer(f"{self.url}/{name}")
        return made

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[OidcProvider]:
        app = web.Application()
        app.router.add_get("/{name}{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0, ssl_context=self._tls).start()
        self.url = f"https://{HOST}:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name, path = request.match_info["name"], request.match_info["path"]
        return await self._issuers[name].answer(path, request)
