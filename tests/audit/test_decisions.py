"""What read models make of decisions: in the ledger's own transaction, once, and again."""

from __future__ import annotations

from typing import Any

import pytest

from caracal.events.store.audit_entry import AuditEvent
from caracal.projections.admin_audit_event import admin_audit
from caracal.projections.audit_ingest import Ingestor
from caracal.projections.rebuild import rebuild
from tests.audit.trail import Rows, Trail, decided, ingest
from tests.backbone import eventually, running

SHOWN = "id, request_id, actor_id, action, zone_id, entity_type, entity_id, status_code, changed"


def refused(**metadata: Any) -> AuditEvent:
    given = {
        "call_id": "call-1",
        "method": "GET",
        "path": "/v1/zones/zone1/grants/g1",
        "status_code": 404,
        "actor_id": "token-1",
    }
    return decided(event_type="admin_request", decision="deny", metadata_json={**given, **metadata})


async def rows(trail: Trail) -> Rows:
    return await trail.query(f"SELECT {SHOWN} FROM admin_audit_events ORDER BY id")


async def test_a_refusal_is_a_row(trail: Trail, ingestor: Ingestor) -> None:
    event = refused()
    await ingest(ingestor, trail, (await trail.put(event, decided()))[-1])
    assert await rows(trail) == [
        {
            "id": "call-1",
            "request_id": "req-1",
            "actor_id": "token-1",
            "action": "GET /v1/zones/zone1/grants/g1",
            "zone_id": "zone1",
            "entity_type": "grants",
            "entity_id": "g1",
            "status_code": 404,
            "changed": False,
        }
    ]


async def test_coming_again_it_changes_nothing(trail: Trail, ingestor: Ingestor) -> None:
    event = refused()
    await ingest(ingestor, trail, (await trail.put(event))[-1])
    before = await rows(trail)
    await trail.redis.flushdb()
    await ingest(ingestor, trail, (await trail.put(event, event))[-1])
    assert await rows(trail) == before
    assert len(await trail.rows()) == 1


async def test_row_and_ledger_commit_together(
    trail: Trail, ingestor: Ingestor, database_url: str
) -> None:
    """The row comes last in the transaction: what fails before it, or with it, leaves nothing."""
    await trail.db.execute(
        "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END $$"
    )
    await trail.db.execute(
        "CREATE TRIGGER busy BEFORE INSERT ON admin_audit_events"
        " FOR EACH ROW EXECUTE FUNCTION busy()"
    )
    (entry,) = await trail.put(refused())
    async with running(ingestor):

        async def tried() -> bool:
            return ingestor.counters.retries > 1

        await eventually(tried)
        assert (await rows(trail), await trail.rows()) == ([], [])
        await trail.db.execute("DROP TRIGGER busy ON admin_audit_events")
        await trail.ingested(entry)
    assert (len(await rows(trail)), len(await trail.rows())) == (1, 1)


async def test_a_broken_read_model_does_not_hold_the_ledger(
    trail: Trail, ingestor: Ingestor, database_url: str
) -> None:
    await trail.db.execute("ALTER TABLE admin_audit_events RENAME COLUMN method TO was")
    events = [refused(), decided(), refused(call_id="call-2")]
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    await trail.holds(events)
    await trail.tamper(  # one that came long before the rebuild
        "UPDATE audit_events SET ingested_at = now() - interval '2 days' WHERE chain_seq = 1"
    )
    await rebuild(database_url, admin_audit)
    assert [row["id"] for row in await rows(trail)] == ["call-1", "call-2"]


async def test_a_rebuild_meanwhile_loses_none(
    trail: Trail, ingestor: Ingestor, database_url: str
) -> None:
    events = [refused(call_id=f"call-{number}") for number in range(200)]
    async with running(ingestor):
        entries: list[str] = []
        for number in range(0, len(events), 20):
            entries += await trail.put(*events[number : number + 20])
            await rebuild(database_url, admin_audit)
        await trail.ingested(entries[-1])
    assert len(await rows(trail)) == len(events)


@pytest.mark.parametrize(
    "metadata",
    [
        {"call_id": None},
        {"call_id": 5},
        {"call_id": "a b"},
        {"call_id": ""},
    ],
)
async def test_what_cannot_be_read_is_left(
    trail: Trail, ingestor: Ingestor, metadata: dict[str, Any]
) -> None:
    events = [refused(**metadata), decided(event_type="admin_request", metadata_json={})]
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    assert await rows(trail) == []
    await trail.holds(events)


async def test_odd_members_do_no_harm(trail: Trail, ingestor: Ingestor) -> None:
    event = refused(path="/v1/a\x00b", status_code="404", actor_id=7, method=["GET"])
    await ingest(ingestor, trail, (await trail.put(event))[-1])
    (row,) = await rows(trail)
    assert (row["action"], row["status_code"], row["actor_id"]) == (" /v1/ab", None, None)
