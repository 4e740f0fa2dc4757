"""What replicas share about a provider: who refreshes, and whether it is asked at all."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis

from caracal.events.store.redis import GONE
from caracal.services.provider_kind import REFRESH_FAILED, NoCredential

logger = logging.getLogger(__name__)
LEASE_SECONDS = 15
OPEN_SECONDS, WINDOW_SECONDS, MAX_FAILURES = 30, 300, 5
_LOOK_SECONDS = 0.05
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"
_FAILED = """
local failures = redis.call('INCR', KEYS[1])
if failures == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
if failures >= tonumber(ARGV[2]) then redis.call('SET', KEYS[2], '1', 'EX', ARGV[3]) end
return failures
"""


class Leases:
    """One process at a time refreshes a grant's tokens."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @asynccontextmanager
    async def held(self, grant_id: str) -> AsyncIterator[None]:
        """Hold the lease of a grant; wait for it, for as long as one may last.

        Raises:
            NoCredential: it cannot be had.
        """
        key, mark = f"provider-refresh-lease:{grant_id}", secrets.token_hex(16)
        if not await self._acquired(key, mark):
            raise NoCredential(REFRESH_FAILED, "another refresh does not end")
        try:
            yield
        finally:
            with suppress(*GONE):  # it ends by itself
                await self._redis.eval(_RELEASE, 1, key, mark)

    async def _acquired(self, key: str, mark: str) -> bool:
        limit = time.monotonic() + LEASE_SECONDS
        try:
            while not await self._redis.set(key, mark, nx=True, px=int(LEASE_SECONDS * 1000)):
                if time.monotonic() >= limit:
                    return False
                await asyncio.sleep(_LOOK_SECONDS)
        except GONE as error:
            raise _without_redis(error) from None
        return True


class Circuits:
    """A provider that failed five times in five minutes is left alone for half a minute."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def check(self, provider_id: str) -> None:
        """Pass when the provider may be asked.

        Raises:
            NoCredential: its circuit is open, or nobody knows.
        """
        try:
            is_open = await self._redis.exists(_circuit(provider_id))
        except GONE as error:
            raise _without_redis(error) from None
        if is_open:
            raise NoCredential(REFRESH_FAILED, "the provider failed too often just now")

    async def failed(self, provider_id: str) -> None:
        """Count a failure."""
        keys = (_failures(provider_id), _circuit(provider_id))
        args = (WINDOW_SECONDS, MAX_FAILURES, OPEN_SECONDS)
        with suppress(*GONE):
            await self._redis.eval(_FAILED, 2, *keys, *args)

    async def succeeded(self, provider_id: str) -> None:
        """Close the circuit, and forget the failures."""
        with suppress(*GONE):
            await self._redis.delete(_failures(provider_id), _circuit(provider_id))


def _failures(provider_id: str) -> str:
    return f"provider-refresh-failures:{provider_id}"


def _circuit(provider_id: str) -> str:
    return f"provider-refresh-circuit:{provider_id}"


def _without_redis(error: BaseException) -> NoCredential:
    logger.warning("provider not asked, Redis is gone: %s", type(error).__name__)
    return NoCredential(REFRESH_FAILED, "it cannot be known whether the provider may be asked")
