"""LISTEN, for those who look anyway now and then and want to be woken when there is something."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.tasks import cancelled


class Waking:
    """Wakes its owner by the notifications of a channel."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, connection: AsyncConnection[Any], channel: str, stack: AsyncExitStack
    ) -> Waking:
        """Listen until the stack is closed; ``connection`` serves nothing else."""
        waking = cls()
        await connection.execute(f"LISTEN {channel}")
        waking._listening = asyncio.create_task(waking._listen(connection), name=channel)
        stack.push_async_callback(cancelled, waking._listening)
        return waking

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        with suppress(psycopg.Error):  # ``wait`` tells
            async for _ in connection.notifies():
                self._woken.set()
        self._woken.set()

    def clear(self) -> None:
        """Wait for what comes from now on."""
        self._woken.clear()

    async def wait(self, seconds: float) -> None:
        """Return when woken, at the latest after ``seconds``.

        Raises:
            psycopg.OperationalError: nobody would wake us any more.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        if self._listening is not None and self._listening.done():
            raise psycopg.OperationalError("the listening connection was lost")
