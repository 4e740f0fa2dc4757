"""The application's tokens: ambient mandates, and mandates of one call (RFC 8693)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import httpx

from caracal.client.asynchronous import Async
from caracal.client.call import Call
from caracal.client.core import Core
from caracal.client.errors import INVALID_RESPONSE, AdminApiError, AdminTransportError
from caracal.client.options import Endpoint

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name
REFRESH_SECONDS = 60.0
"""A token with less life left is not used for new calls."""
_LAST_SECONDS = 35.0  # the Gateway refuses a bearer with less
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class IssuedToken(TypedDict):
    """What the STS answers (its contract, section 12)."""

    access_token: str
    token_type: str
    expires_in: int
    issued_token_type: str
    target_resources: list[str]
    upstreams: dict[str, dict[str, Any]]
    scope: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who an application is to the STS."""

    zone_id: str
    application_id: str
    client_secret: str = field(repr=False)


class TokenEndpoint:
    """The STS's token endpoint, as one application calls it."""

    def __init__(self, sts: Endpoint, credentials: Credentials, http: httpx.AsyncClient) -> None:
        self._credentials = credentials
        core = Core(sts)
        self._answer = Async(core, http, None).bound(core.answer)

    async def issue(self, resources: Sequence[str], **members: Any) -> IssuedToken:
        """Exchange the application's secret; further form fields by name, None is left out.

        Raises:
            AdminApiError: the STS refused; ``interaction_required`` has its challenge in ``body``.
            AdminTransportError: no answer came.
        """
        body = {
            "grant_type": GRANT_TYPE,
            "zone_id": self._credentials.zone_id,
            "application_id": self._credentials.application_id,
            "client_secret": self._credentials.client_secret,
            "resource": list(resources),
            **members,
        }
        call: Call[IssuedToken] = Call("api", "POST", "/oauth/2/token", body, form=True)
        return _checked(await self._answer(call))


class TokenSource:
    """The ambient mandate, fetched when it is needed and again before it ends.

    Whoever needs one while it is fetched waits for the same fetch. It stays in memory only.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        resources: Sequence[str],
        scope: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint, self._resources, self._scope = endpoint, tuple(resources), scope
        self._clock = clock
        self._token, self._ends = "", float("-inf")
        self._fetch: asyncio.Task[str] | None = None

    async def token(self) -> str:
        """Return a token with at least 60 s to live, or the longest-lived that the STS gives.

        While the STS cannot be reached, one with less is good as long as the Gateway takes it.

        Raises:
            AdminApiError: the STS refused.
            AdminTransportError: no answer came.
        """
        if self._left() >= REFRESH_SECONDS:
            return self._token
        if self._fetch is None:
            self._fetch = asyncio.create_task(self._fetched())
            self._fetch.add_done_callback(_seen)
        try:
            # Shielded: the fetch serves everyone who waits, not only the first who may go away.
            return await asyncio.shield(self._fetch)
        except (AdminTransportError, AdminApiError) as error:
            away = isinstance(error, AdminTransportError) or error.status >= 500
            if away and self._left() > _LAST_SECONDS:
                return self._token
            raise

    def forget(self) -> None:
        """Drop the token, as after its session was revoked; the next call fetches another."""
        self._token, self._ends, self._fetch = "", float("-inf"), None

    async def close(self) -> None:
        """End a fetch under way, and forget the token."""
        fetch = self._fetch
        self.forget()
        if fetch is not None:
            fetch.cancel()
            await asyncio.wait([fetch])

    def _left(self) -> float:
        return self._ends - self._clock()

    async def _fetched(self) -> str:
        fetch = asyncio.current_task()
        try:
            asked = self._clock()
            issued = await self._endpoint.issue(self._resources, scope=self._scope or None)
            if self._fetch is fetch:  # else it was forgotten meanwhile
                self._token, self._ends = issued["access_token"], asked + issued["expires_in"]
            return issued["access_token"]
        finally:
            if self._fetch is fetch:
                self._fetch = None


def _seen(fetch: asyncio.Task[str]) -> None:
    """Look at how a fetch ended, in case nobody waits for it any more."""
    if not fetch.cancelled():
        fetch.exception()


def _checked(issued: IssuedToken) -> IssuedToken:
    token, life = issued.get("access_token"), issued.get("expires_in")
    if not isinstance(token, str) or not _JWT.fullmatch(token):
        raise AdminApiError(200, INVALID_RESPONSE, {}, description="no JWT was issued")
    if type(life) not in (int, float) or life <= 0:
        raise AdminApiError(200, INVALID_RESPONSE, {}, description="the token has no life")
    return issued
