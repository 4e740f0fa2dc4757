"""When the worker's background jobs last finished; beside the read models, never rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from caracal import clock
from caracal.projections.query import Db, select

_LEAST = timedelta(seconds=60)


async def tick(db: Db, job: str, every_ms: int) -> None:
    """Note that a job has finished without an error just now."""
    await db.execute(
        "INSERT INTO job_ticks VALUES (%s, %s, clock_timestamp()) ON CONFLICT (job) DO UPDATE"
        " SET every_ms = excluded.every_ms, finished_at = excluded.finished_at",
        (job, every_ms),
        prepare=True,
    )


async def stalled_job(db: Db, jobs: Mapping[str, int], since: datetime) -> str | None:
    """Return the first job that has not finished for three intervals, and 60 s at least.

    ``jobs`` are their names with the interval (ms) of those that have never finished; those are
    given the time from ``since`` on.
    """
    rows = {row["job"]: row for row in await select(db, "SELECT * FROM job_ticks", [])}
    for job, every_ms in jobs.items():
        row = rows.get(job, {"every_ms": every_ms, "finished_at": since})
        patience = max(3 * timedelta(milliseconds=row["every_ms"]), _LEAST)
        if clock.now() - max(row["finished_at"], since) > patience:
            return job
    return None
