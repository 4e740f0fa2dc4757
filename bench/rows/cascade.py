"""The end of ten thousand agents at once: answered, refused at the Gateway, in the read models."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from bench.cpu import Meter
from bench.grown import AGENTS, EDGES, Grown, grown
from bench.load import percentile
from bench.memory import watched
from bench.report import Row, Value, at_most
from bench.rows.coordinator import Caller
from bench.rows.revocation import ALLOWED, calls_until_refused, connected, expect
from bench.setting import Setting
from caracal.tasks import cancelled

_DEEPEST = 20  # of the mandates; the others are from anywhere
_LOOK_SECONDS = 0.01
_LIVING = (
    "SELECT (SELECT count(*) FROM agents WHERE id = ANY(%s) AND ended_at IS NULL)"
    " + (SELECT count(*) FROM delegations WHERE id = ANY(%s) AND ended_at IS NULL)"
)


@dataclass(frozen=True, slots=True)
class _Command:
    """What the application of ``token`` asks the Coordinator to end."""

    token: str
    method: str
    path: str
    expect: int


@dataclass(slots=True)
class _Ending:
    """What was seen of a cascade; all times are those of ``perf_counter``."""

    asked: float
    answered: float
    complete: float
    refused: float  # the deepest mandate's first refusal
    millis: list[float]  # of each mandate, from its call after the answer to its refusal
    allowed: int


async def of_tree(setting: Setting) -> Row:
    """End the root of a tree of ten thousand agents."""
    token = setting.world.ambient("agent:lifecycle")
    tree = await grown(setting, setting.world, token, delegating=False)
    path = f"/agents/{tree.agents[0].aggregate_id}"
    return await _ended(setting, tree, [], _Command(token, "DELETE", path, 204))


async def of_graph(setting: Setting) -> Row:
    """Walk ten thousand edges between as many agents, and revoke the one that leads to all."""
    token = setting.world.ambient("agent:lifecycle")
    graph = await grown(setting, setting.world, token, delegating=True)
    caller = await _caller(setting, token)
    edge = f"/delegations/{graph.edges[0].aggregate_id}"
    agent = f"/agents/{graph.agents[1].aggregate_id}"
    paths = [*(f"{edge}/{name}" for name in ("traverse", "impact")), f"{agent}/effective-authority"]
    walks = [
        at_most(f"{path.rpartition('/')[2]}, p50", await _walked(setting, caller, path), "ms", 50)
        for path in paths
    ]
    return await _ended(setting, graph, walks, _Command(token, "PATCH", f"{edge}/revoke", 200))


async def _caller(setting: Setting, token: str) -> Caller:
    return Caller(setting.world, await connected(setting, "coordinator"), token)


async def _walked(setting: Setting, caller: Caller, path: str) -> float:
    """Return how long an answer takes, to its last byte, ms."""
    millis = []
    for _ in range(setting.times(50)):
        asked = time.perf_counter()
        await caller.answer("GET", path, expect=200)
        millis.append((time.perf_counter() - asked) * 1000)
    return percentile(sorted(millis), 0.5)


async def _ended(setting: Setting, things: Grown, walks: Sequence[Value], command: _Command) -> Row:
    calls = await _mandates(setting, things)
    meter = Meter(setting.stack.pids)
    async with watched(setting.stack.pids) as most:
        ending = await _watched(setting, calls, things, command)
    used = meter.used()
    busy, total = meter.machine()
    edges = f" and {EDGES:,} edges" if things.edges else ""
    return Row(
        f"End of {AGENTS:,} agents{edges}",
        f"bench process: {command.method} at the Coordinator, then a call of the Gateway by each of"
        f" {len(calls)} mandates, those of the {_DEEPEST} deepest agents too; one calls all along",
        [
            *walks,
            *_figures(ending),
            *(Value(f"memory, {n}", mib, "MiB") for n, mib in most.items()),
        ],
        {name: spent * 1000 for name, spent in used.items()},
        max(busy - sum(used.values()), 0) / total,
    )


def _figures(ending: _Ending) -> list[Value]:
    ordered = sorted(ending.millis)
    return [
        Value("answered", ending.answered - ending.asked, "s"),
        Value("read models complete", ending.complete - ending.asked, "s"),
        Value("deepest mandate refused", ending.refused - ending.asked, "s"),
        Value("refused once answered, p50", percentile(ordered, 0.5), "ms"),
        at_most("refused once answered, p99", percentile(ordered, 0.99), "ms", 50),
        at_most("calls still allowed after the answer", ending.allowed, "calls", 0),
    ]


async def _mandates(setting: Setting, things: Grown) -> list[bytes]:
    """Return calls of the Gateway, each by a mandate that hangs on another agent; all allowed."""
    last = range(AGENTS - _DEEPEST, AGENTS)
    others = random.Random(7).sample(range(1, last.start), setting.times(180))
    calls, gateway = [], await connected(setting, "gateway")
    for number in (*others, *last):
        token = setting.world.ambient(**things.bound_to(number))
        calls.append(setting.world.governed(token).encode("latin-1"))
        await expect(gateway, calls[-1], ALLOWED)
    gateway.close()
    return calls


async def _watched(
    setting: Setting, calls: Sequence[bytes], things: Grown, command: _Command
) -> _Ending:
    refusal = asyncio.create_task(_first_refusal(setting, calls[-1]))
    try:
        caller = await _caller(setting, command.token)  # anew: what is idle for seconds is closed
        asked = time.perf_counter()
        await caller.answer(command.method, command.path, expect=command.expect)
        answered = time.perf_counter()
        complete = asyncio.create_task(_complete(setting, things))
        millis, allowed = await _refused(setting, calls)
        return _Ending(asked, answered, await complete, await refusal, millis, allowed)
    finally:
        await cancelled(refusal)


async def _first_refusal(setting: Setting, call: bytes) -> float:
    gateway = await connected(setting, "gateway")
    while True:
        if not await calls_until_refused(gateway, call, most=1):
            gateway.close()
            return time.perf_counter()
        await asyncio.sleep(_LOOK_SECONDS)


async def _refused(setting: Setting, calls: Sequence[bytes]) -> tuple[list[float], int]:
    """Call by each mandate until it is refused; return how long each took, and what was allowed."""
    gateway = await connected(setting, "gateway")
    millis, allowed = [], 0
    for call in calls:
        asked = time.perf_counter()
        allowed += await calls_until_refused(gateway, call)
        millis.append((time.perf_counter() - asked) * 1000)
    gateway.close()
    return millis, allowed


async def _complete(setting: Setting, things: Grown) -> float:
    """Wait until every row has ended; the first look comes after the answer, which waits, too."""
    fallen = [agent.aggregate_id for agent in things.agents[bool(things.edges) :]]
    edges = [edge.aggregate_id for edge in things.edges]
    url = setting.stack.urls["database_url"]
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(_LIVING, (fallen, edges))
            row = await cursor.fetchone()
            if row is not None and row[0] == 0:
                return time.perf_counter()
            await asyncio.sleep(_LOOK_SECONDS)
