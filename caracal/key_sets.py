"""Published keys as they are held by who verifies with them: fetched, and kept for a while.

Of zones, fetched from the STS by Gateway, Coordinator and resource servers; of clients and of
trusted issuers, fetched by the STS. Bounded in sets, in bytes and in fetches: whoever sends tokens
chooses ``zone_id`` and ``kid``, and must not choose how often others are asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from caracal.errors import CaracalError, Unavailable
from caracal.mandate import VerificationKey, parse_jwks

LIFE = 300.0
STALE_LIFE = 3600.0
FORCED_EVERY = 30.0
MAX_ZONES = 256
_RETRY_EVERY = 1.0

Key = TypeVar("Key")
Fetch = Callable[[str], Awaitable[bytes]]
_FETCH_ERRORS = (CaracalError, OSError, ValueError)
_log = logging.getLogger(__name__)


class _Entry(Generic[Key]):
    def __init__(self) -> None:
        self.keys: Mapping[str, Key] = {}
        self.expires = 0.0
        self.forced = float("-inf")
        self.failed = float("-inf")
        self.task: asyncio.Task[None] | None = None


class KeyCache(Generic[Key]):
    """Keys per set: 5 minutes fresh, then served while one refetch runs, dropped in the end.

    Args:
        fetch: gets what names a set, a zone id or a URL, and returns its body; it may raise
            ``OSError``, ``ValueError`` or a ``CaracalError``.
        parse: returns the keys in a body by ``kid``; raises ``ValueError``.
        stale_life: seconds that keys are served while they are fetched again.
        clock: monotonic seconds.
        max_sets: of more the least recently used goes.
        fresh_first: keys whose 5 minutes are over are served only where the fetch of newer ones
            has failed, not while it goes on.
    """

    def __init__(
        self,
        fetch: Fetch,
        parse: Callable[[bytes], Mapping[str, Key]],
        stale_life: float,
        clock: Callable[[], float] = time.monotonic,
        max_sets: int = MAX_ZONES,
        *,
        fresh_first: bool = False,
    ) -> None:
        self._fetch, self._parse, self._fresh_first = fetch, parse, fresh_first
        self._stale_life, self._clock, self._max_sets = stale_life, clock, max_sets
        self._sets: OrderedDict[str, _Entry[Key]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def keys(self, name: str, kid: str) -> Mapping[str, Key]:
        """Return the keys of a set; an unknown ``kid`` asks once more, every 30 s at most.

        Raises:
            Unavailable: ``sts_unavailable``, no usable keys are held and none could be fetched.
        """
        entry = self._entry(name)
        now = self._clock()
        if now >= entry.expires + self._stale_life or not entry.keys:
            await self._need(name, entry)
        elif now >= entry.expires and self._fresh_first:
            await self._refetched(name, entry)
        elif now >= entry.expires:
            self._start(name, entry)
        if kid not in entry.keys and now - entry.forced >= FORCED_EVERY:
            entry.forced = now
            await self._refetched(name, entry)
        return entry.keys

    def drop(self, name: str) -> None:
        """Forget the keys of a set whose keys have changed; a fetch under way counts no more."""
        self._sets.pop(name, None)

    async def close(self) -> None:
        """End the fetches under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _entry(self, name: str) -> _Entry[Key]:
        entry = self._sets.get(name)
        if entry is None:
            entry = self._sets[name] = _Entry()
            if len(self._sets) > self._max_sets:
                self._sets.popitem(last=False)
        else:
            self._sets.move_to_end(name)
        return entry

    async def _need(self, name: str, entry: _Entry[Key]) -> None:
        entry.keys = {}
        await self._refetched(name, entry)
        if not entry.keys:
            raise Unavailable("sts_unavailable", "signing keys unavailable")

    async def _refetched(self, name: str, entry: _Entry[Key]) -> None:
        # Shielded: the fetch serves everyone who waits, not only the first who may go away.
        if task := self._start(name, entry):
            await asyncio.shield(task)

    def _start(self, name: str, entry: _Entry[Key]) -> asyncio.Task[None] | None:
        if entry.task is None and self._clock() - entry.failed >= _RETRY_EVERY:
            entry.task = asyncio.create_task(self._refresh(name, entry))
            self._tasks.add(entry.task)
            entry.task.add_done_callback(self._tasks.discard)
        return entry.task

    async def _refresh(self, name: str, entry: _Entry[Key]) -> None:
        try:
            entry.keys = self._parse(await self._fetch(name))
            entry.expires = self._clock() + LIFE
        except _FETCH_ERRORS as error:
            entry.failed = self._clock()
            _log.warning("keys of %s not fetched: %s", name, error)
        finally:
            entry.task = None


class JwksCache(KeyCache[VerificationKey]):
    """Keys of zones: what an STS that cannot be reached has published stays usable for a while."""

    def __init__(
        self,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
        *,
        stale_life: float = STALE_LIFE,
        max_zones: int = MAX_ZONES,
    ) -> None:
        super().__init__(fetch, parse_jwks, stale_life, clock, max_zones)
