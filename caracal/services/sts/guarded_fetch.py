"""Fetches of documents that a URL of somebody else's choice names: key sets, metadata.

As an upstream is called: to public addresses only, by https, and never followed elsewhere.
"""

from __future__ import annotations

import aiohttp
from yarl import URL

from caracal.services.jwks import bounded
from caracal.services.upstream_guard import NotAllowed, UpstreamGuard

MAX_BYTES = 64 * 1024
CONNECTIONS = 20
"""At once; the time of who waits for one is running."""
_PER_HOST = 2
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # what is compressed could be of any size
    "User-Agent": "caracal-sts",
}


class GuardedFetch:
    """Gets documents of at most 64 KiB, each within ``seconds``."""

    def __init__(self, guard: UpstreamGuard, seconds: float) -> None:
        self._guard = guard
        self._session = guard.session(
            CONNECTIONS,
            _PER_HOST,
            timeout=aiohttp.ClientTimeout(total=seconds),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """End the connections."""
        await self._session.close()

    async def get(self, uri: str) -> bytes:
        """Return the body that is at ``uri``.

        Raises:
            NotAllowed: not https, or an address that may not be connected to.
            OSError: no answer in time, or none at all.
            ValueError: another status than 200, or too long.
        """
        url = URL(uri)
        if url.scheme != "https":
            raise NotAllowed("scheme is not https")
        await self._guard.check(url)
        try:
            async with self._session.get(url, headers=_HEADERS, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ValueError(f"status {answer.status}")
                return await bounded(answer.content, MAX_BYTES)
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
