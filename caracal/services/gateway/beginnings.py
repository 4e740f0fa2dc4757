"""Agents and edges that are not in memory, by how they began: that never changes, nor do they go.

Who names one that ended long ago is told so by the STS, as is who names one that ended just now.
"""

from __future__ import annotations

from caracal.projections.agent import AGENTS, agents
from caracal.projections.delegation import DELEGATIONS, delegations
from caracal.projections.memory import MemoryTable, Row
from caracal.projections.tail import Tail
from caracal.services.connections import Pool
from caracal.services.consistency import need_log, state_stale
from caracal.services.look_ups import LookUps, read
from caracal.services.remembered import Remembered

_MAX_KNOWN = 4096
_NOBODY: Row = {}
_SOURCES = {AGENTS.name: (AGENTS, agents), DELEGATIONS.name: (DELEGATIONS, delegations)}


class Beginnings:
    """Finds them in the log, for who has proven to belong to a zone; zones take turns."""

    def __init__(self, database: Pool, tail: Tail) -> None:
        self._look_ups, self._tail = LookUps(database, state_stale), tail
        self._known: Remembered[tuple[str, str], Row] = Remembered(_MAX_KNOWN)

    async def find(self, name: str, zone_id: str, thing_id: str) -> Row | None:
        """Return a row of ``agents`` or ``delegations`` as it began, whatever its zone is.

        ``zone_id`` is that of who asks.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read now.
        """
        key = name, thing_id  # an agent is no edge: who names one as the other hides none
        row = self._known.get(key)
        if row is None:
            row = await self._read(name, zone_id, thing_id)
            # Ids are made where things begin: one that was not there is nobody's for good.
            self._known.keep(key, row, self._known.changes)
        return row or None

    async def _read(self, name: str, zone_id: str, thing_id: str) -> Row:
        await need_log(self._tail)
        declared, projection = _SOURCES[name]
        async with self._look_ups.turn(zone_id, zone_id) as connection:
            table = await read(connection, [thing_id], projection, MemoryTable(declared))
        row = table.rows.get(thing_id, _NOBODY)
        return _NOBODY if row.get("stub") else row
