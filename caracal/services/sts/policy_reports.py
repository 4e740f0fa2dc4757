"""Tells in Redis which policies this replica has loaded; off the request path, and at once."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress

from redis.asyncio import Redis

from caracal.events.store.redis import GONE
from caracal.ids import new_id
from caracal.projections.tail import Tail
from caracal.services.policy_report import SECONDS, is_there, tell, withdraw
from caracal.services.sts.policies import Policies
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

REFRESH_SECONDS = SECONDS / 3
_APPLY_SECONDS = 2.0
_AGAIN_SECONDS = 1.0


class PolicyReports:
    """Reports every swap, and renews the report. A failure harms nothing: the next one follows."""

    def __init__(self, redis: Redis, policies: Policies, tail: Tail) -> None:
        self.replica = f"{socket.gethostname()[:64]}-{os.getpid()}-{new_id()[-12:]}"
        self._redis, self._policies, self._tail = redis, policies, tail
        self._swapped: set[str] = set()
        self._apart: set[str] = set()
        self._position = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to report."""
        self._policies.swapped = self._note
        self._task = asyncio.create_task(self._run(), name="policy reports")

    async def stop(self) -> None:
        """End, and take the report back: nobody need wait for this replica."""
        if self._task is not None:
            await cancelled(self._task)
        with suppress(*GONE):
            await withdraw(self._redis, self.replica)

    def _note(self, zone_id: str, position: int) -> None:
        self._swapped.add(zone_id)
        self._position = max(self._position, position)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            # What the fact meant is known when all that came with it is applied.
            await self._tail.reach(self._position, _APPLY_SECONDS)
            pause = REFRESH_SECONDS
            try:
                await self._report()
            except GONE as error:
                logger.debug("policies were not reported: %s", error)
                pause = _AGAIN_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()

    async def _report(self) -> None:
        # Nobody tells of it when the parent of this process has named what to keep apart.
        before, self._apart = self._apart, set(self._policies.apart())
        swapped, self._swapped = self._swapped | (before ^ self._apart), set()
        try:
            kept = await is_there(self._redis, self.replica)
            known = self._policies.loaded_for
            zones = {zone_id: known(zone_id) for zone_id in swapped}
            if not kept:
                zones = self._policies.loaded()
            await tell(self._redis, self.replica, self._tail.position, zones)
        except BaseException:
            self._swapped |= swapped
            raise
