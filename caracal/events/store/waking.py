"""LISTEN, for those who look anyway now and then and want to be woken when there is something."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.events.store.listening import Listening


class Waking:
    """Wakes its owner by the notifications of a channel."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._listening: Listening | None = None

    @classmethod
    async def open(
        cls, connection: AsyncConnection[Any], channel: str, stack: AsyncExitStack
    ) -> Waking:
        """Listen until the stack is closed; ``connection`` serves nothing else."""
        waking = cls()
        listening = await Listening.open(connection, lambda *_: waking._woken.set(), channel)
        stack.callback(listening.stop)
        listening.lost.add_done_callback(lambda _: waking._woken.set())  # ``wait`` tells
        waking._listening = listening
        return waking

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
        if self._listening is not None and self._listening.lost.done():
            raise psycopg.OperationalError("the listening connection was lost")
