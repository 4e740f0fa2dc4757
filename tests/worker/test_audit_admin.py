"""The worker's audit routes, and the replay of what the database refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.store import audit_dead
from caracal.events.store.audit_entry import encode
from caracal.events.topics import AUDIT, AUDIT_DEAD
from caracal.services.worker.app import create_app
from caracal.settings import load_settings
from tests.api.running import served
from tests.audit.trail import KEYS, RING, Trail, decided
from tests.backbone import FACTS_KEY, db, eventually, redis
from tests.cli.caracal import Caracal

__all__ = ["db", "redis"]

TOKEN = "audit-admin-token"


def variables(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FACTS_HMAC_KEY": FACTS_KEY.hex(),
        "AUDIT_HMAC_KEY": KEYS[0].hex(),
        "READY_RATE_LIMIT_PER_MIN": "0",
    }


@pytest.fixture
async def trail(db: AsyncConnection[Any], redis: Redis) -> Trail:
    return Trail(db, redis)


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A worker with the token, and a client that shows it."""
    given = variables(database_url, redis_url) | {"AUDIT_ADMIN_TOKEN": TOKEN}
    async with (
        served(create_app(load_settings("worker", given))) as url,
        httpx.AsyncClient(
            base_url=f"{url}/api/audit/", headers={"Authorization": f"Bearer {TOKEN}"}
        ) as client,
    ):
        yield client


async def spoil(trail: Trail) -> None:
    """Let the database refuse every row for good."""
    await trail.db.execute(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = '22000'; END $$"
    )
    await trail.db.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION broken()"
    )


async def mend(trail: Trail) -> None:
    await trail.db.execute("DROP TRIGGER broken ON audit_events")


async def set_aside(trail: Trail, count: int) -> list[dict[str, str]]:
    async def there() -> bool:
        return len(await trail.dead()) == count

    await eventually(there, what=f"{count} dead letters")
    return await trail.dead()


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_what_the_database_refused_is_ingested_exactly_once(
    trail: Trail, worker: httpx.AsyncClient
) -> None:
    await spoil(trail)
    events = [decided() for _ in range(5)]
    await trail.put(*events)
    await trail.put_raw({"id": "forged", "data": b'{"id":"x","token":"hush"}', "sig": b"00"})
    await set_aside(trail, 6)
    first = await get(worker, "dlq", limit=4)
    second = await get(worker, "dlq", limit=4, start=first["next_cursor"])
    entries = first["entries"] + second["entries"]
    assert (len(first["entries"]), len(second["entries"]), second["next_cursor"]) == (4, 2, None)
    found = {one["src_event_id"]: one for one in entries}
    assert set(found) == {*(event.id for event in events), "forged"}
    assert found["forged"]["reason"] == "hmac_verify_failed"
    assert found["forged"]["src_data"] == {"id": "x", "token": "[redacted]"}
    shown = [await get(worker, f"dlq/{one['id']}") for one in entries]
    assert {one["src_event_id"]: one["replayable"] for one in shown} == {
        **{event.id: True for event in events},
        "forged": False,
    }
    # While it is refused still, nothing is lost, and nothing goes round for ever.
    answer = await worker.post("dlq/replay", params={"limit": 1000})
    assert answer.json() == {"scanned": 6, "replayed": 5, "skipped": 1}
    await set_aside(trail, 6)
    await mend(trail)
    answer = await worker.post("dlq/replay", params={"limit": 2})
    assert answer.json()["replayed"] == 2
    answer = await worker.post("dlq/replay")
    assert answer.json() == {"scanned": 4, "replayed": 3, "skipped": 1}

    async def ingested() -> bool:
        return len(await trail.rows()) == 5

    await eventually(ingested)
    await trail.holds(events)
    (left,) = await trail.dead()
    assert left["src_event_id"] == "forged"
    assert (await worker.post("dlq/replay")).json() == {"scanned": 1, "replayed": 0, "skipped": 1}


async def test_what_was_meddled_with_is_not_replayed(trail: Trail) -> None:
    """Whoever may write dead letters cannot make evidence of them."""
    event = decided()
    fields = {name.encode(): value for name, value in encode(event, KEYS).items()}

    async def put(reason: str, **changes: str) -> None:
        from caracal.events.store.audit_topic import dead_letter

        letter = dead_letter("1-0", fields, reason, RING) | changes
        await trail.redis.xadd(AUDIT_DEAD, letter)

    await put("hmac_verify_failed")
    await put("tamper_on_replay")
    await put("pg_permanent_error:x", src_data="{}")
    await put("pg_permanent_error:x", _sig="00")
    forged = encode(decided(), (b"\x66" * 32,))
    fields = {name.encode(): value for name, value in forged.items()}
    await put("pg_permanent_error:x")
    done = await audit_dead.replay(trail.redis, KEYS, RING, limit=100)
    assert (done.scanned, done.replayed, done.skipped) == (5, 0, 5)
    assert await trail.redis.xlen(AUDIT) == 0
    assert await trail.redis.xlen(AUDIT_DEAD) == 5


async def test_the_command(
    trail: Trail, worker: httpx.AsyncClient, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    await spoil(trail)
    event = decided()
    await trail.put(event)
    await set_aside(trail, 1)
    caracal = Caracal(variables(database_url, redis_url) | {"CARACAL_DATA_DIR": str(tmp_path)})
    (row,) = await caracal.ajson("dead", "list")
    assert (row["where"], row["error"][:18]) == (AUDIT_DEAD, "pg_permanent_error")
    await mend(trail)
    told = await caracal.ajson("dead", "replay", "--audit")
    assert told == {"scanned": 1, "replayed": 1, "skipped": 0}

    async def ingested() -> bool:
        return len(await trail.rows()) == 1

    await eventually(ingested)
    await caracal.arun("dead", "replay", "--audit", "some-aggregate", code=2)


async def test_search(trail: Trail, worker: httpx.AsyncClient) -> None:
    old = decided(occurred_at="2026-01-01T00:00:00Z")
    events = [decided(decision=decision) for decision in ("allow", "deny", "allow")]
    named = decided(request_id="req-9", metadata_json={"session_id": "hush", "resource": "r"})
    await trail.put(old, *events, named, decided("zone2"))

    async def ingested() -> bool:
        return len(await trail.rows()) == 6

    await eventually(ingested)

    async def ids(**query: Any) -> list[str]:
        found = await get(worker, "search", zone_id="zone1", **query)
        return [event["id"] for event in found["events"]]

    assert await ids() == [event.id for event in (*events, named)]
    assert await ids(decision="deny") == [events[1].id]
    assert await ids(since="2025-12-31T00:00:00Z", until="2026-02-01T00:00:00Z") == [old.id]
    (found,) = (await get(worker, "search", zone_id="zone1", request_id="req-9"))["events"]
    assert found["metadata_json"] == {"session_id": "[redacted]", "resource": "r"}
    assert (found["chain_seq"], found["decision"]) == (5, "allow")
    assert found["occurred_at"].endswith("Z")
    first = await get(worker, "search", zone_id="zone1", limit=3)
    rest = await get(worker, "search", zone_id="zone1", limit=3, cursor=first["next_cursor"])
    pages = [event["id"] for page in (first, rest) for event in page["events"]]
    assert (pages, rest["next_cursor"]) == ([event.id for event in (*events, named)], None)


REFUSED = [
    ("GET", "search", 400),
    ("GET", "search?zone_id=a%00b", 400),
    ("GET", "search?zone_id=z&request_id=a%00b", 400),
    ("GET", "search?zone_id=z&limit=0", 400),
    ("GET", "search?zone_id=z&limit=1001", 400),
    ("GET", "search?zone_id=z&limit=%C2%B2", 400),
    ("GET", "search?zone_id=z&cursor=-1", 400),
    ("GET", f"search?zone_id=z&cursor={'9' * 60}", 400),
    ("GET", "search?zone_id=z&since=yesterday", 400),
    ("GET", "search?zone_id=z&until=2026-01-01T00:00:00", 400),
    ("GET", "search?zone_id=z&since=0001-01-01T00:00:00%2B14:00", 400),
    ("GET", "search?zone_id=z&decision=maybe", 400),
    ("GET", "search?zone_id=z&zone_id=y", 400),
    ("GET", "search?zone_id=z&more=1", 400),
    ("GET", "search?zone_id=%FF", 400),
    ("GET", "search?&", 400),
    ("GET", "dlq?start=x", 400),
    ("GET", "dlq?limit=x", 400),
    ("GET", "dlq/1-0", 404),
    ("GET", "dlq/1-0?x=1", 400),
    ("GET", "dlq/x", 404),
    ("GET", "other", 404),
    ("GET", "", 404),
    ("POST", "dlq/replay?limit=0", 400),
    ("GET", "dlq/replay", 405),
    ("POST", "search?zone_id=z", 405),
    ("DELETE", "dlq/1-0", 405),
]


async def test_refusals(worker: httpx.AsyncClient) -> None:
    for method, path, status in REFUSED:
        answer = await worker.request(method, path)
        assert (answer.status_code, path) == (status, path), answer.text
        assert answer.json()["requestId"]
    answer = await worker.post("search")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer {TOKEN}", TOKEN):
        for path in ("search?zone_id=z", "dlq", "none"):
            answer = await worker.get(path, headers={"Authorization": given})
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_without_a_token_there_is_nothing(database_url: str, redis_url: str) -> None:
    app = create_app(load_settings("worker", variables(database_url, redis_url)))
    async with served(app) as url, httpx.AsyncClient(base_url=url) as client:
        for given in ("Bearer", "Bearer x"):
            answer = await client.get("/api/audit/dlq", headers={"Authorization": given})
            assert answer.status_code == 404
        assert (await client.get("/health")).status_code == 200
