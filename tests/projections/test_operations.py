"""Operations: the same rows in SQL and in memory, in any order that topics allow."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from caracal.projections import sql
from caracal.projections.memory import MemoryMarks, MemoryTable, MemoryView, Row, apply
from caracal.projections.table import Applied, Change, End, Mark, Merged, Put, Table

THINGS = Table(
    "things",
    columns={
        "name": "text",
        "size": "bigint",
        "extra": "jsonb",
        "ready": "boolean",
        "status": "text",
        "ended_on": "timestamptz",
    },
    final=("status", "ended_on"),
    indexes=("(name)",),
)
MARKS = Merged("marks", {"highest": "bigint", "final": "boolean", "status": "int"})

Delivery = tuple[str, Applied]  # topic, operation

names = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
)
times = st.sampled_from([None, "2026-05-11T20:00:00.000001Z", "2026-05-11T20:00:00Z"])
own_columns = st.fixed_dictionaries(
    {},
    optional={
        "name": names,
        "size": st.integers(-(2**63), 2**63 - 1),
        "extra": st.sampled_from([None, [], {"a": [1, "é"]}, "text", 0]),
        "ready": st.booleans(),
        "status": st.sampled_from(["active", None]),
        "ended_on": times,
    },
)
final_columns = st.fixed_dictionaries(
    {}, optional={"status": st.sampled_from(["revoked", "expired"]), "ended_on": times}
)
THING_IDS = ["a", "b", "c"]
ids = st.lists(st.sampled_from(THING_IDS), min_size=1, max_size=3)
marks = st.fixed_dictionaries(
    {},
    optional={
        "highest": st.integers(0, 9),
        "final": st.booleans(),
        "status": st.none() | st.integers(0, 9),
    },
).filter(bool)


@st.composite
def histories(draw: st.DrawFn) -> list[Delivery]:
    """Return a log: things begin once and change on their own topic; any topic ends and marks."""
    history: list[Delivery] = []
    begun: set[str] = set()
    for position in range(1, draw(st.integers(1, 14)) + 1):
        kind = draw(st.sampled_from(["own", "own", "end", "mark"]))
        topic = draw(st.sampled_from(["things", "others", "more"]))
        if kind == "end":
            operation: Any = End(THINGS, draw(ids), draw(final_columns))
        elif kind == "mark":
            operation = Mark(MARKS, draw(ids), draw(marks))
        else:
            topic, thing = "things", draw(st.sampled_from(THING_IDS))
            operation = (Change if thing in begun else Put)(THINGS, thing, draw(own_columns))
            begun.add(thing)
        history.append((topic, Applied(position, operation)))
    return history


def interleaved(history: Sequence[Delivery], seed: int) -> list[Applied]:
    """Return the operations in another order; each topic's own order stays."""
    chooser, waiting = random.Random(seed), [applied for _, applied in history]
    queues: dict[str, list[Applied]] = {}
    for topic, applied in history:
        queues.setdefault(topic, []).append(applied)
    order = []
    while waiting:
        queue = chooser.choice([queue for queue in queues.values() if queue])
        order.append(queue.pop(0))
        waiting.pop()
    return order


def views() -> dict[str, MemoryView]:
    return {"things": MemoryTable(THINGS), "marks": MemoryMarks(MARKS)}


def rows_of(held: dict[str, MemoryView]) -> dict[str, dict[str, Row]]:
    things, marked = held["things"], held["marks"]
    assert isinstance(things, MemoryTable)
    assert isinstance(marked, MemoryMarks)
    return {"things": things.rows, "marks": marked.rows}


def in_memory(*deliveries: Iterable[Applied]) -> dict[str, dict[str, Row]]:
    held = views()
    for operations in deliveries:
        apply(held, operations)
    return rows_of(held)


async def in_sql(
    db: AsyncConnection[Any], batches: Iterable[Sequence[Applied]]
) -> dict[str, dict[str, Row]]:
    async with db.transaction(force_rollback=True):
        for table in (THINGS, MARKS):
            for statement in table.ddl():
                await db.execute(statement)
        for batch in batches:
            await sql.apply(db, batch)
        found = {}
        for table in (THINGS, MARKS):
            async with db.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(f"SELECT * FROM {table.name}")
                found[table.name] = {row["id"]: row for row in await cursor.fetchall()}
    return found


def batches(operations: Sequence[Applied], size: int) -> list[Sequence[Applied]]:
    return [operations[start : start + size] for start in range(0, len(operations), size)]


@given(histories(), st.integers())
@settings(max_examples=300, deadline=None)
def test_order_among_topics_does_not_matter(history: list[Delivery], seed: int) -> None:
    in_order = [applied for _, applied in history]
    assert in_memory(interleaved(history, seed)) == in_memory(in_order)


@given(histories(), st.integers())
@settings(max_examples=100, deadline=None)
def test_twice_is_once(history: list[Delivery], seed: int) -> None:
    order = interleaved(history, seed)
    once = in_memory(order)
    assert in_memory(applied for one in order for applied in (one, one)) == once
    assert in_memory(order, order) == once


@given(histories(), st.integers(), st.sampled_from([1, 3, 100]))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_sql_and_memory_agree(
    db: AsyncConnection[Any], history: list[Delivery], seed: int, size: int
) -> None:
    order = interleaved(history, seed)
    expected = in_memory(order)
    assert await in_sql(db, batches(order, size)) == expected
    assert await in_sql(db, [*batches(order, size), order]) == expected


@given(histories())
@settings(max_examples=100, deadline=None)
def test_indexes_find_what_lives(history: list[Delivery]) -> None:
    table = MemoryTable(THINGS)
    by_name = table.index("name")
    for _, applied in history:
        apply({"things": table}, [applied])
    found = {
        row["id"] for name in {r["name"] for r in table.rows.values()} for row in by_name(name)
    }
    live = {row_id for row_id in table.rows if table.live(row_id)}
    assert found == live
    assert by_name("no such name") == []
    assert set(table._indexes["name",]) == {(table.rows[row_id]["name"],) for row_id in live}


@pytest.mark.parametrize("count", [1, 3])
def test_one_shape_is_one_statement(count: int) -> None:
    operations = [Applied(n, Put(THINGS, str(n), {"name": "x"})) for n in range(count)]
    assert len(sql.grouped(operations)) == 1


def test_what_touches_one_id_stays_in_order() -> None:
    operations = [
        Applied(1, Put(THINGS, "a", {"name": "x"})),
        Applied(2, Change(THINGS, "a", {"name": "y"})),
        Applied(3, Change(THINGS, "b", {"name": "z"})),
        Applied(4, Change(THINGS, "a", {"name": "z"})),
        Applied(5, Put(THINGS, "c", {"name": "x"})),
        Applied(6, End(THINGS, ["a", "c", "c"], {})),
    ]
    groups = [(g.kind, [row[:2] for row in g.rows]) for g in sql.grouped(operations)]
    assert groups == [
        (Put, [("a", 1), ("c", 5)]),
        (Change, [("a", 2), ("b", 3)]),
        (Change, [("a", 4)]),
        (End, [("a", 6), ("c", 6)]),
    ]
