"""Limits of failed attempts, per replica, in memory (contract, sections 5 and 15)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from caracal.services.sts.refusals import too_many_failures

_MINUTE = 60.0
_MAX_KEYS = 10_000


@dataclass(slots=True)
class _Failures:
    since: float
    count: int = 0
    blocked_until: float = 0.0


class FailureLimit:
    """More than ``limit`` failures of a key in ``window`` s block it for ``block`` s; 0: none."""

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        window: float = _MINUTE,
        block: float = _MINUTE,
    ) -> None:
        self._limit, self._clock = limit, clock
        self._window, self._block = window, block
        self._keys: OrderedDict[tuple[str, ...], _Failures] = OrderedDict()

    def check(self, *keys: tuple[str, ...]) -> None:
        """Refuse when one of ``keys`` is blocked.

        Raises:
            TooMany: 429 ``access_denied``.
        """
        now = self._clock()
        for key in keys:
            failures = self._keys.get(key)
            if failures is not None and failures.blocked_until > now:
                raise too_many_failures(failures.blocked_until - now)

    def failed(self, *keys: tuple[str, ...]) -> None:
        """Count a failure of each of ``keys``."""
        if not self._limit:
            return
        now = self._clock()
        for key in keys:
            failures = self._keys.pop(key, None)
            if failures is None or now - failures.since >= self._window:
                failures = _Failures(now)
            self._keys[key] = failures
            failures.count += 1
            if failures.count > self._limit:
                failures.blocked_until = now + self._block
        while len(self._keys) > _MAX_KEYS:
            self._keys.popitem(last=False)

    def cleared(self, key: tuple[str, ...]) -> None:
        """Forget the failures of a key."""
        self._keys.pop(key, None)
