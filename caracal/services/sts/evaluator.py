"""Where policies are evaluated: in this process, or apart from it (contract, section 14).

In this process an evaluation holds everything, so the parent watches it (``caracal.policy.beat``).
A bundle that it names, or that was slow here again and again, is evaluated in a process that is
killed when it stalls: no other zone waits for it any more.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from caracal.policy.apart import ApartPool
from caracal.policy.beat import EVERYTHING, Beat, label
from caracal.policy.engine import Bundle, Decision, PolicyEngines

logger = logging.getLogger(__name__)

_SLOW = 0.2
"""Of the time limit: an evaluation that works longer counts as slow."""

_SLOW_MAX = 3
_SLOW_KEPT = 1024


class Counters:
    """What ``/metrics`` tells of the engine; first the contract's names."""

    def __init__(self) -> None:
        self.eval_total = self.eval_errors = self.eval_duration_ns = 0
        self.compile_total = self.compile_errors = self.compile_duration_ns = 0
        self.apart_total = self.apart_stalled_total = 0


class Evaluator:
    """Evaluates bundles; ``timeout`` in seconds for one evaluation."""

    def __init__(self, engines: PolicyEngines, beat: Beat, pool: ApartPool, timeout: float) -> None:
        self._engines, self._beat, self._pool = engines, beat, pool
        self._slow_ns = int(timeout * _SLOW * 1e9)
        self._slow: Counter[str] = Counter()
        self.counters = Counters()
        if beat.apart():
            pool.warm()  # this process takes the place of one that was lost

    @property
    def lost(self) -> int:
        """Return how many processes of this service evaluations have cost."""
        return self._beat.lost

    def is_apart(self, zone_id: str, bundle: Bundle) -> bool:
        """Say whether a bundle must not be evaluated in this process."""
        named, sha = self._beat.apart(), bundle.manifest_sha256
        if not named and not self._slow:
            return False
        return (
            sha in named or zone_id in named or EVERYTHING in named or self._slow[sha] >= _SLOW_MAX
        )

    def load(self, zone_id: str, bundle: Bundle) -> None:
        """Compile a bundle, unless it is kept apart: then its first evaluation does.

        Raises:
            PolicyCompileError: it cannot be used.
        """
        if self.is_apart(zone_id, bundle):
            return
        self._beat.begin(label(zone_id, bundle.manifest_sha256))
        try:
            self._engines.load(bundle)
        finally:
            self._beat.end()

    def here(self, key: bytes, bundle: Bundle, policy_input: Mapping[str, Any]) -> Decision:
        """Decide in this process; ``key`` is the label of zone and bundle.

        Raises:
            PolicyCompileError: the bundle had to be compiled again, and cannot be used.
        """
        worked = time.thread_time_ns()
        started = self._beat.begin(key)
        try:
            decision = self._engines.evaluate(bundle, policy_input)
        finally:
            self._beat.end()
        took = time.monotonic_ns() - started
        if took > self._slow_ns and time.thread_time_ns() - worked > self._slow_ns:
            self._note_slow(bundle.manifest_sha256)
        self._count(decision, took)
        return decision

    async def apart(self, bundle: Bundle, policy_input: Mapping[str, Any]) -> Decision:
        """Decide in a process that is killed when it stalls: then it is a deny.

        Raises:
            PolicyCompileError: the bundle cannot be used.
        """
        started = time.monotonic_ns()
        decision = await self._pool.evaluate(bundle, policy_input)
        self.counters.apart_total += 1
        self.counters.apart_stalled_total = self._pool.stalls
        self._count(decision, time.monotonic_ns() - started)
        return decision

    async def close(self) -> None:
        """End the processes of those kept apart, and let go of all engines."""
        self._engines.close()
        await self._pool.close()

    def _note_slow(self, sha: str) -> None:
        if len(self._slow) >= _SLOW_KEPT:
            self._slow.clear()
        self._slow[sha] += 1
        if self._slow[sha] == _SLOW_MAX:
            logger.warning("policy %s is slow again and again: it is kept apart now", sha)
            self._pool.warm()

    def _count(self, decision: Decision, nanoseconds: int) -> None:
        counters = self.counters
        counters.eval_total += 1
        counters.eval_errors += decision.evaluation_status == "error"
        counters.eval_duration_ns += nanoseconds
