"""What a stranger with Redis at hand may do to fact topics and the heartbeat."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from caracal.events.store.entries import EntryId
from caracal.events.store.redis import RawEntry, entries_in
from caracal.events.topics import HEARTBEAT, TOPICS
from caracal.stream_signature import FIELD
from tests.backbone import RINGS

FACT_TOPICS = [topic.name for topic in TOPICS.values() if topic.key == "facts"]
Fields = dict[Any, Any]
Tampering = Callable[[Redis, str, random.Random], Awaitable[object]]


async def last(redis: Redis, topic: str, count: int = 1) -> list[RawEntry]:
    """Return the newest entries, newest first."""
    return entries_in(await redis.xrevrange(topic, count=count))


async def end(redis: Redis, topic: str) -> EntryId:
    """Return the last id that a topic has ever had; 0-0 without a topic."""
    if not await redis.exists(topic):
        return EntryId(0, 0)
    return EntryId.parse((await redis.xinfo_stream(topic))["last-generated-id"])


async def add_after_end(redis: Redis, topic: str, fields: Fields, by: int = 1) -> None:
    """Add an entry whose id is ``by`` positions beyond the topic's end."""
    position, n = await end(redis, topic)
    await redis.xadd(topic, fields, id=f"{position + by}-{n if by else n + 1}")


async def stray(redis: Redis, topic: str, dice: random.Random) -> None:
    """An entry by the clock: its id is far beyond every position."""
    await redis.xadd(topic, {"hello": "there"})


async def forged(redis: Redis, topic: str, dice: random.Random) -> None:
    """The revocation or the fact that someone would like, under a key of his own."""
    fields: Fields = {
        "event": "zone.archived",
        "aggregate_id": "nobody",
        "data": "{}",
        "metadata": "{}",
        "version": "1",
        "position": "1",
        "prev": "0-0",
        FIELD: "00" * 32,
    }
    await add_after_end(redis, topic, fields, by=dice.choice((1, 1, 3, 1000)))


async def signed_as_signal(redis: Redis, topic: str, dice: random.Random) -> None:
    """Signed well, but by the key that every integrator holds."""
    place = await end(redis, topic)
    fields = {
        "event": "grant.revoked",
        "aggregate_id": "nobody",
        "data": "{}",
        "metadata": "{}",
        "version": "1",
        "position": str(place.position + 1),
        "prev": str(place),
    }
    await add_after_end(redis, topic, dict(RINGS.signals.signed(topic, fields)))


async def unsigned(redis: Redis, topic: str, dice: random.Random) -> None:
    """What was there already, without its signature, as if it were the next."""
    for _, fields in await last(redis, topic):
        rest: Fields = {name: value for name, value in fields.items() if name != FIELD.encode()}
        await add_after_end(redis, topic, rest)


async def duplicated(redis: Redis, topic: str, dice: random.Random) -> None:
    """The last entry once more: well signed, at its own position."""
    for _, fields in await last(redis, topic):
        await add_after_end(redis, topic, dict(fields), by=0)


async def reordered(redis: Redis, topic: str, dice: random.Random) -> None:
    """The last entries taken out, and added again in another order."""
    newest = await last(redis, topic, 5)
    dice.shuffle(newest)
    for entry_id, _ in newest:
        await redis.xdel(topic, entry_id)
    for _, fields in newest:
        await add_after_end(redis, topic, dict(fields))


async def truncated(redis: Redis, topic: str, dice: random.Random) -> None:
    """Half an entry."""
    for _, fields in await last(redis, topic):
        kept = dice.sample(sorted(fields), max(1, len(fields) // 2))
        await add_after_end(redis, topic, {name: fields[name] for name in kept})


async def deleted(redis: Redis, topic: str, dice: random.Random) -> None:
    """Some entries, among them the last one."""
    for entry_id, _ in (await last(redis, topic, 20))[:: dice.choice((1, 3))]:
        await redis.xdel(topic, entry_id)


async def trimmed(redis: Redis, topic: str, dice: random.Random) -> None:
    """All but a few entries gone."""
    await redis.xtrim(topic, maxlen=dice.choice((0, 1, 5)), approximate=False)


async def no_topic(redis: Redis, topic: str, dice: random.Random) -> None:
    """The topic gone, with its groups."""
    await redis.delete(topic)


async def false_heartbeat(redis: Redis, topic: str, dice: random.Random) -> None:
    """A heart that beats ahead of the log, and one from the past."""
    ahead: Fields = {"position": "999999999", "heads": "{}", "log_id": "x", FIELD: "00" * 32}
    await redis.xadd(HEARTBEAT, ahead)
    for _, fields in (await last(redis, HEARTBEAT, 50))[-1:]:
        await redis.xadd(HEARTBEAT, dict(fields))


LOSSES: tuple[Tampering, ...] = (deleted, trimmed, no_topic)
TAMPERINGS: tuple[Tampering, ...] = (
    stray,
    forged,
    signed_as_signal,
    unsigned,
    duplicated,
    reordered,
    truncated,
    *LOSSES,
    false_heartbeat,
)
