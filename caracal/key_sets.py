"""Zone keys as verifiers of mandates hold them: fetched from the STS, kept for a while.

Bounded in zones, in bytes and in fetches: whoever sends tokens chooses ``zone_id`` and ``kid``,
and must not choose how often the STS is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from caracal.errors import CaracalError, Unavailable
from caracal.mandate import Keys, parse_jwks

LIFE = 300.0
STALE_LIFE = 3600.0
FORCED_EVERY = 30.0
MAX_ZONES = 256
_RETRY_EVERY = 1.0

Fetch = Callable[[str], Awaitable[bytes]]
_FETCH_ERRORS = (CaracalError, OSError, ValueError)
_log = logging.getLogger(__name__)


class _Entry:
    def __init__(self) -> None:
        self.keys: Keys = {}
        self.expires = 0.0
        self.forced = float("-inf")
        self.failed = float("-inf")
        self.task: asyncio.Task[None] | None = None


class JwksCache:
    """Keys per zone: 5 minutes fresh, then served while one refetch runs, dropped later.

    ``fetch`` gets a zone id and returns the body of its key set; it may raise ``OSError``,
    ``ValueError`` or a ``CaracalError``. ``stale_life`` is how much later, in seconds; of more
    than ``max_zones`` the least recently used goes.
    """

    def __init__(
        self,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
        *,
        stale_life: float = STALE_LIFE,
        max_zones: int = MAX_ZONES,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._stale_life, self._max_zones = stale_life, max_zones
        self._zones: OrderedDict[str, _Entry] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def keys(self, zone_id: str, kid: str) -> Keys:
        """Return the keys of ``zone_id``; an unknown ``kid`` asks once more, every 30 s at most.

        Raises:
            Unavailable: ``sts_unavailable``, no usable keys are held and none could be fetched.
        """
        entry = self._entry(zone_id)
        now = self._clock()
        if now >= entry.expires + self._stale_life or not entry.keys:
            await self._need(zone_id, entry)
        elif now >= entry.expires:
            self._start(zone_id, entry)
        if kid not in entry.keys and now - entry.forced >= FORCED_EVERY:
            entry.forced = now
            await self._refetched(zone_id, entry)
        return entry.keys

    def drop(self, zone_id: str) -> None:
        """Forget the keys of a zone whose keys have changed; a fetch under way counts no more."""
        self._zones.pop(zone_id, None)

    async def close(self) -> None:
        """End the fetches under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _entry(self, zone_id: str) -> _Entry:
        entry = self._zones.get(zone_id)
        if entry is None:
            entry = self._zones[zone_id] = _Entry()
            if len(self._zones) > self._max_zones:
                self._zones.popitem(last=False)
        else:
            self._zones.move_to_end(zone_id)
        return entry

    async def _need(self, zone_id: str, entry: _Entry) -> None:
        entry.keys = {}
        await self._refetched(zone_id, entry)
        if not entry.keys:
            raise Unavailable("sts_unavailable", "signing keys unavailable")

    async def _refetched(self, zone_id: str, entry: _Entry) -> None:
        # Shielded: the fetch serves everyone who waits, not only the first who may go away.
        if task := self._start(zone_id, entry):
            await asyncio.shield(task)

    def _start(self, zone_id: str, entry: _Entry) -> asyncio.Task[None] | None:
        if entry.task is None and self._clock() - entry.failed >= _RETRY_EVERY:
            entry.task = asyncio.create_task(self._refresh(zone_id, entry))
            self._tasks.add(entry.task)
            entry.task.add_done_callback(self._tasks.discard)
        return entry.task

    async def _refresh(self, zone_id: str, entry: _Entry) -> None:
        try:
            entry.keys = parse_jwks(await self._fetch(zone_id))
            entry.expires = self._clock() + LIFE
        except _FETCH_ERRORS as error:
            entry.failed = self._clock()
            _log.warning("keys of zone %s not fetched: %s", zone_id, error)
        finally:
            entry.task = None
