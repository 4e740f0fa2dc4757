"""What must be true when everything has settled: exactly once, in order, equal to the log."""

from __future__ import annotations

from typing import Any

import orjson
from psycopg.rows import dict_row

from caracal.events.record import Record
from caracal.events.store.entries import ZERO, EntryId, entries_of, placed, text_fields
from caracal.events.topics import HEARTBEAT
from caracal.projections.memory import MemoryMarks, MemoryTable, MemoryView, apply
from caracal.projections.projection import Projection
from caracal.projections.table import Merged
from tests.backbone import ALL_TOPICS, ITEMS, RINGS, ZONES, Expected
from tests.journal import tried_since
from tests.torture.process import APPLIED, JOURNAL
from tests.torture.stack import Failed, Stack, until

_NEWEST = 50
PROJECTIONS = tuple(dict.fromkeys(projection for projection, _ in APPLIED))


class Oracle:
    """Reads the log as it grows, and knows what topics and read models must be."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.position = 0
        self.events = 0
        self.applied = 0
        self._names: dict[int, str] = {}
        self._expected: dict[str, Expected] = {name: [] for name in ALL_TOPICS}
        self._given = {topic.name: 0 for topic in (ZONES, ITEMS)}
        self._tried = dict(self._given)
        self._views = views()

    def acknowledged(self, events: list[tuple[int, str]]) -> None:
        """What a caller was told is in the log."""
        self._read_log()
        for position, name in events:
            if self._names.get(position) != name:
                raise Failed(f"{name} was acknowledged at {position}; the log does not have it")

    def settle(self) -> float:
        """Wait until all is published and applied; return the seconds; check everything."""
        self._read_log()
        seconds = until(self._has_settled, self._differences)
        self._stack.check_children()
        self._check_journal(whole=True)
        self._check_topics()
        self._check_read_models(self._views)
        return seconds

    def check_afresh(self) -> None:
        """Fold the whole log again, and compare every row and every entry."""
        fresh = Oracle(self._stack)
        fresh._read_log()
        fresh._check_journal(whole=True)
        fresh._check_read_models(fresh._views)
        fresh._check_topics(newest=10**6)
        if (fresh.events, fresh._expected) != (self.events, self._expected):
            raise Failed("the log is not what it was")

    # --- the log ---------------------------------------------------------------------------

    def _read_log(self) -> None:
        rows = self._stack.db.execute(
            "SELECT position, version, name, state FROM log WHERE position > %s ORDER BY position",
            (self.position,),
        ).fetchall()
        for row in rows:
            self._take(Record.read(*row))

    def _take(self, record: Record) -> None:
        self.position, self.events = record.position, self.events + 1
        self._names[record.position] = record.name
        for name, topic in ALL_TOPICS.items():
            if record.name not in topic.sources:
                continue
            for entry in entries_of(topic, record):
                entries = self._expected[name]
                prev = EntryId.parse(entries[-1][0]) if entries else ZERO
                entries.append((str(entry.id), placed(topic, entry, prev, RINGS)))
        for projection in PROJECTIONS:
            if projection is not JOURNAL:
                apply(self._views, projection.reduce(record.fact()))

    def _last(self, topic: str) -> str:
        entries = self._expected[topic]
        return entries[-1][0] if entries else "0-0"

    # --- settling --------------------------------------------------------------------------

    def _has_settled(self) -> bool:
        self._check_journal(whole=False)
        return not self._differences()

    def _differences(self) -> str:
        found = [*self._of_checkpoints(), *self._of_heads(), *self._of_heartbeat()]
        return "; ".join(found)

    def _of_checkpoints(self) -> list[str]:
        rows = self._stack.db.execute("SELECT projection, topic, position, n FROM checkpoints")
        places = {(row[0], row[1]): f"{row[2]}-{row[3]}" for row in rows}
        return [
            f"{projection.name} on {topic.name} at {place}, not {self._last(topic.name)}"
            for projection, topic in APPLIED
            if (place := places.get((projection.name, topic.name))) != self._last(topic.name)
        ]

    def _of_heads(self) -> list[str]:
        return [
            f"{name} ends at {head}, not {self._last(name)}"
            for name in ALL_TOPICS
            if (head := self._stack.head(name)) != self._last(name) or not self._is_genuine(name)
        ]

    def _is_genuine(self, name: str) -> bool:
        newest = self._stack.redis.xrevrange(name, count=1)
        expected = self._expected[name][-1:]
        return (
            not newest
            or newest[0][0].decode() != self._stack.head(name)
            or _read(newest) == expected
        )

    def _of_heartbeat(self) -> list[str]:
        newest = self._stack.redis.xrevrange(HEARTBEAT, count=1)
        beat = text_fields(newest[0][1]) if newest else None
        if beat is None or not RINGS.facts.verify(HEARTBEAT, beat):
            return ["no heartbeat"]
        heads = {name: self._last(name) for name in ALL_TOPICS}
        if int(beat["position"]) < self.position or orjson.loads(beat["heads"]) != heads:
            return [f"heartbeat {beat['position']} of {self.position}"]
        return []

    # --- checks ----------------------------------------------------------------------------

    def _check_journal(self, *, whole: bool) -> None:
        """Every entry given exactly once, in the order of the log: at any moment, a prefix."""
        tried = {
            topic: tried_since(self._stack.db, JOURNAL, topic, number)
            for topic, number in self._tried.items()
        }
        self._read_log()
        for topic, rows in tried.items():
            for number, entry_id in rows:
                self._next(topic, entry_id)
                self._tried[topic] = number
        if whole and (missing := [topic for topic in self._given if self._more(topic)]):
            raise Failed(f"not everything was applied: {missing}")

    def _next(self, topic: str, entry_id: str) -> None:
        place = self._given[topic]
        expected = self._expected[topic][place][0] if self._more(topic) else "nothing"
        if entry_id != expected:
            raise Failed(f"{topic}: {entry_id} was applied, {expected} was next")
        self._given[topic] += 1
        self.applied += 1

    def _more(self, topic: str) -> bool:
        return self._given[topic] < len(self._expected[topic])

    def _check_topics(self, newest: int = _NEWEST) -> None:
        """What stands on a topic is what the log yields, byte for byte; holes may be."""
        for name, entries in self._expected.items():
            genuine = dict(entries[-newest:])
            for entry_id, fields in _read(self._stack.redis.xrevrange(name, count=newest)):
                if entry_id in genuine and fields != genuine[entry_id]:
                    raise Failed(f"{name}: {entry_id} is not what the log yields")
                if entry_id not in genuine and len(entries) <= newest:
                    raise Failed(f"{name}: {entry_id} is foreign")

    def _check_read_models(self, expected: dict[str, MemoryView]) -> None:
        for name, view in expected.items():
            assert isinstance(view, MemoryTable | MemoryMarks)
            if self._rows(name) != view.rows:
                raise Failed(f"read model {name} differs from a fold of the log")

    def _rows(self, table: str) -> dict[str, dict[str, Any]]:
        with self._stack.db.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(f"SELECT * FROM {table}".encode()).fetchall()
        return {row["id"]: row for row in rows}


def views() -> dict[str, MemoryView]:
    """Return empty tables of all read models but the journal."""
    tables = [table for one in PROJECTIONS if one is not JOURNAL for table in _tables(one)]
    return {
        table.name: MemoryMarks(table) if isinstance(table, Merged) else MemoryTable(table)
        for table in tables
    }


def _tables(projection: Projection) -> tuple[Any, ...]:
    return projection.tables


def _read(raw: Any) -> Expected:
    return [(entry_id.decode(), text_fields(fields) or {"no": "text"}) for entry_id, fields in raw]
