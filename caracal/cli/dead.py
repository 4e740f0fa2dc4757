"""``caracal dead``: what could not be applied (parked), and what was not ours (dead letters)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from caracal.cli.command import AsJson
from caracal.cli.running import DEFAULT_DATA_DIR, DataDir
from caracal.cli.show import Output
from caracal.cli.target import settings_of_running_stack
from caracal.cli.up import exit_code
from caracal.events.store import audit_dead, dead_letters
from caracal.events.store.redis import connect
from caracal.events.topics import AUDIT_DEAD, SIEM_DEAD, TOPICS
from caracal.projections import PROJECTIONS, parking
from caracal.projections.projection import Projection
from caracal.stream_signature import Keyring

dead = typer.Typer(help="Parked aggregates and dead letters.", no_args_is_help=True)
_COLUMNS = ("what", "where", "id", "position", "error")

Thing = Annotated[str, typer.Argument(help="Id of the parked aggregate.")]


@dead.command("list")
def list_(json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List parked aggregates and the newest dead letters of each topic."""
    _run(_list(Output(json), data_dir))


@dead.command()
def show(aggregate_id: Thing, json: AsJson = False, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show why an aggregate is parked."""
    _run(_show(Output(json), data_dir, aggregate_id))


@dead.command()
def replay(
    aggregate_id: Annotated[str | None, typer.Argument(help="One aggregate; all without.")] = None,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Entries of the audit topic that the database refused."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --audit: so many at most.")] = 1000,
    json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Apply parked aggregates again, from the log. Exit code 1: one is still parked.

    With --audit: add audit entries again that the database refused for good. What never verified,
    or contradicts the ledger, is left where it is.
    """
    out = Output(json)
    if audit and aggregate_id is not None:
        raise typer.BadParameter("--audit is for no aggregate")
    _run(_replay_audit(out, data_dir, limit) if audit else _replay(out, data_dir, aggregate_id))


def _run(command: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(exit_code(lambda: asyncio.run(command)))


async def _parked(data_dir: Path) -> list[dict[str, Any]]:
    url = settings_of_running_stack(data_dir).database_url
    async with await AsyncConnection.connect(url, row_factory=dict_row) as connection:
        cursor = await connection.execute("SELECT * FROM parked ORDER BY parked_at")
        return await cursor.fetchall()


async def _list(out: Output, data_dir: Path) -> int:
    rows = [
        {
            "what": "parked",
            "where": f"{row['projection']} on {row['topic']}",
            "id": row["aggregate_id"],
            "position": row["position"],
            "error": row["error"],
        }
        for row in await _parked(data_dir)
    ]
    redis = connect(settings_of_running_stack(data_dir).redis_url)
    async with redis:
        for topic in TOPICS.values():
            rows += [
                {
                    "what": "dead letter",
                    "where": topic.dead,
                    "id": entry_id,
                    "position": letter.get("original_id"),
                    "error": letter.get("error", "?"),
                }
                for entry_id, letter in await dead_letters.newest(redis, topic, 10)
            ]
        for name in (AUDIT_DEAD, SIEM_DEAD):
            rows += [
                {
                    "what": "dead letter",
                    "where": name,
                    "id": letter.id,
                    "position": letter.fields.get("src_id"),
                    "error": letter.fields.get("reason", "?"),
                }
                for letter in await audit_dead.newest(redis, 10, name)
            ]
    out.rows(rows, _COLUMNS, "Nothing is parked, and there are no dead letters.")
    return 0


async def _show(out: Output, data_dir: Path, aggregate_id: str) -> int:
    rows = [row for row in await _parked(data_dir) if row["aggregate_id"] == aggregate_id]
    if not rows:
        typer.echo(f"{aggregate_id} is not parked.", err=out.as_json)
        return 1
    shown = [{name: _plain(value) for name, value in row.items()} for row in rows]
    if out.as_json:
        out.document(shown)
        return 0
    for row in shown:
        out.record(row)
    return 0


def _plain(value: Any) -> Any:
    """Return a column's value as JSON has it."""
    return value if isinstance(value, str | int | list | dict | None) else str(value)


async def _replay(out: Output, data_dir: Path, aggregate_id: str | None) -> int:
    rows = await _parked(data_dir)
    chosen = [row for row in rows if aggregate_id in (None, row["aggregate_id"])]
    if not chosen and aggregate_id:
        typer.echo(f"{aggregate_id} is not parked.", err=out.as_json)
        return 1
    url = settings_of_running_stack(data_dir).database_url
    done = []
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        for row in chosen:
            projection, topic = _projection(row["projection"]), TOPICS[row["topic"]]
            error = await parking.replay(connection, projection, topic, row["aggregate_id"])
            done.append({"projection": projection.name, "id": row["aggregate_id"], "error": error})
    shown = [{**each, "outcome": "still parked" if each["error"] else "released"} for each in done]
    out.rows(shown, ("projection", "id", "outcome", "error"), "Nothing is parked.")
    return int(any(each["error"] for each in done))


async def _replay_audit(out: Output, data_dir: Path, limit: int) -> int:
    settings = settings_of_running_stack(data_dir)
    redis = connect(settings.redis_url)
    async with redis:
        done = await audit_dead.replay(
            redis, settings.audit_hmac_key, Keyring(settings.facts_hmac_key), limit=limit
        )
    out.record({"scanned": done.scanned, "replayed": done.replayed, "skipped": done.skipped})
    return 0


def _projection(name: str) -> Projection:
    return next(projection for projection in PROJECTIONS if projection.name == name)
