"""No evidence, no mandate: one Redis call settles an exchange (contract, sections 4 and 17)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from caracal.events.store.audit_entry import Prebuilt
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.redis import GONE
from caracal.events.topics import AUDIT
from caracal.services.sts.redis_line import Arg, RedisLine
from caracal.services.sts.refusals import audit_unavailable

logger = logging.getLogger(__name__)

NONCE_SECONDS = 120
_SCRIPT = files("caracal.services.sts").joinpath("settle.lua").read_text()
_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """One resource: its rate counter, and its entry within and over the limit."""

    within: Prebuilt
    over: Prebuilt | None = None
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
    replayed: Prebuilt | None = None
    when_granted: Prebuilt | None = None
    when_none: Prebuilt | None = None

    @property
    def allows(self) -> bool:
        """Say whether the answer needs evidence to be given."""
        return self.when_granted is None and any(step.grants for step in self.steps)


@dataclass(frozen=True, slots=True)
class Settled:
    """What Redis said; ``limited`` holds one value for each step."""

    replayed: bool
    limited: Sequence[bool]


class Settlements:
    """Makes the call. Redis gone: an allow is refused, a deny is given without its entry."""

    def __init__(self, line: RedisLine, writer: AuditWriter) -> None:
        self._line, self._writer = line, writer

    async def settle(self, settlement: Settlement) -> Settled:
        """Settle an exchange.

        Raises:
            Unavailable: 503 ``audit_unavailable``, Redis or the ledger does not keep up and the
                answer depends on it.
        """
        if settlement.allows:
            self._writer.check()
        try:
            code, limited, added = await self._call(settlement)
        except GONE as error:
            return self._without_evidence(settlement, error)
        done = Settled(code == b"replayed", [mark == ord("1") for mark in limited])
        self._writer.acknowledged(_chosen(settlement, done), added)
        return done

    async def _call(self, settlement: Settlement) -> Any:
        keys = [AUDIT, f"caracal:sts:gw-nonce:{settlement.nonce}" if settlement.nonce else ""]
        keys += [step.counter for step in settlement.steps]
        args = list(_arguments(settlement))
        try:
            return await self._line.command("EVALSHA", _SHA, len(keys), *keys, *args)
        except NoScriptError:  # the server is new
            return await self._line.command("EVAL", _SCRIPT, len(keys), *keys, *args)

    def _without_evidence(self, settlement: Settlement, error: BaseException) -> Settled:
        counters = self._writer.counters
        counters.errors += 1
        if settlement.allows or settlement.nonce:
            raise audit_unavailable() from error
        unlimited = Settled(False, [False] * len(settlement.steps))
        counters.dropped += len(_chosen(settlement, unlimited))
        logger.warning("audit entries dropped: %s", type(error).__name__)
        return unlimited


def _chosen(settlement: Settlement, settled: Settled) -> list[Prebuilt]:
    """Return the entries that the script adds, in its order."""
    if settled.replayed:
        return [settlement.replayed] if settlement.replayed else []
    chosen: list[Prebuilt | None] = []
    granted = False
    for step, over in zip(settlement.steps, settled.limited, strict=True):
        chosen.append(step.over if over else step.within)
        granted |= step.grants and not over
        if step.ends and not over:
            break
    else:
        chosen.append(settlement.when_granted if granted else settlement.when_none)
    return [entry for entry in chosen if entry is not None]


def _arguments(settlement: Settlement) -> Iterator[Arg]:
    yield NONCE_SECONDS
    yield from _entry(settlement.replayed)
    yield len(settlement.steps)
    for step in settlement.steps:
        yield from (step.limit, step.window, int(step.grants), int(step.ends))
        yield from _entry(step.within)
        yield from _entry(step.over)
    yield from _entry(settlement.when_granted)
    yield from _entry(settlement.when_none)


def _entry(entry: Prebuilt | None) -> tuple[Arg, ...]:
    return (0,) if entry is None else (len(entry.fields), *entry.fields)
