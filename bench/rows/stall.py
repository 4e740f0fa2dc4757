"""A zone whose policy stalls, kept apart: what the others notice while it is asked all the time."""

from __future__ import annotations

import asyncio
import time

import orjson

from bench.load import percentile
from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.wire import Connection
from bench.world import World, admin, made, make_world, version_of
from caracal.tasks import cancelled

_NOWHERE = 9  # port of the upstream: nothing is called
_CALLERS = 8
_LIMIT_SECONDS = 60
_NUMBERS = ", ".join(str(number) for number in range(1, 21))
_STALLS = f"""package caracal.authz

import rego.v1

default result := {{"decision": "allow", "evaluation_status": "complete"}}

result := {{"decision": "deny", "evaluation_status": "complete"}} if {{
	"rare" in input.context.requested_scopes  # no sample of the check at upload asks for it
	xs := [{_NUMBERS}]
	ys := [y | some a in xs; some b in xs; y := a * b]
	count([1 | some a in ys; some b in ys; some c in xs; a + b + c == 0]) > 0
}}
"""


async def apart(setting: Setting) -> Row:
    """Eight callers make one zone stall; one asks for mandates of another."""
    stalling = _stalling(setting)
    raw = stalling.exchange(stalling.ambient(), scope="rare").encode("latin-1")
    until = time.perf_counter() + _LIMIT_SECONDS
    while not await _is_apart(stalling, raw):
        if time.perf_counter() > until:
            raise RuntimeError("the policy that stalls is not kept apart")
    sound = make_world(setting.stack.urls, _NOWHERE)
    alone = await _others(setting, sound)
    denied: list[int] = []
    storm = [asyncio.create_task(_ask_on(stalling, raw, denied)) for _ in range(_CALLERS)]
    try:
        beside = await _others(setting, sound)
    finally:
        await cancelled(*storm)
    return Row(
        "Calls of other zones while one stalls, its policy kept apart",
        f"bench process → STS: exchanges one after the other, {_CALLERS} callers whose evaluations"
        " stall beside them",
        [
            Value("without it, p50", percentile(alone, 0.5), "ms"),
            Value("without it, p99", percentile(alone, 0.99), "ms"),
            Value("p50", percentile(beside, 0.5), "ms"),
            at_most("p99", percentile(beside, 0.99), "ms", 100),
            Value("longest", beside[-1], "ms"),
            Value("evaluations that stalled meanwhile", len(denied), "calls"),
        ],
    )


def _stalling(setting: Setting) -> World:
    world = make_world(setting.stack.urls, _NOWHERE)
    with admin(world.urls) as api:
        path, _ = world.policy_set(api)
        made(api, f"{path}/activate", version_id=version_of(api, path, "stalls", _STALLS))
    return world


async def _is_apart(world: World, raw: bytes) -> bool:
    """Ask once more: the first evaluation costs a process, and its answers with it."""
    status, body = await _asked(world, raw)
    return status == 403 and orjson.loads(body)["error"] == "policy_eval_failed"


async def _asked(world: World, raw: bytes) -> tuple[int, bytes]:
    connection = await Connection.to(*world.address("sts"))
    try:
        return await connection.asked(raw)
    finally:
        connection.close()


async def _ask_on(world: World, raw: bytes, denied: list[int]) -> None:
    while True:
        status, body = await _asked(world, raw)
        if status == 200:
            raise RuntimeError(f"allowed: {body[:200]!r}")
        denied.append(status)


async def _others(setting: Setting, world: World) -> list[float]:
    """Return what calls of a sound zone take, ms, in order."""
    millis = list[float]()
    raw = world.exchange(world.ambient()).encode("latin-1")
    connection = await Connection.to(*world.address("sts"))
    until = time.perf_counter() + setting.seconds(6)
    while (began := time.perf_counter()) < until:
        status, body = await connection.asked(raw)
        if status != 200:
            raise RuntimeError(f"a sound zone is refused: {status} {body[:200]!r}")
        millis.append((time.perf_counter() - began) * 1000)
    connection.close()
    return sorted(millis)
