"""Hands records over, however long the sink is away; finds the ones it will not have."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away, Refused, Sink

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between attempts, doubled each time, less up to a half at random."""
REFUSED_IN_A_ROW = 20
"""So many records refused with none taken between: then it is the sink, not the records."""


@dataclass(slots=True)
class DeliveryCounters:
    """What a delivery met, for metrics."""

    sent: int = 0
    batches: int = 0
    retries: int = 0
    refused: int = 0


class Delivery:
    """To one sink.

    Attributes:
        failing_since: on the monotonic clock, when the sink stopped taking; None while it does.
        failure: why, in a word.
    """

    def __init__(self, sink: Sink, *, batch_bytes: int) -> None:
        """``batch_bytes``: size of one call, unless a single record is larger."""
        self._sink, self._batch_bytes = sink, batch_bytes
        self._refused_in_a_row = 0
        self.counters = DeliveryCounters()
        self.failing_since: float | None = None
        self.failure = ""

    async def deliver(self, records: Sequence[Record]) -> dict[str, str]:
        """Return when the sink has them all, but for those it refused: id -> reason."""
        refused: dict[str, str] = {}
        for batch in _batches(records, self._batch_bytes):
            await self._deliver(batch, refused)
        return refused

    async def _deliver(self, batch: Sequence[Record], refused: dict[str, str]) -> None:
        try:
            await self._send(batch)
        except Refused as refusal:
            if len(batch) == 1:
                refused[batch[0].id] = str(refusal)
                self._refused_in_a_row += 1
                self.counters.refused += 1
                logger.error("record %s: %s", batch[0].id, refusal)
                return
            half = len(batch) // 2
            await self._deliver(batch[:half], refused)
            await self._deliver(batch[half:], refused)

    async def _send(self, batch: Sequence[Record]) -> None:
        """Try until the sink takes or refuses them.

        Raises:
            Refused: for good.
        """
        attempt = 0
        while True:
            try:
                await self._sink.send(batch)
            except Refused as refusal:
                if len(batch) > 1 or self._refused_in_a_row < REFUSED_IN_A_ROW:
                    raise
                wait = self._failed(str(refusal), 0.0, attempt)
            except Away as away:
                wait = self._failed(str(away), away.retry_after, attempt)
            else:
                self._taken(len(batch))
                return
            attempt += 1
            await asyncio.sleep(wait)

    def _failed(self, reason: str, asked: float, attempt: int) -> float:
        """Note a failure; return for how long to wait."""
        self.counters.retries += 1
        if self.failing_since is None:
            self.failing_since = time.monotonic()
        if reason != self.failure:
            logger.warning("the sink does not take records: %s", reason)
            self.failure = reason
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt, 16))
        return max(asked, wait * random.uniform(0.5, 1.0))  # noqa: S311  no secret

    def _taken(self, number: int) -> None:
        if self.failing_since is not None:
            logger.warning("the sink takes records again")
        self.failing_since, self.failure, self._refused_in_a_row = None, "", 0
        self.counters.sent += number
        self.counters.batches += 1


def _batches(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    """Cut records so that each batch is within ``size`` bytes, or one record."""
    start = weight = 0
    for number, record in enumerate(records):
        if number > start and weight + len(record.body) > size:
            yield records[start:number]
            start, weight = number, 0
        weight += len(record.body) + 1
    if start < len(records):
        yield records[start:]
