"""The jobs of the worker, a task each: an error that nobody expected ends none of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

Job = Callable[[], Coroutine[Any, Any, None]]
_PAUSE_SECONDS = 1.0
_SHOWN_SECONDS = 10.0


class Jobs:
    """Runs jobs, which go on for ever and know the outages that they live through.

    An error that a job does not know is a fault of ours: it is logged with its traceback, the job
    begins anew after a second, and ``stalled`` tells of it meanwhile.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.failures = 0
        self._failed_at = -_SHOWN_SECONDS
        self._tasks = [asyncio.create_task(self._kept(job)) for job in jobs]

    async def stop(self) -> None:
        """End all, together: one after the other, what each takes to end would add up."""
        await cancelled(*self._tasks)

    async def stalled(self) -> str | None:
        """Return ``job_stalled`` when one has failed during the last 10 s."""
        recently = time.monotonic() - self._failed_at < _SHOWN_SECONDS
        return "job_stalled" if recently else None

    async def _kept(self, job: Job) -> None:
        while True:
            try:
                await job()
                logger.error("%s has ended", job)
            except Exception:
                logger.exception("%s has failed", job)
            self.failures += 1
            self._failed_at = time.monotonic()
            await asyncio.sleep(_PAUSE_SECONDS)
