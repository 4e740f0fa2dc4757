"""Notifications: heard as they come, and nothing is left behind on the socket."""

from __future__ import annotations

import asyncio

from psycopg import AsyncConnection

from caracal.events.store.listening import Listening


async def test_who_waits_and_is_cancelled_leaves_no_reader_behind(database_url: str) -> None:
    """Else the next connection with this file descriptor is never read."""
    connection = await AsyncConnection.connect(database_url, autocommit=True)
    listening = await Listening.open(connection, lambda *_: None, "news")
    descriptor = connection.pgconn.socket

    async def wait() -> None:
        await listening.lost

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert listening.lost.cancelled()
    listening.stop()
    assert not asyncio.get_running_loop().remove_reader(descriptor)
    await connection.close()


async def test_what_was_notified_is_heard(database_url: str) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    async with (
        await AsyncConnection.connect(database_url, autocommit=True) as connection,
        await AsyncConnection.connect(database_url, autocommit=True) as other,
    ):
        listening = await Listening.open(
            connection, lambda channel, payload: heard.put_nowait((channel, payload)), "news"
        )
        await other.execute("SELECT pg_notify('news', '7')")
        assert await asyncio.wait_for(heard.get(), 10) == ("news", "7")
        listening.stop()
