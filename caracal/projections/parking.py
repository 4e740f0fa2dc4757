"""Parked aggregates: what a reducer cannot apply waits, and everything else goes on.

Parking commits with the checkpoint. The aggregate's later events wait too, decisions deny on
what is parked, and ``caracal dead replay`` resumes from the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.events.base import Fact
from caracal.events.store.entries import EntryId, LogReader
from caracal.events.topics import Topic
from caracal.projections import sql
from caracal.projections.projection import Projection

logger = logging.getLogger(__name__)

PARKED_CHANNEL = "caracal_parked"
ATTEMPTS = 5


async def parked_in(connection: AsyncConnection[Any], projection: str, topic: str) -> set[str]:
    """Return the ids of the aggregates that are parked."""
    cursor = await connection.execute(
        "SELECT aggregate_id FROM parked WHERE projection = %s AND topic = %s", (projection, topic)
    )
    return {row[0] for row in await cursor.fetchall()}


async def apply_or_park(
    connection: AsyncConnection[Any],
    projection: Projection,
    topic: Topic,
    place: EntryId,
    fact: Fact,
) -> set[str]:
    """Apply one fact, or park its aggregate after :data:`ATTEMPTS` failures.

    Runs in the caller's transaction, after the checkpoint was locked by moving it. Database
    errors (connection, serialization) are the caller's and count as no attempt.

    Returns:
        The ids that are parked now.
    """
    parked = await parked_in(connection, projection.name, topic.name)
    error = (
        "parked before"
        if fact.aggregate_id in parked
        else await _attempts(connection, projection, fact)
    )
    if error is None:
        return parked
    await connection.execute(
        "INSERT INTO parked AS p"
        " (projection, topic, aggregate_id, position, n, ids, error, attempts)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (projection, aggregate_id, topic) DO UPDATE SET ids = p.ids || excluded.ids",
        (projection.name, topic.name, fact.aggregate_id, *place, ids_of(fact), error, ATTEMPTS),
    )
    await connection.execute("SELECT pg_notify(%s, '')", (PARKED_CHANNEL,))
    logger.error("%s parks %s at %s: %s", projection.name, fact.aggregate_id, place, error)
    return parked | {fact.aggregate_id}


async def _attempts(
    connection: AsyncConnection[Any], projection: Projection, fact: Fact
) -> str | None:
    """Apply a fact in a savepoint; return the error of the last attempt."""
    error = ""
    for attempt in range(ATTEMPTS):
        try:
            async with connection.transaction():
                await sql.apply(connection, projection.reduce(fact))
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except Exception as failure:  # noqa: BLE001 - whatever the reducer's bug is
            error = f"{type(failure).__name__}: {failure}"[:500]
            await asyncio.sleep(0.01 * 2**attempt)
        else:
            return None
    return error


def ids_of(fact: Fact) -> list[str]:
    """Return every id that an event names: decisions deny on these while it is parked."""
    listed: Sequence[Any] = [
        *fact.data.get("sessions", ()),
        *fact.data.get("edges", ()),
        *(agent["id"] for agent in fact.data.get("agents", ())),
        *(root["id"] for root in fact.data.get("roots", ())),
    ]
    return list(dict.fromkeys([fact.aggregate_id, *map(str, listed)]))


async def replay(
    connection: AsyncConnection[Any], projection: Projection, topic: Topic, aggregate_id: str
) -> str | None:
    """Apply a parked aggregate's events from the log, up to the checkpoint, and release it.

    Returns:
        None when it went well, else the error; then it stays parked.
    """
    key = (projection.name, topic.name, aggregate_id)
    async with connection.transaction():
        upto = await _lock_checkpoint(connection, projection, topic)
        cursor = await connection.execute(
            "SELECT position FROM parked"
            " WHERE projection = %s AND topic = %s AND aggregate_id = %s",
            key,
        )
        if (row := await cursor.fetchone()) is None:
            return None
        after = EntryId(row[0], -1)
        try:
            async with connection.transaction():
                await _apply_all(connection, projection, topic, aggregate_id, after, upto)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except Exception as failure:  # noqa: BLE001 - told to the operator
            return f"{type(failure).__name__}: {failure}"
        await connection.execute(
            "DELETE FROM parked WHERE projection = %s AND topic = %s AND aggregate_id = %s", key
        )
        await connection.execute("SELECT pg_notify(%s, '')", (PARKED_CHANNEL,))
    return None


async def _lock_checkpoint(
    connection: AsyncConnection[Any], projection: Projection, topic: Topic
) -> EntryId:
    cursor = await connection.execute(
        "SELECT position, n FROM checkpoints WHERE projection = %s AND topic = %s FOR UPDATE",
        (projection.name, topic.name),
    )
    row = await cursor.fetchone()
    return EntryId(*row) if row else EntryId(0, 0)


async def _apply_all(
    connection: AsyncConnection[Any],
    projection: Projection,
    topic: Topic,
    aggregate_id: str,
    after: EntryId,
    upto: EntryId,
) -> None:
    log, more = LogReader(connection), True
    while more:
        entries, more = await log.entries(topic, after, upto)
        facts = [entry.record.fact() for entry in entries]
        mine = [fact for fact in facts if fact.aggregate_id == aggregate_id]
        await sql.apply(connection, [op for fact in mine for op in projection.reduce(fact)])
        after = entries[-1].id if entries else upto
