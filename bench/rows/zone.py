"""A large zone at an STS that has not met it: how long its first caller waits, what it costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from bench.grown import put
from bench.load import percentile
from bench.memory import by_size, processes
from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.wire import Connection
from bench.world import World, make_world
from caracal.events.application import Application
from caracal.events.base import Aggregate, acting
from caracal.events.grant import Grant
from caracal.events.resource import Resource
from caracal.ids import new_id

_EACH = 10_000
_NOWHERE = 9  # port of the upstream: nothing is called


async def large(setting: Setting) -> Row:
    """Ten thousand applications, resources and grants each; another zone's calls go on."""
    world = make_world(setting.stack.urls, _NOWHERE)
    await put(setting, list(_things(world)))
    tokens = world.ambient(), setting.world.ambient()
    with setting.stack.replica("sts") as url:
        port = urlsplit(url).port or 80
        pids = processes("serve", "sts", "--port", str(port))
        big, small = [await Connection.to("127.0.0.1", port) for _ in range(2)]
        other = setting.world.exchange(tokens[1]).encode("latin-1")
        await _answered(small, other)
        empty, alone = by_size(pids), await _many(small, other)
        began = time.perf_counter()
        first = asyncio.create_task(_answered(big, world.exchange(tokens[0]).encode("latin-1")))
        beside = await _many(small, other, until=first)
        seconds = await first
        full, answered = by_size(pids), time.perf_counter() - began
        for connection in (big, small):
            connection.close()
    return Row(
        f"Zone of {_EACH:,} applications, resources and grants each, first met",
        "bench process: one exchange in it and one after the other in another zone, at an STS of"
        " its own; memory is each process' share (PSS)",
        [
            at_most("first answer", seconds, "s", 3),
            Value("calls beside it, p50", percentile(beside, 0.5), "ms"),
            Value("longest call beside it", beside[-1] if beside else float("nan"), "ms"),
            Value("p50 without it", percentile(alone, 0.5), "ms"),
            Value("calls beside it", len(beside) / max(answered, 1e-9), "/s"),
            Value("memory before", empty[0], "MiB"),
            at_most("memory after", full[0], "MiB", 256),
            Value("memory of its parent", sum(full[1:]), "MiB"),
        ],
    )


async def _answered(connection: Connection, raw: bytes) -> float:
    began = time.perf_counter()
    status, body = await connection.asked(raw)
    if status != 200:
        raise RuntimeError(f"not exchanged: {status} {body[:300]!r}")
    return time.perf_counter() - began


async def _many(
    connection: Connection, raw: bytes, until: asyncio.Task[float] | None = None
) -> list[float]:
    """Ask again and again, a second or until a task is done; return ms, in order."""
    ends = time.perf_counter() + 1
    millis = []
    while time.perf_counter() < ends if until is None else not until.done():
        millis.append(await _answered(connection, raw) * 1000)
    return sorted(millis)


def _things(world: World) -> Iterator[Aggregate]:
    zone_id = world.zone_id
    ids = [(new_id(), new_id()) for _ in range(_EACH)]
    with acting(zone_id=zone_id, actor="bench"):
        for number, (application_id, resource_id) in enumerate(ids):
            yield Application.create(
                application_id,
                zone_id=zone_id,
                registration_method="managed",
                name=f"application {number}",
                credential_type="token",
                jwks=None,
                jwks_uri=None,
                traits=[],
                consent="implicit",
            )
            yield Resource.create(
                resource_id,
                zone_id=zone_id,
                quota=10**7,
                identifier=f"resource://bench/{number}",
                name=f"resource {number}",
                upstream_url=f"https://upstream.example/{number}",
                scopes=["read", "write"],
                prefix_match=False,
                provider_id=None,
                gateway_application_id=None,
                protocol="http",
                rate_limit=None,
            )
        for application_id, resource_id in ids:
            yield Grant.create(
                new_id(),
                zone_id=zone_id,
                application_id=application_id,
                resource_id=resource_id,
                scopes=["read"],
                of=["read", "write"],
                user_id=None,
            )
