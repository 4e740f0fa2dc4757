"""What has been revoked, for resource servers: stores, and the consumer that fills them.

No Redis library comes with this module: ``redis`` is a ``redis.asyncio.Redis`` of yours. Run one
consumer for ``REVOCATION_STREAM`` and, where suspended agents may be resumed, one for
``LIFECYCLE_STREAM``; their order among each other does not matter.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from caracal.stream_signature import FIELD, Keyring

REVOCATION_STREAM = "caracal.sessions.revoke"
LIFECYCLE_STREAM = "caracal.agents.lifecycle"
DEFAULT_REVOCATION_TTL_MS = 86_400_000
STREAM_SIG_FIELD = FIELD
GROUP = "resource-revocation"
_KEY_BYTES = 32
_CLAIM_IDLE_MS = 30_000
_CLAIM_EVERY = 30.0  # s
_AFTER_ERROR = 1.0  # s
_BLOCK_MS = 1_000
_log = logging.getLogger(__name__)

# The higher position wins: entries of two streams have no common order. An entry without a
# position (0) always counts.
_MARK = """
local at = tonumber(ARGV[1])
if at > 0 and tonumber(redis.call('GET', KEYS[2]) or '0') > at then return 0 end
if ARGV[3] == '1' then
  redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])
else
  redis.call('DEL', KEYS[1])
end
if at > 0 then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
return 1
"""


class RevocationStore(Protocol):
    """The ids whose end ends every mandate that hangs on them."""

    async def is_revoked(self, sid: str) -> bool:
        """Tell whether an id is revoked."""

    async def is_any_revoked(self, anchors: Iterable[str]) -> bool:
        """Tell whether one of the ids is revoked."""

    async def mark_revoked(
        self, sid: str, ttl_ms: int | None = None, *, position: int | None = None
    ) -> None:
        """Add an id for ``ttl_ms`` milliseconds, unless something later is known of it."""

    async def unmark(self, sid: str, *, position: int | None = None) -> None:
        """Take an id out again, unless something later is known of it."""


class InMemoryRevocationStore:
    """A store of this process alone; each replica needs a consumer group of its own."""

    def __init__(
        self,
        default_ttl_ms: int = DEFAULT_REVOCATION_TTL_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_ms, self._clock = default_ttl_ms, clock
        self._known: dict[str, tuple[int, bool, float]] = {}
        self._lock = threading.Lock()
        self._swept = clock()

    async def is_revoked(self, sid: str) -> bool:
        """Tell whether an id is revoked."""
        return await self.is_any_revoked((sid,))

    async def is_any_revoked(self, anchors: Iterable[str]) -> bool:
        """Tell whether one of the ids is revoked."""
        with self._lock:
            return any(self._live(sid)[1] for sid in anchors)

    async def mark_revoked(
        self, sid: str, ttl_ms: int | None = None, *, position: int | None = None
    ) -> None:
        """Add an id for ``ttl_ms`` milliseconds, unless something later is known of it."""
        await self._put(sid, True, ttl_ms or self._ttl_ms, position)

    async def unmark(self, sid: str, *, position: int | None = None) -> None:
        """Take an id out again, unless something later is known of it."""
        await self._put(sid, False, self._ttl_ms, position)

    async def _put(self, sid: str, revoked: bool, ttl_ms: int, position: int | None) -> None:
        if not sid:
            return
        with self._lock:
            self._sweep()
            at = position or 0
            if not at or self._live(sid)[0] <= at:
                self._known[sid] = (at, revoked, self._clock() + ttl_ms / 1000)

    def _live(self, sid: str) -> tuple[int, bool, float]:
        found = self._known.get(sid)
        return found if found and found[2] > self._clock() else (0, False, 0.0)

    def _sweep(self) -> None:
        """Drop what has expired, once a minute."""
        now = self._clock()
        if now - self._swept >= 60:
            self._swept = now
            self._known = {sid: held for sid, held in self._known.items() if held[2] > now}


class RedisRevocationStore:
    """A store in Redis that all replicas of a resource server share.

    Args:
        redis: a ``redis.asyncio.Redis``.
        key_prefix: of the keys; the id follows.
        default_ttl_ms: how long an id is kept: longer than any mandate lives.
        fail_closed: when Redis cannot be asked, every id counts as revoked; else the error is
            raised.
    """

    def __init__(
        self,
        redis: Any,
        key_prefix: str = "caracal:revoked:sessions:",
        default_ttl_ms: int = DEFAULT_REVOCATION_TTL_MS,
        fail_closed: bool = True,
    ) -> None:
        self._redis, self._prefix = redis, key_prefix
        self._ttl_ms, self._fail_closed = default_ttl_ms, fail_closed

    async def is_revoked(self, sid: str) -> bool:
        """Tell whether an id is revoked."""
        return await self.is_any_revoked((sid,))

    async def is_any_revoked(self, anchors: Iterable[str]) -> bool:
        """Tell whether one of the ids is revoked: one call of Redis."""
        keys = [self._prefix + sid for sid in anchors if sid]
        if not keys:
            return False
        try:
            return bool(await self._redis.exists(*keys))
        except Exception:
            if not self._fail_closed:
                raise
            _log.exception("revocations cannot be read: every mandate counts as revoked")
            return True

    async def mark_revoked(
        self, sid: str, ttl_ms: int | None = None, *, position: int | None = None
    ) -> None:
        """Add an id for ``ttl_ms`` milliseconds, unless something later is known of it."""
        await self._put(sid, ttl_ms or self._ttl_ms, position, "1")

    async def unmark(self, sid: str, *, position: int | None = None) -> None:
        """Take an id out again, unless something later is known of it."""
        await self._put(sid, self._ttl_ms, position, "0")

    async def _put(self, sid: str, ttl_ms: int, position: int | None, revoked: str) -> None:
        if sid:  # no id has a slash: the second key is no other id's first one
            keys = (self._prefix + sid, f"{self._prefix}/{sid}")
            await self._redis.eval(_MARK, 2, *keys, str(position or 0), str(ttl_ms), revoked)


class RedisRevocationConsumer:
    """Reads a stream of signals into a store, by a consumer group.

    Replicas on one ``RedisRevocationStore`` share a group; a replica with a store of its own needs
    a group of its own. An entry with a bad signature has no effect.

    Args:
        redis: a ``redis.asyncio.Redis``.
        store: where the ids go.
        consumer: name of this replica, unique in the group.
        stream: ``REVOCATION_STREAM``, or ``LIFECYCLE_STREAM`` for resumed agents.
        group: the consumer group.
        batch_size: most entries of one read.
        block_ms: how long ``poll_once`` waits for entries; 0: not at all.
        stream_hmac_key: ``CARACAL_STREAM_HMAC_KEY``, hex; a comma-separated ring is allowed.
        require_signature: refuse unsigned entries; by default when there is a key.

    Raises:
        ValueError: a key that is none, or a signature required without a key.
    """

    def __init__(
        self,
        redis: Any,
        store: RevocationStore,
        consumer: str,
        stream: str = REVOCATION_STREAM,
        group: str = GROUP,
        batch_size: int = 50,
        block_ms: int = 0,
        stream_hmac_key: str | bytes | None = None,
        require_signature: bool | None = None,
    ) -> None:
        if not consumer:
            raise ValueError("consumer must be a name, unique for each replica")
        if require_signature and not stream_hmac_key:
            raise ValueError("stream_hmac_key is required when require_signature is true")
        self._redis, self._store, self._consumer = redis, store, consumer
        self._stream, self._group = stream, group
        self._batch_size, self._block_ms = batch_size, block_ms
        self._keys = Keyring(_ring(stream_hmac_key))
        self._signed = bool(stream_hmac_key) if require_signature is None else require_signature
        self._effect = _resumed if stream == LIFECYCLE_STREAM else _revoked

    async def ensure_group(self) -> None:
        """Make the group, from the stream's beginning, unless it is there."""
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except Exception as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def poll_once(self) -> int:
        """Handle what is new; return the number of entries handled, valid or not.

        Raises:
            Exception: of the Redis library or of the store; nothing of the failed entry is lost,
                it stays pending.
        """
        block = self._block_ms or None
        answer = await self._redis.xreadgroup(
            self._group, self._consumer, {self._stream: ">"}, count=self._batch_size, block=block
        )
        return await self._handled(entry for entries in _streams(answer) for entry in entries)

    async def claim(self) -> int:
        """Handle what a replica, perhaps this one, has left for 30 s; return how many entries."""
        handled, start = 0, "0-0"
        while True:
            answer = await self._redis.xautoclaim(
                self._stream, self._group, self._consumer, _CLAIM_IDLE_MS, start, self._batch_size
            )
            handled += await self._handled(answer[1])
            start = _text(answer[0])
            if start == "0-0":
                return handled

    async def run(self) -> None:
        """Read for ever; an error is logged, and reading goes on a second later."""
        self._block_ms = self._block_ms or _BLOCK_MS
        claimed = float("-inf")
        while True:
            try:
                if time.monotonic() - claimed >= _CLAIM_EVERY:
                    await self.ensure_group()
                    await self.claim()
                    claimed = time.monotonic()
                await self.poll_once()
            except Exception:  # noqa: BLE001 - whatever it is, reading must go on
                _log.exception("revocations of %s cannot be read", self._stream)
                claimed = float("-inf")  # the group may be gone
                await asyncio.sleep(_AFTER_ERROR)

    async def _handled(self, entries: Iterable[tuple[Any, Any]]) -> int:
        number = 0
        for entry_id, values in entries:
            fields = _fields(values)
            if self._genuine(fields):
                await self._effect(self._store, fields)
            else:
                _log.warning("entry %s of %s is not signed by us", _text(entry_id), self._stream)
            await self._redis.xack(self._stream, self._group, entry_id)
            number += 1
        return number

    def _genuine(self, fields: Mapping[str, str]) -> bool:
        if FIELD not in fields and not self._signed:
            return True
        return self._keys.verify(self._stream, fields)


async def _revoked(store: RevocationStore, fields: Mapping[str, str]) -> None:
    if anchor := fields.get("session_id"):  # the revoked id, of whatever kind it is
        await store.mark_revoked(anchor, position=_position(fields))


async def _resumed(store: RevocationStore, fields: Mapping[str, str]) -> None:
    agent = fields.get("agent_session_id") or fields.get("session_id")
    if fields.get("event") == "resume" and agent:
        await store.unmark(agent, position=_position(fields))


def _position(fields: Mapping[str, str]) -> int | None:
    text = fields.get("position", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _streams(answer: Any) -> Iterator[list[tuple[Any, Any]]]:
    """Return the entries of each stream: RESP3 answers a mapping, RESP2 pairs."""
    if isinstance(answer, Mapping):
        for pages in answer.values():
            yield pages[0] if pages and isinstance(pages[0], list) else pages
    else:
        for _, entries in answer or ():
            yield entries


def _fields(values: Any) -> dict[str, str]:
    """Return an entry's fields as text, from a mapping or a flat sequence."""
    if values is None:  # the entry was deleted while it was pending
        return {}
    if isinstance(values, Mapping):
        return {_text(name): _text(value) for name, value in values.items()}
    flat = [_text(value) for value in values]
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _ring(given: str | bytes | None) -> tuple[bytes, ...]:
    if not given:
        return ()
    if isinstance(given, bytes):
        keys = [given]
    else:
        try:
            keys = [bytes.fromhex(key) for key in given.split(",")]
        except ValueError:
            raise ValueError("stream_hmac_key must be hex") from None
    if any(len(key) < _KEY_BYTES for key in keys):
        raise ValueError("stream_hmac_key must have at least 32 bytes")
    return tuple(keys)
