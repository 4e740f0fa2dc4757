"""One connection to Redis that many may share: what is asked while others wait is one write.

The library's client spends more on a command than most commands cost: a pool, a task, timers, a
stream. So it opens the connection (address, TLS, login), and from then on the socket is read and
written here. Nothing is sent twice: a re-sent nonce would look like a replay.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
from typing import Any

import hiredis
from redis import exceptions
from redis.asyncio import Redis

from caracal.events.store.redis import GONE
from caracal.tasks import cancelled

Arg = str | bytes | int
_NOTHING = object()


class RedisLine:
    """Sends commands; ``close`` ends its connection. ``timeout``, in seconds, is for an answer."""

    def __init__(self, redis: Redis, timeout: float = 3.0) -> None:
        self._connection: Any = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._timeout = timeout
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None
        self._closed = False

    async def close(self) -> None:
        """End the connection for good; who still waits is told that it is gone."""
        self._closed = True
        if self._opening is not None:
            await cancelled(self._opening)
        if self._wire is not None:
            self._wire.end(exceptions.ConnectionError("closing"))
        await self._connection.disconnect(nowait=True)

    async def command(self, *args: Arg, blocks: float = 0) -> Any:
        """Send a command and return the answer, as bytes.

        ``blocks``: seconds for which the server may hold the answer back.

        Raises:
            ResponseError: Redis refuses it.
            RedisError, OSError, TimeoutError: Redis cannot be used now; it may have done it.
        """
        packed = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub forgets ``...``
        wire = self._wire
        if wire is None or wire.ended:
            wire = await self._opened()
        return await wire.ask(packed, self._timeout + blocks)

    async def _opened(self) -> _Wire:
        """Return an open wire; all who want one wait for the same attempt."""
        if self._closed:  # a connection made now would be nobody's to close
            raise exceptions.ConnectionError("closed")
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_looked_at)
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Wire:
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout):
                await connection.disconnect(nowait=True)
                await connection.connect()
        except GONE:
            with suppress(*GONE):
                await connection.disconnect(nowait=True)
            raise
        self._wire = _Wire(connection.transport)
        return self._wire


async def script(line: RedisLine, text: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
    """Run a Lua script, by its name when the server has it.

    Raises:
        RedisError, OSError, TimeoutError: Redis cannot be used now; it may have done it.
    """
    try:
        return await line.command("EVALSHA", _sha(text), len(keys), *keys, *args)
    except exceptions.NoScriptError:  # the server is new
        return await line.command("EVAL", text, len(keys), *keys, *args)


@cache
def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


class _Wire(asyncio.Protocol):
    """A connection in use: answers come in the order of the commands. It ends once, for all."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._library = transport, transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._answers = hiredis.Reader(replyError=_refusal, notEnoughData=_NOTHING)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._under_way = 0
        self._patience = 0.0
        self._late: asyncio.TimerHandle | None = None
        self.ended = False
        transport.set_protocol(self)

    def ask(self, command: bytes, timeout: float) -> asyncio.Future[Any]:
        answer = self._loop.create_future()
        self._waiting.append(answer)
        self._unsent.append(command)
        self._patience = max(self._patience, timeout)
        if not self._under_way:
            self._send()
        return answer

    def _send(self) -> None:
        """Send what has gathered while others were under way.

        Without all answers in time nobody knows any more which answer would be whose.
        """
        late = TimeoutError("Redis does not answer")
        self._late = self._loop.call_later(self._patience, self.end, late)
        self._under_way, self._patience = len(self._unsent), 0.0
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _answered(self) -> None:
        """All that were under way have their answers."""
        if self._late is not None:
            self._late.cancel()
        if self._unsent:
            self._send()

    def data_received(self, data: bytes) -> None:
        self._answers.feed(data)
        try:
            while (answer := self._answers.gets()) is not _NOTHING:
                if not isinstance(answer, hiredis.PushNotification):
                    _give(self._waiting.popleft(), answer)
                    self._under_way -= 1
            if not self._under_way and not self.ended:
                self._answered()
        except (hiredis.ProtocolError, IndexError):  # IndexError: nobody asked
            self.end(exceptions.ConnectionError("what came is no answer"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exceptions.ConnectionError("the connection was lost"))
        self._library.connection_lost(exc)

    def end(self, error: Exception) -> None:
        self.ended = True
        if self._late is not None:
            self._late.cancel()
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            _give(answer, error)
        self._transport.abort()


def _looked_at(opening: asyncio.Task[_Wire]) -> None:
    """Keep asyncio from reporting a failure that nobody waits for any more."""
    if not opening.cancelled():
        opening.exception()


def _give(waiting: asyncio.Future[Any], answer: Any) -> None:
    if waiting.done():
        return  # who asked has gone away
    if isinstance(answer, Exception):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)


def _refusal(text: str) -> exceptions.ResponseError:
    known = exceptions.NoScriptError if text.startswith("NOSCRIPT") else exceptions.ResponseError
    return known(text)
