"""The audit writer of one process: no evidence, no mandate.

What Redis acknowledged is kept in memory until the ledger has it, and is added again when the
topic has lost it: its last id has gone back (FLUSHALL, an older copy restored), or the ledger has
passed the entry's place without having the entry. The ledger deduplicates by the event's id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import psycopg
from psycopg import AsyncConnection

from caracal.errors import StartError, Unavailable
from caracal.events.store.audit_entry import AuditEvent, Keys, Prebuilt, prebuilt
from caracal.events.store.audit_topic import topic_state, watermark
from caracal.events.store.entries import ZERO, EntryId
from caracal.events.store.postgres import connected
from caracal.events.store.redis import GONE, connect
from caracal.events.topics import AUDIT
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

KEPT_MAX = 100_000
_TRIES = 3  # then the ledger refuses it: see the dead letters
_ASK = 5_000  # ids a query
_AT_ONCE = 500  # entries a pipeline

Durability = Literal["ack", "fsync"]


@dataclass(slots=True)
class AuditCounters:
    """What a writer did, for metrics."""

    added: int = 0
    dropped: int = 0
    """Refusals whose entry could not be written."""
    errors: int = 0
    added_again: int = 0
    lost: int = 0
    """Entries that were acknowledged and cannot be shown to be in the ledger."""


@dataclass(frozen=True, slots=True)
class _Kept:
    entry: Prebuilt
    place: EntryId
    tries: int = 0


class AuditWriter:
    """Adds audit entries; ``start`` and ``stop`` own its connections and task."""

    def __init__(
        self,
        *,
        database_url: str,
        redis_url: str,
        keys: Keys,
        durability: Durability = "ack",
        backlog_max: int = 1_000_000,
        kept_max: int = KEPT_MAX,
        beat_seconds: float = 1.0,
    ) -> None:
        self._database_url, self._keys = database_url, keys
        self._redis = connect(redis_url)
        self._durability, self._backlog_max = durability, backlog_max
        self._kept_max, self._beat_seconds = kept_max, beat_seconds
        self._kept: dict[str, _Kept] = {}
        self._length = 0
        self._database: AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self.counters = AuditCounters()

    @property
    def kept(self) -> int:
        """Return how many entries wait in memory for the ledger."""
        return len(self._kept)

    async def start(self) -> None:
        """Begin to keep watch over what was added.

        Raises:
            StartError: ``fsync`` is asked for and the server does not do it.
        """
        if self._durability == "fsync":
            await self._check_fsync()
        self._task = asyncio.create_task(self._run(), name="audit-writer")

    async def stop(self) -> None:
        """End. Entries that the ledger has not taken yet are only in Redis from now on."""
        if self._task is not None:
            await cancelled(self._task)
        if self._database is not None:
            await self._database.close()
        await self._redis.aclose()

    def prebuilt(self, event: AuditEvent) -> Prebuilt:
        """Return the signed entry of an event, for a script that adds it itself.

        The script does ``XADD entry.topic * entry.fields…`` and hands back the ids it got, for
        :meth:`acknowledged`. Call :meth:`check` first when the entry allows something.
        """
        return prebuilt(event, self._keys)

    def check(self) -> None:
        """Refuse to allow anything while the ledger is too far behind.

        Raises:
            Unavailable: 503 ``audit_unavailable``.
        """
        if self._length > self._backlog_max:
            raise unavailable()

    async def add(self, events: Sequence[AuditEvent]) -> None:
        """Add events; returns when Redis has acknowledged them all.

        Refusals that cannot be written are counted, not raised.

        Raises:
            Unavailable: 503 ``audit_unavailable``, and one of the events allows something.
        """
        grants = any(event.grants for event in events)
        if grants:
            self.check()
        try:
            await self._add([_Kept(self.prebuilt(event), ZERO) for event in events])
            self.counters.added += len(events)
        except GONE as error:
            self.counters.errors += 1
            if grants:
                raise unavailable() from error
            self.counters.dropped += len(events)
            logger.warning("%d audit entries dropped: %s", len(events), type(error).__name__)

    def acknowledged(self, entries: Iterable[Prebuilt], entry_ids: Iterable[str | bytes]) -> None:
        """Keep entries that a script of the caller's has added, under the ids it returned."""
        for entry, entry_id in zip(entries, entry_ids, strict=True):
            self._keep(_Kept(entry, EntryId.parse(entry_id)))
            self.counters.added += 1

    def _keep(self, kept: _Kept) -> None:
        self._kept[kept.entry.id] = kept
        if len(self._kept) > self._kept_max:
            del self._kept[next(iter(self._kept))]
            self.counters.lost += 1

    async def _add(self, wanted: Sequence[_Kept]) -> None:
        for start in range(0, len(wanted), _AT_ONCE):
            chunk = wanted[start : start + _AT_ONCE]
            pipeline = self._redis.pipeline(transaction=False)
            for one in chunk:
                pipeline.execute_command("XADD", one.entry.topic, "*", *one.entry.fields)
            answers = await pipeline.execute(raise_on_error=False)
            for one, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, Exception):
                    raise answer
                self._keep(replace(one, place=EntryId.parse(answer)))

    async def _check_fsync(self) -> None:
        try:
            config = await self._redis.config_get("append*")
        except GONE as error:
            raise StartError(f"AUDIT_DURABILITY=fsync cannot be checked: {error}") from error
        if config.get("appendonly") != "yes" or config.get("appendfsync") != "always":
            raise StartError(
                "AUDIT_DURABILITY=fsync needs a server with appendonly yes, appendfsync always"
            )

    # --- the watch over what was added ---------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._look_at_topic()
                await self._look_at_ledger()
            except (*GONE, psycopg.Error) as error:
                logger.info("audit writer: %s", type(error).__name__)
            await asyncio.sleep(self._beat_seconds)

    async def _look_at_topic(self) -> None:
        before = list(self._kept.values())  # what is added from here on cannot be missing
        state = await topic_state(self._redis)
        self._length = state.length
        if missing := [one for one in before if one.place > state.last]:
            logger.warning("%s has gone back; %d entries added again", AUDIT, len(missing))
            await self._add(missing)
            self.counters.added_again += len(missing)

    async def _look_at_ledger(self) -> None:
        if not self._kept:
            return
        database = await self._connected()
        upto = await watermark(database)
        passed = [one for one in self._kept.values() if one.place <= upto]
        there = await _in_ledger(database, passed)
        for event_id in there:
            self._kept.pop(event_id, None)
        await self._add_passed([one for one in passed if one.entry.id not in there])

    async def _add_passed(self, missing: Sequence[_Kept]) -> None:
        """Add again what the ledger went past; what it refuses again and again is given up."""
        again = [replace(one, tries=one.tries + 1) for one in missing if one.tries < _TRIES]
        await self._add(again)
        self.counters.added_again += len(again)
        for one in missing:
            if one.tries >= _TRIES:
                self.counters.lost += 1
                self._kept.pop(one.entry.id, None)
                logger.error("audit event %s does not get into the ledger", one.entry.id)

    async def _connected(self) -> AsyncConnection[Any]:
        if self._database is None or self._database.closed:
            options = "-c statement_timeout=5000"
            self._database = await connected(self._database_url, options)
        return self._database


async def _in_ledger(database: AsyncConnection[Any], passed: Sequence[_Kept]) -> set[str]:
    there: set[str] = set()
    for start in range(0, len(passed), _ASK):
        entries = [one.entry for one in passed[start : start + _ASK]]
        cursor = await database.execute(
            "SELECT id FROM audit_events WHERE id = ANY(%s) AND occurred_at >="
            " (SELECT min(at) - interval '1 second' FROM unnest(%s::timestamptz[]) AS at)",
            ([entry.id for entry in entries], [entry.occurred_at for entry in entries]),
            prepare=False,  # a plan made for a young month would walk all of it ever after
        )
        there.update(row[0] for row in await cursor.fetchall())
    return there


def unavailable() -> Unavailable:
    """Return the refusal of everything that cannot be put on record."""
    return Unavailable("audit_unavailable", "the decision cannot be put on record now")
