"""The endpoints of a provider that we call (RFC 6749, RFC 7009), as something that may be hostile.

Who registered the provider chose the URL: https, a host of ``allowed_token_hosts``, public
addresses only, never followed elsewhere, and of the answer only what can be a token is taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeGuard, TypeVar

import aiohttp
import orjson
from yarl import URL

from caracal import clock, telemetry
from caracal.errors import CaracalError
from caracal.events.grant import Credential
from caracal.events.store.vault import Vault
from caracal.services.jwks import bounded
from caracal.services.provider_client import Client
from caracal.services.provider_kind import REFRESH_FAILED, NoCredential
from caracal.services.upstream_guard import UpstreamGuard, public_only
from caracal.settings import Settings

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
CALL_SECONDS = 5.0
MAX_BYTES = 64 * 1024
_MAX_TOKEN = 16 * 1024
_PAUSE_SECONDS = 0.1
_CONNECTIONS, _PER_HOST = 100, 20
_TOKEN = re.compile(rf"[!-~]{{1,{_MAX_TOKEN}}}")  # goes into a header field
_ENDED = "invalid_grant"  # the provider works, this user has no credential there any more


class Failed(NoCredential):
    """The provider gave no token.

    Attributes:
        again: another try may help.
        ended: the provider has ended what it was asked with (``invalid_grant``, RFC 6749,
            section 5.2): asking again with it gives nothing. Any other failure is the provider's
            fault, so its circuit counts it.
    """

    def __init__(self, reason: str, *, again: bool = False, ended: bool = False) -> None:
        super().__init__(REFRESH_FAILED, reason)
        self.again, self.ended = again, ended


@dataclass(frozen=True, slots=True)
class Issued:
    """Tokens of an answer; ``seconds`` of life where the provider tells."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    seconds: int | None

    @property
    def by_kind(self) -> dict[str, str]:
        """Return the tokens by their kind (RFC 7009, section 2.1), the refresh token first."""
        tokens = {"refresh_token": self.refresh_token, "access_token": self.access_token}
        return {kind: token for kind, token in tokens.items() if token}


@dataclass(frozen=True, slots=True)
class Token:
    """What the upstream takes; ``expires_at`` where its end is known."""

    value: str = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lives:
    """Caps the life of what is issued; ``max_seconds`` is also that of tokens without one."""

    max_seconds: int

    def ends(self, issued: Issued) -> datetime:
        """Return the end of an access token, counted from now."""
        seconds = min(issued.seconds or self.max_seconds, self.max_seconds)
        return clock.now() + timedelta(seconds=seconds)

    def token(self, issued: Issued) -> Token:
        """Return the token with its end."""
        return Token(issued.access_token, self.ends(issued))


class TokenEndpoint:
    """Calls token and revocation endpoints; ``close`` ends its connections."""

    def __init__(self, guard: UpstreamGuard) -> None:
        self._guard = guard
        self._session = guard.session(_CONNECTIONS, _PER_HOST, auto_decompress=False)

    @classmethod
    def of(cls, settings: Settings) -> TokenEndpoint:
        """Return that of a process. Its event loop must be running.

        No ``UPSTREAM_HOST_ALLOWLIST``: each provider says which hosts its tokens come from.
        """
        return cls(public_only(settings))

    async def close(self) -> None:
        """End the connections."""
        await self._session.close()

    async def ask(self, client: Client, form: Mapping[str, str]) -> Issued:
        """Send a token request, twice if need be.

        Raises:
            NoCredential: no token came of it; ``Failed`` when the provider was asked.
        """
        try:
            return await self.ask_once(client, form)
        except Failed as failure:
            if not failure.again:
                raise
        await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        return await self.ask_once(client, form)

    async def ask_once(self, client: Client, form: Mapping[str, str]) -> Issued:
        """Send a token request that must not be repeated: a code is good for one.

        Raises:
            NoCredential: see :meth:`ask`.
        """
        return await self._sent(client, client.url, form, _read)

    async def revoke(self, client: Client, url: URL, token: str, kind: str) -> None:
        """Tell the provider to end a token (RFC 7009, section 2.1); ``kind`` is a hint.

        Raises:
            NoCredential: whether it has, is not known.
        """
        await self._sent(client, url, {"token": token, "token_type_hint": kind}, _read_revoked)

    async def end(self, client: Client, url: URL, tokens: Mapping[str, str]) -> bool:
        """Tell the provider to end tokens, by their kind; return whether it has ended them all."""
        return all([await self._ended(client, url, kind, tokens[kind]) for kind in tokens])

    async def _ended(self, client: Client, url: URL, kind: str, token: str) -> bool:
        try:
            await self.revoke(client, url, token, kind)
        except NoCredential as failure:
            logger.warning("a provider's %s is not revoked: %s", kind, failure.reason)
            return False
        return True

    async def _sent(
        self,
        client: Client,
        url: URL,
        form: Mapping[str, str],
        read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
    ) -> Result:
        body, headers = client.request(form)
        try:
            with telemetry.calling("POST", url.host or "", url.port) as span:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._guard.check(url)
                    async with self._session.post(
                        url, data=body, headers=headers, allow_redirects=False
                    ) as answer:
                        span.answered(answer.status, fails_at=400)
                        return await read(answer)
        except (aiohttp.ClientError, OSError) as error:  # their texts may tell of the request
            raise Failed(f"the provider cannot be asked: {type(error).__name__}", again=True) from (
                None
            )
        except CaracalError:
            raise Failed("the endpoint's address is not allowed") from None


async def _read(answer: aiohttp.ClientResponse) -> Issued:
    content = await _content(answer)
    if answer.content_type != "application/json":  # RFC 6749, section 5.1
        raise Failed("the provider's answer is no JSON")
    return issued_in(content)


async def _read_revoked(answer: aiohttp.ClientResponse) -> None:
    await _content(answer)  # RFC 7009, section 2.2: the status says all


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    if 300 <= answer.status < 400:
        raise Failed("the provider redirects")
    try:
        content = await bounded(answer.content, MAX_BYTES)
    except ValueError:
        answer.close()
        raise Failed("the provider's answer is too large") from None
    if answer.status != 200:
        raise _refusal(answer.status, content)
    return content


def _refusal(status: int, content: bytes) -> Failed:
    if status >= 500:
        return Failed(f"the provider answers {status}", again=True)
    if _object(content).get("error") == _ENDED:
        return Failed(f"the provider answers {_ENDED}", ended=True)
    return Failed(f"the provider answers {status}")


def sealed(
    vault: Vault, issued: Issued, expires_at: datetime | None, provider_id: str | None = None
) -> Credential:
    """Return the tokens as a grant keeps them; ``provider_id`` where it does not know it yet."""
    refresh = issued.refresh_token
    return Credential(
        vault.seal(issued.access_token.encode()),
        vault.seal(refresh.encode()) if refresh else None,
        expires_at,
        provider_id,
    )


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
