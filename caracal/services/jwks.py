"""Fetches of key sets by our services."""

from __future__ import annotations

from urllib.parse import quote

import aiohttp

from caracal.key_sets import Fetch
from caracal.mandate import MAX_JWKS_BYTES


def jwks_fetcher(session: aiohttp.ClientSession, sts_url: str, timeout: float) -> Fetch:
    """Return the fetch of a zone's key set from the STS; ``timeout`` in seconds, no redirects."""
    limits = aiohttp.ClientTimeout(total=timeout)
    base = f"{sts_url.rstrip('/')}/.well-known/jwks.json?zone_id="

    async def fetch(zone_id: str) -> bytes:
        url = base + quote(zone_id, safe="")
        try:
            async with session.get(url, timeout=limits, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ValueError(f"status {answer.status}")
                return await bounded(answer.content, MAX_JWKS_BYTES)
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error

    return fetch


async def bounded(content: aiohttp.StreamReader, limit: int) -> bytes:
    """Read a body.

    Raises:
        ValueError: it has more than ``limit`` bytes.
    """
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > limit:
            raise ValueError("key set too large")
    return bytes(body)
