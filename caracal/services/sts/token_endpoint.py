"""The token endpoint of a provider (RFC 6749), called as something that may be hostile.

Who registered the provider chose the URL: https, a host of ``allowed_token_hosts``, public
addresses only, never followed elsewhere, and of the answer only what can be a token is taken.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import quote_plus, urlencode

import aiohttp
import orjson
from yarl import URL

from caracal import telemetry
from caracal.errors import CaracalError
from caracal.services.jwks import bounded
from caracal.services.sts.provider_directive import NOT_PROVISIONED, REFRESH_FAILED, NoCredential
from caracal.services.upstream_guard import UpstreamGuard

CALL_SECONDS = 5.0
MAX_BYTES = 64 * 1024
_MAX_TOKEN = 16 * 1024
_PAUSE_SECONDS = 0.1
_CONNECTIONS, _PER_HOST = 100, 20
_TOKEN = re.compile(rf"[!-~]{{1,{_MAX_TOKEN}}}")  # goes into a header field
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/x-www-form-urlencoded",
    "User-Agent": "caracal-sts",
}
_OF_THE_USER = ("invalid_grant",)  # the provider works, this one has no credential any more


class Failed(NoCredential):
    """The provider gave no token.

    Attributes:
        again: another try may help.
        counts: it is the provider's fault, so its circuit counts it.
    """

    def __init__(self, reason: str, *, again: bool = False, counts: bool = True) -> None:
        super().__init__(REFRESH_FAILED, reason)
        self.again, self.counts = again, counts


@dataclass(frozen=True, slots=True)
class Client:
    """How we are known to a provider.

    Attributes:
        url: of the token endpoint, checked but for its addresses.
        method: ``client_secret_basic``, ``client_secret_post`` or ``none`` (RFC 7591, section 2).
    """

    url: URL
    client_id: str
    client_secret: str = field(repr=False)
    method: str

    def request(self, form: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a request with these fields (RFC 6749, section 2.3.1)."""
        headers = dict(_HEADERS)
        fields = dict(form)
        if self.method == "client_secret_basic":
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            fields["client_id"] = self.client_id
            if self.method == "client_secret_post":
                fields["client_secret"] = self.client_secret
        return urlencode(fields).encode(), headers


@dataclass(frozen=True, slots=True)
class Issued:
    """Tokens of an answer; ``seconds`` of life where the provider tells."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    seconds: int | None


class TokenEndpoint:
    """Calls token endpoints; ``close`` ends its connections."""

    def __init__(self, guard: UpstreamGuard) -> None:
        self._guard = guard
        self._session = aiohttp.ClientSession(
            connector=guard.connector(
                limit=_CONNECTIONS, limit_per_host=_PER_HOST, ssl=ssl.create_default_context()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """End the connections."""
        await self._session.close()

    async def ask(self, client: Client, form: Mapping[str, str]) -> Issued:
        """Send a token request, twice if need be.

        Raises:
            Failed: no token came of it.
        """
        try:
            return await self._asked(client, form)
        except Failed as failure:
            if not failure.again:
                raise
        await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        return await self._asked(client, form)

    async def _asked(self, client: Client, form: Mapping[str, str]) -> Issued:
        body, headers = client.request(form)
        try:
            with telemetry.calling("POST", client.url.host or "", client.url.port) as span:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._guard.check(client.url)
                    async with self._session.post(
                        client.url, data=body, headers=headers, allow_redirects=False
                    ) as answer:
                        span.answered(answer.status, fails_at=400)
                        return await _read(answer)
        except (aiohttp.ClientError, OSError) as error:  # their texts may tell of the request
            raise Failed(f"the provider cannot be asked: {type(error).__name__}", again=True) from (
                None
            )
        except CaracalError:
            raise Failed("the token endpoint's address is not allowed") from None


def client_of(provider: Mapping[str, Any], secrets: Mapping[str, Any]) -> Client:
    """Return how we are known to the provider; ``secrets`` are those of its configuration.

    Raises:
        NoCredential: something is missing, or the token endpoint is not to be called.
    """
    config = provider["config"]
    client_id = provider["client_id"] or config.get("client_id")
    secret = secrets.get("client_secret") or ""
    method = config.get("token_endpoint_auth_method") or (
        "client_secret_basic" if secret else "none"
    )
    if not (isinstance(client_id, str) and client_id and isinstance(secret, str)):
        raise NoCredential(NOT_PROVISIONED, "the provider has no client_id or client_secret")
    if method not in ("client_secret_basic", "client_secret_post", "none"):
        raise NoCredential(NOT_PROVISIONED, "unknown token_endpoint_auth_method")
    if method != "none" and not secret:
        raise NoCredential(NOT_PROVISIONED, "the provider has no client_secret")
    return Client(_endpoint(config), client_id, secret, method)


def _endpoint(config: Mapping[str, Any]) -> URL:
    given = config.get("token_endpoint") or config.get("token_url")
    hosts = config.get("allowed_token_hosts")
    if not isinstance(given, str) or not isinstance(hosts, list) or not hosts:
        raise NoCredential(NOT_PROVISIONED, "no token_endpoint, or no allowed_token_hosts")
    try:
        url = URL(given)
    except ValueError:
        raise NoCredential(NOT_PROVISIONED, "token_endpoint is no URL") from None
    if url.scheme != "https":
        raise NoCredential(REFRESH_FAILED, "token_endpoint is not https")
    if (url.raw_host or "").lower() not in {str(host).lower() for host in hosts}:
        raise NoCredential(REFRESH_FAILED, "token_endpoint is not one of allowed_token_hosts")
    return url


async def _read(answer: aiohttp.ClientResponse) -> Issued:
    if 300 <= answer.status < 400:
        raise Failed("the provider redirects")
    try:
        content = await bounded(answer.content, MAX_BYTES)
    except ValueError:
        answer.close()
        raise Failed("the provider's answer is too large") from None
    if answer.status != 200:
        raise _refusal(answer.status, content)
    if answer.content_type != "application/json":  # RFC 6749, section 5.1
        raise Failed("the provider's answer is no JSON")
    return issued_in(content)


def _refusal(status: int, content: bytes) -> Failed:
    if status >= 500:
        return Failed(f"the provider answers {status}", again=True)
    code = _object(content).get("error")
    if code in _OF_THE_USER:
        return Failed(f"the provider answers {code}", counts=False)
    return Failed(f"the provider answers {status}")


def issued_in(content: bytes) -> Issued:
    """Return the tokens of an answer's body (RFC 6749, section 5.1).

    Raises:
        Failed: it is no such answer, or its token cannot be sent on.
    """
    body = _object(content)
    access, refresh = body.get("access_token"), body.get("refresh_token") or None
    if not _is_token(access) or not (refresh is None or _is_token(refresh)):
        raise Failed("the provider's answer has no usable token")
    kind = body.get("token_type", "Bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise Failed("the provider's token is no bearer token")
    return Issued(access, refresh, _seconds(body.get("expires_in")))


def _object(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_token(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def _seconds(given: Any) -> int | None:
    """Some providers write the number as text."""
    if given is None:
        return None
    text = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise Failed("the provider's answer has no usable expires_in")
    return int(text)
