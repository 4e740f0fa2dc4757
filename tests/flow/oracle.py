"""What must hold after everything, whatever has happened."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.record import Record
from caracal.events.store.audit_topic import topic_state, watermark
from caracal.events.store.entries import ZERO, EntryId, LogReader
from caracal.events.topics import TOPICS, Topic
from caracal.projections import PROJECTIONS
from caracal.projections.audit_chain import verify_chain, zones
from caracal.projections.rebuild import rebuild
from caracal.projections.runner import checkpoint
from tests.backbone import eventually, in_log, on_topic
from tests.flow.product import AUDIT_KEY
from tests.flow.tampering import end
from tests.flow.traffic import Book

Db = AsyncConnection[Any]
_ENDED = {"grants": "status <> 'active'"}


async def check_log(db: Db, book: Book) -> None:
    """Every acknowledged mutation is in the log exactly once; what was refused is not."""
    by_request: dict[str, list[Record]] = defaultdict(list)
    for record in await LogReader(db).records(0, limit=10**9):
        by_request[record.state["meta"].get("request_id")].append(record)
    for request_id, position in book.answered.items():
        found = [record.position for record in by_request[request_id]]
        assert (max(found) if found else None) == position, (request_id, position, found)
    for request_id in book.refused:
        assert not by_request[request_id], request_id
    for request_id in book.answered.keys() | book.unknown:
        names = [record.name for record in by_request[request_id]]
        assert len(set(names)) == len(names), (request_id, names)
    for request_id in book.allowed:  # of an ambient exchange
        started = [record.name for record in by_request[request_id]]
        assert started in ([], ["session.started"]), (request_id, started)


async def check_topics(db: Db, redis: Redis) -> None:
    """Every topic ends where the log ends, and holds nothing but what the log yields."""
    for topic in TOPICS.values():

        async def sound(topic: Topic = topic) -> bool:
            yielded = dict(await in_log(db, topic))
            found = dict(await on_topic(redis, topic.name))
            newest = max(map(EntryId.parse, yielded), default=ZERO)
            return await end(redis, topic.name) == newest and found.items() <= yielded.items()

        await eventually(sound, seconds=30, what=f"{topic.name} being what the log yields")


async def check_read_models(database_url: str, db: Db, redis: Redis, book: Book) -> None:
    """Read models have applied all, equal a rebuild, and show what was promised."""
    # What is made of decisions is complete when the ledger is.
    await eventually(lambda: _ingested(db, redis), seconds=30, what="the ledger having it all")
    await check_rebuilt(database_url, db)
    twice = "SELECT slug FROM zones WHERE archived_at IS NULL GROUP BY slug HAVING count(*) > 1"
    assert await _all(db, twice) == []
    for (table, thing), name in book.things.items():
        await _check_thing(db, table, thing, name)


async def check_rebuilt(database_url: str, db: Db) -> None:
    """Read models have applied all, nothing is parked, and a rebuild makes the same rows."""
    await eventually(lambda: _applied(db), seconds=30, what="the read models having applied all")
    tables = [table.name for projection in PROJECTIONS for table in projection.tables]
    before = {name: await _rows(db, name) for name in tables}
    for projection in PROJECTIONS:
        await rebuild(database_url, projection)
    for name in tables:
        assert await _rows(db, name) == before[name], name
    assert await _all(db, "SELECT * FROM parked") == []


async def _check_thing(db: Db, table: str, thing: str, name: str | None) -> None:
    ended = _ENDED.get(table, "archived_at IS NOT NULL")
    shown = "NULL" if table == "grants" else "name"
    rows = await _all(db, f"SELECT {ended}, {shown} FROM {table} WHERE id = %s", thing)
    assert [row[0] for row in rows] == [name is None], (table, thing, rows)
    if name is not None:
        assert rows[0][1] == name, (table, thing, rows)


async def _applied(db: Db) -> bool:
    log, end = LogReader(db), EntryId(2**62, 0)
    for projection in PROJECTIONS:
        for topic in projection.topics:
            if await checkpoint(db, projection.name, topic.name) < await log.before(topic, end):
                return False
    return True


async def _ingested(db: Db, redis: Redis) -> bool:
    state = await topic_state(redis)
    return state.length == 0 or await watermark(db) >= state.last


async def missing_evidence(db: Db, book: Book) -> set[str]:
    """Return the allowed exchanges that the ledger does not hold (yet)."""
    statement = "SELECT request_id FROM audit_events WHERE decision = 'allow'"
    return book.allowed - {row[0] for row in await _all(db, statement)}


async def check_ledger(db: Db, book: Book) -> None:
    """Every allowed exchange has its one record, and no chain is broken."""

    async def complete() -> bool:
        return not await missing_evidence(db, book)

    await eventually(complete, seconds=30, what="the ledger holding every allowed exchange")
    twice = (
        "SELECT request_id FROM audit_events WHERE decision = 'allow'"
        " GROUP BY request_id HAVING count(*) > 1"
    )
    assert await _all(db, twice) == []
    reports = [await verify_chain(db, zone, (AUDIT_KEY,)) for zone in await zones(db)]
    assert sum(report.checked for report in reports) >= len(book.allowed)
    assert [report.findings for report in reports if not report.ok] == []
    assert await _all(db, "SELECT * FROM audit_ingest_alerts") == []


async def _rows(db: Db, table: str) -> list[Any]:
    return await _all(db, f"SELECT to_jsonb(t) FROM {table} t ORDER BY id")


async def _all(db: Db, statement: str, *arguments: Any) -> list[Any]:
    return await (await db.execute(statement, arguments)).fetchall()
