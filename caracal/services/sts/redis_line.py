"""One connection to Redis that many requests share: what waits is sent in one write.

A pool costs more on the hot path than the command itself. Nothing is sent twice: a re-sent nonce
would look like a replay.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from caracal.events.store.redis import GONE
from caracal.tasks import cancelled

Arg = str | bytes | int


@dataclass(frozen=True, slots=True)
class _Waiting:
    command: bytes
    answer: asyncio.Future[Any]


class RedisLine:
    """Sends commands; ``close`` ends its connection. ``timeout`` in seconds is for a batch."""

    def __init__(self, redis: Redis, timeout: float = 3.0) -> None:
        self._connection: Any = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._timeout = timeout
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the connection."""
        if self._sender is not None:
            await cancelled(self._sender)
        await self._connection.disconnect()

    async def command(self, *args: Arg) -> Any:
        """Send a command and return the answer, as bytes.

        Raises:
            ResponseError: Redis refuses it.
            RedisError, OSError, TimeoutError: Redis cannot be used now; it may have done it.
        """
        packed = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub forgets ``...``
        waiting = _Waiting(packed, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await waiting.answer

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                async with asyncio.timeout(self._timeout):
                    await self._exchange(batch)
            except BaseException as error:
                await self._failed(batch, error)
                if not isinstance(error, GONE):
                    raise

    async def _exchange(self, batch: list[_Waiting]) -> None:
        connection = self._connection
        if connection.is_connected and await connection.can_read():
            await connection.disconnect()  # nothing was asked, so the server has closed it
        await connection.send_packed_command(
            b"".join(waiting.command for waiting in batch), check_health=False
        )
        for waiting in batch:
            try:
                answer = await connection.read_response(timeout=inf)
            except ResponseError as refusal:
                _refuse(waiting, refusal)
            else:
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _failed(self, batch: list[_Waiting], error: BaseException) -> None:
        for waiting in batch:
            _refuse(waiting, error if isinstance(error, GONE) else OSError("closing"))
        await self._connection.disconnect(nowait=True)


def _refuse(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
