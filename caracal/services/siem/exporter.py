"""Topics -> sink, at least once: an entry is acknowledged when the sink has its record.

What does not verify never gets to the sink: it goes to the dead letters, as does what the sink
refuses for good. While the sink is away entries wait in Redis; in memory is one batch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from caracal.events.store.audit_entry import Keys
from caracal.events.store.audit_topic import add_dead_letter, dead_letter, group_state
from caracal.events.store.entries import Rings, text_fields, verified
from caracal.events.store.redis import GONE, RawEntry, connect, entries_in, streams_of
from caracal.events.store.redis_line import RedisLine
from caracal.events.topics import AUDIT, SIEM_DEAD, SIEM_GROUP, TOPICS, read_fact
from caracal.projections.audit_row import Refused as NoEvidence
from caracal.projections.audit_row import read_entry
from caracal.services.siem.delivery import Delivery
from caracal.services.siem.record import Record, of_decision, of_fact
from caracal.stream_signature import Keyring

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
_BLOCK_MS = 1000

Found = list[tuple[str, list[RawEntry]]]
"""Topic, its entries."""


@dataclass(slots=True)
class ExportCounters:
    """What an exporter met, for metrics."""

    dead: int = 0
    forged: int = 0
    gone: int = 0
    """Entries that were trimmed before the sink had them: the ledger and the log have them."""
    restarts: int = 0


@dataclass(slots=True)
class Lag:
    """How far the group is behind, over all topics."""

    entries: int = 0
    oldest_seconds: float = 0.0


class Exporter:
    """Keeps a sink up to date. ``run`` goes on until cancelled, whatever breaks."""

    def __init__(
        self,
        delivery: Delivery,
        *,
        redis_url: str,
        topics: Sequence[str],
        keys: Keys,
        ring: Keyring,
        batch: int = 500,
        claim_idle_seconds: float = 30,
        consumer: str | None = None,
    ) -> None:
        """``keys`` verify decisions; ``ring`` verifies facts and signs dead letters."""
        self.delivery, self.redis_url, self.topics = delivery, redis_url, topics
        self.keys, self.ring = keys, ring
        self.rings = Rings(ring, Keyring())
        self.batch, self.claim_idle_seconds = batch, claim_idle_seconds
        self.consumer = consumer or f"siem-{socket.gethostname() or 'unknown'}-{os.getpid()}"
        self.counters = ExportCounters()

    async def run(self) -> None:
        """Export for ever; on an error close everything, wait, begin with our pending."""
        while True:
            try:
                async with AsyncExitStack() as stack:
                    redis = connect(self.redis_url, connections=2)
                    stack.push_async_callback(redis.aclose)
                    line = RedisLine(redis)
                    stack.push_async_callback(line.close)
                    await _Exporting(self, redis, line).follow()
            except GONE as error:
                self.counters.restarts += 1
                logger.warning("exporter starts again: %s", type(error).__name__)
                await asyncio.sleep(AGAIN_SECONDS)

    async def lag(self, redis: Redis) -> Lag:
        """Return how far the group is behind.

        Raises:
            RedisError, OSError, TimeoutError: Redis cannot be used now.
        """
        states = [await group_state(redis, SIEM_GROUP, topic) for topic in self.topics]
        known = [state for state in states if state is not None]
        return Lag(
            sum(state.waiting for state in known),
            max((state.oldest_seconds for state in known), default=0.0),
        )


class _Exporting:
    """One stretch of exporting, on connections of its own; it ends with the first error."""

    def __init__(self, exporter: Exporter, redis: Redis, line: RedisLine) -> None:
        self._exporter, self._redis, self._line = exporter, redis, line
        self._counters = exporter.counters
        self._next_claim = 0.0

    async def follow(self) -> None:
        """Export what comes: our own pending entries first, then what others left, then new."""
        start = "0"
        await self._make_groups()
        while True:
            try:
                if start == ">" and time.monotonic() >= self._next_claim:
                    await self._claim()
                found = await self._read(start)
                if any(entries for _, entries in found):
                    await self._export(found)
                elif start == "0":
                    start = ">"
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                    raise
                await self._make_groups()

    async def _make_groups(self) -> None:
        # At 0: what stands there was not trimmed, and what is sent twice has the same id.
        for topic in self._exporter.topics:
            try:
                await self._redis.xgroup_create(topic, SIEM_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _read(self, start: str) -> Found:
        topics = self._exporter.topics
        answer = await self._line.command(
            *("XREADGROUP", "GROUP", SIEM_GROUP, self._exporter.consumer),
            *("COUNT", max(1, self._exporter.batch // len(topics)), "BLOCK", _BLOCK_MS),
            *("STREAMS", *topics, *[start] * len(topics)),
            blocks=_BLOCK_MS / 1000,
        )
        return streams_of(answer)

    async def _claim(self) -> None:
        """Take over what others were given and have not acknowledged for a while."""
        self._next_claim = time.monotonic() + self._exporter.claim_idle_seconds / 3
        for topic in self._exporter.topics:
            await self._claim_of(topic)

    async def _claim_of(self, topic: str) -> None:
        cursor, idle = "0-0", int(self._exporter.claim_idle_seconds * 1000)
        while True:
            answer = await self._redis.xautoclaim(
                topic, SIEM_GROUP, self._exporter.consumer, idle, cursor, count=self._exporter.batch
            )
            if len(answer) > 2:  # trimmed: the server has let go of them by itself
                self._counters.gone += len(answer[2])
            if entries := entries_in(answer[1]):
                await self._export([(topic, entries)])
            cursor = answer[0].decode()
            if cursor == "0-0":
                return

    async def _export(self, found: Found) -> None:
        sorted_out = [_Sorted(self._exporter, topic, entries) for topic, entries in found]
        records = [record for each in sorted_out for record in each.records.values()]
        refused = await self._exporter.delivery.deliver(records)
        for each in sorted_out:
            each.refuse(refused)
            await self._settle(each)

    async def _settle(self, done: _Sorted) -> None:
        """Acknowledge, together with the dead letters: neither is done without the other."""
        if not done.entries:
            return
        pipeline = self._redis.pipeline(transaction=True)
        for entry_id, reason in done.dead.items():
            fields = done.entries[entry_id]
            logger.error("entry %s of %s is not sent: %s", entry_id, done.topic, reason)
            letter = dead_letter(
                entry_id,
                fields,
                reason,
                self._exporter.ring,
                topic=SIEM_DEAD,
                src_topic=done.topic,
            )
            add_dead_letter(pipeline, letter, SIEM_DEAD)
        pipeline.xack(done.topic, SIEM_GROUP, *done.entries)
        await pipeline.execute()
        self._counters.dead += len(done.dead)
        self._counters.gone += done.gone
        self._counters.forged += sum(reason in _FORGED for reason in done.dead.values())


_FORGED = ("hmac_verify_failed", "bad_signature")


class _Sorted:
    """Entries of one topic: what of them is sent, and what is not, and why."""

    def __init__(self, exporter: Exporter, topic: str, entries: Iterable[RawEntry]) -> None:
        self.topic, self.entries = topic, dict(entries)
        self.records: dict[str, Record] = {}
        self.dead: dict[str, str] = {}
        self.gone = 0
        for entry_id, fields in self.entries.items():
            if not fields:  # pending still, but trimmed
                self.gone += 1
                continue
            try:
                self.records[entry_id] = _record(exporter, topic, entry_id, fields)
            except NoEvidence as refusal:
                self.dead[entry_id] = str(refusal)
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self.dead[entry_id] = f"unreadable:{type(error).__name__}"

    def refuse(self, refused: Mapping[str, str]) -> None:
        """Note what the sink refused, by the records' ids."""
        for entry_id, record in self.records.items():
            if record.id in refused:
                self.dead[entry_id] = refused[record.id]


def _record(exporter: Exporter, topic: str, entry_id: str, fields: Mapping[bytes, bytes]) -> Record:
    """Return the record of an entry that is ours.

    Raises:
        NoEvidence: it is not.
        ValueError, TypeError, LookupError, AttributeError: ours, and not of its form.
    """
    if topic == AUDIT:
        return of_decision(read_entry(fields, exporter.keys).row)
    texts = text_fields(fields)
    if texts is None or not verified(TOPICS[topic], entry_id, texts, exporter.rings):
        raise NoEvidence("bad_signature")
    return of_fact(read_fact(int(texts["position"]), texts))
