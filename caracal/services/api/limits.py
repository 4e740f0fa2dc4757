"""Request limits of the control plane, per address and actor, in memory of each replica."""

from __future__ import annotations

import time
from collections import OrderedDict

from caracal.errors import TooMany
from caracal.services.http import Scope

_WINDOW = 60.0
_MAX_KEYS = 10_000


class Window:
    """Counts per key in fixed windows of a minute; bounded, least recently used out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, key: str) -> int:
        """Return how often ``key`` was counted in its running minute."""
        started, count = self._counts.get(key, (0.0, 0))
        return count if time.monotonic() - started < _WINDOW else 0

    def add(self, key: str) -> None:
        """Count ``key`` once more."""
        now = time.monotonic()
        started, count = self._counts.pop(key, (now, 0))
        self._counts[key] = (started, count + 1) if now - started < _WINDOW else (now, 1)
        if len(self._counts) > _MAX_KEYS:
            self._counts.popitem(last=False)

    def check(self, key: str) -> None:
        """Refuse a key that has reached the limit (0: no limit).

        Raises:
            TooMany: 429 ``rate_limited``.
        """
        if self._limit and self.count(key) >= self._limit:
            started = self._counts[key][0]
            wait = int(_WINDOW - (time.monotonic() - started)) + 1
            raise TooMany("rate_limited", "too many requests; slow down", retry_after=wait)


class Limits:
    """The two limits before every route."""

    def __init__(self, *, requests_per_min: int, failures_per_min: int) -> None:
        self._requests, self._failures = Window(requests_per_min), Window(failures_per_min)

    def check_failures(self, address: str) -> None:
        """Refuse an address with too many failed authentications."""
        self._failures.check(address)

    def failed(self, address: str) -> None:
        """Count a failed authentication."""
        self._failures.add(address)

    def check_requests(self, address: str, actor: str) -> None:
        """Count a request, and refuse it over the limit of its address and actor."""
        key = f"{address} {actor}"
        self._requests.check(key)
        self._requests.add(key)


def client_address(scope: Scope) -> str:
    """Return the peer's address."""
    client = scope.get("client")
    return client[0] if client else "-"
