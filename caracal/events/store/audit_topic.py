"""The audit topic itself: how long it is, how far its groups are, trimming, dead letters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from caracal import clock
from caracal.events.store.entries import ZERO, EntryId
from caracal.events.topics import AUDIT, AUDIT_DEAD, AUDIT_GROUPS, DEAD_MAXLEN
from caracal.stream_signature import Keyring

(LEDGER_GROUP, *_) = AUDIT_GROUPS
IDLE_HOURS = 24
"""A group without progress for so long stops counting; the ledger's own never does."""

_TRIM = (resources.files("caracal.events.store") / "audit_trim.lua").read_text()
_UNFIT = re.compile(r"[^a-z0-9_]")


@dataclass(frozen=True, slots=True)
class TopicState:
    """How many entries the topic holds, and the last id it gave."""

    length: int
    last: EntryId


async def topic_state(redis: Redis) -> TopicState:
    """Return the state of the audit topic; one that is not there is empty."""
    try:
        info = await redis.xinfo_stream(AUDIT)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return TopicState(0, ZERO)
    return TopicState(info["length"], EntryId.parse(info["last-generated-id"]))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the ledger, as far as Redis knows."""

    length: int
    oldest_seconds: float
    dead_letters: int


async def backlog(redis: Redis) -> Backlog:
    """Return how many entries are not acknowledged, and for how long the oldest has been given."""
    dead_letters = int(await redis.xlen(AUDIT_DEAD))
    try:
        oldest = await redis.xpending_range(AUDIT, LEDGER_GROUP, "-", "+", 1)
        groups = await redis.xinfo_groups(AUDIT)
    except ResponseError:  # no topic, no group: nothing was ever added
        return Backlog(0, 0, dead_letters)
    idle = int(oldest[0]["time_since_delivered"]) / 1000 if oldest else 0
    waiting = sum(
        (group["lag"] or 0) + group["pending"]
        for group in groups
        if group["name"].decode() == LEDGER_GROUP  # it may have vanished between the two answers
    )
    return Backlog(waiting, idle, dead_letters)


async def watermark(connection: AsyncConnection[Any], group: str = LEDGER_GROUP) -> EntryId:
    """Return up to where a group has committed everything; 0-0 before its first entry."""
    cursor = await connection.execute(
        "SELECT position, n FROM audit_watermarks WHERE name = %s", (group,)
    )
    row = await cursor.fetchone()
    return EntryId(*row) if row else ZERO


async def trim(redis: Redis, connection: AsyncConnection[Any]) -> tuple[int, list[str]]:
    """Trim the topic up to the lowest watermark.

    Returns:
        How many entries went, and the groups that no longer count: an alarm.
    """
    cursor = await connection.execute(
        "SELECT name, position, n, moved_at < now() - make_interval(hours => %s)"
        " FROM audit_watermarks WHERE name = ANY(%s)",
        (IDLE_HOURS, list(AUDIT_GROUPS)),
    )
    rows = {
        name: (EntryId(position, n + 1), idle)
        for name, position, n, idle in await cursor.fetchall()
    }
    idle = [name for name, (_, is_idle) in rows.items() if is_idle and name != LEDGER_GROUP]
    counted = [name for name in AUDIT_GROUPS if name not in idle]
    if not all(name in rows for name in counted):
        return 0, idle
    args = [text for name in counted for text in (name, str(rows[name][0]))]
    return int(await redis.eval(_TRIM, 1, AUDIT, *args)), idle


def dead_letter(
    entry_id: str, fields: Mapping[bytes, bytes], reason: str, ring: Keyring
) -> dict[Any, Any]:
    """Return the signed dead letter of an entry: its fields as ``src_<name>``, and why.

    ``src_id`` is the entry's id, ``src_event_id`` the event's own.
    """
    source = {_name(name): _line(value) for name, value in fields.items()}
    letter = {f"src_{name}": value for name, value in source.items()}
    letter |= {
        "reason": reason,
        "src_id": entry_id,
        "src_event_id": source.get("id", ""),
        "received_at": str(int(clock.now().timestamp() * 1000)),
    }
    return dict(ring.signed(AUDIT_DEAD, letter))


def add_dead_letter(pipeline: Any, letter: dict[Any, Any]) -> None:
    """Queue a dead letter on a pipeline."""
    pipeline.xadd(AUDIT_DEAD, letter, maxlen=DEAD_MAXLEN, approximate=True)


def _name(name: bytes) -> str:
    return _UNFIT.sub("_", name.decode(errors="replace")) or "_"


def _line(value: bytes) -> str:
    return value.decode(errors="backslashreplace").replace("\n", "\\n")
