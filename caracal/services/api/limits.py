"""Limits of the control plane: of failures per address, of requests per actor, in each replica;
of registrations, per zone, in Redis for all replicas."""

from __future__ import annotations

from caracal.events.store.redis import connect
from caracal.events.store.redis_line import RedisLine
from caracal.services.windows import SharedWindow, Window, network_of

_REGISTRATIONS, _SECOND = 10, 1.0
_REDIS_SECONDS = 0.5  # that a registration waits for Redis


class Registrations:
    """At most 10 a second and zone; counted by each process alone while Redis is gone."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect(redis_url, timeout=_REDIS_SECONDS)
        self._line = RedisLine(self._redis, timeout=_REDIS_SECONDS)
        code = "dcr_rate_limit_exceeded"
        self._window = SharedWindow(self._line, "rl:dcr", _REGISTRATIONS, _SECOND, code)

    async def close(self) -> None:
        """Close the connections."""
        await self._line.close()
        await self._redis.aclose()

    async def enter(self, zone_id: str) -> None:
        """Count a registration, and refuse it over the limit.

        Raises:
            TooMany: 429 ``dcr_rate_limit_exceeded``.
        """
        await self._window.enter(zone_id)


class Limits:
    """The limits before every route."""

    def __init__(
        self, *, requests_per_min: int, failures_per_min: int, registrations: Registrations
    ) -> None:
        self._requests, self._failures = Window(requests_per_min), Window(failures_per_min)
        self._callbacks = Window(failures_per_min)
        self._registrations = registrations

    def check_failures(self, address: str) -> None:
        """Refuse an address with too many failed authentications."""
        self._failures.check(network_of(address))

    def failed(self, address: str) -> None:
        """Count a failed authentication."""
        self._failures.add(network_of(address))

    def check_requests(self, actor: str) -> None:
        """Count a request, and refuse it over the limit of its actor, from wherever it comes."""
        self._requests.enter(actor)

    def check_callbacks(self, address: str) -> None:
        """Count a callback, which nobody authenticates, and refuse it over an address's limit."""
        self._callbacks.enter(network_of(address))

    async def check_registrations(self, zone_id: str) -> None:
        """Count a registration in a zone that need not exist, and refuse it over the limit."""
        await self._registrations.enter(zone_id)
