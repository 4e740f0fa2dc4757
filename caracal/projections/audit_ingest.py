"""The audit ingestor: topic -> ledger, exactly once (spec: audit ingest).

Rows and watermark commit in one transaction, the acknowledgement follows. What is delivered
again is in the ledger already; what is no evidence goes to the dead letters; what the database
cannot take just now stays pending and is tried again, for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from caracal.events.store.audit_entry import Keys
from caracal.events.store.audit_topic import (
    LEDGER_GROUP,
    add_dead_letter,
    dead_letter,
    topic_state,
    watermark,
)
from caracal.events.store.entries import EntryId
from caracal.events.store.leader import Leadership
from caracal.events.store.postgres import connected
from caracal.events.store.redis import GONE, RawEntry, connect, entries_in, streams_of
from caracal.events.store.redis_line import RedisLine
from caracal.events.topics import AUDIT
from caracal.projections.audit_ledger import Ledger, Written
from caracal.projections.audit_row import Evidence, Refused, read_entry
from caracal.stream_signature import Keyring

logger = logging.getLogger(__name__)

BATCH = 100
_GATHER_SECONDS = 0.05
_BUSY = 5  # small batches in a row, each right after the other
_BLOCK_MS = 1000
_TRANSIENT = ("08", "25", "40", "53", "55", "57", "58", "XX")
_OPTIONS = "-c statement_timeout=15000 -c idle_in_transaction_session_timeout=10000"

Read = tuple[str, Mapping[bytes, bytes], Evidence]
Dead = tuple[str, Mapping[bytes, bytes], str]


@dataclass(slots=True)
class IngestCounters:
    """What an ingestor met, for metrics."""

    inserted: int = 0
    duplicates: int = 0
    hmac_failures: int = 0
    parse_errors: int = 0
    tampered: int = 0
    dead: int = 0
    retries: int = 0
    partitions_made: int = 0


class Ingestor:
    """Keeps the ledger up to date. ``run`` goes on until cancelled, whatever breaks."""

    def __init__(
        self,
        *,
        database_url: str,
        redis_url: str,
        keys: Keys,
        ring: Keyring,
        claim_idle_seconds: float = 30,
        consumer: str | None = None,
    ) -> None:
        """``keys`` verify entries and tie the chain; ``ring`` (facts) signs dead letters."""
        self.database_url, self.redis_url = database_url, redis_url
        self.keys, self.ring = keys, ring
        self.claim_idle_seconds = claim_idle_seconds
        self.consumer = consumer or f"worker-{socket.gethostname() or 'unknown'}-{os.getpid()}"
        self.counters = IngestCounters()

    async def run(self) -> None:
        """Ingest for ever; on an error close everything, wait a little, begin with our pending."""
        while True:
            try:
                async with AsyncExitStack() as stack:
                    ingesting = await _Ingesting.open(self, stack)
                    await ingesting.follow()
            except (*GONE, psycopg.Error) as error:
                self.counters.retries += 1
                logger.warning("audit ingestor starts again: %s", type(error).__name__)
                await asyncio.sleep(0.1)


class _Ingesting:
    """One stretch of ingesting, on connections of its own; it ends with the first error."""

    def __init__(self, ingestor: Ingestor, ledger: Ledger, redis: Redis, line: RedisLine) -> None:
        self._ingestor, self._ledger, self._redis, self._line = ingestor, ledger, redis, line
        self._counters = ingestor.counters
        self._next_claim = 0.0
        self._upto: EntryId | None = None
        self._ingested_at = 0.0
        self._in_a_row = 0

    @classmethod
    async def open(cls, ingestor: Ingestor, stack: AsyncExitStack) -> _Ingesting:
        connection = await stack.enter_async_context(
            await connected(ingestor.database_url, _OPTIONS)
        )
        redis = connect(ingestor.redis_url, connections=2)
        stack.push_async_callback(redis.aclose)
        line = RedisLine(redis)
        stack.push_async_callback(line.close)
        await Leadership(connection, LEDGER_GROUP, _Progress(connection, redis)).wait()
        ledger = Ledger(connection, ingestor.keys)
        await ledger.open()
        ingestor.counters.partitions_made += ledger.partitions_made
        return cls(ingestor, ledger, redis, line)

    async def follow(self) -> None:
        """Ingest what comes: our own pending entries first, then what others left, then new."""
        start = "0"
        while True:
            try:
                if start == ">" and time.monotonic() >= self._next_claim:
                    await self._claim()
                if entries := await self._read(start):
                    await self._ingest(entries)
                    await self._gather(len(entries))
                elif start == "0":
                    start = ">"
                else:
                    await self._rest()
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                    raise
                await self._make_group()

    async def _read(self, start: str) -> list[RawEntry]:
        answer = await self._line.command(
            *("XREADGROUP", "GROUP", LEDGER_GROUP, self._ingestor.consumer),
            *("COUNT", BATCH, "BLOCK", _BLOCK_MS, "STREAMS", AUDIT, start),
            blocks=_BLOCK_MS / 1000,
        )
        return [entry for _, entries in streams_of(answer) for entry in entries]

    async def _gather(self, size: int) -> None:
        """Under a steady stream let entries gather: a commit for each is dear.

        What comes alone is in the ledger at once; somebody may ask for it next.
        """
        now = time.monotonic()
        at_once = size < BATCH and now - self._ingested_at < 2 * _GATHER_SECONDS
        self._in_a_row = self._in_a_row + 1 if at_once else 0
        if self._in_a_row >= _BUSY:
            await asyncio.sleep(_GATHER_SECONDS)
        self._ingested_at = time.monotonic()

    async def _claim(self) -> None:
        """Take over what other consumers were given and have not acknowledged for a while."""
        idle, cursor = self._ingestor.claim_idle_seconds, "0-0"
        self._next_claim = time.monotonic() + idle / 3
        while True:
            answer = await self._redis.xautoclaim(
                AUDIT, LEDGER_GROUP, self._ingestor.consumer, int(idle * 1000), cursor, count=BATCH
            )
            if entries := entries_in(answer[1]):
                await self._ingest(entries)
            cursor = answer[0].decode()
            if cursor == "0-0":
                return

    async def _rest(self) -> None:
        """Nothing to do: another ingestor's entries may have held the watermark back."""
        upto = await self._committed_after([])
        if upto is not None and upto != self._upto:
            await self._ledger.write([], upto)
            self._upto = upto

    async def _make_group(self) -> None:
        # At 0, not at the watermark: what stands there was not trimmed, the ledger knows what it
        # has, and in another incarnation of the topic a watermark may lie beyond what is new.
        try:
            await self._redis.xgroup_create(AUDIT, LEDGER_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _ingest(self, entries: Sequence[RawEntry]) -> None:
        good, dead = self._sorted_out(entries)
        upto = await self._committed_after(entries)
        try:
            written = await self._ledger.write([evidence for _, _, evidence in good], upto)
        except (psycopg.Error, UnicodeEncodeError) as error:
            if is_transient(error):
                raise
            written, refused = await self._write_singly(good)
            dead += refused
            await self._ledger.write([], upto)
        self._upto = upto
        self._counters.inserted += written.inserted
        self._counters.duplicates += written.duplicates
        self._counters.tampered += len(written.tampered)
        dead += [
            (entry_id, fields, "tamper_on_replay")
            for entry_id, fields, evidence in good
            if any(one.evidence is evidence for one in written.tampered)
        ]
        await self._settle([entry_id for entry_id, _ in entries], dead)

    def _sorted_out(self, entries: Sequence[RawEntry]) -> tuple[list[Read], list[Dead]]:
        good: list[Read] = []
        dead: list[Dead] = []
        for entry_id, fields in entries:
            try:
                good.append((entry_id, fields, read_entry(fields, self._ingestor.keys)))
            except Refused as refusal:
                reason = str(refusal)
                self._counters.hmac_failures += reason == "hmac_verify_failed"
                self._counters.parse_errors += reason != "hmac_verify_failed"
                dead.append((entry_id, fields, reason))
        return good, dead

    async def _write_singly(self, good: Sequence[Read]) -> tuple[Written, list[Dead]]:
        """One of a batch cannot be written: find which, the others must not pay for it."""
        self._ledger.forget_months()
        done, dead = Written(), []
        for entry_id, fields, evidence in good:
            try:
                done += await self._ledger.write([evidence], None)
            except (psycopg.Error, UnicodeEncodeError) as error:
                if is_transient(error):
                    raise
                reason = f"pg_permanent_error:{' '.join(str(error).split())[:200]}"
                dead.append((entry_id, fields, reason))
        return done, dead

    async def _committed_after(self, entries: Sequence[RawEntry]) -> EntryId | None:
        """Return up to where everything is committed once these entries are.

        All that the group was given, but for what is still pending besides them. None when the
        topic has vanished since: then these entries stand only here, and are to be written.
        """
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xinfo_groups(AUDIT)
        pipeline.xpending_range(AUDIT, LEDGER_GROUP, "-", "+", len(entries) + 1)
        try:
            groups, pending = await pipeline.execute()
        except ResponseError:
            return None
        ours = {entry_id for entry_id, _ in entries}
        for waiting in pending:
            if (entry_id := waiting["message_id"].decode()) not in ours:
                return EntryId.parse(entry_id).before()
        given = {group["name"].decode(): group["last-delivered-id"] for group in groups}
        return EntryId.parse(given[LEDGER_GROUP])

    async def _settle(self, entry_ids: Sequence[str], dead: Sequence[Dead]) -> None:
        """Acknowledge, together with the dead letters: neither is done without the other."""
        pipeline = self._redis.pipeline(transaction=True)
        for entry_id, fields, reason in dead:
            logger.error("audit entry %s is not ingested: %s", entry_id, reason)
            add_dead_letter(pipeline, dead_letter(entry_id, fields, reason, self._ingestor.ring))
        pipeline.xack(AUDIT, LEDGER_GROUP, *entry_ids)
        await pipeline.execute()
        self._counters.dead += len(dead)


class _Progress:
    """Tells a standby whether the leader works: the watermark, or that nothing waits for it."""

    def __init__(self, connection: AsyncConnection[Any], redis: Redis) -> None:
        self._connection, self._redis = connection, redis

    async def __call__(self) -> object:
        place = await watermark(self._connection)
        state = await topic_state(self._redis)
        return Leadership.IDLE if state.length == 0 or place == state.last else place


def is_transient(error: Exception) -> bool:
    """Say whether the database may take the same rows later: nothing is wrong with them."""
    if isinstance(error, psycopg.InterfaceError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # the connection, or a value that psycopg itself refuses
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_TRANSIENT)
