"""The store of aggregates: load by replaying, save by group commit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
from eventsourcing.application import project_aggregate
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder
from psycopg_pool import AsyncConnectionPool

from caracal.errors import Conflict
from caracal.events.base import Aggregate
from caracal.events.guards import Guard, Overtaken
from caracal.events.store.appender import Appender, VersionConflict
from caracal.ids import log_key

Thing = TypeVar("Thing", bound=Aggregate)
_PAUSES = (0, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.25, 0.25, 0.25)  # longest, s
_OVERTAKEN = (VersionConflict, Overtaken)
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


class OrjsonTranscoder(Transcoder):
    """Events as JSON; times and ids in them are text already."""

    def encode(self, obj: Any) -> bytes:
        return orjson.dumps(obj)

    def decode(self, data: bytes) -> Any:
        return orjson.loads(data)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a command wrote: (position, stored name) of each event."""

    events: tuple[tuple[int, str], ...] = ()

    @property
    def position(self) -> int | None:
        """Return the last position; None when nothing was written."""
        return self.events[-1][0] if self.events else None


class Store(Protocol):
    """What commands need of a log; the one in memory passes the same tests."""

    async def find(self, kind: type[Thing], thing_id: str) -> Thing | None:
        """Return the aggregate; None when the log has none of that kind and id."""
        ...

    async def find_all(self, kind: type[Thing], thing_ids: Iterable[str]) -> list[Thing]:
        """Return those of the aggregates that the log has."""
        ...

    async def owner(self, key: str) -> str | None:
        """Return who holds the unique ``key`` of a guard; None when it is free."""
        ...

    async def seated(self, key: str) -> list[str]:
        """Return who has a seat of ``key`` (:class:`caracal.events.guards.Seat`) now."""
        ...

    async def save(self, *things: Aggregate, guards: Iterable[Guard] = ()) -> Saved:
        """Append the pending events of ``things`` in one transaction.

        Raises:
            VersionConflict: one of them was changed by another command.
            CaracalError: a guard's refusal, or 503 ``unavailable``.
        """
        ...


class Events:
    """Turns aggregates into stored events and back."""

    def __init__(self) -> None:
        self._mapper: Mapper[Any] = Mapper(OrjsonTranscoder())

    def collect(self, things: Iterable[Aggregate]) -> list[StoredEvent]:
        """Return the pending events of aggregates, and forget them there."""
        return [
            self._mapper.to_stored_event(event)
            for thing in things
            for event in thing.collect_events()
        ]

    def replay(self, kind: type[Thing], stored: Iterable[StoredEvent]) -> Thing | None:
        """Return the aggregate that these events make."""
        events = (self._mapper.to_domain_event(event) for event in stored)
        thing = project_aggregate(None, events)
        return thing if isinstance(thing, kind) else None


class Log:
    """The log in Postgres."""

    def __init__(self, pool: AsyncConnectionPool[Any], appender: Appender) -> None:
        self._pool = pool
        self._appender = appender
        self._events = Events()

    async def find(self, kind: type[Thing], thing_id: str) -> Thing | None:
        """See :class:`Store`."""
        key = log_key(thing_id)
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT version, name, state FROM log WHERE aggregate_key = %s ORDER BY version",
                (key,),
                prepare=True,
            )
            rows = await cursor.fetchall()
        return self._events.replay(
            kind, (StoredEvent(key, version, name, state) for version, name, state in rows)
        )

    async def find_all(self, kind: type[Thing], thing_ids: Iterable[str]) -> list[Thing]:
        """See :class:`Store`."""
        stored: dict[UUID, list[StoredEvent]] = {log_key(one): [] for one in thing_ids}
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT aggregate_key, version, name, state FROM log"
                " WHERE aggregate_key = ANY(%b::uuid[]) ORDER BY version",
                (list(stored),),
            )
            for row in await cursor.fetchall():
                stored[row[0]].append(StoredEvent(*row))
        found = (self._events.replay(kind, events) for events in stored.values())
        return [thing for thing in found if thing is not None]

    async def owner(self, key: str) -> str | None:
        """See :class:`Store`."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT owner FROM guard_key WHERE key = %s", (key,), prepare=True
            )
            row = await cursor.fetchone()
        return None if row is None else str(row[0])

    async def seated(self, key: str) -> list[str]:
        """See :class:`Store`."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT owner FROM guard_seat WHERE key = %s"
                " AND (until IS NULL OR until > clock_timestamp()) ORDER BY owner",
                (key,),
                prepare=True,
            )
            return [row[0] for row in await cursor.fetchall()]

    async def save(self, *things: Aggregate, guards: Iterable[Guard] = ()) -> Saved:
        """See :class:`Store`."""
        all_guards = [guard for thing in things for guard in thing.collect_guards()]
        events = self._events.collect(things)
        if not events:
            return Saved()
        positions = await self._appender.append(events, [*all_guards, *guards])
        return Saved(tuple(zip(positions, (event.topic for event in events), strict=True)))


async def retrying(command: Callable[[], Awaitable[Saved]]) -> Saved:
    """Run a command that loads, decides and saves; decide again when another was faster.

    The first attempt is optimistic. Who lost takes turns with the other losers of this process,
    and pauses at random to let those of other processes through.

    Raises:
        Conflict: 409 ``concurrent_update``, the aggregate kept changing.
    """
    try:
        return await command()
    except _OVERTAKEN as conflict:
        turn = _turns.setdefault(conflict.key, asyncio.Lock())
    async with turn:
        for pause in _PAUSES:
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - spreads, hides nothing
            with suppress(*_OVERTAKEN):
                return await command()
    raise Conflict("concurrent_update", "the thing kept changing; try again")
