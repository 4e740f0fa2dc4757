"""Group commit: the events of many requests in one call of ``append_events``.

One connection, one queue. While a batch is under way the next one gathers. A batch with a
refusal in it is taken apart and appended one by one, so nobody pays for another's conflict.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection

from caracal import telemetry
from caracal.errors import Unavailable
from caracal.events.guards import Guard
from caracal.events.store.postgres import connected

MAX_BATCH = 200
_GUARD_REFUSED = "CA001"
_SAME_VERSION = "log_version"
_APPEND = {"db.system.name": "postgresql", "db.stored_procedure.name": "append_events"}
_PATIENCE_SECONDS = 2.0  # that a request waits for a lost database


class VersionConflict(Exception):
    """Another command changed the same aggregate first; load it again and decide again.

    ``key`` names what they contend for: commands with the same one take turns.
    """

    def __init__(self, key: object) -> None:
        super().__init__(f"another command was faster on {key}")
        self.key = str(key)


@dataclass(slots=True)
class Append:
    """One request: its events, all or nothing, and what must hold for them."""

    events: Sequence[StoredEvent]
    guards: Sequence[Guard]
    answer: asyncio.Future[list[int]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def refuse(self, error: BaseException) -> None:
        """Answer with an error, unless the caller has gone."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def accept(self, positions: list[int]) -> None:
        """Answer with the positions, unless the caller has gone."""
        if not self.answer.done():
            self.answer.set_result(positions)


class Appender:
    """Appends events; ``start`` and ``stop`` own its connection and task."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._queue: asyncio.Queue[Append] = asyncio.Queue(maxsize=10_000)
        self._connection: AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        await self._connected()
        self._task = asyncio.create_task(self._run(), name="appender")

    async def stop(self) -> None:
        """End; what is queued is refused as unavailable."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        while not self._queue.empty():
            self._queue.get_nowait().refuse(_unavailable())
        if self._connection is not None:
            await self._connection.close()

    async def append(self, events: Sequence[StoredEvent], guards: Sequence[Guard]) -> list[int]:
        """Append events in one transaction and return their positions.

        Raises:
            VersionConflict: one of the versions is there already.
            CaracalError: a guard's refusal, or 503 ``unavailable``.
        """
        request = Append(events, guards)
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise _unavailable() from None
        with telemetry.span("append", _APPEND, kind=telemetry.SpanKind.CLIENT) as span:
            positions = await request.answer
            if span:
                span.set("caracal.events", [event.topic for event in events])
                span.set("caracal.position", positions[-1])
            return positions

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                await self._append(batch)
            except asyncio.CancelledError:
                for request in batch:
                    request.refuse(_unavailable())
                raise
            except Exception as error:  # noqa: BLE001 - the caller gets it; the task must live on
                for request in batch:
                    request.refuse(error)

    async def _append(self, batch: list[Append]) -> None:
        try:
            await self._commit(batch)
        except psycopg.OperationalError:
            await self._settle(batch)

    async def _commit(self, batch: list[Append]) -> None:
        """Append and answer, in one transaction, or with a refusal in it in one for each.

        Raises:
            psycopg.OperationalError: the connection was lost; who has no answer may be in the log.
        """
        try:
            positions = await self._call(batch)
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            if len(batch) == 1:
                batch[0].refuse(_refusal(error, batch[0]))
            else:
                for request in batch:
                    await self._commit([request])
        else:
            _share(batch, positions)

    async def _settle(self, batch: list[Append]) -> None:
        """The connection was lost: look who is in the log, append the others; not for ever."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if missing := [request for request in batch if not await self._settled(request)]:
                    await self._commit(missing)
                return
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)
        for request in batch:
            request.refuse(_unavailable())

    async def _settled(self, request: Append) -> bool:
        if not request.answer.done() and (positions := await self._committed(request)):
            request.accept(positions)
        return request.answer.done()

    async def _call(self, batch: list[Append]) -> list[int]:
        connection = await self._connected()
        events = [event for request in batch for event in request.events]
        guards = [guard.arguments() for request in batch for guard in request.guards]
        cursor = await connection.execute(
            "SELECT append_events(%b::uuid[], %b::int[], %b::text[], %b::bytea[], %s::jsonb)",
            (
                [event.originator_id for event in events],
                [event.originator_version for event in events],
                [event.topic for event in events],
                [event.state for event in events],
                orjson.dumps(guards).decode(),
            ),
            prepare=True,
        )
        return [row[0] for row in await cursor.fetchall()]

    async def _committed(self, request: Append) -> list[int] | None:
        """Return the positions when the log has these very events.

        Under the log's lock, so a backend that is still busy with them has come to an end.
        """
        connection = await self._connected()
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(4846791580151137091)")
            cursor = await connection.execute(
                "SELECT l.position, l.state = e.state FROM log l"
                " JOIN unnest(%b::uuid[], %b::int[], %b::bytea[]) AS e (key, version, state)"
                " ON l.aggregate_key = e.key AND l.version = e.version ORDER BY l.position",
                (
                    [event.originator_id for event in request.events],
                    [event.originator_version for event in request.events],
                    [event.state for event in request.events],
                ),
            )
            rows = await cursor.fetchall()
        same = len(rows) == len(request.events) and all(equal for _, equal in rows)
        return [position for position, _ in rows] if same else None

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await connected(self._url)
        return self._connection


def _share(batch: list[Append], positions: list[int]) -> None:
    start = 0
    for request in batch:
        request.accept(positions[start : start + len(request.events)])
        start += len(request.events)


def _refusal(error: psycopg.DatabaseError, request: Append) -> Exception:
    if error.sqlstate == _GUARD_REFUSED and error.diag.message_detail is not None:
        refusal = request.guards[int(error.diag.message_detail)].refusal
        return refusal or error
    if error.diag.constraint_name == _SAME_VERSION:
        return VersionConflict(request.events[0].originator_id)
    return error


def _unavailable() -> Unavailable:
    return Unavailable("unavailable", "the database cannot be reached now")
