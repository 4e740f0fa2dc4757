"""A process of the driver: ``python -m tests.torture.process KIND``, options by its first line.

Relays and runners work until they are killed and note their counters in a file. A writer reads
how many commands to carry out, a number a line, and answers with one line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.embedded.launch import die_with_parent
from caracal.errors import Conflict, Unavailable
from caracal.events.store.log import Log, Saved, retrying
from caracal.events.store.relay import Relay
from caracal.events.topics import Topic
from caracal.events.zone import Zone
from caracal.ids import new_id
from caracal.projections.projection import Projection
from caracal.projections.revocation import revocations
from caracal.projections.runner import Runner
from caracal.projections.session import sessions
from caracal.projections.zone import zones
from tests.backbone import (
    ALL_TOPICS,
    ITEMS,
    RINGS,
    ZONES,
    archive_zone,
    change_zone,
    new_zone,
    opened_log,
)
from tests.journal import Journal

JOURNAL = Journal()
APPLIED: list[tuple[Projection, Topic]] = [
    (JOURNAL, ZONES),
    (JOURNAL, ITEMS),
    (zones, ZONES),
    (sessions, ZONES),
    (revocations, ZONES),
]
"""What the runners keep up to date."""

_NOTE_SECONDS = 0.2


async def relay(
    database_url: str, redis_url: str, counters: str, *, locked: bool, maxlen: int
) -> None:
    """Publish until killed."""
    relay = Relay(database_url, redis_url, RINGS, topics=ALL_TOPICS, maxlen=maxlen, locked=locked)
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run())
        group.create_task(note(Path(counters), lambda: asdict(relay.counters)))


async def runners(database_url: str, redis_url: str, counters: str, *, locked: bool) -> None:
    """Apply until killed."""
    made = [
        Runner(
            projection,
            topic,
            database_url=database_url,
            redis_url=redis_url,
            rings=RINGS,
            locked=locked,
        )
        for projection, topic in APPLIED
    ]

    def sums() -> dict[str, int]:
        names = ("applied", "gaps", "foreign", "idle_fills", "fenced", "restarts")
        return {name: sum(getattr(one.counters, name) for one in made) for name in names}

    async with asyncio.TaskGroup() as group:
        for runner in made:
            group.create_task(runner.run())
        group.create_task(note(Path(counters), sums))


async def note(file: Path, counters: Callable[[], dict[str, Any]]) -> None:
    """Keep a file up to date with what was counted."""
    while True:
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps(counters()))
        beside.rename(file)
        await asyncio.sleep(_NOTE_SECONDS)


async def writer(database_url: str, seed: int) -> None:
    """Carry out as many commands as each line of the input says."""
    loop = asyncio.get_running_loop()
    async with opened_log(database_url) as log:
        writing = _Writing(log, database_url, seed)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await writing.burst(int(line))), flush=True)


class _Writing:
    """Random commands, and what their caller was told."""

    def __init__(self, log: Log, database_url: str, seed: int) -> None:
        self._log, self._url = log, database_url
        self._random = random.Random(seed)
        self._alive: list[str] = []
        self._told: dict[str, Any] = {}

    async def burst(self, count: int) -> dict[str, Any]:
        """Carry out some commands, four at a time."""
        self._told = {"acked": [], "refused": 0, "unavailable": 0, "rolled_back": 0}
        queue = list(range(count))

        async def work() -> None:
            while queue:
                queue.pop()
                await self._command()

        await asyncio.gather(*(work() for _ in range(4)))
        return self._told

    async def _command(self) -> None:
        kind = self._random.random()
        try:
            if kind < 0.05 and self._alive:
                await self._refused()
            elif kind < 0.10:
                await self._rolled_back()
            elif kind < 0.55 or not self._alive:
                await self._create()
            elif kind < 0.75:
                await self._change()
            else:
                await self._archive()
        except (Unavailable, psycopg.OperationalError):
            self._told["unavailable"] += 1
            await asyncio.sleep(0.05)

    def _note(self, saved: Saved) -> None:
        self._told["acked"] += saved.events

    async def _create(self) -> None:
        zone = new_zone()
        self._note(await self._log.save(zone))
        self._alive.append(zone.aggregate_id)

    async def _change(self) -> None:
        name = new_id()
        await self._decide(self._random.choice(self._alive), lambda z: change_zone(z, name=name))

    async def _archive(self) -> None:
        zone_id = self._alive.pop(self._random.randrange(len(self._alive)))
        sids = [new_id() for _ in range(self._random.choice((0, 1, 2, 4)))]
        await self._decide(zone_id, lambda zone: archive_zone(zone, *sids))

    async def _decide(self, zone_id: str, decision: Callable[[Zone], Zone]) -> None:
        async def command() -> Saved:
            zone = await self._log.find(Zone, zone_id)
            if zone is None or zone.archived:
                return Saved()
            return await self._log.save(decision(zone))

        self._note(await retrying(command))

    async def _refused(self) -> None:
        taken = self._random.choice(self._alive)
        try:
            await self._log.save(new_zone(slug=f"slug-{taken}"))
        except Conflict:
            self._told["refused"] += 1

    async def _rolled_back(self) -> None:
        """Take a position that no event will ever have."""
        async with await AsyncConnection.connect(self._url) as connection:
            await connection.execute(
                "SELECT append_events(ARRAY[gen_random_uuid()], ARRAY[1], ARRAY['zone.created'],"
                " ARRAY['\\x7b7d'::bytea], '[]')"
            )
            await connection.rollback()
        self._told["rolled_back"] += 1


KINDS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "relay": relay,
    "runners": runners,
    "writer": writer,
}


if __name__ == "__main__":
    options = json.loads(sys.stdin.readline())
    die_with_parent(signal.SIGKILL, options.pop("parent", os.getppid()))
    asyncio.run(KINDS[sys.argv[1]](**options))
