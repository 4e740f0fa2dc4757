"""The zones in memory: loaded when an authenticated caller first needs one, least used gone first.

Each is held by whoever uses it, and the tail feeds it for as long as anybody does: one that is put
out of here while a request goes on stays as new as all others until that request has ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from caracal.errors import CaracalError, Unavailable
from caracal.events.base import Fact
from caracal.projections.partition import Partition
from caracal.projections.tail import Tail
from caracal.projections.tail_snapshot import fill
from caracal.services.connections import Pool
from caracal.services.consistency import need_log, patience, state_stale
from caracal.services.flights import Flights
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

Zone = TypeVar("Zone", bound=Partition)
"""What a service holds of one zone."""

PARALLEL = 2
"""Loads at once: each costs the database a scan of the zone, and this process its time."""
PATIENCE_SECONDS = 4.0
"""How long a caller waits; clients give up after 5 s."""
_ATTEMPTS = 3
_LOOK_SECONDS = 1.0


@dataclass
class _Counters:
    loads_total: int = 0
    load_failures_total: int = 0
    load_seconds_total: float = 0.0
    evictions_total: int = 0


class Zones(Generic[Zone]):
    """The zones that are loaded, up to about ``max_bytes``; the one used last is never put out.

    Attributes:
        loaded: called with each zone whose rows have come.
        evicted: called with the id of each that is not kept any more.
    """

    def __init__(
        self, make: Callable[[str], Zone], tail: Tail, database: Pool, max_bytes: int
    ) -> None:
        self._make, self._tail, self._database = make, tail, database
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Zone] = OrderedDict()  # used last: at the end
        self._flights: Flights[Zone] = Flights()
        self._turns = asyncio.Semaphore(PARALLEL)
        self._wanted: deque[str] = deque()
        self._fetching: asyncio.Task[None] | None = None
        self._next_look = 0.0
        self.loaded: list[Callable[[Zone], None]] = []
        self.evicted: list[Callable[[str], None]] = []
        self._counters = _Counters()
        tail.listeners.append(self._look)
        tail.reloaded.append(self._renew)

    async def close(self) -> None:
        """End the loads under way."""
        if self._fetching is not None:
            await cancelled(self._fetching)
        await self._flights.close()

    def peek(self, zone_id: str | None) -> Zone | None:
        """Return a zone that is in memory, also one that only a request holds."""
        zone = self._kept.get(zone_id or "")
        if zone is None:
            zone = cast("Zone | None", self._tail.partitions.get(zone_id or ""))
        return zone if zone is not None and zone.usable else None

    async def load(self, zone_id: str) -> Zone:
        """Return a zone, and note that it is used. Only for who is authenticated.

        Raises:
            Unavailable: 503 ``state_stale``, it is not in memory and cannot be read now.
        """
        if (known := self.peek(zone_id)) is not None:
            return self._used(known)
        await need_log(self._tail)
        zone = await self._joined(zone_id)
        if zone.outdated:  # since it was loaded the tail was taken anew
            raise state_stale()
        return self._used(zone)

    def note_use(self, zone_id: str) -> None:
        """Note that a zone is used, if it is in memory. Only by who is authenticated."""
        if (known := self.peek(zone_id)) is not None:
            self._used(known)

    async def arriving(self, zone_id: str) -> None:
        """Wait for a zone that is being loaded; nothing is begun here.

        Raises:
            Unavailable: 503 ``state_stale``.
        """
        if zone_id in self._flights:
            await self._joined(zone_id)

    def want(self, zone_id: str) -> None:
        """Load a zone soon."""
        self._wanted.append(zone_id)
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_wanted(), name="zones wanted")

    def kept(self) -> list[Zone]:
        """Return the zones that are kept, used last first."""
        return list(reversed(self._kept.values()))

    def _renew(self) -> None:
        """Load all anew, in the order of their last use: the tail was taken anew."""
        ids, self._kept = list(self._kept), OrderedDict()
        for zone_id in ids:
            self._tell_evicted(zone_id)
            self.want(zone_id)

    def _look(self, fact: Fact) -> None:
        """See from time to time whether the zones have grown."""
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._shrink()

    @property
    def counters(self) -> dict[str, float]:
        """Return what ``/metrics`` tells of them."""
        weight = sum(zone.weight for zone in self._kept.values())
        return {"loaded": len(self._kept), "bytes": weight, **vars(self._counters)}

    def _used(self, zone: Zone) -> Zone:
        comes = self._kept.get(zone.id) is not zone
        self._kept[zone.id] = zone
        self._kept.move_to_end(zone.id)
        if comes:
            self._shrink()
        return zone

    async def _joined(self, zone_id: str) -> Zone:
        try:
            async with patience(PATIENCE_SECONDS):
                return await self._flights.join(zone_id, lambda: self._loaded(zone_id))
        except Unavailable as error:
            cause = type(error.__context__ or error).__name__
            logger.warning("zone %s is not loaded: %s", zone_id, cause)
            raise

    async def _loaded(self, zone_id: str) -> Zone:
        async with self._turns:
            if (known := self.peek(zone_id)) is not None:
                return known  # there must never be two: the tail feeds one
            began = time.monotonic()
            try:
                zone = await self._filled(zone_id)
            except BaseException:
                self._counters.load_failures_total += 1
                raise
            self._counters.loads_total += 1
            self._counters.load_seconds_total += time.monotonic() - began
        for told in self.loaded:
            told(zone)
        return self._used(zone)  # even if nobody waits any more

    async def _filled(self, zone_id: str) -> Zone:
        for _ in range(_ATTEMPTS):
            zone = self._make(zone_id)
            async with self._database.connection() as connection:
                await fill(connection, self._tail, zone)
            if zone.usable:
                return zone
        raise state_stale()

    async def _fetch_wanted(self) -> None:
        while self._wanted:
            with suppress(CaracalError):  # then its first use loads it
                await self.load(self._wanted.popleft())

    def _shrink(self) -> None:
        weight = sum(zone.weight for zone in self._kept.values())
        while weight > self._max_bytes and len(self._kept) > 1:
            zone_id, zone = self._kept.popitem(last=False)
            weight -= zone.weight
            self._counters.evictions_total += 1
            self._tell_evicted(zone_id)

    def _tell_evicted(self, zone_id: str) -> None:
        for told in self.evicted:
            told(zone_id)
