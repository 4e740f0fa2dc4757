"""Agents and the delegation graph, by HTTP; large graphs are put into the log beforehand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from bench.cpu import Meter
from bench.load import percentile
from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.wire import Connection
from caracal import clock
from caracal.events.agent import Agent, SpawnLimits
from caracal.events.base import Aggregate, acting
from caracal.events.delegation import Delegation
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log
from caracal.ids import new_id
from caracal.mandate import peek
from caracal.projections.waiter import Waiter

_CALLERS = 8
_AGENTS = _EDGES = 10_000
_CHUNK = 500
_LIMITS = SpawnLimits(depth=100, children=10**6, zone=10**7, application=10**7)

Step = Callable[["Caller"], Awaitable[None]]


class Caller:
    """An application at the Coordinator, on a connection of its own."""

    def __init__(self, setting: Setting, connection: Connection, token: str) -> None:
        self._world, self._connection, self._token = setting.world, connection, token
        self.pair: tuple[str, str] = ("", "")

    async def call(self, method: str, path: str, body: Any = None, *, expect: int) -> Any:
        """Call a route of the zone; return its JSON."""
        text = "" if body is None else json.dumps(body)
        raw = self._world.coordinated(self._token, method, path, text).encode("latin-1")
        status, answer = await self._connection.asked(raw)
        if status != expect:
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return json.loads(answer) if answer else None

    async def spawn(self) -> str:
        """Spawn an agent; return its id."""
        body = {"application_id": self._world.application_id}
        return str((await self.call("POST", "/agents", body, expect=201))["id"])

    async def spawn_and_end(self) -> None:
        """Spawn an agent, and end it."""
        await self.call("DELETE", f"/agents/{await self.spawn()}", expect=204)

    async def delegate(self) -> None:
        """Make an edge between the caller's own pair of agents."""
        source, target = self.pair
        body = {
            "source_session_id": source,
            "target_session_id": target,
            "issuer_application_id": self._world.application_id,
            "receiver_application_id": self._world.application_id,
            "scopes": ["read"],
            "ttl_seconds": 3600,
        }
        await self.call("POST", "/delegations", body, expect=201)

    async def pair_up(self) -> None:
        """Spawn a pair of agents."""
        self.pair = (await self.spawn(), await self.spawn())


async def agents(setting: Setting) -> Row:
    """Eight callers spawn agents and end them; each answer waits for the read models."""
    return await _measured(setting, "Agent: spawn + end, c=8", Caller.spawn_and_end)


async def delegations(setting: Setting) -> Row:
    """Eight callers delegate between two agents each."""
    return await _measured(setting, "Delegation: create, c=8", Caller.delegate)


async def graph(setting: Setting) -> Row:
    """A tree of ten thousand agents with ten thousand edges: walked, and revoked as a whole."""
    token = setting.world.ambient("agent:lifecycle")
    first = await _grown(setting, token)
    connection = await Connection.to(*setting.world.address("coordinator"))
    caller = Caller(setting, connection, token)
    walks = {
        name: await _walked(setting, caller, f"/delegations/{first}/{name}")
        for name in ("traverse", "impact")
    }
    meter, began = Meter(setting.stack.pids), time.perf_counter()
    ended = await caller.call("PATCH", f"/delegations/{first}/revoke", expect=200)
    seconds = time.perf_counter() - began
    used = meter.used()
    busy, total = meter.machine()
    connection.close()
    if ended["revoked_edges"] != _EDGES or ended["terminated_agents"] != _AGENTS - 1:
        raise RuntimeError(f"not all of it was ended: {ended}")
    return Row(
        f"Graph of {_AGENTS:,} agents and {_EDGES:,} edges",
        "bench process: calls of the Coordinator; relay and projections in the stack's worker",
        [
            at_most("traverse, p50", walks["traverse"], "ms", 50),
            at_most("impact, p50", walks["impact"], "ms", 50),
            Value("revoke of all, answered", seconds, "s"),
        ],
        {name: spent * 1000 for name, spent in used.items()},
        max(busy - sum(used.values()), 0) / total,
    )


async def _walked(setting: Setting, caller: Caller, path: str) -> float:
    millis = []
    for _ in range(setting.times(50)):
        asked = time.perf_counter()
        await caller.call("GET", path, expect=200)
        millis.append((time.perf_counter() - asked) * 1000)
    return percentile(sorted(millis), 0.5)


async def _measured(setting: Setting, measure: str, step: Step) -> Row:
    callers = await _callers(setting)
    millis: list[float] = []

    async def work(caller: Caller, until: float) -> None:
        while (asked := time.perf_counter()) < until:
            await step(caller)
            millis.append((time.perf_counter() - asked) * 1000)

    warm = time.perf_counter() + 1
    await asyncio.gather(*(work(caller, warm) for caller in callers))
    millis.clear()
    meter, own, began = Meter(setting.stack.pids), time.process_time(), time.perf_counter()
    until = began + setting.seconds(8)
    await asyncio.gather(*(work(caller, until) for caller in callers))
    seconds, used = time.perf_counter() - began, meter.used()
    busy, total = meter.machine()
    used["bench"] = time.process_time() - own
    millis.sort()
    return Row(
        measure,
        "bench process: calls of the Coordinator; answered when it is in the read models",
        [
            Value("rate", len(millis) / seconds, "/s"),
            Value("p50", percentile(millis, 0.5), "ms"),
            Value("p99", percentile(millis, 0.99), "ms"),
        ],
        {name: spent / len(millis) * 1000 for name, spent in used.items()},
        max(busy - sum(used.values()), 0) / total,
    )


async def _callers(setting: Setting) -> list[Caller]:
    token, where = setting.world.ambient("agent:lifecycle"), setting.world.address("coordinator")
    callers = [Caller(setting, await Connection.to(*where), token) for _ in range(_CALLERS)]
    for caller in callers:
        await caller.pair_up()
    return callers


async def _grown(setting: Setting, token: str) -> str:
    """Put a tree of agents and its edges into the log; return the edge that leads to all."""
    agents = _tree(setting.world.zone_id, setting.world.application_id, token)
    edges = _edges(setting.world.zone_id, agents)
    url = setting.stack.urls["database_url"]
    async with AsyncExitStack() as stack:
        appender, waiter = Appender(url), Waiter(url)
        await appender.start()
        stack.push_async_callback(appender.stop)
        await waiter.start()
        stack.push_async_callback(waiter.stop)
        log = Log(None, appender)  # type: ignore[arg-type]  # nothing is read
        things: list[Aggregate] = [*agents, *edges]
        for start in range(0, len(things), _CHUNK):
            saved = await log.save(*things[start : start + _CHUNK])
        if not await waiter.applied(saved, timeout=60):
            raise RuntimeError("the read models have not come that far")
    return edges[0].aggregate_id


def _tree(zone_id: str, application_id: str, token: str) -> list[Agent]:
    """A root, an agent that it delegates to, and below that one ten each, four deep."""
    agents: list[Agent] = []
    with acting(zone_id=zone_id, actor="bench"):
        for number in range(_AGENTS):
            parent = agents[1 + (number - 2) // 10] if number > 1 else None
            agents.append(
                Agent.spawn(
                    new_id(),
                    zone_id=zone_id,
                    application_id=application_id,
                    subject_session_id=str(peek(token).claims["sid"]),
                    parent=_row(parent) if parent else None,
                    limits=_LIMITS,
                    kind="instance",
                    capabilities=[],
                    ttl_seconds=86_400,
                    metadata={},
                )
            )
    return agents


def _edges(zone_id: str, agents: list[Agent]) -> list[Delegation]:
    """One edge to the top of the tree, one from each parent to each child, one more beside it."""
    ends = clock.now() + timedelta(hours=1)
    led_to: dict[str, Delegation] = {}
    edges: list[Delegation] = []
    by_id = {agent.aggregate_id: agent for agent in agents}
    pairs = [(agents[0], agents[1])]
    pairs += [(by_id[str(agent.parent_id)], agent) for agent in agents[2:]]
    pairs += [(agents[0], agents[1])]
    with acting(zone_id=zone_id, actor="bench"):
        for source, target in pairs:
            parent = led_to.get(source.aggregate_id)
            edge = Delegation.create(
                new_id(),
                zone_id=zone_id,
                source=_row(source),
                target=_row(target),
                parent=_row(parent) if parent else None,
                resource_id=None,
                resources=(),
                scopes=["read"],
                constraints={"max_hops": 10 - (len(parent.path) if parent else 0)},
                expires_at=ends,
            )
            led_to[target.aggregate_id] = edge
            edges.append(edge)
    return edges


def _row(thing: Agent | Delegation) -> dict[str, Any]:
    return {**vars(thing), "id": thing.aggregate_id}
