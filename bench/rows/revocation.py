"""From the end of an authority to the refusal of a call that relied on it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg_pool import AsyncConnectionPool

from bench.load import percentile
from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.wire import Connection
from caracal.events.base import acting
from caracal.events.session import Session
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log
from caracal.mandate import peek

ALLOWED = 200
_REFUSED = (401, 403)  # by the Gateway; by the STS, if that learns of it first
_SILENCE = 3.0  # s; until everyone has noticed that the relay is gone


async def by_api(setting: Setting) -> Row:
    """Revoke a grant, then call until refused: from the API's answer to the refusal's."""
    world, trials = setting.world, setting.times(100)
    api, gateway = await connected(setting, "api"), await connected(setting, "gateway")
    millis, answers, allowed = [], [], 0
    for _ in range(trials):
        grant_id, call = world.granted(), _raw(world.governed(world.ambient()))
        await expect(gateway, call, ALLOWED)
        asked = time.perf_counter()
        await expect(api, _raw(world.control("DELETE", f"/grants/{grant_id}")), 204)
        answered = time.perf_counter()
        allowed += await calls_until_refused(gateway, call)
        millis.append((time.perf_counter() - answered) * 1000)
        answers.append((answered - asked) * 1000)
    api.close()
    gateway.close()
    return Row(
        "Revoke: API answer → refusal",
        f"bench process: DELETE grant, then calls of the Gateway until refused; {trials} times",
        [
            *_bars(millis, p50=5, p99=25),
            Value("calls still allowed after the answer", allowed, "calls"),
            Value("API answered, p50", percentile(sorted(answers), 0.5), "ms"),
        ],
    )


async def relay_dead(setting: Setting) -> Row:
    """The same with the worker stopped, from the commit, as the API's answer is late then."""
    world, trials = setting.world, setting.times(60)
    grant_id = world.granted()  # the API's own way would end all sessions at once
    tokens = [world.ambient() for _ in range(trials)]
    gateway = await connected(setting, "gateway")
    for token in tokens:
        await expect(gateway, _raw(world.governed(token)), ALLOWED)
    millis = []
    async with _log(setting.stack.urls["database_url"]) as log:
        setting.stack.pause("worker")
        try:
            await asyncio.sleep(_SILENCE)
            for token in tokens:
                committed = await _end_session(log, world.zone_id, token)
                await calls_until_refused(gateway, _raw(world.governed(token)))
                millis.append((time.perf_counter() - committed) * 1000)
        finally:
            setting.stack.go_on("worker")
    gateway.close()
    api = await connected(setting, "api")
    await expect(api, _raw(world.control("DELETE", f"/grants/{grant_id}")), 204)
    api.close()
    return Row(
        "Revoke, relay dead: commit → refusal",
        f"bench process: session.revoked by the log, calls until refused; {trials} times",
        _bars(millis, p50=None, p99=50),
    )


def _bars(millis: list[float], *, p50: float | None, p99: float) -> list[Value]:
    ordered = sorted(millis)
    return [
        Value("p50", percentile(ordered, 0.5), "ms", p50),
        at_most("p99", percentile(ordered, 0.99), "ms", p99),
        Value("longest", ordered[-1], "ms"),
    ]


async def connected(setting: Setting, service: str) -> Connection:
    """Return a connection to a service."""
    return await Connection.to(*setting.world.address(service))


def _raw(text: str) -> bytes:
    return text.encode("latin-1")


async def expect(connection: Connection, raw: bytes, status: int) -> None:
    """Call; be done unless the answer has this status."""
    found, body = await connection.asked(raw)
    if found != status:
        raise RuntimeError(f"{found} instead of {status}: {body[:300]!r}")


async def calls_until_refused(gateway: Connection, call: bytes, most: float = math.inf) -> int:
    """Return how many calls, of at most ``most``, were allowed before the first refusal."""
    allowed = 0
    while allowed < most and (status := (await gateway.asked(call))[0]) not in _REFUSED:
        if status != ALLOWED:
            raise RuntimeError(f"neither allowed nor refused: {status}")
        allowed += 1
    return allowed


@asynccontextmanager
async def _log(database_url: str) -> AsyncIterator[Log]:
    pool = AsyncConnectionPool(database_url, open=False, kwargs={"autocommit": True})
    appender = Appender(database_url)
    await appender.start()
    try:
        async with pool:
            yield Log(pool, appender)
    finally:
        await appender.stop()


async def _end_session(log: Log, zone_id: str, token: str) -> float:
    """End the session of an ambient token; return when that was committed."""
    session = await log.find(Session, str(peek(token).claims["sid"]))
    if session is None:
        raise RuntimeError("the token has no session")
    with acting(zone_id=zone_id, actor="bench"):
        session.revoke("admin_revoked")
    await log.save(session)
    return time.perf_counter()
