"""What the audit tests share: events, an ingestor, and a look at topic and ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from redis.asyncio import Redis

from caracal.events.store.audit_entry import AuditEvent, encode
from caracal.events.store.audit_topic import LEDGER_GROUP, watermark
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.entries import EntryId
from caracal.events.store.redis import entries_in
from caracal.events.topics import AUDIT, AUDIT_DEAD
from caracal.projections.audit_chain import verify_chain
from caracal.projections.audit_ingest import Ingestor
from caracal.stream_signature import Keyring
from tests.backbone import FACTS_KEY, eventually, running

KEYS = (bytes(range(32)),)
RING = Keyring((FACTS_KEY,))
Rows = list[dict[str, Any]]


def decided(zone_id: str = "zone1", **members: Any) -> AuditEvent:
    """A decision."""
    given = {
        "event_type": "token_exchange",
        "request_id": "req-1",
        "decision": "allow",
        "evaluation_status": "complete",
        "determining_policies_json": [{"policy": "p1"}],
        "metadata_json": {"resource": "r", "policy_input": {"b": [1, 2.5], "a": "é"}},
    }
    return AuditEvent(zone_id=zone_id, **{**given, **members})


class Trail:
    """The audit topic and the ledger of one test."""

    def __init__(self, db: AsyncConnection[Any], redis: Redis) -> None:
        self.db, self.redis = db, redis

    async def put(self, *events: AuditEvent) -> list[str]:
        """Add entries as a writer does; return their entry ids."""
        return [await self.put_raw(encode(event, KEYS)) for event in events]

    async def put_raw(self, fields: dict[Any, Any]) -> str:
        entry_id: bytes = await self.redis.xadd(AUDIT, fields)
        return entry_id.decode()

    async def query(self, statement: str, *arguments: Any) -> Rows:
        async with self.db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement, arguments)
            return await cursor.fetchall()

    async def rows(self) -> Rows:
        return await self.query("SELECT * FROM audit_events ORDER BY zone_id, chain_seq")

    async def alerts(self) -> Rows:
        return await self.query("SELECT * FROM audit_ingest_alerts ORDER BY id")

    async def dead(self) -> list[dict[str, str]]:
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in entries_in(await self.redis.xrange(AUDIT_DEAD))
        ]

    async def on_topic(self) -> list[str]:
        return [entry_id for entry_id, _ in entries_in(await self.redis.xrange(AUDIT))]

    async def pending(self) -> list[str]:
        found = await self.redis.xpending_range(AUDIT, LEDGER_GROUP, "-", "+", 10_000)
        return [one["message_id"].decode() for one in found]

    async def ingested(self, entry_id: str) -> None:
        """Wait until everything up to an entry is committed and acknowledged."""
        place = EntryId.parse(entry_id)

        async def done() -> bool:
            return await watermark(self.db) >= place and not await self.pending()

        await eventually(done, what=f"ingest of {entry_id}")

    async def holds(self, events: Sequence[AuditEvent]) -> None:
        """Check that the ledger has exactly these events, once each, on whole chains."""
        rows = await self.rows()
        assert sorted(row["id"] for row in rows) == sorted(event.id for event in events)
        for zone_id in {event.zone_id for event in events}:
            report = await verify_chain(self.db, zone_id, KEYS)
            assert report.ok, report.findings
            assert report.checked == sum(event.zone_id == zone_id for event in events)

    async def tamper(self, statement: str, *arguments: Any) -> None:
        """Change the ledger as its owner can and the writer's role cannot."""
        assert (await self.db.execute(statement, arguments)).rowcount


@pytest.fixture
def trail(db: AsyncConnection[Any], redis: Redis) -> Trail:
    return Trail(db, redis)


@pytest.fixture
def ingestor(database_url: str, redis_url: str) -> Ingestor:
    """An ingestor that claims soon."""
    return Ingestor(
        database_url=database_url,
        redis_url=redis_url,
        keys=KEYS,
        ring=RING,
        claim_idle_seconds=0.3,
        consumer="worker-test-1",
    )


async def well_within_the_hour(db: AsyncConnection[Any]) -> None:
    """Wait for the next hour when this one is about to end: it must not end meanwhile."""

    async def within() -> bool:
        cursor = await db.execute(
            "SELECT now() < date_trunc('hour', now()) + interval '59 minutes'"
        )
        return bool((await cursor.fetchone() or (False,))[0])

    await eventually(within, seconds=75, what="the next hour")


async def ingest(ingestor: Ingestor, trail: Trail, entry_id: str) -> None:
    """Let the ingestor run until an entry is committed."""
    async with running(ingestor):
        await trail.ingested(entry_id)


@asynccontextmanager
async def writing(database_url: str, redis_url: str, **options: Any) -> AsyncIterator[AuditWriter]:
    """A writer that looks often."""
    writer = AuditWriter(
        database_url=database_url,
        redis_url=redis_url,
        keys=KEYS,
        **{"beat_seconds": 0.05, **options},
    )
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop()
