"""The session sweeper: what time ends becomes an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection

from caracal import clock
from caracal.events.store.log import Log
from caracal.events.store.relay import Relay
from caracal.projections.runner import Runner
from caracal.projections.session import sessions
from caracal.services.worker.sweep import SessionSweeper
from caracal.settings import load_settings
from tests.backbone import RINGS, db, eventually, log, new_zone, running
from tests.making import new_application, new_session

__all__ = ["db", "log"]


async def test_sessions_expire_once_and_only_when_their_time_is_over(
    log: Log, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    zone = new_zone()
    application = new_application(zone.aggregate_id)
    await log.save(zone, application)
    now = clock.now()
    made = {
        name: new_session(
            application.aggregate_id,
            zone_id=zone.aggregate_id,
            expires_at=now + timedelta(seconds=seconds),
        )
        for name, seconds in {"over": -5, "over too": -1, "running": 3600}.items()
    }
    for session in made.values():
        await log.save(session)
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CARACAL_MODE": "dev"}
    sweeper = SessionSweeper(load_settings("worker", given | {"SESSION_SWEEP_INTERVAL_MS": "20"}))
    runners = [
        Runner(sessions, topic, database_url=database_url, redis_url=redis_url, rings=RINGS)
        for topic in sessions.topics
    ]

    async def swept() -> bool:
        return await _status(db) == {
            made["over"].aggregate_id: "expired",
            made["over too"].aggregate_id: "expired",
            made["running"].aggregate_id: "active",
        }

    async with running(Relay(database_url, redis_url, RINGS), *runners, sweeper):
        await eventually(swept, what="the status of each session")
    cursor = await db.execute("SELECT count(*) FROM log WHERE name = 'session.expired'")
    assert await cursor.fetchone() == (2,)
    assert sweeper.expired == 2


async def _status(db: AsyncConnection[Any]) -> dict[str, str]:
    cursor = await db.execute("SELECT id, status FROM sessions")
    return dict(await cursor.fetchall())
