"""``caracal rebuild`` and ``caracal as-of``: read models from the log, anew or as they were."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer
from psycopg import AsyncConnection
from rich.console import Console
from rich.progress import Progress

from caracal.cli.running import DEFAULT_DATA_DIR, DataDir
from caracal.cli.target import settings_of_running_stack
from caracal.cli.up import exit_code
from caracal.errors import StartError
from caracal.events.store.entries import LogReader
from caracal.projections import PROJECTIONS
from caracal.projections import rebuild as rebuilding
from caracal.projections.projection import Projection
from caracal.projections.schema import prepare

Name = Annotated[str, typer.Argument(help="Name of the read model.")]


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Read models; without: those of an earlier version."),
]


def rebuild(names: Names = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Make read models anew from the log, while the old ones serve."""
    raise typer.Exit(exit_code(lambda: _rebuild(names or [], data_dir)))


def as_of(
    name: Name,
    position: Annotated[int, typer.Argument(min=0, help="Position in the log.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Print a read model's rows as they were at a position of the log, one JSON a line."""
    raise typer.Exit(exit_code(lambda: asyncio.run(_as_of(name, position, data_dir))))


def _rebuild(names: list[str], data_dir: Path) -> int:
    for name in names:
        _named(name)  # all or none
    url = settings_of_running_stack(data_dir).database_url
    wanted = names or prepare(url)
    for name in wanted:
        asyncio.run(_rebuild_one(_named(name), url))
    if not wanted:
        typer.echo("All read models are of this version.")
    return 0


async def _rebuild_one(projection: Projection, url: str) -> None:
    name = projection.name
    with Progress(transient=True) as progress:
        task = progress.add_task(f"rebuilding {name}", total=None)
        at = await rebuilding.rebuild(
            url, projection, lambda now, end: progress.update(task, completed=now, total=end)
        )
    Console().print(f"{name} stands at position {at}.")


async def _as_of(name: str, position: int, data_dir: Path) -> int:
    url = settings_of_running_stack(data_dir).database_url
    projection = _named(name)
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        end = await LogReader(connection).end()
    if position > end:
        raise StartError(f"the log ends at position {end}")
    for table, rows in (await rebuilding.as_of(url, projection, position)).items():
        for row in rows:
            typer.echo(orjson.dumps({"table": table, **row}).decode())
    return 0


def _named(name: str) -> Projection:
    for projection in PROJECTIONS:
        if projection.name == name:
            return projection
    known = ", ".join(sorted(projection.name for projection in PROJECTIONS))
    raise StartError(f"there is no read model {name!r}; there are {known}")
