"""How our processes talk to Redis: no hidden retries, bounded waits, own connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

GONE = (RedisError, OSError, TimeoutError)
"""What says that Redis cannot be used now."""


def connect(url: str, *, timeout: float = 3.0, connections: int = 100) -> Redis:
    """Return a client without retries: a re-sent XADD would hide a restart from its caller."""
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        max_connections=connections,
    )


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
