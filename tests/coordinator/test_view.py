"""What the Coordinator refuses when it cannot know; jobs that stand still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from caracal import clock
from caracal.errors import Unavailable
from caracal.events.application import application_not_found
from caracal.projections.job_tick import stalled_job, tick
from caracal.projections.tail import Tail
from caracal.services.coordinator.view import CoordinatorView
from tests.backbone import RINGS
from tests.coordinator.running import Crew, Ship

HOUR = timedelta(hours=1)


@pytest.fixture
async def blind() -> AsyncIterator[CoordinatorView]:
    """A view whose tail follows nothing."""
    view = CoordinatorView(15.0)
    gone = "postgresql://127.0.0.1:1/none"
    view.tail = Tail(view.all, database_url=gone, redis_url="redis://127.0.0.1:1", rings=RINGS)
    yield view
    await view.tail.stop()


async def test_an_old_view_decides_nothing(blind: CoordinatorView) -> None:
    with pytest.raises(Unavailable, match="state_stale"):
        blind.check_fresh()


async def test_unknown_is_no_refusal_when_the_log_cannot_be_read(
    blind: CoordinatorView, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = blind.following.probe
    monkeypatch.setattr(blind.following, "probe", lambda: probe(0.01))

    def unknown() -> None:
        raise application_not_found("app")

    with pytest.raises(Unavailable, match="unavailable"):
        await blind.decided(unknown)


async def test_jobs_that_stand_still(coordinator: Ship, crew: Crew) -> None:
    now = clock.now()
    async with crew.database() as db:
        await tick(db, "often", 5_000)
        await tick(db, "seldom", 900_000)
        since = now - 2 * HOUR
        jobs = {"often": 5_000, "seldom": 900_000}
        assert await stalled_job(db, jobs, since) is None
        # Never finished: given three intervals, and 60 s at least, from the start on.
        assert await stalled_job(db, {"never": 5_000}, now - timedelta(seconds=50)) is None
        assert await stalled_job(db, {"never": 5_000}, now - timedelta(seconds=61)) == "never"
        assert await stalled_job(db, {"never": 900_000}, now - timedelta(minutes=44)) is None
        assert await stalled_job(db, {"never": 900_000}, now - timedelta(minutes=46)) == "never"
        await db.execute(
            "UPDATE job_ticks SET finished_at = now() - interval '30 minutes'"
            " WHERE job IN ('often', 'seldom')"
        )
        assert await stalled_job(db, {"seldom": 1}, since) is None  # by its own interval
        assert await stalled_job(db, {"often": 900_000}, since) == "often"
        assert await stalled_job(db, {"often": 1}, now) is None  # it may begin anew with us
        await db.execute("DELETE FROM job_ticks WHERE job IN ('often', 'seldom')")
