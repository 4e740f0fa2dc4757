"""One agent and one edge in a zone of ten thousand of each, beside the same in an empty zone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from psycopg import AsyncConnection

from bench.cpu import Meter
from bench.grown import AGENTS, EDGES, Grown, grown
from bench.load import percentile
from bench.report import Row, Value
from bench.rows.coordinator import Caller
from bench.rows.revocation import connected
from bench.setting import Setting
from bench.world import World, make_world
from caracal.projections.agent_graph import zone_graph

_NOWHERE = 9  # port of the upstream: nothing is called
_WARM = 5
_EMPTY, _FULL = "empty zone", "full zone"

Done = TypeVar("Done")
Millis = defaultdict[str, list[float]]


async def beside_empty(setting: Setting) -> Row:
    """Spawn, delegate, revoke and end, in turns in either zone; each answer waits for the read
    models."""
    worlds = {name: make_world(setting.stack.urls, _NOWHERE) for name in (_EMPTY, _FULL)}
    things = await grown(setting, worlds[_FULL], _token(worlds[_FULL]), delegating=True)
    callers = {name: await _caller(setting, world) for name, world in worlds.items()}
    for _ in range(_WARM):
        for caller in callers.values():
            await _round(caller, Millis(list))
    millis = {name: Millis(list) for name in worlds}
    meter, rounds = Meter(setting.stack.pids), setting.times(200)
    for _ in range(rounds):
        for name, caller in callers.items():
            await _round(caller, millis[name])
    used = meter.used()
    busy, total = meter.machine()
    return Row(
        f"One agent or edge in a zone of {AGENTS:,} agents and {EDGES:,} edges",
        "bench process: calls of the Coordinator, one after the other, the two zones in turns;"
        " the CPU time is that of a round in both",
        [*_figures(millis), *await _listed(setting, worlds[_FULL].zone_id, things)],
        {name: spent / rounds * 1000 for name, spent in used.items()},
        max(busy - sum(used.values()), 0) / total,
    )


def _figures(millis: Mapping[str, Millis]) -> list[Value]:
    return [
        Value(f"{step}, {zone}, p50", percentile(sorted(of[step]), 0.5), "ms")
        for step in millis[_EMPTY]
        for zone, of in millis.items()
    ]


async def _listed(setting: Setting, zone_id: str, things: Grown) -> list[Value]:
    """Return how long the worker, which has no view, reads what may end with an agent."""
    leaf = things.agents[-1].aggregate_id
    url = setting.stack.urls["database_url"]
    near, whole = list[float](), list[float]()
    async with await AsyncConnection.connect(url, autocommit=True) as database:
        for _ in range(setting.times(20)):
            await _timed(zone_graph(database, zone_id, [leaf]), near)
            await _timed(zone_graph(database, zone_id), whole)
    return [
        Value(f"the worker reads {what}, p50", percentile(sorted(of), 0.5), "ms")
        for what, of in (("what hangs on a leaf of it", near), ("all of it", whole))
    ]


async def _round(caller: Caller, millis: Millis) -> None:
    source = await _timed(caller.spawn(), millis["spawn"])
    target = await _timed(caller.spawn(), millis["spawn"])
    edge = await _timed(caller.lend(source, target), millis["delegate"])
    await _timed(caller.revoke(edge), millis["revoke an edge"])  # and with it the target
    await _timed(caller.end(source), millis["end an agent"])


async def _timed(step: Awaitable[Done], millis: list[float]) -> Done:
    asked = time.perf_counter()
    done = await step
    millis.append((time.perf_counter() - asked) * 1000)
    return done


def _token(world: World) -> str:
    return world.ambient("agent:lifecycle")


async def _caller(setting: Setting, world: World) -> Caller:
    return Caller(world, await connected(setting, "coordinator"), _token(world))
