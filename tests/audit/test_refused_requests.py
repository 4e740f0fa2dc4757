"""Refused requests on record: bounded, counted, and never at the cost of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from caracal.events.store.audit_entry import NO_ZONE
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.redis import entries_in
from caracal.events.topics import AUDIT
from caracal.services import refused_requests
from caracal.services.refused_requests import Actor, Recorded, RefusedRequests
from tests.audit.trail import KEYS, Trail, writing
from tests.backbone import eventually

ADA, BEN = Actor("token-1", "ada", "zone"), Actor("token-2", "ben", "global")


def note(requests: RefusedRequests, status: int = 404, **members: Any) -> None:
    given: dict[str, Any] = {"actor": None, "address": "10.0.0.1", "zone_id": None}
    given |= {"request_id": "req-1", "metadata": {"call_id": "call-1", "path": "/v1/x"}}
    requests.note(status=status, **(given | members))


@asynccontextmanager
async def noting(writer: AuditWriter, **options: Any) -> AsyncIterator[RefusedRequests]:
    requests = RefusedRequests(writer, **options)
    await requests.start()
    try:
        yield requests
    finally:
        await requests.stop()


@pytest.fixture
async def writer(database_url: str, redis_url: str) -> AsyncIterator[AuditWriter]:
    async with writing(database_url, redis_url) as writer:
        yield writer


async def written(trail: Trail) -> list[dict[str, Any]]:
    entries = entries_in(await trail.redis.xrange(AUDIT))
    return [orjson.loads(fields[b"data"]) for _, fields in entries]


async def test_an_entry_has_what_the_admin_audit_needs(trail: Trail, writer: AuditWriter) -> None:
    async with noting(writer) as requests:
        note(requests, 403, actor=ADA, zone_id="zone1")
        note(requests, 401)
    known, unknown = await written(trail)
    assert (known["event_type"], known["decision"]) == ("admin_request", "deny")
    assert (known["zone_id"], known["request_id"]) == ("zone1", "req-1")
    assert known["metadata_json"] == {
        "status_code": 403,
        "address": "10.0.0.1",
        "actor_id": "token-1",
        "actor_name": "ada",
        "actor_scope": "zone",
        "call_id": "call-1",
        "path": "/v1/x",
    }
    assert unknown["zone_id"] == NO_ZONE
    assert "actor_id" not in unknown["metadata_json"]


async def test_a_stranger_cannot_flood_the_ledger(trail: Trail, writer: AuditWriter) -> None:
    async with noting(writer, unproven_per_min=5) as requests:
        for _ in range(100):
            note(requests, 401)
        note(requests, 401, address="10.0.0.2")
        assert requests.unrecorded == 95
    events = await written(trail)
    assert [event["metadata_json"]["address"] for event in events] == ["10.0.0.1"] * 5 + [
        "10.0.0.2"
    ]
    assert events[-1]["metadata_json"]["unrecorded"] == 95


async def test_many_strangers_cannot_either(
    trail: Trail, writer: AuditWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_requests, "UNPROVEN_PER_MIN", 7)
    async with noting(writer) as requests:
        for number in range(50):
            note(requests, 401, address=f"10.0.1.{number}")
        note(requests, 404, actor=ADA)  # who is known is not hindered by them
    events = await written(trail)
    assert len(events) == 8
    assert events[-1]["metadata_json"] | {} == {
        **events[-1]["metadata_json"],
        "actor_id": "token-1",
        "unrecorded": 43,
    }


async def test_beyond_the_limit_the_first_is_enough(trail: Trail, writer: AuditWriter) -> None:
    async with noting(writer) as requests:
        for _ in range(20):
            for actor in (ADA, BEN, None):
                note(requests, 429, actor=actor)
        note(requests, 400, actor=ADA)
    statuses = [event["metadata_json"]["status_code"] for event in await written(trail)]
    assert statuses == [429, 429, 429, 400]


async def test_a_full_queue_is_counted(trail: Trail, writer: AuditWriter) -> None:
    requests = RefusedRequests(writer, queue_max=3)  # nobody writes as yet
    for _ in range(5):
        note(requests, actor=ADA)
    assert requests.unrecorded == 2
    await requests.start()
    await requests.stop()
    assert len(await written(trail)) == 3


async def test_without_redis_nothing_waits(database_url: str) -> None:
    writer = AuditWriter(database_url=database_url, redis_url="redis://127.0.0.1:1", keys=KEYS)
    async with noting(writer) as requests:
        note(requests, actor=ADA)

        async def dropped() -> bool:
            return writer.counters.dropped == 1

        await eventually(dropped)
    await writer.stop()


async def test_an_answer_is_given_whatever_becomes_of_its_record() -> None:
    sent: list[Any] = []

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def broken() -> RefusedRequests:
        raise ZeroDivisionError

    async def send(message: Any) -> None:
        sent.append(message)

    layer = Recorded(
        refusing, broken, concerns=lambda _: True, actor=lambda _: None, zone=lambda _: None
    )
    scope = {"type": "http", "path": "/v1/x", "method": "GET"}
    await layer(scope, asyncio.Queue[Any]().get, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
