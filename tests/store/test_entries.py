"""Entries: ids as pairs, what counts as ours, and how they are made again from the log."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection

from caracal.events.record import Record
from caracal.events.store import entries as entries_module
from caracal.events.store.entries import (
    LAST,
    ZERO,
    EntryId,
    LogReader,
    entries_of,
    placed,
    text_fields,
    verified,
)
from caracal.events.store.log import Log
from caracal.events.store.memory import MemoryLog
from caracal.events.topics import read_fact
from tests.backbone import (
    ITEMS,
    REVOKE,
    RINGS,
    ZONES,
    archive_zone,
    change_zone,
    in_log,
    new_zone,
    save_all,
)

ids = st.builds(EntryId, st.integers(0, 2**62), st.integers(0, 2**31))


@given(ids, ids)
def test_ids_are_pairs_of_numbers(one: EntryId, other: EntryId) -> None:
    assert EntryId.parse(str(one)) == EntryId.parse(str(one).encode()) == one
    assert (one < other) == ((one.position, one.n) < (other.position, other.n))
    assert ZERO <= one <= LAST


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-1", "1-b", "1-2-3"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError):
        EntryId.parse(text)


async def archived(*sids: str) -> Record:
    log = MemoryLog()
    zone = archive_zone(new_zone(), *sids)
    await log.save(zone)
    return log.records[-1]


async def test_ours_is_signed_and_where_its_id_says() -> None:
    (entry,) = entries_of(ZONES, await archived())
    fields = placed(ZONES, entry, ZERO, RINGS)
    entry_id = str(entry.id)
    assert verified(ZONES, entry_id, fields, RINGS)
    assert not verified(ZONES, "9-0", fields, RINGS)
    assert not verified(ITEMS, entry_id, fields, RINGS)
    for name in fields:
        without = {key: value for key, value in fields.items() if key != name}
        assert not verified(ZONES, entry_id, without, RINGS)
        assert not verified(ZONES, entry_id, {**fields, name: "x"}, RINGS)


async def test_the_key_of_signals_opens_no_facts() -> None:
    (entry,) = entries_of(ZONES, await archived())
    fields = {**entry.fields, "position": str(entry.id.position), "prev": "0-0"}
    assert not verified(ZONES, str(entry.id), RINGS.signals.signed(ZONES.name, fields), RINGS)


async def test_several_entries_of_one_event() -> None:
    record = await archived("s1", "s2", "s3")
    for topic in (ITEMS, REVOKE):
        entries = entries_of(topic, record)
        assert [entry.id for entry in entries] == [EntryId(record.position, n) for n in range(3)]
    assert [entry.fields["session_id"] for entry in entries] == ["s1", "s2", "s3"]


async def test_a_fact_is_the_same_from_topic_and_log() -> None:
    log = MemoryLog()
    zone = change_zone(new_zone(name='"é\\ \U0001f600'), name="", slug="other")
    await log.save(archive_zone(zone, "s1"))
    for record in log.records:
        (entry,) = entries_of(ZONES, record)
        fields = placed(ZONES, entry, ZERO, RINGS)
        assert read_fact(record.position, fields) == record.fact()


def test_what_is_no_text_is_not_ours() -> None:
    assert text_fields({b"a": b"\xff"}) is None
    assert text_fields({b"a": "é".encode()}) == {"a": "é"}


# --- reading the log -----------------------------------------------------------------------


async def test_pages_make_the_whole(log: Log, db: AsyncConnection[Any]) -> None:
    for count in (3, 0, 1, 4):
        await log.save(archive_zone(new_zone(), *(f"s{n}" for n in range(count))))
    reader = LogReader(db)
    whole, _ = await reader.entries(ITEMS, ZERO)
    assert [entry.id.n for entry in whole] == [0, 1, 2, 0, 0, 1, 2, 3]
    for limit in (1, 2, 3):
        paged, after, more = [], ZERO, True
        while more:
            page, more = await reader.entries(ITEMS, after, limit=limit)
            paged += page
            after = page[-1].id if page else after
        assert paged == whole
    for place, entry in enumerate(whole):
        rest, _ = await reader.entries(ITEMS, entry.id)
        assert rest == whole[place + 1 :]
        upto, _ = await reader.entries(ITEMS, ZERO, entry.id)
        assert upto == whole[: place + 1]


async def test_prev_and_at(log: Log, db: AsyncConnection[Any]) -> None:
    for count in (2, 0, 0, 1):
        await log.save(archive_zone(new_zone(), *(f"s{n}" for n in range(count))))
    reader = LogReader(db)
    entries, _ = await reader.entries(ITEMS, ZERO)
    assert [await reader.before(ITEMS, entry.id) for entry in entries] == [
        ZERO,
        *(entry.id for entry in entries[:-1]),
    ]
    for entry in entries:
        assert await reader.at(ITEMS, entry.id) == entry
        assert await reader.at(ITEMS, EntryId(entry.id.position, 9)) is None
        assert await reader.at(ITEMS, EntryId(entry.id.position - 1, 0)) is None
    assert await reader.before(ITEMS, LAST) == entries[-1].id


async def test_many_events_without_an_entry_are_passed(log: Log, db: AsyncConnection[Any]) -> None:
    await log.save(archive_zone(new_zone(), "first"))
    await save_all(log, (archive_zone(new_zone()) for _ in range(12)))
    await log.save(archive_zone(new_zone(), "last"))
    reader = LogReader(db)
    (first,), more = await reader.entries(ITEMS, ZERO, limit=1)
    (last,), _ = await reader.entries(ITEMS, first.id, limit=5)
    assert more
    assert last.id.position == await reader.end()
    assert await reader.entries(ITEMS, last.id, limit=1) == ([], False)
    assert [prev["prev"] for _, prev in await in_log(db, ITEMS)] == ["0-0", str(first.id)]


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (entries_module._BETWEEN, (0, 10**9, 500, 500)),
        (entries_module._BEFORE, (10**9, 1, 1)),
    ],
    ids=["between", "before"],
)
async def test_a_topic_that_is_seldom_written_costs_no_walk_over_the_log(
    db: AsyncConnection[Any], statement: str, arguments: tuple[int, ...]
) -> None:
    """Whatever the planner thinks of names: the pages touched do not grow with the log."""
    await db.execute(
        "INSERT INTO log (aggregate_key, version, name, state)"
        " SELECT gen_random_uuid(), 1, CASE WHEN n < 20 THEN 'zone.created'"
        " ELSE (ARRAY['session.started', 'resource.created', 'grant.created'])[1 + n % 3] END,"
        " repeat('x', 100)::bytea FROM generate_series(1, 60000) AS n"
    )
    await db.execute("ANALYZE log")
    # The plan for any topic, as a statement gets it that was prepared long ago.
    await db.execute("SET plan_cache_mode = force_generic_plan")
    for number in range(statement.count("%s")):
        statement = statement.replace("%s", f"${number + 1}", 1)
    await db.execute(f"PREPARE of_names AS {statement}")
    given = ", ".join(str(value) for value in arguments)
    cursor = await db.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE of_names"
        f" ('{{zone.created,zone.changed,zone.archived}}', {given})"
    )
    row = await cursor.fetchone()
    assert row is not None
    assert row[0][0]["Plan"]["Shared Hit Blocks"] + row[0][0]["Plan"]["Shared Read Blocks"] < 100
