"""Resources of zones that are not in memory: read alone, for who has proven nothing.

The contract wants them told whether a resource is routable (section 4, row 8, comes before the
signature; metadata need none). That must not make this process load a zone, or put one out.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from psycopg import AsyncConnection

from caracal.events.base import Fact
from caracal.events.resource import identifier_key
from caracal.projections.memory import Row
from caracal.projections.resource import names_of, recent_resources, resources
from caracal.resource_match import prefixes_of
from caracal.services.connections import Pool
from caracal.services.consistency import need_log, state_stale
from caracal.services.known_zones import KnownZones
from caracal.services.look_ups import LookUps, read
from caracal.services.remembered import Remembered
from caracal.services.zones import Zone

_MAX_ZONES, _MAX_EACH = 128, 32
_Answers = dict[bytes, Row | None]


class LoneResources:
    """Finds them in the log; who holds an identifier there the guards know.

    An answer is remembered until a resource of the zone changes, that there is none, too: who asks
    the same again costs no look at the database.
    """

    def __init__(self, database: Pool, view: KnownZones[Zone]) -> None:
        self._view, tail = view, view.following
        self._look_ups = LookUps(database, state_stale)
        self._known: Remembered[str, _Answers] = Remembered(_MAX_ZONES)
        tail.listeners.append(self._applied)
        tail.reloaded.append(self._known.forget_all)

    async def find(self, zone_id: str, requested: str, asker: str) -> Row | None:
        """Return the resource that ``requested`` names: exact, else the longest prefix.

        Args:
            zone_id: of the resource.
            requested: identifier as the caller sent it.
            asker: address of the caller: zones take turns, and in a zone the addresses.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read now, or too many wait.
        """
        digest = blake2b(requested.encode(), digest_size=16).digest()
        if digest in (known := self._answers(zone_id)) and known[digest] is None:
            await self._view.look_again()  # it may have been made just now
        if digest in (known := self._answers(zone_id)):
            return known[digest]
        await need_log(self._view.following)
        changes = self._known.changes
        row = await self._read(zone_id, requested, asker)
        known = self._answers(zone_id)
        kept = known if len(known) < _MAX_EACH else {}
        self._known.keep(zone_id, {**kept, digest: row}, changes)
        return row

    def _applied(self, fact: Fact) -> None:
        """Forget a zone one of whose resources has changed."""
        if fact.zone_id is not None and fact.name.startswith("resource."):
            self._known.changed(fact.zone_id)

    def _answers(self, zone_id: str) -> _Answers:
        return self._known.get(zone_id) or {}

    async def _read(self, zone_id: str, requested: str, asker: str) -> Row | None:
        table = recent_resources()
        named = names_of(table)
        async with self._look_ups.turn(zone_id, asker) as connection:
            holders = await _holders(connection, zone_id, requested)
            await read(connection, holders, resources, table)
        return named(requested)


async def _holders(connection: AsyncConnection[Any], zone_id: str, requested: str) -> list[str]:
    """Return the ids of the live resources whose identifier, or a prefix of whose, may be meant."""
    if "\0" in requested:  # no text of PostgreSQL's, so nobody's identifier
        return []
    names = {requested, *prefixes_of(requested)}
    cursor = await connection.execute(
        "SELECT owner FROM guard_key WHERE key = ANY(%s)",
        ([identifier_key(zone_id, name) for name in names],),
        prepare=True,
    )
    return [owner for (owner,) in await cursor.fetchall()]
