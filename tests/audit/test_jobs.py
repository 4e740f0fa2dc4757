"""The worker's audit jobs, as it runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from caracal.events.store.audit_entry import encode
from caracal.events.topics import AUDIT
from caracal.services.worker import audit, leading, retention
from caracal.services.worker.audit import AuditJobs
from caracal.settings import Settings, load_settings
from caracal.tasks import cancelled
from tests.audit.trail import KEYS, Trail, decided
from tests.backbone import eventually

Variables = dict[str, str]


@pytest.fixture
def variables(database_url: str, redis_url: str) -> Variables:
    return {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "AUDIT_HMAC_KEY": KEYS[0].hex(),
    }


def settings(variables: Variables, **more: str) -> Settings:
    return load_settings("worker", {**variables, **more})


@asynccontextmanager
async def working(given: Settings) -> AsyncIterator[AuditJobs]:
    """Run the jobs."""
    jobs = AuditJobs(given)
    tasks = [asyncio.create_task(job()) for job in jobs.jobs()]
    try:
        yield jobs
        assert [task.exception() for task in tasks if task.done()] == []
    finally:
        await cancelled(*tasks)


async def counted(jobs: AuditJobs, **least: int) -> None:
    """Wait until the counters have come that far."""

    async def there() -> bool:
        counters = jobs.counters()
        return all(counters[name] >= value for name, value in least.items())

    await eventually(there, what=f"{least} in {jobs.counters()}")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIM_SECONDS", "SWEEP_SECONDS"):
        monkeypatch.setattr(audit, name, 0.05)
    monkeypatch.setattr(retention, "ROTATE_SECONDS", 0.05)
    monkeypatch.setattr(leading, "LEADER_SECONDS", 0.05)


@pytest.mark.usefixtures("often")
async def test_entries_are_ingested_trimmed_and_swept(trail: Trail, variables: Variables) -> None:
    events = [decided(), decided()]
    async with working(settings(variables)) as jobs:
        await trail.put(*events)
        await trail.put_raw({"id": "forged", "data": "{}", "sig": "00"})
        await counted(jobs, inserts_total=2, dlq_total=1, audit_trimmed_total=3)
        await counted(jobs, tamper_checked_total=4, retention_created_total=4)
        counters = jobs.counters()
        assert counters["tamper_last_full_unix"] > 0
        assert (counters["hmac_failures_total"], counters["tamper_mismatch_total"]) == (1, 0)
        await trail.tamper("UPDATE audit_events SET decision = 'deny' WHERE chain_seq = 2")
        await trail.tamper("UPDATE audit_chain_heads SET chain_seq = 9, content_sha256 = 'x'")
        await trail.tamper("UPDATE audit_events SET chain_hmac = '' WHERE chain_seq = 1")
        await counted(jobs, tamper_mismatch_total=1, tamper_chain_breaks=1, tamper_hmac_failures=1)
    assert await trail.on_topic() == []
    kinds = {alert["kind"] for alert in await trail.alerts()}
    assert kinds == {"content_mismatch", "chain_hmac_mismatch", "chain_end_mismatch"}


LIMITS = (
    ("AUDIT_READY_DLQ_MAX", "0", None),
    ("AUDIT_READY_DLQ_MAX", "2", None),
    ("AUDIT_READY_DLQ_MAX", "1", "audit_lag"),
    ("AUDIT_READY_LAG_MAX", "3", None),
    ("AUDIT_READY_LAG_MAX", "2", "audit_lag"),
    ("AUDIT_READY_PEL_OLDEST_SECS_MAX", "1000", None),
)


@pytest.mark.usefixtures("often")
async def test_readiness(trail: Trail, variables: Variables) -> None:
    """Two dead letters, and three entries that the database does not take now."""
    await trail.db.execute(
        "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = '40001'; END $$"
    )
    await trail.db.execute(
        "CREATE TRIGGER busy BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION busy()"
    )
    await trail.put_raw({"id": "forged"})
    last = await trail.put_raw({"id": "forged"})
    async with working(settings(variables)) as jobs:
        await trail.ingested(last)
        await trail.put(decided(), decided(), decided())
        await counted(jobs, dlq_total=2, consumer_lag=3)

        async def seen() -> bool:
            return (jobs.gauges.dead_letters, jobs.gauges.length) == (2, 3)

        await eventually(seen)
        for name, limit, reason in LIMITS:
            limited = AuditJobs(settings(variables, **{name: limit}))
            limited.gauges = jobs.gauges
            assert await limited.lagging() == reason, (name, limit)


@pytest.mark.usefixtures("often")
async def test_jobs_outlive_what_breaks(
    trail: Trail, variables: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_AGAIN_SECONDS", 0.05)
    events = [decided(), decided()]
    async with working(settings(variables)) as jobs:
        await trail.ingested((await trail.put(events[0]))[-1])
        await trail.db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await trail.redis.flushdb()
        await trail.redis.xadd(AUDIT, encode(events[1], KEYS))
        before = jobs.counters()["tamper_checked_total"]
        await counted(jobs, inserts_total=2, tamper_checked_total=before + 2, retries_total=1)
    await trail.holds(events)
