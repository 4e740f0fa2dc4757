"""Retention: whole months go, and the verification neither cries for them nor is blinded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from caracal import clock
from caracal.events.audit_retention import AuditRetention
from caracal.events.base import acting
from caracal.events.record import Record
from caracal.events.store.audit_entry import AuditEvent
from caracal.events.store.log import Log
from caracal.projections import audit_cut, sql
from caracal.projections.audit_chain import sweep, verify_chain
from caracal.projections.audit_cut import Cut, drop_before, merged
from caracal.projections.audit_ingest import Ingestor
from caracal.projections.audit_retention import audit_retentions
from caracal.services.worker import leading, retention
from caracal.services.worker.retention import Retention
from caracal.settings import Settings, load_settings
from caracal.tasks import cancelled
from tests.audit.trail import KEYS, Trail, decided, ingest
from tests.backbone import eventually

JAN, FEB, MAR, APR = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4))
OTHER = b"\x42" * 32


def at(month: datetime, number: int, zone_id: str = "zone1", **members: Any) -> AuditEvent:
    moment = clock.rfc3339(month + timedelta(hours=number))
    return decided(zone_id, occurred_at=moment, **members)


async def months(trail: Trail) -> list[str]:
    found = await trail.query(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'audit_events'::regclass ORDER BY 1"
    )
    return [row["name"] for row in found if row["name"] < "audit_events_y2026m05"]


async def kinds(trail: Trail, zone_id: str = "zone1", **more: Any) -> list[str]:
    report = await verify_chain(trail.db, zone_id, KEYS, **more)
    return sorted(finding.kind for finding in report.findings)


async def numbers(trail: Trail, zone_id: str = "zone1") -> list[int]:
    return [row["chain_seq"] for row in await trail.rows() if row["zone_id"] == zone_id]


@pytest.fixture
async def ledger(trail: Trail, ingestor: Ingestor) -> Trail:
    """Three months of zone1 that overlap: 1-3 Jan, 4 Feb, 5 Jan, 6 Feb, 7 Jan, 8 Feb, 9-10 Mar.

    zone2 has nothing after January, zone3 nothing before March.
    """
    order = [JAN, JAN, JAN, FEB, JAN, FEB, JAN, FEB, MAR, MAR]
    events = [at(month, number) for number, month in enumerate(order)]
    events += [at(JAN, 1, "zone2"), at(JAN, 2, "zone2"), at(MAR, 1, "zone3")]
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    return trail


async def test_months_that_lie_wholly_before_are_dropped(ledger: Trail) -> None:
    assert await drop_before(ledger.db, FEB - timedelta(microseconds=1), KEYS) == []
    assert await drop_before(ledger.db, FEB, KEYS) == ["audit_events_y2026m01"]
    assert await drop_before(ledger.db, FEB, KEYS) == []
    assert await months(ledger) == ["audit_events_y2026m02", "audit_events_y2026m03"]
    assert await numbers(ledger) == [4, 6, 8, 9, 10]
    assert await drop_before(ledger.db, APR, KEYS) == [
        "audit_events_y2026m02",
        "audit_events_y2026m03",
    ]
    assert await ledger.rows() == []


async def test_a_legal_drop_is_no_finding(ledger: Trail) -> None:
    """However much is dropped: a start, holes, all that a zone has."""
    for until, left in ((FEB, 5), (MAR, 2), (APR, 0)):
        await drop_before(ledger.db, until, KEYS)
        for since in (None, clock.now() - timedelta(hours=4), clock.now() + timedelta(hours=1)):
            reports = await sweep(ledger.db, KEYS, since=since)
            assert [report.findings for report in reports if not report.ok] == [], (until, since)
        assert len(await numbers(ledger)) == left
    assert await ledger.alerts() == []


async def test_the_chain_goes_on_after_a_drop(ledger: Trail, ingestor: Ingestor) -> None:
    await drop_before(ledger.db, APR, KEYS)
    late = [at(JAN, 9), at(APR, 1), at(JAN, 3, "zone2")]  # a month comes back, and is dropped again
    await ingest(ingestor, ledger, (await ledger.put(*late))[-1])
    assert await numbers(ledger) == [11, 12]
    assert (await kinds(ledger), await kinds(ledger, "zone2")) == ([], [])
    assert await drop_before(ledger.db, FEB, KEYS) == ["audit_events_y2026m01"]
    assert await numbers(ledger) == [12]
    assert (await kinds(ledger), await kinds(ledger, "zone2")) == ([], [])


CUT = "zone_id = 'zone1' AND first_seq = 1"
TAMPERED: dict[str, tuple[str, list[str]]] = {
    "row beside a cut": (
        "DELETE FROM audit_events WHERE zone_id = 'zone1' AND chain_seq = 4",
        ["chain_gap"],
    ),
    "a cut": (f"DELETE FROM audit_chain_cuts WHERE {CUT}", ["chain_break", "chain_gap"]),
    "longer": (
        f"UPDATE audit_chain_cuts SET last_seq = 4 WHERE {CUT}",
        ["chain_break", "chain_gap", "chain_hmac_mismatch"],
    ),
    "content": (
        f"UPDATE audit_chain_cuts SET content_sha256 = 'x' WHERE {CUT}",
        ["chain_break", "chain_gap", "chain_hmac_mismatch"],
    ),
    "another zone's": (
        "UPDATE audit_chain_cuts SET zone_id = 'zone9' WHERE zone_id = 'zone1'",
        ["chain_break"] * 3 + ["chain_gap"] * 3,
    ),
}


async def test_a_drop_hides_nothing_else(ledger: Trail) -> None:
    await drop_before(ledger.db, FEB, KEYS)
    for case, (statement, expected) in TAMPERED.items():
        async with ledger.db.transaction(force_rollback=True):
            assert (await ledger.db.execute(statement)).rowcount, case
            assert await kinds(ledger) == expected, case


async def test_rows_that_were_gone_before_a_drop_stay_found(ledger: Trail) -> None:
    await ledger.tamper("DELETE FROM audit_events WHERE zone_id = 'zone1' AND chain_seq = 2")
    for until in (FEB, MAR, APR):
        await drop_before(ledger.db, until, KEYS)
        assert "chain_gap" in await kinds(ledger)


async def test_a_forged_cut_does_not_become_ours(ledger: Trail) -> None:
    """Whoever deletes rows and notes a cut for them has no key; merging must not give it one."""
    await ledger.tamper("DELETE FROM audit_events WHERE zone_id = 'zone1' AND chain_seq = 9")
    content = (
        await ledger.query(
            "SELECT prev_content_sha256 AS c FROM audit_events"
            " WHERE zone_id = 'zone1' AND chain_seq = 10"
        )
    )[0]["c"]
    prev = (
        await ledger.query(
            "SELECT content_sha256 AS c FROM audit_events WHERE zone_id = 'zone1' AND chain_seq = 8"
        )
    )[0]["c"]
    forged = Cut("zone1", 9, 9, prev, content).tied((OTHER,))
    await ledger.tamper(
        "INSERT INTO audit_chain_cuts VALUES (%s, %s, %s, %s, %s, %s)",
        *(getattr(forged, name) for name in Cut.__slots__),
    )
    for until in (JAN, FEB, MAR, APR):
        await drop_before(ledger.db, until, KEYS)
        assert "chain_hmac_mismatch" in await kinds(ledger)


async def test_cuts_are_tied_by_any_key_of_the_ring(ledger: Trail) -> None:
    await drop_before(ledger.db, FEB, (OTHER, *KEYS))
    report = await verify_chain(ledger.db, "zone1", (*KEYS, OTHER))
    assert report.ok
    assert not (await verify_chain(ledger.db, "zone1", KEYS)).ok


@given(st.permutations(range(1, 9)), st.data())
def test_cuts_that_meet_become_one(order: Sequence[int], data: st.DataObject) -> None:
    """In whatever pieces and order a run is dropped, one cut is left of it."""
    edges = sorted({0, 8, *data.draw(st.sets(st.integers(1, 7)))})
    pieces = [
        Cut("z", first + 1, last, f"h{first}" if first else None, f"h{last}")
        for first, last in pairwise(edges)
    ]
    kept = [piece for piece in pieces if piece.first_seq != order[0]]
    done: list[Cut] = []
    for piece in sorted(kept, key=lambda one: order.index(one.first_seq)):
        done = merged([*done, piece])
    covered = {number for cut in done for number in range(cut.first_seq, cut.last_seq + 1)}
    assert covered == {n for cut in kept for n in range(cut.first_seq, cut.last_seq + 1)}
    assert all(a.last_seq + 1 < b.first_seq for a, b in pairwise(done))


def test_cuts_that_do_not_fit_stay_apart() -> None:
    first, second = Cut("z", 1, 3, None, "a"), Cut("z", 4, 5, "b", "c")
    assert merged([second, first]) == [first, second]


async def test_a_month_that_goes_while_a_walk_looks_for_its_cuts(
    ledger: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that follows the gap has been read, then goes as well: the cut reaches beyond it."""
    await drop_before(ledger.db, FEB, KEYS)
    looks = audit_cut.cuts_between

    async def late(*given: Any) -> list[Cut]:
        await drop_before(ledger.db, MAR, KEYS)
        return await looks(*given)

    monkeypatch.setattr("caracal.projections.audit_chain.cuts_between", late)
    assert await kinds(ledger) == []
    monkeypatch.undo()
    assert await numbers(ledger) == [9, 10]


async def test_a_row_that_was_put_where_a_month_was_dropped_is_found(ledger: Trail) -> None:
    (fourth,) = await ledger.query("SELECT * FROM audit_events WHERE chain_seq = 4")
    await drop_before(ledger.db, MAR, KEYS)
    moved = {**fourth, "occurred_at": MAR}
    names = ", ".join(moved)
    marks = ", ".join(["%s"] * len(moved))
    values = [Jsonb(one) if isinstance(one, (dict, list)) else one for one in moved.values()]
    await ledger.tamper(f"INSERT INTO audit_events ({names}) VALUES ({marks})", *values)
    assert "chain_gap" in await kinds(ledger)


async def test_a_sweep_during_drops_sees_no_gap(
    ledger: Trail, ingestor: Ingestor, database_url: str
) -> None:
    stop = asyncio.Event()

    async def sweeping() -> int:
        rounds = 0
        async with await AsyncConnection.connect(database_url, autocommit=True) as db:
            while not stop.is_set():
                reports = await sweep(db, KEYS)
                assert [one.findings for one in reports if not one.ok] == []
                rounds += 1
        return rounds

    task = asyncio.create_task(sweeping())
    for month in (FEB, MAR, APR):
        await asyncio.sleep(0)
        while True:
            try:
                await drop_before(ledger.db, month, KEYS)
                break
            except psycopg.errors.LockNotAvailable:
                continue
    stop.set()
    assert await task > 0


async def test_refusals_go_with_their_month(ledger: Trail, ingestor: Ingestor) -> None:
    meta = {"method": "GET", "path": "/v1/x", "status_code": 404}
    events = [
        at(month, 1, event_type="admin_request", metadata_json={**meta, "call_id": f"{month:%b}"})
        for month in (JAN, FEB)
    ]
    await ingest(ingestor, ledger, (await ledger.put(*events))[-1])
    await drop_before(ledger.db, FEB, KEYS)
    found = await ledger.query("SELECT id FROM admin_audit_events")
    assert [row["id"] for row in found] == ["Feb"]


# --- the job --------------------------------------------------------------------------------


@pytest.fixture
def given_settings(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(retention, "ROTATE_SECONDS", 0.05)
    monkeypatch.setattr(leading, "LEADER_SECONDS", 0.05)
    return load_settings(
        "worker",
        {
            "CARACAL_MODE": "dev",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "AUDIT_HMAC_KEY": KEYS[0].hex(),
            "AUDIT_RETENTION_DAYS": "36500",
        },
    )


@asynccontextmanager
async def rotating(*jobs: Retention) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(job.run()) for job in jobs]
    try:
        yield
        assert [task.exception() for task in tasks if task.done()] == []
    finally:
        for task in tasks:
            await cancelled(task)


async def say(db: AsyncConnection[Any], log: Log, days: int) -> None:
    """Change the retention, and its read model."""
    with acting(zone_id=None, actor="operator"):
        one = await log.find(AuditRetention, "audit-retention")
        if one is None:
            one = AuditRetention.begin(days, limit=36500)
        else:
            one.change(days, limit=36500)
        await log.save(one)
    cursor = await db.execute("SELECT position, version, name, state FROM log ORDER BY position")

    for row in await cursor.fetchall():
        await sql.apply(db, audit_retentions.reduce(Record.read(*row).fact()))


async def test_what_is_said_is_done(ledger: Trail, log: Log, given_settings: Settings) -> None:
    job = Retention(given_settings)
    async with rotating(job):
        await eventually(_true(lambda: job.is_leader), what="a leader")
        assert len(await numbers(ledger)) == 10
        days = (clock.now() - MAR).days
        await say(ledger.db, log, days)
        await eventually(_true(lambda: job.dropped == 2), what="two months dropped")
        assert await months(ledger) == ["audit_events_y2026m03"]
        await say(ledger.db, log, 1)
        await eventually(_true(lambda: job.dropped == 3), what="the third month dropped")
    ahead = await ledger.query("SELECT to_regclass(%s) AS name", _name(clock.now(), 3))
    assert ahead[0]["name"] is not None
    assert await kinds(ledger) == []


async def test_one_leads_and_another_takes_over(ledger: Trail, given_settings: Settings) -> None:
    first, second = Retention(given_settings), Retention(given_settings)
    async with rotating(second):
        async with rotating(first):
            await eventually(_true(lambda: first.is_leader or second.is_leader))
            assert not (first.is_leader and second.is_leader)
        await eventually(_true(lambda: second.is_leader), what="the other one leading")


async def test_who_reads_for_long_is_not_in_the_way_for_ever(
    ledger: Trail, given_settings: Settings, database_url: str
) -> None:
    job = Retention(given_settings.model_copy(update={"audit_retention_days": 1}))
    async with await AsyncConnection.connect(database_url) as reader:
        await reader.execute("SELECT count(*) FROM audit_events")  # its transaction stays open
        async with rotating(job):
            await eventually(_true(lambda: job.is_leader))
            assert job.dropped == 0
            await reader.rollback()
            await eventually(_true(lambda: job.dropped == 3), what="the months dropped")


def _name(moment: datetime, ahead: int) -> str:
    month = moment.year * 12 + moment.month - 1 + ahead
    return f"audit_events_y{month // 12:04}m{month % 12 + 1:02}"


def _true(what: Any) -> Any:
    async def condition() -> bool:
        return bool(what())

    return condition


def test_a_cut_whose_tie_is_no_number_is_tied_by_nobody() -> None:
    assert not Cut("z", 1, 3, None, "a", "\u00e9").is_tied(KEYS)
    assert Cut("z", 1, 3, None, "a").tied(KEYS).is_tied(KEYS)
