"""Notifications of Postgres, handed over as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection, Notify

Heard = Callable[[str, str], None]
"""Called with channel and payload of a notification."""


class Listening:
    """Listens on a connection that serves nothing else, until ``stop``, or until it is lost.

    Reads the socket itself: the generator of the library costs a future, a timer and two changes
    of the loop's selector a notification, and wakes ten times a second when there is none.
    """

    def __init__(self, connection: AsyncConnection[Any], heard: Heard) -> None:
        self._pgconn, self._heard = connection.pgconn, heard
        self._socket = self._pgconn.socket
        self._loop = asyncio.get_running_loop()
        self._early: list[Notify] = []  # came with the answer to a query
        connection.add_notify_handler(self._early.append)
        self._reading = False
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(cls, connection: AsyncConnection[Any], heard: Heard, *channels: str) -> Self:
        """Begin to listen to ``channels``.

        Raises:
            psycopg.Error: the connection is lost already.
        """
        listening = cls(connection, heard)
        for channel in channels:
            await connection.execute(f"LISTEN {channel}")
        listening.begin()
        return listening

    def begin(self) -> None:
        """Hear from now on; the connection is for nothing else any more."""
        for notify in self._early:
            self._heard(notify.channel, notify.payload)
        self._loop.add_reader(self._socket, self._readable)
        self._reading = True
        self._readable()

    def stop(self) -> None:
        """Hear no more; to be called before the connection is closed."""
        # Not told by ``lost``: who waits for it may have been cancelled, and it with them. A reader
        # left behind would deafen the next connection that gets this file descriptor.
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)
        if not self.lost.done():
            self.lost.set_result(None)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            while (notify := self._pgconn.notifies()) is not None:
                self._heard(notify.relname.decode(), notify.extra.decode())
        except psycopg.Error:
            self.stop()
