"""Read model of admin tokens: given events, when reduced, then rows; and the telemetry beside."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection

from caracal import clock
from caracal.events.store.log import Log
from caracal.events.store.memory import MemoryLog
from caracal.events.store.schema import migrate
from caracal.projections import sql
from caracal.projections.admin_token import (
    ADMIN_TOKENS,
    admin_tokens,
    list_admin_tokens,
    note_uses,
)
from caracal.projections.memory import MemoryTable, apply
from caracal.projections.query import Page
from tests.backbone import new_zone
from tests.events.test_admin_token import new_token, revoke


async def test_rows() -> None:
    log, table = MemoryLog(), MemoryTable(ADMIN_TOKENS)
    await log.save(new_zone("z"))
    await log.save(new_token("a"), new_token("b", scope="zone", zone_id="z", capability="read"))
    await log.save(revoke(new_token("c"), "a"))
    facts = [record.fact() for record in log.records if record.name.startswith("admin_token")]
    apply({"admin_tokens": table}, (op for fact in facts for op in admin_tokens.reduce(fact)))
    created = clock.parse(facts[1].occurred_at)
    assert table.rows["b"] == {
        "id": "b",
        "position": 3,
        "ended_at": None,
        "stub": False,
        "name": "ci",
        "token_sha256": "digest of b",
        "scope": "zone",
        "zone_id": "z",
        "capability": "read",
        "created_by": "operator",
        "created_at": created,
        "revoked_at": None,
    }
    assert table.rows["c"]["revoked_at"] == clock.parse(facts[3].occurred_at)


async def test_uses_are_noted_once_a_minute(database_url: str) -> None:
    log = MemoryLog()
    await log.save(new_token("a"), new_token("b"))
    async with await AsyncConnection.connect(database_url, autocommit=True) as db:
        for record in log.records:
            await sql.apply(db, admin_tokens.reduce(record.fact()))
        moment = clock.now()

        async def noted(*ids: str, after: int) -> dict[str, Any]:
            await note_uses(db, ids, moment + timedelta(seconds=after))
            rows = await list_admin_tokens(db, Page(10))
            return {row["id"]: row["last_used_at"] for row in rows}

        assert await noted("a", after=0) == {"a": moment, "b": None}
        assert await noted("a", after=59) == {"a": moment, "b": None}
        later = moment + timedelta(seconds=60)
        assert await noted("a", "b", after=60) == {"a": later, "b": later}
        assert await noted("a", "b", after=-5) == {"a": later, "b": later}


async def test_tokens_made_before_the_migration_have_their_key(database_url: str, log: Log) -> None:
    old, gone = new_token("old"), new_token("gone")
    await log.save(old, gone)
    await log.save(revoke(gone, "old"))
    async with await AsyncConnection.connect(database_url, autocommit=True) as db:
        await db.execute("DELETE FROM guard_key WHERE key LIKE 'live:admin_token:%'")
        await db.execute("DROP TABLE admin_token_uses")
        await db.execute("DELETE FROM migrations WHERE number = 3")
    migrate(database_url)
    assert await log.owner("live:admin_token:old") == "old"
    assert await log.owner("live:admin_token:gone") is None
