"""Dead letters: entries on our topics that are not ours. They change nothing and are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from redis.asyncio import Redis

from caracal.events.store.entries import Rings, text_fields
from caracal.events.store.redis import entries_in
from caracal.events.topics import DEAD_MAXLEN, Topic

_VALUES_LIMIT = 65_536


async def add(
    redis: Redis, topic: Topic, entry_id: str, group: str, values: Mapping[str, str], rings: Rings
) -> None:
    """Keep a copy of a foreign entry, signed under the name of the dead-letter topic."""
    text = orjson.dumps(dict(values)).decode()
    letter = {
        "original_id": entry_id,
        "group": group,
        "error": "bad_signature",
        "values": text if len(text) <= _VALUES_LIMIT else "{}",
    }
    signed: dict[Any, Any] = dict(rings.of(topic).signed(topic.dead, letter))
    await redis.xadd(topic.dead, signed, maxlen=DEAD_MAXLEN, approximate=True)


async def newest(redis: Redis, topic: Topic, count: int) -> list[tuple[str, dict[str, str]]]:
    """Return the newest dead letters of a topic, newest first."""
    entries = entries_in(await redis.xrevrange(topic.dead, count=count))
    return [(entry_id, text_fields(fields) or {}) for entry_id, fields in entries]


async def count(redis: Redis, topic: Topic) -> int:
    """Return how many dead letters a topic has."""
    return int(await redis.xlen(topic.dead))
