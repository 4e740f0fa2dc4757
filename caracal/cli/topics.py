"""``caracal topics``: every topic with its length, lag and groups."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import typer
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.cli.command import AsJson
from caracal.cli.running import DEFAULT_DATA_DIR, DataDir
from caracal.cli.show import Output
from caracal.cli.target import settings_of_running_stack
from caracal.cli.up import exit_code
from caracal.events.store.entries import EntryId, LogReader
from caracal.events.store.redis import connect
from caracal.events.topics import AUDIT, HEARTBEAT, TOPICS, Topic
from caracal.projections import PROJECTIONS
from caracal.projections.runner import checkpoint

_COLUMNS = ("topic", "kind", "length", "last_id", "behind", "dead", "readers")


def topics(json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List topics: kind, length, last id, how far behind the log, dead letters, readers."""
    raise typer.Exit(exit_code(lambda: asyncio.run(_topics(Output(json), data_dir))))


async def _topics(out: Output, data_dir: Path) -> int:
    settings = settings_of_running_stack(data_dir)
    redis = connect(settings.redis_url)
    rows: list[dict[str, Any]] = []
    async with (
        redis,
        await AsyncConnection.connect(settings.database_url, autocommit=True) as connection,
    ):
        rows += [await _relayed(topic, redis, connection) for topic in TOPICS.values()]
        for name, kind in ((HEARTBEAT, "heartbeat"), (AUDIT, "decisions")):
            length, groups = await redis.xlen(name), await _groups(redis, name)
            rows.append({"topic": name, "kind": kind, "length": length, "readers": groups})
    out.rows(rows, _COLUMNS, "No topics.")
    return 0


async def _relayed(topic: Topic, redis: Redis, connection: AsyncConnection[Any]) -> dict[str, Any]:
    newest = await LogReader(connection).before(topic, EntryId(2**62, 0))
    last, length = EntryId(0, 0), 0
    if await redis.exists(topic.name):
        info = await redis.xinfo_stream(topic.name)
        last, length = EntryId.parse(info["last-generated-id"]), info["length"]
    readers = [
        await _reader(projection.name, topic, newest, connection)
        for projection in PROJECTIONS
        if topic in projection.topics
    ]
    return {
        "topic": topic.name,
        "kind": topic.key,
        "length": length,
        "last_id": str(last),
        "behind": newest.position - last.position,
        "dead": await redis.xlen(topic.dead),
        "readers": readers or await _groups(redis, topic.name),
    }


async def _reader(
    name: str, topic: Topic, newest: EntryId, connection: AsyncConnection[Any]
) -> str:
    place = await checkpoint(connection, name, topic.name)
    return name if place >= newest else f"{name} (behind by {newest.position - place.position})"


async def _groups(redis: Redis, topic: str) -> list[str]:
    if not await redis.exists(topic):
        return []
    groups = await redis.xinfo_groups(topic)
    return [f"{_text(group['name'])} ({group['pending']} pending)" for group in groups]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
