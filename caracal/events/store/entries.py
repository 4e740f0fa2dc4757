"""Entries of relayed topics: their ids, their bytes, and how to make them again from the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from caracal.events.base import Fact
from caracal.events.record import Record
from caracal.events.topics import Fields, Topic
from caracal.stream_signature import Keyring


class EntryId(NamedTuple):
    """The full id of an entry: ``<position>-<n>``, compared as a pair of numbers."""

    position: int
    n: int

    @classmethod
    def parse(cls, text: str | bytes) -> EntryId:
        """Read an id as Redis writes it.

        Raises:
            ValueError: not of that form.
        """
        position, _, n = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(position), int(n))

    def before(self) -> EntryId:
        """Return the greatest id below this one."""
        if self.n:
            return EntryId(self.position, self.n - 1)
        return EntryId(max(self.position - 1, 0), _LARGEST_N)

    def __str__(self) -> str:
        return f"{self.position}-{self.n}"


_LARGEST_N = 2**63 - 1  # as a database's bigint has it


ZERO = EntryId(0, 0)
LAST = EntryId(2**62, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that the log yields for a topic."""

    id: EntryId
    fields: Fields
    record: Record


@dataclass(frozen=True, slots=True)
class Rings:
    """The two rings of keys, one for facts, one for signals."""

    facts: Keyring
    signals: Keyring

    def of(self, topic: Topic) -> Keyring:
        """Return the ring of a topic."""
        return self.facts if topic.key == "facts" else self.signals


def placed(topic: Topic, entry: Entry, prev: EntryId, rings: Rings) -> dict[str, str]:
    """Return the signed bytes of an entry: a pure function of its event (but for the key)."""
    fields = {**entry.fields, "position": str(entry.id.position), "prev": str(prev)}
    return rings.of(topic).signed(topic.name, fields)


def verified(topic: Topic, entry_id: str, fields: Mapping[str, str], rings: Rings) -> bool:
    """Say whether an entry is ours: signed, and at the position that its id says."""
    return (
        rings.of(topic).verify(topic.name, fields)
        and fields.get("position") == entry_id.partition("-")[0]
        and "prev" in fields
    )


def text_fields(raw: Mapping[bytes, bytes]) -> dict[str, str] | None:
    """Decode an entry; None when it is no text (then it is not ours)."""
    try:
        return {name.decode(): value.decode() for name, value in raw.items()}
    except UnicodeDecodeError:
        return None


_ROWS = "SELECT position, version, name, state FROM log"


def _of_names(where: str, order: str) -> str:
    """Return the query of the events of some names: each name by the index, then merged.

    Rows are compared, not columns: with ``name = ...`` the planner trusts that a name is frequent
    and walks the whole log, in order of position, for a topic that is seldom written.
    """
    each = f"{_ROWS} WHERE {where} ORDER BY name {order}, position {order} LIMIT %s"
    return (
        "SELECT found.* FROM unnest(%s::text[]) AS wanted (of)"
        f" CROSS JOIN LATERAL ({each}) AS found ORDER BY found.position {order} LIMIT %s"
    )


_BETWEEN = _of_names("(name, position) > (of, %s) AND (name, position) <= (of, %s)", "ASC")
_BEFORE = _of_names("(name, position) < (of, %s) AND (name, position) > (of, 0)", "DESC")


class LogReader:
    """Reads the log in order, on a connection of its owner's."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def end(self) -> int:
        """Return the last position; 0 of an empty log."""
        cursor = await self._connection.execute("SELECT coalesce(max(position), 0) FROM log")
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def log_id(self) -> str:
        """Return the random name of this log."""
        cursor = await self._connection.execute("SELECT log_id FROM log_identity")
        row = await cursor.fetchone()
        return str(row[0]) if row else ""

    async def records(self, after: int, *, limit: int = 500) -> list[Record]:
        """Return the events after a position, in order."""
        cursor = await self._connection.execute(
            f"{_ROWS} WHERE position > %s ORDER BY position LIMIT %s", (after, limit), prepare=True
        )
        return [Record.read(*row) for row in await cursor.fetchall()]

    async def named(
        self, names: Iterable[str], after: int, upto: int = LAST.position, *, limit: int = 500
    ) -> list[Record]:
        """Return the events of some names with ``after`` < position <= ``upto``, in order."""
        cursor = await self._connection.execute(
            _BETWEEN, (list(names), after, upto, limit, limit), prepare=True
        )
        return [Record.read(*row) for row in await cursor.fetchall()]

    async def entries(
        self, topic: Topic, after: EntryId, upto: EntryId = LAST, *, limit: int = 500
    ) -> tuple[list[Entry], bool]:
        """Return the entries of a topic with ``after`` < id <= ``upto``, and whether more follow.

        The position of ``after`` is read again: its event may have further entries.
        """
        position = after.position - 1
        while True:
            records = await self.named(topic.sources, position, upto.position, limit=limit)
            more = len(records) == limit
            entries = [
                entry
                for record in records
                for entry in entries_of(topic, record)
                if after < entry.id <= upto
            ]
            if entries or not more:
                return entries, more
            position = records[-1].position  # events that have no entry here

    async def facts_after(self, topic: Topic, place: EntryId) -> AsyncIterator[Fact]:
        """Yield the facts of a topic after a place, in order, up to the log's end."""
        more = True
        while more:
            entries, more = await self.entries(topic, place)
            for entry in entries:
                place = entry.id
                yield entry.record.fact()

    async def at(self, topic: Topic, entry_id: EntryId) -> Entry | None:
        """Return the entry with this id; None when the log yields none for the topic."""
        cursor = await self._connection.execute(
            f"{_ROWS} WHERE position = %s AND name = ANY(%s)",
            (entry_id.position, list(topic.sources)),
        )
        row = await cursor.fetchone()
        entries = entries_of(topic, Record.read(*row)) if row else []
        return next((entry for entry in entries if entry.id == entry_id), None)

    async def before(self, topic: Topic, entry_id: EntryId) -> EntryId:
        """Return the id of the last entry of a topic before ``entry_id``; 0-0 for the first."""
        position = entry_id.position + 1
        while True:
            cursor = await self._connection.execute(
                _BEFORE, (list(topic.sources), position, 1, 1), prepare=True
            )
            if (row := await cursor.fetchone()) is None:
                return ZERO
            entries = entries_of(topic, Record.read(*row))
            if earlier := [entry.id for entry in entries if entry.id < entry_id]:
                return earlier[-1]
            position = row[0]


def entries_of(topic: Topic, record: Record) -> list[Entry]:
    """Return the entries that one event has on a topic, in order; pure."""
    return [
        Entry(EntryId(record.position, n), fields, record)
        for n, fields in enumerate(topic.entries(record))
    ]
