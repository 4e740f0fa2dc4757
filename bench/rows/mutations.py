"""From a change to where it is seen, and changes by HTTP."""

from __future__ import annotations

import asyncio
import json
import time

from bench.cpu import Meter
from bench.load import NUMBER, percentile
from bench.report import Row, Value, at_least, at_most
from bench.setting import Setting
from caracal.events.base import acting
from caracal.events.resource import Resource
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log
from caracal.ids import new_id
from caracal.projections.waiter import Waiter

_RATE = 200
_SCOPES = ["read", "write"]


async def visible(setting: Setting) -> Row:
    """Events at a fixed rate; each waits until its read models have applied it."""
    zone_id, database_url = setting.world.zone_id, setting.stack.urls["database_url"]
    appender, waiter = Appender(database_url), Waiter(database_url)
    log = Log(None, appender)  # type: ignore[arg-type]  # nothing is read
    await appender.start()
    await waiter.start()
    millis: list[float] = []
    pending = 0

    async def change(number: int, due: float) -> None:
        nonlocal pending
        with acting(zone_id=zone_id, actor="bench"):
            resource = new_resource(zone_id, number)
        saved = await log.save(resource)
        pending += not await waiter.applied(saved)
        millis.append((time.perf_counter() - due) * 1000)

    try:
        await asyncio.gather(*(change(number, time.perf_counter()) for number in range(-20, 0)))
        millis.clear()
        meter, cpu = Meter(setting.stack.pids), time.process_time()
        start, tasks = time.perf_counter(), []
        for number in range(int(setting.seconds(10) * _RATE)):
            due = start + number / _RATE
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(change(number, due)))
        await asyncio.gather(*tasks)
        own, used = time.process_time() - cpu, meter.used()
        busy, total = meter.machine()
    finally:
        await waiter.stop()
        await appender.stop()
    millis.sort()
    cpu_ms = {name: seconds / len(millis) * 1000 for name, seconds in used.items()}
    return Row(
        f"Mutation: append → read model visible, {_RATE}/s",
        "bench process: Log and Waiter; relay and projections in the stack's worker",
        [
            at_most("p50", percentile(millis, 0.5), "ms", 8),
            at_most("p99", percentile(millis, 0.99), "ms", 30),
            Value("longest", millis[-1], "ms"),
            *([Value("not within 1 s", pending, "changes", 0)] if pending else []),
        ],
        {
            **dict(sorted(cpu_ms.items(), key=lambda item: -item[1])),
            "bench": own / len(millis) * 1000,
        },
        max(busy - sum(used.values()) - own, 0) / total,
    )


def new_resource(zone_id: str, number: int) -> Resource:
    """Return a resource that was not there before, to be saved."""
    thing_id = new_id()
    return Resource.create(
        thing_id,
        zone_id=zone_id,
        identifier=f"resource://visible/{thing_id}",
        quota=10**9,
        name=f"resource {number}",
        upstream_url=None,
        scopes=_SCOPES,
        prefix_match=False,
        provider_id=None,
        gateway_application_id=None,
        protocol="http",
        rate_limit=None,
    )


async def by_http(setting: Setting) -> Row:
    """Thirty-two callers create resources; each answer waits for the read model."""
    body = {"identifier": f"resource://made/{NUMBER.decode()}", "scopes": _SCOPES}
    text = setting.world.control("POST", "/resources", json.dumps(body))
    done = await setting.load("api", text, connections=32, seconds=setting.seconds(8), expect=201)
    return done.row(
        "Control mutations by HTTP, c=32",
        "load → API: POST resources; answered when committed and in the read model",
        at_least("rate", done.load.rate, "/s", 700),
        Value("p50", done.load.p50, "ms"),
        Value("p99", done.load.p99, "ms"),
    )
