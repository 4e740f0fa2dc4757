"""``caracal topics``: every topic with its length, lag and groups."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import typer
from psycopg import AsyncConnection
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from caracal.cli.running import DEFAULT_DATA_DIR, DataDir
from caracal.cli.target import settings_of_running_stack
from caracal.cli.up import exit_code
from caracal.events.store.entries import EntryId, LogReader
from caracal.events.store.redis import connect
from caracal.events.topics import AUDIT, HEARTBEAT, TOPICS, Topic
from caracal.projections import PROJECTIONS
from caracal.projections.runner import checkpoint


def topics(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List topics: kind, length, last id, how far behind the log, dead letters, readers."""
    raise typer.Exit(exit_code(lambda: asyncio.run(_topics(data_dir))))


async def _topics(data_dir: Path) -> int:
    settings = settings_of_running_stack(data_dir)
    redis = connect(settings.redis_url)
    table = Table("topic", "kind", "length", "last id", "behind", "dead", "readers", box=None)
    async with (
        redis,
        await AsyncConnection.connect(settings.database_url, autocommit=True) as connection,
    ):
        for topic in TOPICS.values():
            table.add_row(*await _relayed(topic, redis, connection))
        for name, kind in ((HEARTBEAT, "heartbeat"), (AUDIT, "decisions")):
            length, groups = str(await redis.xlen(name)), await _groups(redis, name)
            table.add_row(name, kind, length, "", "", "", groups)
    Console(width=200, soft_wrap=True).print(table)
    return 0


async def _relayed(topic: Topic, redis: Redis, connection: AsyncConnection[Any]) -> list[str]:
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
    behind = newest.position - last.position
    dead = await redis.xlen(topic.dead)
    return [
        topic.name,
        topic.key,
        str(length),
        str(last),
        str(behind) if behind else "-",
        str(dead) if dead else "-",
        ", ".join(readers) or await _groups(redis, topic.name),
    ]


async def _reader(
    name: str, topic: Topic, newest: EntryId, connection: AsyncConnection[Any]
) -> str:
    place = await checkpoint(connection, name, topic.name)
    return name if place >= newest else f"{name} (behind by {newest.position - place.position})"


async def _groups(redis: Redis, topic: str) -> str:
    if not await redis.exists(topic):
        return ""
    groups = await redis.xinfo_groups(topic)
    return ", ".join(f"{_text(group['name'])} ({group['pending']} pending)" for group in groups)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
