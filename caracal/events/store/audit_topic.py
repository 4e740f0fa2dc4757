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

_TRIM_AT_ONCE = 1_000
_TRIM_ROUNDS = 1_000
_NO_END = 2**52

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
    state = await group_state(redis, LEDGER_GROUP)
    if state is None:  # nothing was ever added
        return Backlog(0, 0, dead_letters)
    return Backlog(state.waiting, state.oldest_seconds, dead_letters)


async def watermark(connection: AsyncConnection[Any], group: str = LEDGER_GROUP) -> EntryId:
    """Return up to where a group has committed everything; 0-0 before its first entry."""
    cursor = await connection.execute(
        "SELECT position, n FROM audit_watermarks WHERE name = %s", (group,)
    )
    row = await cursor.fetchone()
    return EntryId(*row) if row else ZERO


@dataclass(frozen=True, slots=True)
class GroupState:
    """How far a group is: the ledger's by its own account, any other by Redis's."""

    place: EntryId
    """Up to where everything is acknowledged."""
    waiting: int
    oldest_seconds: float
    """For how long the oldest entry has been given and not acknowledged."""


async def group_state(redis: Redis, group: str, topic: str = AUDIT) -> GroupState | None:
    """Return how far a group of a topic is; None when there is no such group."""
    try:
        groups = {each["name"].decode(): each for each in await redis.xinfo_groups(topic)}
        if (info := groups.get(group)) is None:
            return None
        oldest: list[Any] = await redis.xpending_range(topic, group, "-", "+", 1)
        length = await redis.xlen(topic)
    except ResponseError:  # no topic, or the group has just vanished
        return None
    place, pending = EntryId.parse(info["last-delivered-id"]), info["pending"]
    # Redis does not know the lag of a group that was trimmed past: at most all there is.
    lag = length if info["lag"] is None else info["lag"]
    if not oldest:
        return GroupState(place, lag + pending, 0)
    first = EntryId.parse(oldest[0]["message_id"])
    idle = int(oldest[0]["time_since_delivered"]) / 1000
    return GroupState(first.before(), lag + pending, idle)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What went."""

    committed: int = 0
    passed_over: int = 0
    """Entries that the ledger has and another group has not had."""
    idle: tuple[str, ...] = ()
    """Groups that no longer count: an alarm."""


async def trim(redis: Redis, connection: AsyncConnection[Any], *, hold: int = _NO_END) -> Trimmed:
    """Trim the topic up to the lowest watermark.

    A group counts once it was seen on the topic (the ledger's always), until it has stood still
    for a day. Of what the ledger has the others may hold back ``hold`` entries.
    """
    for name in AUDIT_GROUPS[1:]:
        await _note_progress(redis, connection, name)
    cursor = await connection.execute(
        "SELECT name, position, n, moved_at < now() - make_interval(hours => %s)"
        " FROM audit_watermarks WHERE name = ANY(%s)",
        (IDLE_HOURS, list(AUDIT_GROUPS)),
    )
    rows = {
        name: (EntryId(position, n + 1), idle)
        for name, position, n, idle in await cursor.fetchall()
    }
    if LEDGER_GROUP not in rows:
        return Trimmed()
    idle = tuple(name for name, (_, is_idle) in rows.items() if is_idle and name != LEDGER_GROUP)
    counted = [name for name in AUDIT_GROUPS if name in rows and name not in idle]
    args = [text for name in counted for text in (name, str(rows[name][0]))]
    committed = passed_over = 0
    for _ in range(_TRIM_ROUNDS):
        went, passed = await redis.eval(_TRIM, 1, AUDIT, hold, _TRIM_AT_ONCE, *args)
        committed, passed_over = committed + went, passed_over + passed
        if not passed:
            break
    return Trimmed(committed, passed_over, idle)


async def _note_progress(redis: Redis, connection: AsyncConnection[Any], group: str) -> None:
    """Note how far a group is that keeps no account of its own.

    It is switched on by being there. Once it is noted, a topic that has lost its groups (FLUSHALL)
    waits for it; one that stays away for a day is forgotten.
    """
    if (state := await group_state(redis, group)) is None:
        await connection.execute(
            "DELETE FROM audit_watermarks"
            " WHERE name = %s AND moved_at < now() - make_interval(hours => %s)",
            (group, IDLE_HOURS),
        )
        return
    await connection.execute(
        "INSERT INTO audit_watermarks AS w (name, position, n) VALUES (%s, %s, %s)"
        " ON CONFLICT (name) DO UPDATE SET position = excluded.position, n = excluded.n,"
        " moved_at = now() WHERE (w.position, w.n) <> (excluded.position, excluded.n) OR %s",
        (group, *state.place, state.waiting == 0),
    )


def dead_letter(
    entry_id: str,
    fields: Mapping[bytes, bytes],
    reason: str,
    ring: Keyring,
    *,
    topic: str = AUDIT_DEAD,
    **more: str,
) -> dict[Any, Any]:
    """Return the signed dead letter of an entry: its fields as ``src_<name>``, and why.

    ``src_id`` is the entry's id, ``src_event_id`` the event's own; ``topic`` is where it goes.
    """
    source = {_name(name): _line(value) for name, value in fields.items()}
    letter = {f"src_{name}": value for name, value in source.items()}
    letter |= {
        **more,
        "reason": reason,
        "src_id": entry_id,
        "src_event_id": source.get("id", ""),
        "received_at": str(int(clock.now().timestamp() * 1000)),
    }
    return dict(ring.signed(topic, letter))


def add_dead_letter(pipeline: Any, letter: dict[Any, Any], topic: str = AUDIT_DEAD) -> None:
    """Queue a dead letter on a pipeline."""
    pipeline.xadd(topic, letter, maxlen=DEAD_MAXLEN, approximate=True)


def _name(name: bytes) -> str:
    return _UNFIT.sub("_", name.decode(errors="replace")) or "_"


def _line(value: bytes) -> str:
    return value.decode(errors="backslashreplace").replace("\n", "\\n")
