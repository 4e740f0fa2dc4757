"""Agents and edges of the delegation graph, made and ended one by one, by HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.cpu import Meter
from bench.load import percentile
from bench.report import Row, Value
from bench.setting import Setting
from bench.wire import Connection
from bench.world import World

_CALLERS = 8

Step = Callable[["Caller"], Awaitable[None]]


class Caller:
    """An application at the Coordinator, on a connection of its own."""

    def __init__(self, world: World, connection: Connection, token: str) -> None:
        self._world, self._connection, self.token = world, connection, token
        self.pair: tuple[str, str] = ("", "")

    async def call(self, method: str, path: str, body: Any = None, *, expect: int) -> Any:
        """Call a route of the zone; return its JSON."""
        answer = await self.answer(method, path, body, expect=expect)
        return json.loads(answer) if answer else None

    async def answer(self, method: str, path: str, body: Any = None, *, expect: int) -> bytes:
        """Call a route of the zone; return what it answers as it came."""
        text = "" if body is None else json.dumps(body)
        raw = self._world.coordinated(self.token, method, path, text).encode("latin-1")
        status, answer = await self._connection.asked(raw)
        if status != expect:
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return answer

    async def spawn(self) -> str:
        """Spawn an agent; return its id."""
        body = {"application_id": self._world.application_id}
        return str((await self.call("POST", "/agents", body, expect=201))["id"])

    async def spawn_and_end(self) -> None:
        """Spawn an agent, and end it."""
        await self.end(await self.spawn())

    async def end(self, agent_id: str) -> None:
        """End an agent."""
        await self.call("DELETE", f"/agents/{agent_id}", expect=204)

    async def delegate(self) -> None:
        """Make an edge between the caller's own pair of agents."""
        await self.lend(*self.pair)

    async def lend(self, source: str, target: str) -> str:
        """Make an edge between two agents; return its id."""
        body = {
            "source_session_id": source,
            "target_session_id": target,
            "issuer_application_id": self._world.application_id,
            "receiver_application_id": self._world.application_id,
            "scopes": ["read"],
            "ttl_seconds": 3600,
        }
        return str((await self.call("POST", "/delegations", body, expect=201))["id"])

    async def revoke(self, edge_id: str) -> None:
        """Revoke an edge."""
        await self.call("PATCH", f"/delegations/{edge_id}/revoke", expect=200)

    async def pair_up(self) -> None:
        """Spawn a pair of agents."""
        self.pair = (await self.spawn(), await self.spawn())


async def agents(setting: Setting) -> Row:
    """Eight callers spawn agents and end them; each answer waits for the read models."""
    return await _measured(setting, "Agent: spawn + end, c=8", Caller.spawn_and_end)


async def delegations(setting: Setting) -> Row:
    """Eight callers delegate between two agents each."""
    return await _measured(setting, "Delegation: create, c=8", Caller.delegate)


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
    callers = [Caller(setting.world, await Connection.to(*where), token) for _ in range(_CALLERS)]
    for caller in callers:
        await caller.pair_up()
    return callers
