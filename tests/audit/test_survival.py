"""Writer and ingestor together, on servers that are killed and emptied under them."""

from __future__ import annotations

import os
import random
import signal

import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.embedded import EmbeddedServers
from caracal.errors import Unavailable
from caracal.events.store.audit_entry import AuditEvent
from caracal.events.store.audit_writer import AuditWriter
from caracal.projections.audit_chain import verify_chain
from caracal.projections.audit_ingest import Ingestor
from tests.audit.trail import KEYS, RING, Trail, decided, writing
from tests.backbone import eventually, running

ROUNDS, DOWN = 90, 8
ZONES = ("zone1", "zone2", "zone3")


async def added(writer: AuditWriter, dice: random.Random) -> list[AuditEvent]:
    """Add a few events; return those that were acknowledged."""
    events = [decided(dice.choice(ZONES)) for _ in range(dice.randrange(1, 30))]
    try:
        await writer.add(events)
    except Unavailable:
        return []
    return events


def strike(servers: EmbeddedServers, fault: str) -> None:
    """Kill a server."""
    os.kill(servers.valkey_pid if fault == "redis" else servers.postgres_pid, signal.SIGKILL)


def mend(servers: EmbeddedServers, fault: str) -> None:
    """Start it again."""
    (servers.restart_valkey if fault == "redis" else servers.restart_postgres)()


@pytest.mark.chaos
async def test_what_was_acknowledged_is_in_the_ledger_once(own_servers: EmbeddedServers) -> None:
    urls = {"database_url": own_servers.database_url, "redis_url": own_servers.redis_url}
    ingestor = Ingestor(**urls, keys=KEYS, ring=RING, claim_idle_seconds=0.3)
    dice = random.Random(11)
    faults = ["redis", "postgres", "flush", "redis", "flush", "postgres", "redis", "flush"]
    acknowledged: list[AuditEvent] = []
    async with writing(**urls) as writer, running(ingestor):
        for number in range(ROUNDS):
            acknowledged += await added(writer, dice)
            fault = faults[number // (DOWN + 3) % len(faults)]
            if number % (DOWN + 3) == 2 and fault == "flush":
                async with Redis.from_url(own_servers.redis_url) as redis:
                    await redis.flushall()
            elif number % (DOWN + 3) == 2:
                strike(own_servers, fault)
            elif number % (DOWN + 3) == DOWN and fault != "flush":
                mend(own_servers, fault)

        async def forgotten() -> bool:
            return writer.kept == 0  # the ledger has shown each of them

        await eventually(forgotten, seconds=30, what="the ledger's watermark passing everything")
        assert writer.counters.lost == 0
    assert len(acknowledged) > 300
    async with (
        await AsyncConnection.connect(own_servers.database_url, autocommit=True) as db,
        Redis.from_url(own_servers.redis_url) as redis,
    ):
        trail = Trail(db, redis)
        rows = [row["id"] for row in await trail.rows()]
        assert len(set(rows)) == len(rows)
        assert {event.id for event in acknowledged} <= set(rows)
        for zone in ZONES:
            report = await verify_chain(db, zone, KEYS)
            assert report.ok, report.findings
        assert (await trail.dead(), await trail.alerts()) == ([], [])
