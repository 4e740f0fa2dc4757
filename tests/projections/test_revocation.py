from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection

from caracal import clock
from caracal.events.base import Fall
from caracal.events.store.entries import LogReader
from caracal.events.store.log import Log
from caracal.projections import sql, tail_snapshot
from caracal.projections.memory import MemoryMarks, MemoryView
from caracal.projections.query import select
from caracal.projections.rebuild import rebuild
from caracal.projections.revocation import REVOCATIONS, RevocationMap, revocations
from caracal.projections.table import Applied, Mark, Prune
from tests.backbone import archive_zone, new_zone
from tests.making import (
    facts,
    in_zone,
    new_application,
    new_grant,
    new_resource,
    new_session,
    store_with,
)

NOW = int(clock.now().timestamp())


def ended(*ids: str, position: int = 1, on: int = NOW) -> Applied:
    columns = {"stopped": position, "final": True, "stopped_on": on}
    return Applied(position, Mark(REVOCATIONS, ids, columns))


def suspended(*ids: str, position: int, on: int = NOW) -> Applied:
    return Applied(position, Mark(REVOCATIONS, ids, {"stopped": position, "stopped_on": on}))


def resumed(*ids: str, position: int, on: int = NOW) -> Applied:
    return Applied(position, Mark(REVOCATIONS, ids, {"resumed": position, "stopped_on": on}))


def view(*marks: Applied) -> RevocationMap:
    made = RevocationMap()
    as_view: MemoryView = made
    for mark in marks:
        as_view.apply(mark.position, mark.operation)
    return made


async def test_every_end_of_an_anchor_is_in_the_map() -> None:
    app, resource = new_application(), new_resource()
    ids = app.aggregate_id, resource.aggregate_id
    revoked, expired = new_grant(*ids), new_grant(*ids)
    session, live, timed_out = (new_session(app.aggregate_id) for _ in range(3))
    zone = archive_zone(new_zone(), "root-1")
    store = await store_with(app, resource, revoked, expired, session, live, timed_out, zone)
    with in_zone():
        revoked.revoke(Fall.of_sessions(["root-2"]))
        expired.expire()
        session.revoke("token_revoked")
        timed_out.expire()  # its tokens have expired with it
        app.archive(Fall.of_sessions(["root-3"]))
        resource.archive()
    await store.save(revoked, expired, session, timed_out, app, resource)
    made = view(*(applied for fact in facts(store) for applied in revocations.reduce(fact)))
    things = (app, resource, revoked, expired, session, zone)
    gone = [*(thing.aggregate_id for thing in things), "root-1", "root-2", "root-3"]
    assert [anchor for anchor in gone if not made.is_revoked([anchor])] == []
    assert len(made) == len(gone)
    assert not made.is_revoked([live.aggregate_id, timed_out.aggregate_id, "other"])
    assert made.is_revoked(["other", "root-2"])


def test_ends_are_final_and_suspensions_are_not() -> None:
    assert view(suspended("a", position=3)).is_revoked(["a"])
    assert not view(suspended("a", position=3), resumed("a", position=4)).is_revoked(["a"])
    again = (suspended("a", position=3), resumed("a", position=4), suspended("a", position=5))
    assert view(*again).is_revoked(["a"])
    assert view(ended("a", position=3), resumed("a", position=4)).is_revoked(["a"])
    assert not view().is_revoked(["a"])
    assert not view(ended("a")).is_revoked([])


MARKS = st.lists(
    st.tuples(
        st.sampled_from([ended, suspended, resumed]), st.sampled_from("ab"), st.integers(1, 9)
    )
)


@given(MARKS, st.randoms())
def test_order_and_repetition_do_not_matter(marks: list[Any], random: Any) -> None:
    applied = [make(anchor, position=position) for make, anchor, position in marks]
    shuffled = applied * 2
    random.shuffle(shuffled)
    for anchor in "ab":
        assert view(*applied).is_revoked([anchor]) == view(*shuffled).is_revoked([anchor])


def test_what_ended_is_forgotten_when_no_token_is_left() -> None:
    life = 3600 + 60 + 15
    made = RevocationMap(max_staleness=15)
    rows = [
        {"id": "old", "stopped": 1, "resumed": 0, "final": True, "stopped_on": NOW - life - 5},
        {"id": "young", "stopped": 2, "resumed": 0, "final": True, "stopped_on": NOW - life + 3600},
        {"id": "held", "stopped": 3, "resumed": 0, "final": False, "stopped_on": NOW - 10 * life},
        {"id": "back", "stopped": 3, "resumed": 4, "final": False, "stopped_on": NOW - 10 * life},
    ]
    made.load(rows)
    assert [row["id"] for row in rows if made.is_revoked([row["id"]])] == ["young", "held"]
    assert len(made) == 2


def test_the_map_is_swept_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = view(ended("a"))
    later = clock.now() + timedelta(hours=2)
    monkeypatch.setattr(clock, "now", lambda: later)
    mark = ended("b", on=int(later.timestamp()))
    made.apply(mark.position, mark.operation)
    assert (len(made), made.is_revoked(["a"]), made.is_revoked(["b"])) == (1, False, True)


async def test_a_snapshot_reads_no_ends_of_long_ago(db: AsyncConnection[Any]) -> None:
    long_ago = NOW - 10 * 3600
    marks = [
        ended("past", position=1, on=long_ago),
        suspended("held", position=2, on=long_ago),
        suspended("both", position=3, on=long_ago),
        ended("both", position=4),
        resumed("back", position=5),
        resumed("back long ago", position=6, on=long_ago),
    ]
    await sql.apply(db, marks)
    rows = await tail_snapshot.rows_of(db, RevocationMap(), {})
    assert {row["id"] for row in rows} == {"held", "both", "back"}


async def test_the_snapshot_gives_the_same_map(db: AsyncConnection[Any]) -> None:
    marks = [
        ended("a", position=1),
        suspended("b", position=2),
        suspended("c", position=3),
        resumed("c", position=4),
        resumed("a", position=5),
    ]
    await sql.apply(db, marks)
    await sql.apply(db, reversed(marks))
    made = RevocationMap()
    made.load(await select(db, "SELECT * FROM revocations", []))
    assert [made.is_revoked([anchor]) for anchor in "abc"] == [True, True, False]


# --- what no token can carry any longer ---------------------------------------------------------

DAY = 86_400


def pruned(before: int) -> Applied:
    return Applied(99, Prune(REVOCATIONS, before))


def aged() -> list[Applied]:
    """Marks of all kinds, from now and from three days ago."""
    old = NOW - 3 * DAY
    return [
        ended("ended", position=1, on=old),
        ended("just ended", position=2),
        suspended("held", position=3, on=old),
        suspended("back", position=4, on=old),
        resumed("back", "below", position=5, on=old + 1),
        suspended("just back", position=6, on=old),
        resumed("just back", position=7),
        suspended("ended again", position=8, on=old),
        resumed("ended again", position=9, on=old),
        ended("ended again", position=10),
    ]


@pytest.mark.parametrize(
    ("days", "gone"),
    [
        (-4, set()),
        (-2, {"ended", "back", "below"}),
        (100, {"ended", "back", "below"}),  # by a clock that is wrong
    ],
    ids=["too young", "over", "a wrong clock"],
)
async def test_what_is_over_goes_and_what_a_token_may_carry_stays(
    db: AsyncConnection[Any], days: int, gone: set[str]
) -> None:
    marks, before = aged(), NOW + days * DAY
    await sql.apply(db, marks)
    await sql.apply(db, [pruned(NOW - 90 * DAY), pruned(before), pruned(NOW - 80 * DAY)])
    rows = {row["id"]: row for row in await select(db, "SELECT * FROM revocations", [])}
    held = MemoryMarks(REVOCATIONS)
    for applied in (*marks, pruned(before)):
        held.apply(applied.position, applied.operation)  # type: ignore[arg-type]
    assert rows == held.rows
    every = {anchor for mark in marks for anchor in mark.operation.ids}  # type: ignore[union-attr]
    assert every - rows.keys() == gone


async def test_what_is_being_written_is_neither_waited_for_nor_lost(
    db: AsyncConnection[Any], database_url: str
) -> None:
    await sql.apply(db, aged())
    async with await AsyncConnection.connect(database_url) as other:
        await sql.apply(other, [ended("back", position=20)])
        await db.execute("SET lock_timeout = '5s'")
        await sql.apply(db, [pruned(NOW - 2 * DAY)])
        await other.commit()
    rows = {row["id"] for row in await select(db, "SELECT id FROM revocations", [])}
    assert rows.isdisjoint({"ended", "below"})
    assert "back" in rows


async def test_a_rebuild_prunes_the_same_rows(
    log: Log, db: AsyncConnection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever topic was applied first, and however much of it at once."""
    now, zone = clock.now(), new_zone()
    of_zone = {"zone_id": zone.aggregate_id}
    app, resource = new_application(**of_zone), new_resource(**of_zone)
    ids = app.aggregate_id, resource.aggregate_id
    grants = [new_grant(*ids, **of_zone) for _ in range(8)]
    sessions = [new_session(app.aggregate_id, **of_zone) for _ in range(8)]
    await log.save(zone, app, resource, *grants, *sessions)
    for number, (grant, session) in enumerate(zip(grants, sessions, strict=True)):
        monkeypatch.setattr(clock, "now", lambda ago=7 - number: now - timedelta(days=ago))
        with in_zone(zone.aggregate_id):
            grant.expire() if number % 2 else grant.revoke(Fall.of_sessions([f"root-{number}"]))
            session.revoke("token_revoked")
        await log.save(grant, session)
    monkeypatch.undo()
    records = await LogReader(db).records(0, limit=1000)
    of_topic = sorted((record.fact() for record in records), key=lambda fact: fact.name)
    for fact in of_topic:
        await sql.apply(db, revocations.reduce(fact))
    live = await select(db, "SELECT * FROM revocations ORDER BY id", [])
    await rebuild(database_url, revocations)
    assert await select(db, "SELECT * FROM revocations ORDER BY id", []) == live
    young = {one.aggregate_id for one in (*grants[5:], *sessions[5:])}
    assert young <= {row["id"] for row in live}
    assert len(live) < 12
