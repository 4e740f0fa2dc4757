"""``/health``, ``/ready`` and ``/metrics`` of every service, outside of all other layers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from caracal import __version__
from caracal.errors import MethodNotAllowed, TooMany, Unauthenticated
from caracal.events.store.redis import GONE
from caracal.projections.tail import Tail
from caracal.services.connections import Pool
from caracal.services.drain import draining
from caracal.services.http import (
    HARDENING,
    App,
    Receive,
    Scope,
    Send,
    header,
    is_bearer,
    request_id_of,
    respond,
    respond_error,
)
from caracal.settings import Settings

_READY_SECONDS = 2.0
_PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
Check = Callable[[], Awaitable[str | None]]
"""Returns the reason for which the service is not ready; None when it is."""
Details = Callable[[], dict[str, Any]]
Counters = Callable[[], dict[str, Any]]


class Health:
    """The operational routes of one service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._checks: list[Check] = []
        self._soft_checks: list[Check] = []
        self._details: list[Details] = []
        self._counters: Counters = dict
        self._prefix = f"caracal_{settings.service}_"
        self._asked: dict[str, deque[float]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def watch(
        self,
        *,
        database: Pool | None = None,
        redis: Any = None,
        tail: Tail | None = None,
        stale_reason: str = "state_stale",
        serves_without_database: bool = False,
        checks: tuple[Check, ...] = (),
        details: Details = dict,
        counters: Counters = dict,
    ) -> None:
        """Say what readiness depends on; ``counters`` gives the contract's JSON counters.

        ``serves_without_database``: as long as the view is young the service does its work, so a
        lost database makes it ``degraded``, not unready.
        """
        if database is not None and serves_without_database:
            self._soft_checks.append(_database_check(database))
        elif database is not None:
            self._checks.append(_database_check(database))
        if redis is not None:
            self._checks.append(_redis_check(redis))
        if tail is not None:
            self._checks.append(self._tail_check(tail, stale_reason))
            self._details.append(lambda: _tail_details(tail))
        self._checks.extend(checks)
        self._details.append(details)
        self._counters = counters

    def around(self, app: App, *, lifespan: App) -> App:
        """Return an app that answers the operational routes and hands on all others."""
        routes = {"/health": self._health, "/ready": self._ready, "/metrics": self._metrics}

        async def routed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await lifespan(scope, receive, send)
            elif scope["type"] != "http" or (route := routes.get(scope["path"])) is None:
                await app(scope, receive, send)
            elif scope["method"] in ("GET", "HEAD"):
                await route(scope, send)  # the server leaves the body of a HEAD out
            else:
                refusal = MethodNotAllowed("method_not_allowed", "this path has GET only")
                headers = [(b"allow", b"GET, HEAD"), *HARDENING]
                await respond_error(send, refusal, request_id_of(scope), headers)

        return routed

    async def _health(self, scope: Scope, send: Send) -> None:
        await _json(scope, send, 200, {"ok": True})

    async def _ready(self, scope: Scope, send: Send) -> None:
        if self._too_often(scope):
            refusal = TooMany("rate_limited", "too many readiness checks", retry_after=60)
            await respond_error(send, refusal, request_id_of(scope), HARDENING)
        elif draining.is_set():
            await _json(scope, send, 503, {"ok": False, "draining": True})
        elif (reason := await _first(self._checks)) is not None:
            name = reason.partition("_")[0]
            body = {"ok": False, "error": reason, "reason": reason, "dependency": name}
            await _json(scope, send, 503, body)
        else:
            body = {"ok": True, "ready": True, "draining": False, "degraded": False}
            body |= {"version": __version__}
            for more in self._details:
                body |= more()
            if (reason := await _first(self._soft_checks)) is not None:
                body |= {"degraded": True, "reason": reason}
            await _json(scope, send, 200, body)

    def _too_often(self, scope: Scope) -> bool:
        limit = self._settings.ready_rate_limit_per_min
        address = (scope.get("client") or ("-",))[0]
        if len(self._asked) > 1000:
            self._asked.clear()
        fresh: deque[float] = deque(maxlen=limit + 1)
        asked, now = self._asked.setdefault(address, fresh), time.monotonic()
        while asked and now - asked[0] > 60:
            asked.popleft()
        asked.append(now)
        return bool(limit) and len(asked) > limit

    def _tail_check(self, tail: Tail, reason: str) -> Check:
        async def check() -> str | None:
            return None if tail.age <= self._settings.max_staleness else reason

        return check

    async def _metrics(self, scope: Scope, send: Send) -> None:
        expected = self._settings.metrics_bearer
        if expected and not is_bearer(scope, expected):
            refusal = Unauthenticated("invalid_token", "the token of the metrics is needed")
            await respond_error(send, refusal, request_id_of(scope), HARDENING)
        elif b"application/json" in (header(scope, b"accept") or b""):
            await _json(scope, send, 200, self._counters())
        else:
            text = generate_latest(self._registry)
            await respond(send, 200, text, _id(scope), _PROMETHEUS_TEXT)

    def collect(self) -> list[Metric]:
        """Return the counters for Prometheus; nested names are joined by ``_``."""
        flat = _flat(self._counters(), self._prefix)
        return [_metric(name, value) for name, value in flat.items()]


def _metric(name: str, value: float) -> Metric:
    """Return one number; a name in ``_total`` says that it only rises."""
    words = name.removeprefix("caracal_").removesuffix("_total").replace("_", " ")
    if name.endswith("_total"):
        return CounterMetricFamily(name, f"Count of {words}.", value=value)
    return GaugeMetricFamily(name, f"Now: {words}.", value=value)


def _flat(counters: dict[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in counters.items():
        clean = f"{prefix}{name}".replace(".", "_").replace("-", "_")
        if isinstance(value, dict):
            flat |= _flat(value, f"{clean}_")
        elif isinstance(value, int | float):
            flat[clean] = float(value)
    return flat


async def _first(checks: list[Check]) -> str | None:
    """Return the first reason that the checks give, within the time of a readiness check."""
    try:
        async with asyncio.timeout(_READY_SECONDS):
            reasons = await asyncio.gather(*(check() for check in checks))
    except TimeoutError:
        return "job_stalled"
    return next((reason for reason in reasons if reason is not None), None)


def _database_check(database: Pool) -> Check:
    async def check() -> str | None:
        try:
            async with database.connection(timeout=_READY_SECONDS / 2) as connection:
                await connection.execute("SELECT 1")
        except Exception:  # noqa: BLE001 - whatever it is, the database cannot be used
            return "postgres_unreachable"
        return None

    return check


def _redis_check(redis: Any) -> Check:
    async def check() -> str | None:
        try:
            await redis.ping()
        except GONE:
            return "redis_unreachable"
        return None

    return check


def _tail_details(tail: Tail) -> dict[str, Any]:
    return {
        "position": tail.position,
        "staleness_ms": max(0, int(tail.age * 1000)),
        "parked": len(tail.parked),
        "degraded": bool(tail.parked) or tail.without_redis,
    }


async def _json(scope: Scope, send: Send, status: int, body: dict[str, Any]) -> None:
    await respond(send, status, orjson.dumps(body), _id(scope))


def _id(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [(b"x-request-id", request_id_of(scope).encode()), *HARDENING]
