"""Small help for asyncio tasks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
