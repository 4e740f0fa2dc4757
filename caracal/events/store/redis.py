"""How our processes talk to Redis: no hidden retries, bounded waits, own connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hiredis
from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

GONE = (RedisError, OSError, TimeoutError)
"""What says that Redis cannot be used now."""


def connect(url: str, *, timeout: float = 3.0, connections: int = 100) -> Redis:
    """Return a client without retries: a re-sent XADD would hide a restart from its caller."""
    redis = Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        max_connections=connections,
    )
    pool = redis.connection_pool
    pool.connection_class = _PACKING[pool.connection_class]
    return redis


class _Packing:
    """Packs commands by hiredis; the library's own asyncio connections do it in Python."""

    _writer: Any

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RuntimeError as error:  # what uvloop says of a transport that has just been closed
            raise RedisConnectionError(str(error)) from None

    @property
    def transport(self) -> Any:
        """Return what the open connection is written to."""
        return self._writer.transport


class _Tcp(_Packing, Connection):
    pass


class _Tls(_Packing, SSLConnection):
    pass


class _Unix(_Packing, UnixDomainSocketConnection):
    pass


_PACKING: Mapping[Any, Any] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


RawEntry = tuple[str, Mapping[bytes, bytes]]


def streams_of(answer: Any) -> list[tuple[str, list[RawEntry]]]:
    """Return a server's XREAD(GROUP) answer as (topic, entries), whichever protocol it came by."""
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    return [(_text(name), entries_in(entries)) for name, entries in pairs]


def entries_in(answer: Any) -> list[RawEntry]:
    """Return a list of entries as (id, fields); a deleted entry has no fields."""
    return [(_text(entry_id), _fields(fields)) for entry_id, fields in answer]


def _fields(given: Any) -> Mapping[bytes, bytes]:
    if isinstance(given, list):  # names and values in turn, as the server sends them
        return dict(zip(given[::2], given[1::2], strict=True))
    return given or {}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
