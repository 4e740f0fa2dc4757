"""How our processes talk to Redis: no hidden retries, bounded waits, own connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hiredis
from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
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

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]


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


async def script(redis: Redis, text: str, keys: list[str], args: list[Any]) -> Any:
    """Run a Lua script; whole text each time, so a restarted server needs no care."""
    return await redis.eval(text, len(keys), *keys, *args)


RawEntry = tuple[str, Mapping[bytes, bytes]]


def streams_of(answer: Any) -> list[tuple[str, list[RawEntry]]]:
    """Return an XREAD(GROUP) answer as (topic, entries), whichever protocol it came by."""
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    return [(_text(name), entries_in(_unwrapped(entries))) for name, entries in pairs]


def entries_in(answer: Any) -> list[RawEntry]:
    """Return a list of entries as (id, fields); a deleted entry has no fields."""
    return [(_text(entry_id), fields or {}) for entry_id, fields in answer]


def _unwrapped(entries: Any) -> Any:
    # RESP3 wraps the list of a stream once more.
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
