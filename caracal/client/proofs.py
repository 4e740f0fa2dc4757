"""Which proofs of possession were used, for resource servers: each is good once (RFC 9449, 11.1).

No Redis library comes with this module: ``redis`` is a ``redis.asyncio.Redis`` of yours.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from caracal.errors import Unavailable

_log = logging.getLogger(__name__)


class ProofMemory(Protocol):
    """The proofs that were used."""

    async def is_first(self, use: str, seconds: int) -> bool:
        """Remember a use for ``seconds``; say whether it is the first one.

        Raises:
            Unavailable: 503 ``unavailable``, it cannot be known: then the proof is not taken.
        """


class InMemoryProofs:
    """A memory of this process alone: at another replica a proof is good once more.

    Args:
        most: uses that are kept. When there are more at once, further ones are refused: to forget
            one would let it be used again.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._ends: OrderedDict[str, float] = OrderedDict()  # all last equally long: oldest first

    async def is_first(self, use: str, seconds: int) -> bool:
        """Remember a use; say whether it is the first one."""
        now = self._clock()
        while self._ends and next(iter(self._ends.values())) <= now:
            self._ends.popitem(last=False)
        if use in self._ends:
            return False
        if len(self._ends) >= self._most:
            raise _unknown()
        self._ends[use] = now + seconds
        return True


class RedisProofs:
    """A memory in Redis that all replicas of a resource server share.

    Args:
        redis: a ``redis.asyncio.Redis``.
        key_prefix: of the keys; 64 hex digits follow.
    """

    def __init__(self, redis: Any, key_prefix: str = "caracal:dpop:") -> None:
        self._redis, self._prefix = redis, key_prefix

    async def is_first(self, use: str, seconds: int) -> bool:
        """Remember a use; say whether it is the first one."""
        try:
            return bool(await self._redis.set(f"{self._prefix}{use}", "1", nx=True, ex=seconds))
        except Exception as error:  # noqa: BLE001 - which there are, the caller's library knows
            _log.warning("used proofs cannot be looked up: %s", type(error).__name__)
            raise _unknown() from None


def _unknown() -> Unavailable:
    return Unavailable("unavailable", "whether the proof was used before cannot be known now")
