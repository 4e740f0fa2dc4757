"""``caracal dead``: what could not be applied (parked), and what was not ours (dead letters)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from caracal.cli.running import DEFAULT_DATA_DIR, DataDir
from caracal.cli.target import settings_of_running_stack
from caracal.cli.up import exit_code
from caracal.events.store import dead_letters
from caracal.events.store.redis import connect
from caracal.events.topics import TOPICS
from caracal.projections import PROJECTIONS, parking
from caracal.projections.projection import Projection

dead = typer.Typer(help="Parked aggregates and dead letters.", no_args_is_help=True)
_out = Console()

Thing = Annotated[str, typer.Argument(help="Id of the parked aggregate.")]


@dead.command("list")
def list_(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List parked aggregates and the newest dead letters of each topic."""
    _run(_list(data_dir))


@dead.command()
def show(aggregate_id: Thing, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show why an aggregate is parked."""
    _run(_show(data_dir, aggregate_id))


@dead.command()
def replay(
    aggregate_id: Annotated[str | None, typer.Argument(help="One aggregate; all without.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Apply parked aggregates again, from the log."""
    _run(_replay(data_dir, aggregate_id))


def _run(command: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(exit_code(lambda: asyncio.run(command)))


async def _parked(data_dir: Path) -> list[dict[str, Any]]:
    url = settings_of_running_stack(data_dir).database_url
    async with await AsyncConnection.connect(url, row_factory=dict_row) as connection:
        cursor = await connection.execute("SELECT * FROM parked ORDER BY parked_at")
        return await cursor.fetchall()


async def _list(data_dir: Path) -> int:
    table = Table("what", "where", "id", "position", "error", box=None)
    for row in await _parked(data_dir):
        place = f"{row['projection']} on {row['topic']}"
        table.add_row("parked", place, row["aggregate_id"], str(row["position"]), row["error"])
    redis = connect(settings_of_running_stack(data_dir).redis_url)
    async with redis:
        for topic in TOPICS.values():
            for entry_id, letter in await dead_letters.newest(redis, topic, 10):
                error = letter.get("error", "?")
                table.add_row("dead letter", topic.dead, entry_id, letter.get("original_id"), error)
    _out.print(table if table.row_count else "Nothing is parked, and there are no dead letters.")
    return 0


async def _show(data_dir: Path, aggregate_id: str) -> int:
    rows = [row for row in await _parked(data_dir) if row["aggregate_id"] == aggregate_id]
    if not rows:
        _out.print(f"{aggregate_id} is not parked.")
        return 1
    _out.print_json(orjson.dumps(rows).decode())
    return 0


async def _replay(data_dir: Path, aggregate_id: str | None) -> int:
    rows = await _parked(data_dir)
    chosen = [row for row in rows if aggregate_id in (None, row["aggregate_id"])]
    if not chosen:
        _out.print(f"{aggregate_id} is not parked." if aggregate_id else "Nothing is parked.")
        return 0 if aggregate_id is None else 1
    url = settings_of_running_stack(data_dir).database_url
    failed = 0
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        for row in chosen:
            projection, topic = _projection(row["projection"]), TOPICS[row["topic"]]
            error = await parking.replay(connection, projection, topic, row["aggregate_id"])
            failed += error is not None
            outcome = "released" if error is None else f"still parked: {error}"
            _out.print(f"{row['projection']} {row['aggregate_id']}: {outcome}")
    return 1 if failed else 0


def _projection(name: str) -> Projection:
    return next(projection for projection in PROJECTIONS if projection.name == name)
