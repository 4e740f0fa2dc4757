"""Limits by counts in fixed windows: of one process, or of all replicas by Redis."""

from __future__ import annotations

import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from caracal.errors import TooMany
from caracal.events.store.redis import GONE
from caracal.events.store.redis_line import RedisLine, script
from caracal.services.http import Scope, client_address

_MINUTE = 60.0
_MAX_KEYS = 10_000
_COUNT = """
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return n
"""
_IPV6_SUBNET = 64


def network_of(address: str) -> str:
    """Return what an address counts as: of IPv6 its /64, all of which one host may use."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    prefix = int(found) >> (128 - _IPV6_SUBNET) << (128 - _IPV6_SUBNET)
    return f"{IPv6Address(prefix)}/{_IPV6_SUBNET}"


def caller_of(scope: Scope) -> str:
    """Return what a request's address counts as where a caller without a name is limited."""
    return network_of(client_address(scope))


class Window:
    """Counts per key in fixed windows of ``seconds``; bounded, least recently used out."""

    def __init__(
        self, limit: int = 0, seconds: float = _MINUTE, code: str = "rate_limited"
    ) -> None:
        self._limit, self._seconds, self._code = limit, seconds, code
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, key: str) -> int:
        """Return how often ``key`` was counted in its running window."""
        started, count = self._counts.get(key, (0.0, 0))
        return count if time.monotonic() - started < self._seconds else 0

    def add(self, key: str) -> int:
        """Count ``key`` once more; return how often it was in its running window."""
        now = time.monotonic()
        started, count = self._counts.pop(key, (now, 0))
        self._counts[key] = (started, count + 1) if now - started < self._seconds else (now, 1)
        if len(self._counts) > _MAX_KEYS:
            self._counts.popitem(last=False)
        return self._counts[key][1]

    def check(self, key: str) -> None:
        """Refuse a key that has reached the limit (0: no limit).

        Raises:
            TooMany: 429, with the window's code.
        """
        if self._limit and self.count(key) >= self._limit:
            started = self._counts[key][0]
            wait = int(self._seconds - (time.monotonic() - started)) + 1
            raise TooMany(self._code, "too many requests; slow down", retry_after=wait)

    def enter(self, key: str) -> None:
        """Count ``key`` once more, unless it has reached the limit.

        Raises:
            TooMany: 429, with the window's code.
        """
        self.check(key)
        self.add(key)


class SharedWindow:
    """Counts of all replicas under ``prefix``; each process counts alone while Redis is gone.

    A window begins with its first count; ``by_clock`` with the minute, whose number its key has.
    0: no limit.
    """

    def __init__(
        self,
        redis: RedisLine,
        prefix: str,
        limit: int,
        seconds: float = _MINUTE,
        code: str = "rate_limited",
        *,
        by_clock: bool = False,
    ) -> None:
        self._redis, self._prefix, self._limit = redis, prefix, limit
        self._seconds, self._code, self._by_clock = seconds, code, by_clock
        self._alone = Window(limit, seconds, code)

    async def enter(self, key: str) -> None:
        """Count ``key`` once more, and refuse it over the limit.

        Raises:
            TooMany: 429, with the window's code.
        """
        if not self._limit:
            return
        name, life, left = self._window(f"{self._prefix}:{key}")
        try:
            count = await script(self._redis, _COUNT, [name], [int(life * 1000)])
        except GONE:
            self._alone.enter(key)
        else:
            if int(count) > self._limit:
                wait = int(left) + 1
                raise TooMany(self._code, "too many requests; slow down", retry_after=wait)

    def _window(self, name: str) -> tuple[str, float, float]:
        """Return key, life and rest of the running window; by the clock it outlives its end."""
        if not self._by_clock:
            return name, self._seconds, 0.0
        number, passed = divmod(time.time(), self._seconds)
        return f"{name}:{int(number)}", self._seconds * 1.5, self._seconds - passed
