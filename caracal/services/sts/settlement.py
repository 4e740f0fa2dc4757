"""No evidence, no mandate: one Redis call settles an exchange (contract, sections 4 and 17)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from caracal import telemetry
from caracal.events.store.audit_entry import Prebuilt
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.redis import GONE
from caracal.events.store.redis_line import Arg, RedisLine, script
from caracal.events.topics import AUDIT
from caracal.services.sts.refusals import audit_unavailable

logger = logging.getLogger(__name__)

NONCE_SECONDS = 120
Entry = Callable[[], Prebuilt]
"""An audit entry that is made when it is needed: most of what might apply never does."""

_SCRIPT = files("caracal.services.sts").joinpath("settle.lua").read_text()


@dataclass(frozen=True, slots=True)
class Step:
    """One resource: its rate counter, and its entry within and over the limit."""

    within: Prebuilt
    over: Entry | None = None
    counter: str = ""
    limit: int = 0
    window: int = 0
    grants: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one call takes, counts and adds.

    Attributes:
        nonce: of a signed Gateway call, single use.
        replayed: entry to add, and nothing else, when the nonce was used before.
        when_granted: further entry when something was granted and is not given.
        when_none: further entry when nothing was granted.
    """

    steps: Sequence[Step] = ()
    nonce: str | None = None
    replayed: Entry | None = None
    when_granted: Entry | None = None
    when_none: Entry | None = None

    @property
    def allows(self) -> bool:
        """Say whether the answer needs evidence to be given."""
        return self.when_granted is None and any(step.grants for step in self.steps)


@dataclass(frozen=True, slots=True)
class Settled:
    """What Redis said; ``limited`` holds one value for each step."""

    replayed: bool
    limited: tuple[bool, ...]


class Settlements:
    """Makes the call. Redis gone: an allow is refused, a deny is given without its entry.

    The call brings the entries of the usual outcome. A nonce used before, or a rate over its limit,
    costs a second one with the entries that apply then: they need not be made for all others.
    """

    def __init__(self, line: RedisLine, writer: AuditWriter) -> None:
        self._line, self._writer = line, writer

    @telemetry.spanned("settle")
    async def settle(self, settlement: Settlement) -> Settled:
        """Settle an exchange.

        Raises:
            Unavailable: 503 ``audit_unavailable``, Redis or the ledger does not keep up and the
                answer depends on it.
        """
        if settlement.allows:
            self._writer.check()
        settled = usual = Settled(False, (False,) * len(settlement.steps))
        entries = _chosen(settlement, usual)
        try:
            settled, added = await self._call(settlement, entries)
            if settled != usual:
                entries = _chosen(settlement, settled)
                _, added = await self._call(Settlement(), entries)
        except GONE as error:
            self._without_evidence(settlement, entries, error)
        else:
            self._writer.acknowledged(entries, added)
        return settled

    async def _call(
        self, settlement: Settlement, entries: Sequence[Prebuilt]
    ) -> tuple[Settled, list[bytes]]:
        nonce = settlement.nonce and f"caracal:sts:gw-nonce:{settlement.nonce}"
        counters = (step.counter for step in settlement.steps)
        # None is the topic itself: an empty key would be one that no user of Redis may touch.
        keys = [AUDIT, *(key or AUDIT for key in (nonce, *counters))]
        args = list(_arguments(settlement, entries))
        code, limited, added = await script(self._line, _SCRIPT, keys, args)
        return Settled(code == b"replayed", tuple(mark == ord("1") for mark in limited)), added

    def _without_evidence(
        self, settlement: Settlement, entries: Sequence[Prebuilt], error: BaseException
    ) -> None:
        counters = self._writer.counters
        counters.errors += 1
        if settlement.allows or settlement.nonce:
            raise audit_unavailable() from error
        counters.dropped += len(entries)
        logger.warning("audit entries dropped: %s", type(error).__name__)


def _chosen(settlement: Settlement, settled: Settled) -> list[Prebuilt]:
    """Return the entries of an outcome, in order."""
    if settled.replayed:
        return _made(settlement.replayed)
    chosen: list[Prebuilt] = []
    granted = False
    for step, over in zip(settlement.steps, settled.limited, strict=True):
        chosen += _made(step.over) if over else [step.within]
        granted |= step.grants and not over
        if step.ends and not over:
            return chosen
    return chosen + _made(settlement.when_granted if granted else settlement.when_none)


def _made(entry: Entry | None) -> list[Prebuilt]:
    return [] if entry is None else [entry()]


def _arguments(settlement: Settlement, entries: Sequence[Prebuilt]) -> Iterator[Arg]:
    yield from (NONCE_SECONDS, len(settlement.steps))
    for step in settlement.steps:
        yield from (step.limit, step.window, int(step.ends))
    for entry in entries:
        yield len(entry.fields)
        yield from entry.fields
