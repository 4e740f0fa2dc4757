"""``/health``, ``/ready`` and ``/metrics`` of every service, outside of all other layers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from caracal import __version__, telemetry
from caracal.errors import CaracalError, MethodNotAllowed, TooMany, Unauthenticated
from caracal.events.store.redis import GONE
from caracal.projections.tail import Tail
from caracal.services.connections import Pool
from caracal.services.drain import draining
from caracal.services.http import (
    HARDENING,
    ROUTE,
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
from caracal.services.windows import Window, caller_of
from caracal.settings import Settings

_READY_SECONDS = 2.0
_PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
Check = Callable[[], Awaitable[str | None]]
"""Returns the reason for which the service is not ready; None when it is.

``reason:name`` names what it depends on; without a name that is the reason's first word.
"""
Limit = Callable[[str], Awaitable[None]]
"""Counts a request of an address; raises ``TooMany``."""
Guard = Callable[[Scope], CaracalError | None]
"""Returns why a request may not see the metrics; None when it may."""
Details = Callable[[], dict[str, Any]]
Counters = Callable[[], dict[str, Any]]


class Health:
    """The operational routes of one service."""

    def __init__(
        self, settings: Settings, *, ready_limit: Limit | None = None, guard: Guard | None = None
    ) -> None:
        """Make them; by default each process counts readiness checks alone, and the metrics'
        ``guard`` is ``METRICS_BEARER`` when it is set."""
        self._settings = settings
        self._ready_limit, self._guard = ready_limit or self._check_limit, guard or self._bearer
        self._checks: list[Check] = []
        self._soft_checks: list[Check] = []
        self._details: list[Details] = []
        self._counters: Counters = dict
        self._prefix = f"caracal_{settings.service}_"
        self._asked = Window(settings.ready_rate_limit_per_min)
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
                scope.setdefault("state", {})[ROUTE] = scope["path"]
                await route(scope, send)  # the server leaves the body of a HEAD out
            else:
                refusal = MethodNotAllowed("method_not_allowed", "this path has GET only")
                headers = [(b"allow", b"GET, HEAD"), *HARDENING]
                await respond_error(send, refusal, request_id_of(scope), headers)

        return routed

    async def _health(self, scope: Scope, send: Send) -> None:
        await _json(scope, send, 200, {"ok": True})

    async def _ready(self, scope: Scope, send: Send) -> None:
        try:
            await self._ready_limit(caller_of(scope))
        except TooMany as refusal:
            await respond_error(send, refusal, request_id_of(scope), HARDENING)
            return
        if draining.is_set():
            await _json(scope, send, 503, {"ok": False, "draining": True})
        elif (reason := await _first(self._checks)) is not None:
            reason, _, name = reason.partition(":")
            name = name or reason.partition("_")[0]
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

    async def _check_limit(self, address: str) -> None:
        self._asked.enter(address)

    def _bearer(self, scope: Scope) -> CaracalError | None:
        expected = self._settings.metrics_bearer
        if not expected or is_bearer(scope, expected):
            return None
        return Unauthenticated("invalid_token", "a valid bearer token is needed")

    def _tail_check(self, tail: Tail, reason: str) -> Check:
        async def check() -> str | None:
            return None if tail.age <= self._settings.max_staleness else reason

        return check

    async def _metrics(self, scope: Scope, send: Send) -> None:
        if (refusal := self._guard(scope)) is not None:
            await respond_error(send, refusal, request_id_of(scope), HARDENING)
        elif b"application/json" in (header(scope, b"accept") or b""):
            await _json(scope, send, 200, self._counters())
        else:
            text = generate_latest(self._registry)
            await respond(send, 200, text, _id(scope), _PROMETHEUS_TEXT)

    def collect(self) -> list[Metric]:
        """Return the counters for Prometheus; nested names are joined by ``_``."""
        counters = self._counters()
        flat = _flat({**counters, **telemetry.counts()}, self._prefix)
        labelled = [_labelled(name, v) for name, v in counters.items() if isinstance(v, ByLabel)]
        return [*(_metric(name, value) for name, value in flat.items()), *labelled]


class ByLabel(dict[str, int]):
    """Counts by the values of one label; the contract gives the metric its whole name."""

    def __init__(self, label: str, counts: Mapping[str, int]) -> None:
        super().__init__(counts)
        self.label = label


def _labelled(name: str, counts: ByLabel) -> Metric:
    words = name.removeprefix("caracal_").removesuffix("_total").replace("_", " ")
    family = CounterMetricFamily(name, f"Count of {words}.", labels=[counts.label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _metric(name: str, value: float) -> Metric:
    """Return one number; a name in ``_total`` says that it only rises."""
    words = name.removeprefix("caracal_").removesuffix("_total").replace("_", " ")
    if name.endswith("_total"):
        return CounterMetricFamily(name, f"Count of {words}.", value=value)
    return GaugeMetricFamily(name, f"Now: {words}.", value=value)


def _flat(counters: dict[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in counters.items():
        if isinstance(value, ByLabel):
            continue
        whole = name if name.startswith("caracal_") else f"{prefix}{name}"
        clean = whole.replace(".", "_").replace("-", "_")
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
