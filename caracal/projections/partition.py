"""The rows of one zone in memory: loaded while the tail goes on, and kept up to date by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from caracal.projections.memory import MemoryTable, apply
from caracal.projections.table import Applied


class Partition:
    """Tables that hold what one zone has; the tail of the process feeds those that are in use.

    A change needs the row that it changes, so what comes while rows are being loaded waits.

    Attributes:
        id: of the zone.
        tables: by name; what an operation does to others does not concern it.
        outdated: the tail was taken anew, and what it missed is not known: of no use any more.
    """

    def __init__(self, zone_id: str, tables: Iterable[MemoryTable]) -> None:
        self.id = zone_id
        self.tables: Mapping[str, MemoryTable] = {table.table.name: table for table in tables}
        self.outdated = False
        self._waiting: list[Applied] | None = []

    @property
    def usable(self) -> bool:
        """Say whether all of it is there, and as new as the tail."""
        return self._waiting is None and not self.outdated

    @property
    def weight(self) -> int:
        """Return about how many bytes it takes."""
        return sum(table.weight for table in self.tables.values())

    def apply(self, operations: Iterable[Applied]) -> None:
        """Apply what a fact does, as soon as the rows are there."""
        if self._waiting is None:
            apply(self.tables, operations)
        else:
            self._waiting.extend(operations)

    def apply_now(self, operations: Iterable[Applied]) -> None:
        """Apply what belongs to the snapshot: it goes before all that waits."""
        apply(self.tables, operations)

    def complete(self) -> None:
        """Note that the rows are there, and apply what has waited for them."""
        waiting, self._waiting = self._waiting or [], None
        apply(self.tables, waiting)
