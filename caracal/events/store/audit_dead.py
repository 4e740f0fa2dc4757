"""Dead letters of the audit topic: look at them, and have those ingested whose fault was ours.

Only what the database refused may be tried again (the schema was at fault, or the disk). What did
not verify, or contradicts the ledger, stays evidence of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from caracal.events.store.audit_entry import Keys, verify
from caracal.events.store.entries import EntryId, text_fields
from caracal.events.store.redaction import redacted
from caracal.events.store.redis import entries_in
from caracal.events.topics import AUDIT, AUDIT_DEAD
from caracal.stream_signature import FIELD, Keyring

REPLAYABLE = "pg_permanent_error:"
_PAGE = 200
_LONGEST = 4096  # of data that is no JSON


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: its id on its topic, and its fields as they are there."""

    id: str
    fields: Mapping[str, str]

    def shown(self) -> dict[str, Any]:
        """Return what may be shown of it: credentials in the data are hidden."""
        members = {name: text for name, text in self.fields.items() if name != FIELD}
        if "src_data" in members:
            members["src_data"] = _shown(members["src_data"])
        return {**members, "id": self.id}


@dataclass(slots=True)
class Replayed:
    """What a replay did."""

    scanned: int = 0
    replayed: int = 0
    skipped: int = 0


async def letters(
    redis: Redis, *, start: str = "-", limit: int = 100
) -> tuple[list[Letter], str | None]:
    """Return dead letters from an id on, oldest first, and the id of the next; None: no more."""
    found = _read(await redis.xrange(AUDIT_DEAD, min=start, count=limit + 1))
    return found[:limit], found[limit].id if len(found) > limit else None


async def newest(redis: Redis, count: int, topic: str = AUDIT_DEAD) -> list[Letter]:
    """Return the newest dead letters, newest first."""
    return _read(await redis.xrevrange(topic, count=count))


async def letter(redis: Redis, letter_id: EntryId) -> Letter | None:
    """Return one dead letter; None when there is none of this id."""
    found = _read(await redis.xrange(AUDIT_DEAD, str(letter_id), str(letter_id)))
    return found[0] if found else None


async def replay(redis: Redis, keys: Keys, ring: Keyring, *, limit: int) -> Replayed:
    """Add at most ``limit`` entries to the audit topic again, oldest first, each as it was signed.

    An entry is on one of both topics, never on none; the ledger knows what it has. What cannot be
    ingested yet becomes a dead letter anew, and is not met again by this replay.
    """
    done = Replayed()
    last = await redis.xrevrange(AUDIT_DEAD, count=1)
    start = "-"
    while last and done.replayed < limit:
        page = _read(await redis.xrange(AUDIT_DEAD, start, entries_in(last)[0][0], count=_PAGE))
        for one in page:
            if done.replayed >= limit:
                break
            done.scanned += 1
            if (entry := source_of(one, keys, ring)) is None:
                done.skipped += 1
                continue
            pipeline = redis.pipeline(transaction=True)
            pipeline.xadd(AUDIT, entry)
            pipeline.xdel(AUDIT_DEAD, one.id)
            await pipeline.execute()
            done.replayed += 1
        if len(page) < _PAGE:
            break
        start = f"({page[-1].id}"
    return done


def source_of(one: Letter, keys: Keys, ring: Keyring) -> dict[Any, Any] | None:
    """Return the entry that a letter holds; None when it is not to be ingested.

    The letter must be ours, its reason one that may pass, and the entry verify as it did.
    """
    fields = one.fields
    if not fields.get("reason", "").startswith(REPLAYABLE) or not ring.verify(AUDIT_DEAD, fields):
        return None
    data, sig = fields.get("src_data", "").encode(), fields.get("src_sig", "").encode()
    if not data or not verify(keys, data, sig):
        return None
    entry = {"id": fields.get("src_event_id", ""), "data": data}
    return {**entry, "sig": sig} if sig else entry


def _read(answer: Any) -> list[Letter]:
    return [Letter(entry_id, text_fields(fields) or {}) for entry_id, fields in entries_in(answer)]


def _shown(data: str) -> Any:
    try:
        return redacted(orjson.loads(data))
    except ValueError:
        return data[:_LONGEST]
