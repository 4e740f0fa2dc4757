"""Topic -> ledger: each row of the contract's outcome table, exactly once, whatever breaks."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
import redis
from redis.asyncio import Redis

from caracal.events.store.audit_entry import encode, sign
from caracal.events.store.audit_topic import LEDGER_GROUP, watermark
from caracal.events.store.entries import EntryId
from caracal.events.topics import AUDIT, AUDIT_DEAD
from caracal.projections import audit_ingest
from caracal.projections.audit_ingest import Ingestor, is_transient
from caracal.projections.audit_ledger import Ledger
from caracal.projections.audit_row import canonical, read_entry
from tests.audit.trail import KEYS, RING, Trail, decided, ingest
from tests.backbone import eventually, running

FORGED = (b"\x42" * 32,)


async def test_entries_become_rows_on_the_chain_of_their_zone(
    trail: Trail, ingestor: Ingestor
) -> None:
    events = [decided(zone) for zone in ("zone1", "zone2", "zone1")]
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    await trail.holds(events)
    first, second, third = await trail.rows()
    assert [first["id"], second["id"], third["id"]] == [events[0].id, events[2].id, events[1].id]
    assert (first["chain_seq"], first["prev_content_sha256"]) == (1, None)
    assert (second["chain_seq"], second["prev_content_sha256"]) == (2, first["content_sha256"])
    assert (third["chain_seq"], third["prev_content_sha256"]) == (1, None)
    assert first["metadata_json"] == canonical(events[0].metadata_json)
    assert first["ingest_signature"] == encode(events[0], KEYS)["sig"].decode()
    assert await trail.dead() == []


async def test_duplicates_are_acknowledged_and_change_nothing(
    trail: Trail, ingestor: Ingestor
) -> None:
    events = [decided(), decided()]
    await ingest(ingestor, trail, (await trail.put(*events, events[0]))[-1])
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    await trail.holds(events)
    assert (ingestor.counters.inserted, ingestor.counters.duplicates) == (2, 3)
    assert (await trail.dead(), await trail.alerts()) == ([], [])


async def test_no_plan_of_the_first_entries_is_kept_for_the_millionth(trail: Trail) -> None:
    """What is asked of a month is planned by its size now: made for ten rows, a plan walks all."""
    ledger = Ledger(trail.db, KEYS)
    await ledger.open()
    for _ in range(12):
        fields = {name.encode(): value for name, value in encode(decided(), KEYS).items()}
        await ledger.write([read_entry(fields, KEYS)], None)
    kept = await trail.query("SELECT statement FROM pg_prepared_statements")
    assert kept, "nothing is prepared: this test looks at another connection"
    assert not [one for one in kept if "FROM audit_events WHERE id" in one["statement"]]


@pytest.mark.parametrize("later", [False, True], ids=["in one batch", "later"])
async def test_tamper_on_replay(trail: Trail, ingestor: Ingestor, later: bool) -> None:
    event = decided()
    changed = decided(id=event.id, occurred_at=event.occurred_at, decision="deny")
    entry_ids = await trail.put(event)
    if later:
        await ingest(ingestor, trail, entry_ids[0])
    last = (await trail.put(changed))[-1]
    await ingest(ingestor, trail, last)
    await trail.holds([event])
    (alert,) = await trail.alerts()
    assert (alert["event_id"], alert["zone_id"]) == (event.id, "zone1")
    assert alert["kind"] == "content_mismatch_on_replay"
    (letter,) = await trail.dead()
    assert (letter["reason"], letter["src_event_id"]) == ("tamper_on_replay", event.id)


async def test_an_event_cannot_come_again_at_another_time(trail: Trail, ingestor: Ingestor) -> None:
    event = decided(occurred_at="2026-05-11T20:00:00.000000Z")
    changed = decided(id=event.id, occurred_at="2026-06-11T20:00:00.000000Z")
    await ingest(ingestor, trail, (await trail.put(event, changed))[-1])
    await trail.holds([event])
    assert [letter["reason"] for letter in await trail.dead()] == ["tamper_on_replay"]


def signed(data: bytes, keys: tuple[bytes, ...] = KEYS) -> dict[str, bytes]:
    return {"id": b"ev-1", "data": data, "sig": sign(keys, data)}


def with_request_id(request_id: str) -> dict[str, bytes]:
    return encode(decided(id="ev-1", request_id=request_id), KEYS)


DEAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no data": ({"id": b"ev-1", "other": b"x"}, "missing_data_field"),
    "forged": (signed(encode(decided(), KEYS)["data"], FORGED), "hmac_verify_failed"),
    "unsigned": ({"id": b"ev-1", "data": b"{}"}, "hmac_verify_failed"),
    "no JSON": (signed(b"{"), "json_parse_error:"),
    "no zone": (signed(b'{"id":"ev-1"}'), "json_parse_error:zone_id is missing"),
    "NUL": (with_request_id("a\0b"), "pg_permanent_error:"),
    "longer than an index takes": (
        with_request_id("".join(random.Random(1).choices("abcdefghijklmnop", k=20_000))),
        "pg_permanent_error:",
    ),
}


async def test_what_cannot_be_ingested_is_a_dead_letter(trail: Trail, ingestor: Ingestor) -> None:
    good = [decided()]
    await trail.put(*good)
    entry_ids = []
    for fields, _ in DEAD.values():
        entry_ids.append(await trail.put_raw(fields))
        good.append(decided())
        last = (await trail.put(good[-1]))[0]
    async with running(ingestor):
        await trail.ingested(last)

        async def all_counted() -> bool:
            return ingestor.counters.dead == len(DEAD)

        await eventually(all_counted)
    await trail.holds(good)
    letters = {letter["src_id"]: letter for letter in await trail.dead()}
    assert set(letters) == set(entry_ids)
    for entry_id, (case, (fields, reason)) in zip(entry_ids, DEAD.items(), strict=True):
        letter = letters[entry_id]
        assert letter["reason"].startswith(reason), case
        assert letter["src_event_id"] == "ev-1"
        assert letter.get("src_data", "").encode() == fields.get("data", b"")
        assert RING.verify(AUDIT_DEAD, letter)
    assert (ingestor.counters.hmac_failures, ingestor.counters.parse_errors) == (2, 3)


async def test_a_dead_letter_of_any_bytes(trail: Trail, ingestor: Ingestor) -> None:
    entry_id = await trail.put_raw({b"Na me\xff": b"\xff\n", b"_sig": b"x"})
    await ingest(ingestor, trail, entry_id)
    (letter,) = await trail.dead()
    assert letter["src_id"] == entry_id
    assert "\\xff\\n" in letter.values()
    assert RING.verify(AUDIT_DEAD, letter)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (psycopg.errors.SerializationFailure, True),
        (psycopg.errors.DeadlockDetected, True),
        (psycopg.errors.AdminShutdown, True),
        (psycopg.errors.QueryCanceled, True),
        (psycopg.errors.DiskFull, True),
        (psycopg.errors.ReadOnlySqlTransaction, True),
        (psycopg.OperationalError, True),
        (psycopg.InterfaceError, True),
        (psycopg.DataError, False),
        (psycopg.errors.CheckViolation, False),
        (psycopg.errors.ProgramLimitExceeded, False),
        (psycopg.errors.RaiseException, False),
        (UnicodeEncodeError, False),
    ],
)
def test_which_database_errors_pass(error: type[Exception], transient: bool) -> None:
    arguments = ("utf-8", "x", 0, 1, "r") if error is UnicodeEncodeError else ("it",)
    assert is_transient(error(*arguments)) is transient


async def test_a_transient_error_leaves_entries_pending(trail: Trail, ingestor: Ingestor) -> None:
    await ingest(ingestor, trail, (await trail.put(decided()))[-1])
    await trail.db.execute(
        "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END $$"
    )
    await trail.db.execute(
        "CREATE TRIGGER busy BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION busy()"
    )
    before = await watermark(trail.db)
    async with running(ingestor):
        entry_id = (await trail.put(decided()))[-1]

        async def tried() -> bool:
            return ingestor.counters.retries >= 3

        await eventually(tried)
        assert await trail.pending() == [entry_id]
        assert await watermark(trail.db) == before
        await trail.db.execute("DROP TRIGGER busy ON audit_events")
        await trail.ingested(entry_id)
    assert len(await trail.rows()) == 2
    assert await trail.dead() == []


async def read_by(redis: Redis, consumer: str, count: int) -> None:
    """Read entries as another ingestor that dies before it has done anything."""
    answer = await redis.xreadgroup(LEDGER_GROUP, consumer, {AUDIT: ">"}, count=count)
    assert answer


async def test_own_pending_entries_come_first_and_those_of_the_dead_are_claimed(
    trail: Trail, ingestor: Ingestor
) -> None:
    events = [decided() for _ in range(5)]
    entry_ids = await trail.put(*events)
    await trail.redis.xgroup_create(AUDIT, LEDGER_GROUP, id="0")
    await read_by(trail.redis, "worker-dead-2", 2)
    await read_by(trail.redis, ingestor.consumer, 2)
    await ingest(ingestor, trail, entry_ids[-1])
    await trail.holds(events)
    order = [row["id"] for row in await trail.rows()]
    mine, new, claimed = events[2:4], events[4:], events[:2]
    assert order[:2] == [event.id for event in mine]
    assert set(order[2:]) == {event.id for event in (*claimed, *new)}


async def test_the_watermark_waits_for_what_another_consumer_holds(
    trail: Trail, ingestor: Ingestor
) -> None:
    ingestor.claim_idle_seconds = 60
    entry_ids = await trail.put(decided(), decided(), decided())
    await trail.redis.xgroup_create(AUDIT, LEDGER_GROUP, id="0")
    await trail.redis.xgroup_setid(AUDIT, LEDGER_GROUP, entry_ids[0])
    await read_by(trail.redis, "worker-dead-2", 1)
    async with running(ingestor):

        async def done() -> bool:
            return len(await trail.rows()) == 1 and await trail.pending() == [entry_ids[1]]

        await eventually(done)
    place = await watermark(trail.db)
    assert EntryId.parse(entry_ids[0]) <= place < EntryId.parse(entry_ids[1])


async def test_an_entry_deleted_unread_does_not_stop_the_others(
    trail: Trail, ingestor: Ingestor
) -> None:
    events = [decided(), decided()]
    gone, there = await trail.put(*events)
    await trail.redis.xgroup_create(AUDIT, LEDGER_GROUP, id="0")
    await read_by(trail.redis, ingestor.consumer, 2)
    await trail.redis.xdel(AUDIT, gone)
    await ingest(ingestor, trail, there)
    await trail.holds(events[1:])
    assert [letter["reason"] for letter in await trail.dead()] == ["missing_data_field"]


async def test_two_ingestors_at_once_make_one_chain(
    trail: Trail, ingestor: Ingestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(leadership: Any) -> None:
        del leadership

    monkeypatch.setattr(audit_ingest.Leadership, "wait", at_once)
    other = Ingestor(
        database_url=ingestor.database_url,
        redis_url=ingestor.redis_url,
        keys=KEYS,
        ring=RING,
        claim_idle_seconds=0.3,
        consumer="worker-test-2",
    )
    events = [decided(f"zone{n % 2}") for n in range(1500)]
    async with running(ingestor, other):
        for event in events:
            await trail.put(event)
        await trail.ingested((await trail.on_topic())[-1])
    await trail.holds(events)
    assert min(one.counters.inserted for one in (ingestor, other)) > 0


async def test_a_standby_waits_and_takes_over(trail: Trail, ingestor: Ingestor) -> None:
    standby = Ingestor(
        database_url=ingestor.database_url,
        redis_url=ingestor.redis_url,
        keys=KEYS,
        ring=RING,
        consumer="worker-test-2",
    )
    events = [decided() for _ in range(20)]
    async with running(standby):
        async with running(ingestor):
            await trail.ingested((await trail.put(*events[:10]))[-1])
            first = {ingestor.counters.inserted, standby.counters.inserted}
            assert first == {0, 10}
        await trail.ingested((await trail.put(*events[10:]))[-1])
    await trail.holds(events)


async def test_a_lost_group_is_made_again_from_the_beginning(
    trail: Trail, ingestor: Ingestor
) -> None:
    events = [decided(), decided(), decided()]
    async with running(ingestor):
        await trail.ingested((await trail.put(*events[:2]))[-1])
        await trail.redis.flushdb()
        # A clock gone back: what comes now lies below the watermark.
        await trail.redis.xadd(AUDIT, encode(events[2], KEYS), id="1-1")

        async def there() -> bool:
            return len(await trail.rows()) == 3

        await eventually(there)
    await trail.holds(events)


async def test_entries_in_hand_are_written_when_the_topic_vanishes(
    trail: Trail, ingestor: Ingestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [decided(), decided()]
    await trail.put(*events)

    def vanishing(fields: Any, keys: Any) -> Any:
        with redis.Redis.from_url(ingestor.redis_url) as client:
            client.flushdb()
        return read_entry(fields, keys)

    monkeypatch.setattr(audit_ingest, "read_entry", vanishing)
    async with running(ingestor):

        async def there() -> bool:
            return len(await trail.rows()) == 2

        await eventually(there)
    await trail.holds(events)


async def test_partitions_are_there_before_they_are_needed_and_on_demand(
    trail: Trail, ingestor: Ingestor
) -> None:
    event = decided(occurred_at="2019-12-31T23:59:59.999999Z")
    await ingest(ingestor, trail, (await trail.put(event))[-1])
    names = await trail.query(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'audit_events'::regclass"
    )
    (months,) = await trail.query(
        'SELECT array_agg(to_char(month, \'"audit_events_y"YYYY"m"MM\')) AS names'
        " FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),"
        " date_trunc('month', now() AT TIME ZONE 'UTC') + interval '3 months',"
        " interval '1 month') AS month"
    )
    expected = {*months["names"], "audit_events_y2019m12"}
    assert {row["name"] for row in names} == expected
    assert ingestor.counters.partitions_made >= 4
    await trail.holds([event])


async def test_a_partition_dropped_meanwhile_is_made_again(
    trail: Trail, ingestor: Ingestor
) -> None:
    old = [decided(occurred_at="2019-12-31T23:00:00.000000Z") for _ in range(2)]
    async with running(ingestor):
        await trail.ingested((await trail.put(old[0]))[-1])
        await trail.db.execute("DROP TABLE audit_events_y2019m12")
        await trail.ingested((await trail.put(old[1]))[-1])
    assert [row["id"] for row in await trail.rows()] == [old[1].id]
    assert await trail.dead() == []


async def test_the_writers_role_may_only_append(trail: Trail, ingestor: Ingestor) -> None:
    await ingest(ingestor, trail, (await trail.put(decided()))[-1])
    await trail.db.execute("SET ROLE caracal_audit")
    for statement in (
        "UPDATE audit_events SET decision = 'allow'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "DELETE FROM audit_ingest_alerts",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await trail.db.execute(statement)
    await trail.db.execute("RESET ROLE")
    # … and that is who wrote: without the right to insert nothing comes in.
    await trail.db.execute("REVOKE INSERT ON audit_events FROM caracal_audit")
    await ingest(ingestor, trail, (await trail.put(decided()))[-1])
    assert "permission denied" in (await trail.dead())[0]["reason"]
