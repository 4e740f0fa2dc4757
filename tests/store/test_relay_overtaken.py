"""A relay that another one overtakes, on a topic that is then lost: no hole may come of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.store import relay as relay_module
from caracal.events.store.log import Log
from caracal.events.store.redis_line import RedisLine
from caracal.events.store.relay import Relay
from tests.backbone import RINGS, ZONES, eventually, in_log, new_zone, on_topic, running

Happening = Callable[[], Awaitable[object]]


class Script:
    """A script of the relay; before its next calls on the topic of zones something happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.before: list[Happening] = []
        self._script, self._text = relay_module.script, getattr(relay_module, name)
        monkeypatch.setattr(relay_module, "script", self._run)

    async def _run(self, line: RedisLine, called: str, keys: list[str], args: list[Any]) -> Any:
        if called == self._text and ZONES.name in keys and self.before:
            await self.before.pop(0)()
        return await self._script(line, called, keys, args)


@pytest.mark.parametrize("overtaken_at", ["_HEAD", "_APPEND"])
async def test_every_entry_names_the_one_before_it(
    log: Log,
    db: AsyncConnection[Any],
    redis: Redis,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    overtaken_at: str,
) -> None:
    relay = Relay(database_url, redis_url, RINGS, topics={ZONES.name: ZONES})

    async def published() -> bool:
        return (await on_topic(redis, ZONES.name))[-1:] == (await in_log(db, ZONES))[-1:]

    async def another_relay_goes_on() -> None:
        await log.save(new_zone())
        there = dict(await on_topic(redis, ZONES.name))
        for entry_id, fields in await in_log(db, ZONES):
            if entry_id not in there:
                await redis.xadd(ZONES.name, dict(fields), id=entry_id)
        await log.save(new_zone())

    async def the_topic_is_lost() -> None:
        await redis.delete(ZONES.name)

    async def all_has_happened() -> bool:
        return not overtaken.before and not lost.before and await published()

    await log.save(new_zone())
    async with running(relay):
        await eventually(published)
    await log.save(new_zone())
    overtaken, lost = Script(monkeypatch, overtaken_at), Script(monkeypatch, "_PUBLISH")
    overtaken.before, lost.before = [another_relay_goes_on], [the_topic_is_lost]
    async with running(relay):
        await eventually(all_has_happened)
    there = await on_topic(redis, ZONES.name)
    assert there == (await in_log(db, ZONES))[-len(there) :]
