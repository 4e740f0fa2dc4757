"""Small help for asyncio tasks."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.5


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, all at once, and wait until each has ended, however it ends.

    They are told again if need be: ``asyncio.wait_for``, by which redis-py sends, loses a
    cancellation that meets its result (Python 3.11).
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
