"""A projection that writes down what it was given: by it "exactly once, in order" is seen.

A trigger notes every insert that is tried, so that a row given twice shows, though the table
itself, as every read model, would keep one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from psycopg import AsyncConnection, Connection

from caracal.events.base import Fact
from caracal.events.record import Record
from caracal.events.topics import TOPICS, Fields, Topic
from caracal.projections.projection import Projection
from caracal.projections.table import Applied, Put, Table

ZONES, REVOKE = TOPICS["caracal.zones.events"], TOPICS["caracal.sessions.revoke"]
ITEM = "item"


def _items(record: Record) -> list[Fields]:
    (entry,) = ZONES.entries(record)
    sessions = enumerate(record.state.get("sessions", []))
    return [
        {**entry, "event": ITEM, "data": orjson.dumps({"n": n, "sid": sid}).decode()}
        for n, sid in sessions
    ]


ITEMS = Topic("caracal.items.events", "facts", ("zone.archived",), _items)
"""A topic of facts on which one event has as many entries as it names sessions."""


class Journal(Projection):
    """One row for each entry of :data:`ZONES` and :data:`ITEMS`."""

    def __init__(self, name: str = "journal", watch: Callable[[Fact], Any] = lambda fact: None):
        self.table = Table(name, {"topic": "text", "event": "text", "thing": "text"})
        self.watch = watch
        super().__init__(name, self.table)

    @property
    def topics(self) -> list[Topic]:
        return [ZONES, ITEMS]

    def reduce(self, fact: Fact) -> list[Applied]:
        self.watch(fact)
        topic, n = (ITEMS, fact.data["n"]) if fact.name == ITEM else (ZONES, 0)
        columns = {"topic": topic.name, "event": fact.name, "thing": fact.aggregate_id}
        row = Put(self.table, f"{topic.name} {fact.position}-{n}", columns)
        return [Applied(fact.position, row)]

    def ddl(self) -> list[str]:
        """Return what makes the table, and the notes of all that was tried to put into it."""
        name = self.name
        return [
            *self.table.ddl(),
            f"CREATE TABLE {name}_tried (number bigserial, topic text, entry_id text)",
            f"CREATE FUNCTION {name}_try() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" INSERT INTO {name}_tried (topic, entry_id)"
            " VALUES (NEW.topic, split_part(NEW.id, ' ', 2)); RETURN NEW; END $$",
            f"CREATE TRIGGER try BEFORE INSERT ON {name}"
            f" FOR EACH ROW EXECUTE FUNCTION {name}_try()",
        ]

    async def prepare(self, db: AsyncConnection[Any]) -> None:
        """Make the tables."""
        for statement in self.ddl():
            await db.execute(statement)

    async def applied(self, db: AsyncConnection[Any], topic: Topic) -> list[str]:
        """Return the ids of the entries of a topic, in the order in which they were given."""
        cursor = await db.execute(
            f"SELECT entry_id FROM {self.name}_tried WHERE topic = %s ORDER BY number",
            (topic.name,),
        )
        return [row[0] for row in await cursor.fetchall()]

    async def forget(self, db: AsyncConnection[Any]) -> None:
        """Begin anew."""
        await db.execute(f"TRUNCATE {self.name}, {self.name}_tried")
        await db.execute("DELETE FROM checkpoints WHERE projection = %s", (self.name,))


def tried_since(db: Connection, journal: Journal, topic: str, number: int) -> list[tuple[int, str]]:
    """Return (number, entry id) of what was given after ``number``, in order.

    Of one topic at a time: numbers of another may become visible before lower ones.
    """
    return db.execute(
        f"SELECT number, entry_id FROM {journal.name}_tried"
        " WHERE topic = %s AND number > %s ORDER BY number",
        (topic, number),
    ).fetchall()
