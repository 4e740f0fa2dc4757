"""Shadow versions: tried on what exchanges really ask, never enforced (contract, section 14).

The exchange only leaves a note here. A task evaluates it later, in a process of its own, and adds
an audit entry; what does not fit, stalls or cannot be recorded is counted and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from caracal.errors import CaracalError
from caracal.events.store.audit_entry import AuditEvent
from caracal.events.store.audit_writer import AuditWriter
from caracal.policy.apart import Apart, Stalled
from caracal.policy.engine import Decision, PolicyCompileError, deny
from caracal.services.sts import evidence
from caracal.services.sts.exchange import Exchange, Verdict
from caracal.services.sts.policies import Version
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

MAX_WAITING = 256
_AT_ONCE = 16  # entries a call of Redis
_STALLS_MAX, _REST_SECONDS = 3, 60.0
"""A shadow that stalls so often, one after the other, rests so long."""

_KEPT = 1024


class ShadowCounters:
    """What ``/metrics`` tells of shadows."""

    def __init__(self) -> None:
        self.shadow_total = self.shadow_errors_total = self.shadow_dropped_total = 0


@dataclass(frozen=True, slots=True)
class _Note:
    exchange: Exchange
    verdict: Verdict
    shadow: Version


@dataclass(slots=True)
class _Rest:
    stalls: int = 0
    until: float = 0.0


class Shadows:
    """Evaluates shadows behind the answers; ``start`` and ``stop`` own its task and process."""

    def __init__(self, apart: Apart, writer: AuditWriter) -> None:
        self._apart, self._writer = apart, writer
        self._notes: deque[_Note] = deque()
        self._wake = asyncio.Event()
        self._rests: dict[str, _Rest] = {}
        self._task: asyncio.Task[None] | None = None
        self.counters = ShadowCounters()

    def start(self) -> None:
        """Begin to evaluate."""
        self._task = asyncio.create_task(self._run(), name="shadow policies")

    async def stop(self) -> None:
        """End; what waits is forgotten."""
        if self._task is not None:
            await cancelled(self._task)
        await self._apart.close()

    def note(self, exchange: Exchange, verdicts: Sequence[Verdict]) -> None:
        """Note what the shadows are to be asked; never raises, never waits."""
        for verdict in verdicts:
            if verdict.by is not None and verdict.by.shadow is not None:
                self._add(_Note(exchange, verdict, verdict.by.shadow))

    def _add(self, note: _Note) -> None:
        rest = self._rests.get(note.shadow.bundle.manifest_sha256)
        resting = rest is not None and rest.until > time.monotonic()
        if resting or len(self._notes) >= MAX_WAITING:
            self.counters.shadow_dropped_total += 1
            return
        self._notes.append(note)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._notes:
                try:
                    await self._some()
                except Exception:  # a shadow must not end the others
                    logger.exception("shadow policies")

    async def _some(self) -> None:
        events: list[AuditEvent] = []
        while self._notes and len(events) < _AT_ONCE:
            note = self._notes.popleft()
            decision = await self._decided(note)
            events.append(evidence.of_shadow(note.exchange, note.verdict, note.shadow, decision))
        try:
            await self._writer.add(events)
        except CaracalError:  # the ledger is behind, or Redis is gone
            self.counters.shadow_dropped_total += len(events)

    async def _decided(self, note: _Note) -> Decision:
        bundle = note.shadow.bundle
        self.counters.shadow_total += 1
        try:
            decision = await self._apart.evaluate(bundle, note.verdict.policy_input or {})
        except Stalled:
            self._stalled(bundle.manifest_sha256)
            decision = deny("policy_eval_failed", status="error")
        except PolicyCompileError as error:
            logger.warning("shadow %s: %s", bundle.manifest_sha256, error)
            decision = deny("policy_compile_failed", status="error")
        else:
            self._rests.pop(bundle.manifest_sha256, None)
        self.counters.shadow_errors_total += decision.evaluation_status == "error"
        return decision

    def _stalled(self, sha: str) -> None:
        if len(self._rests) >= _KEPT:
            self._rests.clear()
        rest = self._rests.setdefault(sha, _Rest())
        rest.stalls += 1
        if rest.stalls >= _STALLS_MAX:
            rest.until = time.monotonic() + _REST_SECONDS
            logger.warning("shadow %s stalls: it is not tried for a minute", sha)
