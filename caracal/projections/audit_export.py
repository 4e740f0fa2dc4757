"""What of the ledger is exported: completed hours, by the time at which they came into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from caracal.projections.audit_ledger import LOCK
from caracal.projections.audit_row import COLUMNS

Db = AsyncConnection[Any]
Rows = list[dict[str, Any]]

HOUR = timedelta(hours=1)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_WATERMARK = "parquet-hourly"
_PAGE = 1_000
_COLUMNS = (
    *COLUMNS,
    "ingested_at",
    "chain_seq",
    "content_sha256",
    "prev_content_sha256",
    "chain_hmac",
    "ingest_signature",
)


async def exported_until(db: Db) -> datetime:
    """Return up to which moment (exclusive) everything was exported; :data:`NEVER` of nothing."""
    cursor = await db.execute(
        "SELECT to_timestamp(position) FROM audit_watermarks WHERE name = %s", (_WATERMARK,)
    )
    row = await cursor.fetchone()
    return row[0].astimezone(UTC) if row else NEVER


async def due_hour(db: Db) -> datetime | None:
    """Return the beginning of the first hour that is over and not exported; None: not yet.

    The first of all is the last one that is over. What came before the export was switched on is
    not its business.
    """
    cursor = await db.execute("SELECT date_trunc('hour', now(), 'UTC')")
    row = await cursor.fetchone()
    assert row is not None
    begun = row[0].astimezone(UTC)
    until = await exported_until(db)
    hour = begun - HOUR if until == NEVER else until
    return hour if hour + HOUR <= begun else None


async def seal(db: Db) -> None:
    """Wait until no batch is being written that might still belong to an hour that is over.

    A row's time is taken when its writer holds the lock; so who gets it later has a later one.
    """
    async with db.transaction():
        await db.execute(f"SELECT {LOCK}")


async def rows_of_hour(db: Db, hour: datetime) -> AsyncGenerator[Rows, None]:
    """Yield pages of what came in an hour, each chain in order."""
    async with db.transaction(), db.cursor("audit_export", row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM audit_events"
            " WHERE ingested_at >= %s AND ingested_at < %s ORDER BY zone_id, chain_seq, id",
            (hour, hour + HOUR),
        )
        while rows := await cursor.fetchmany(_PAGE):
            yield rows


async def note_exported(db: Db, hour: datetime) -> None:
    """Note that an hour is exported, and all before it."""
    await db.execute(
        "INSERT INTO audit_watermarks AS w (name, position, n) VALUES (%s, %s, 0)"
        " ON CONFLICT (name) DO UPDATE SET position = excluded.position, moved_at = now()"
        " WHERE w.position < excluded.position",
        (_WATERMARK, int((hour + HOUR).timestamp())),
    )
