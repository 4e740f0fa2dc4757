"""Who has the next turn at what anybody may ask for: zones in turn, and in a zone its lanes.

A lane is an application whose secrets are hashed, or an address that names applications. Only so
many wait. When one too many comes, it is not that one that goes, but the newest of whoever has most
waiting: a zone that is flooded fills the queue, and takes no other zone's place in it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from caracal.errors import CaracalError, TooMany

_Place = asyncio.Future[None]
_Lanes = OrderedDict[str, deque[_Place]]
"""Who waits, by lane; the first one's turn is next."""


def too_many() -> TooMany:
    """Return the refusal of one too many."""
    return TooMany("access_denied", "too many wait", retry_after=1)


class FairQueue:
    """``parallel`` have a turn at once, ``queue_max`` wait; ``full`` is told to one too many."""

    def __init__(
        self, parallel: int, queue_max: int, full: Callable[[], CaracalError] = too_many
    ) -> None:
        self._free, self._max, self._full = parallel, queue_max, full
        self._zones: OrderedDict[str, _Lanes] = OrderedDict()

    @asynccontextmanager
    async def turn(self, zone_id: str, lane_id: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it inside.

        Raises:
            CaracalError: too many wait.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(zone_id, lane_id)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, zone_id: str, lane_id: str) -> None:
        place: _Place = asyncio.get_running_loop().create_future()
        lanes = self._zones.setdefault(zone_id, OrderedDict())
        lanes.setdefault(lane_id, deque()).append(place)
        if self._waiting() > self._max:
            self._turn_away(zone_id, lane_id)
        try:
            await place
        except asyncio.CancelledError:
            self._leave(zone_id, lane_id, place)
            if not place.cancelled() and place.exception() is None:  # the turn had come already
                self._pass_on()
            raise

    def _waiting(self) -> int:
        return sum(map(_size, self._zones.values()))

    def _turn_away(self, zone_id: str, lane_id: str) -> None:
        """Refuse the newest of the longest; of several it is the one that has just grown."""
        zones = self._zones
        longest = max(zones, key=lambda name: (_size(zones[name]), name == zone_id))
        lanes = zones[longest]
        lane = max(lanes, key=lambda name: (len(lanes[name]), name == lane_id))
        place = lanes[lane][-1]
        self._leave(longest, lane, place)
        if not place.done():
            place.set_exception(self._full())

    def _leave(self, zone_id: str, lane_id: str, place: _Place) -> None:
        lanes = self._zones.get(zone_id)
        if lanes is not None and place in lanes.get(lane_id, ()):
            lanes[lane_id].remove(place)
            self._tidy(zone_id, lane_id)

    def _pass_on(self) -> None:
        """Give the turn to who is next, unless they have gone meanwhile."""
        while self._zones:
            place = self._next()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _next(self) -> _Place:
        """Take out who is next; their lane and their zone go to the end."""
        zone_id, lanes = next(iter(self._zones.items()))
        lane_id, lane = next(iter(lanes.items()))
        place = lane.popleft()
        lanes.move_to_end(lane_id)
        self._zones.move_to_end(zone_id)
        self._tidy(zone_id, lane_id)
        return place

    def _tidy(self, zone_id: str, lane_id: str) -> None:
        lanes = self._zones[zone_id]
        if not lanes[lane_id]:
            del lanes[lane_id]
        if not lanes:
            del self._zones[zone_id]


def _size(lanes: _Lanes) -> int:
    return sum(map(len, lanes.values()))
