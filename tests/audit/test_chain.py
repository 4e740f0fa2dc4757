"""Tamper evidence: whatever is done to the ledger behind its writer's back is found."""

from __future__ import annotations

from datetime import timedelta

import pytest

from caracal import clock
from caracal.projections.audit_chain import sweep, verify_chain
from caracal.projections.audit_ingest import Ingestor
from tests.audit.trail import KEYS, Trail, decided, ingest

OTHER = b"\x42" * 32
WHERE = "WHERE zone_id = 'zone1' AND chain_seq ="


@pytest.fixture
async def ledger(trail: Trail, ingestor: Ingestor) -> Trail:
    """A ledger with five rows of zone1, and two of another zone between them."""
    events = [decided("zone1", request_id=f"req-{n}") for n in range(5)]
    events[3:3] = [decided("zone2"), decided("zone2")]
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    return trail


def changed(what: str, number: int = 3) -> str:
    return f"UPDATE audit_events SET {what} {WHERE} {number}"


def moved(number: int, to: int) -> str:
    return changed(f"chain_seq = {to}", number)


def removed(number: int) -> str:
    return f"DELETE FROM audit_events {WHERE} {number}"


MEMBERS = {
    f"changed {what}": ([changed(what)], ["content_mismatch"])
    for what in (
        "id = 'other'",
        "event_type = 'other'",
        "request_id = ''",
        "decision = 'deny'",
        "policy_set_id = 'x'",
        "policy_set_version_id = 'x'",
        "manifest_sha = 'x'",
        "evaluation_status = ''",
        "determining_policies_json = '[]'",
        "diagnostics_json = '[1]'",
        "metadata_json = replace(metadata_json, ',', ', ')",
        "occurred_at = occurred_at + interval '1 microsecond'",
    )
}
TAMPERED: dict[str, tuple[list[str], list[str]]] = {
    "nothing": ([], []),
    **MEMBERS,
    "content and its hash": (
        [changed("content_sha256 = repeat('a', 64)")],
        ["content_mismatch", "chain_hmac_mismatch", "chain_break"],
    ),
    "tie": ([changed("chain_hmac = repeat('a', 64)")], ["chain_hmac_mismatch"]),
    "tie that is no number": ([changed("chain_hmac = '\u00e9'")], ["chain_hmac_mismatch"]),
    "row that cannot be read": (
        [
            "CREATE TABLE beyond PARTITION OF audit_events DEFAULT",
            changed("occurred_at = 'infinity'"),
        ],
        ["chain_break"],
    ),
    "no tie": ([changed("chain_hmac = ''")], ["chain_hmac_mismatch"]),
    "predecessor": (
        [changed("prev_content_sha256 = repeat('a', 64)")],
        ["chain_break", "chain_hmac_mismatch"],
    ),
    "removed first": ([removed(1)], ["chain_gap", "chain_break"]),
    "removed": ([removed(3)], ["chain_gap", "chain_break"]),
    "removed, others moved up": (
        [removed(3), moved(4, 3), moved(5, 4)],
        ["chain_break", "chain_end_mismatch"],
    ),
    "removed last": ([removed(5)], ["chain_end_mismatch"]),
    "last moved up": ([removed(4), moved(5, 4)], ["chain_break", "chain_end_mismatch"]),
    "removed all": (["DELETE FROM audit_events"], ["chain_end_mismatch"]),
    "removed end": (["DELETE FROM audit_chain_heads"], ["chain_end_mismatch"]),
    "other end": (
        ["UPDATE audit_chain_heads SET content_sha256 = 'x'"],
        ["chain_end_mismatch"],
    ),
    "swapped": ([moved(2, 99), moved(3, 2), moved(99, 3)], ["chain_break"] * 3),
    "of another zone": ([changed("zone_id = 'zone2'")], ["chain_gap", "chain_break"]),
}


async def test_what_is_done_to_the_ledger_is_found(ledger: Trail) -> None:
    for case, (statements, kinds) in TAMPERED.items():
        async with ledger.db.transaction(force_rollback=True):
            for statement in statements:
                assert (await ledger.db.execute(statement)).rowcount, case
            report = await verify_chain(ledger.db, "zone1", KEYS)
            assert sorted(one.kind for one in report.findings) == sorted(kinds), case
            assert report.ok is not bool(kinds)


async def test_a_doubled_number_is_found(ledger: Trail) -> None:
    await ledger.tamper(moved(2, 3))
    report = await verify_chain(ledger.db, "zone1", KEYS)
    assert "chain_gap" in [finding.kind for finding in report.findings]


async def test_a_chain_longer_than_a_page(trail: Trail, ingestor: Ingestor) -> None:
    events = [decided() for _ in range(450)]
    await ingest(ingestor, trail, (await trail.put(*events))[-1])
    await trail.holds(events)


async def test_who_tied_it_and_since_when(ledger: Trail) -> None:
    report = await verify_chain(ledger.db, "zone1", KEYS)
    assert (report.checked, report.first_seq, report.last_seq) == (5, 1, 5)
    for keys, ok in (((OTHER, *KEYS), True), ((OTHER,), False), ((), True)):
        assert (await verify_chain(ledger.db, "zone1", keys)).ok is ok
    nobody = await verify_chain(ledger.db, "nobody", KEYS)
    assert (nobody.ok, nobody.checked, nobody.last_seq) == (True, 0, None)


async def test_a_window_begins_at_its_stored_predecessor(ledger: Trail) -> None:
    since = clock.now() - timedelta(hours=4)
    await ledger.tamper(f"UPDATE audit_events SET ingested_at = %s {WHERE} 1", since)
    before = since + timedelta(seconds=1)
    report = await verify_chain(ledger.db, "zone1", KEYS, since=before)
    assert (report.ok, report.checked, report.first_seq) == (True, 4, 2)
    await ledger.tamper(removed(2))
    report = await verify_chain(ledger.db, "zone1", KEYS, since=before)
    assert [finding.kind for finding in report.findings] == ["chain_gap", "chain_break"]


async def test_a_sweep_records_each_finding_once(ledger: Trail) -> None:
    original = (await ledger.rows())[1]
    await ledger.tamper(changed("decision = 'deny'", 2))
    for since in (None, clock.now() - timedelta(hours=4)):
        reports = await sweep(ledger.db, KEYS, since=since)
        assert [(report.zone_id, report.ok) for report in reports] == [
            ("zone1", False),
            ("zone2", True),
        ]
    (alert,) = await ledger.alerts()
    assert (alert["event_id"], alert["zone_id"]) == (original["id"], "zone1")
    assert alert["kind"] == "content_mismatch"
    assert original["content_sha256"] in alert["detail"]
    assert await sweep(ledger.db, KEYS, since=clock.now() + timedelta(seconds=1)) == []
    await ledger.tamper("DELETE FROM audit_chain_heads")
    assert [report.ok for report in await sweep(ledger.db, KEYS)] == [False, False]
