"""Topic to sink, on a real Redis: everything, nothing forged, acknowledged when it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.store.audit_entry import encode
from caracal.events.store.audit_topic import group_state
from caracal.events.store.log import Log
from caracal.events.store.redis import entries_in
from caracal.events.store.relay import Relay
from caracal.events.topics import AUDIT, SIEM_DEAD, SIEM_GROUP
from caracal.services.siem.delivery import Delivery
from caracal.services.siem.exporter import Exporter
from caracal.services.siem.webhook import Webhook
from caracal.stream_signature import Keyring
from tests.audit.trail import KEYS, RING, Trail, decided
from tests.backbone import RINGS, ZONES, eventually, new_zone, running, save_all
from tests.siem.receiver import Receiver, trusting


@pytest.fixture
async def sink(receiver: Receiver) -> AsyncIterator[Webhook]:
    made = Webhook(receiver.url, token="t", form="jsonl", timeout=5, tls=trusting(receiver.folder))
    yield made
    await made.close()


def exporter(sink: Webhook, redis_url: str, *topics: str, **options: Any) -> Exporter:
    return Exporter(
        Delivery(sink, batch_bytes=20_000),
        redis_url=redis_url,
        topics=topics or (AUDIT,),
        keys=KEYS,
        ring=RING,
        **{"claim_idle_seconds": 0.2, **options},
    )


async def settled(redis: Redis, topic: str = AUDIT) -> None:
    """Wait until the group has nothing left to do."""

    async def done() -> bool:
        state = await group_state(redis, SIEM_GROUP, topic)
        return state is not None and state.waiting == 0

    await eventually(done, seconds=30, what=f"the group on {topic}")


async def dead(redis: Redis) -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _, fields in entries_in(await redis.xrange(SIEM_DEAD))
    ]


async def test_all_that_is_ours_and_nothing_else(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    events = [decided(), *(decided(decision="deny") for _ in range(250))]
    await trail.put(events[0])
    unsigned = encode(decided(), ())
    forged = {**encode(decided(), (b"\x66" * 32,)), "more": "line\nbreak"}
    entry_ids = [
        await trail.put_raw(fields)
        for fields in (unsigned, forged, {"id": "x"}, {"data": b"{]", "sig": "00"})
    ]
    exporting = exporter(sink, redis_url)
    async with running(exporting):
        await trail.put(*events[1:])
        await receiver.has(*(event.id for event in events))
        await settled(trail.redis)
    assert receiver.ids == [event.id for event in events]
    letters = await dead(trail.redis)
    assert [(letter["src_id"], letter["reason"]) for letter in letters] == [
        (entry_ids[0], "hmac_verify_failed"),
        (entry_ids[1], "hmac_verify_failed"),
        (entry_ids[2], "missing_data_field"),
        (entry_ids[3], "hmac_verify_failed"),
    ]
    assert all(RING.verify(SIEM_DEAD, letter) for letter in letters)
    assert {letter["src_topic"] for letter in letters} == {AUDIT}
    assert (exporting.counters.dead, exporting.counters.forged) == (4, 3)


async def test_a_ring_of_keys(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    old, new = decided(), decided()
    await trail.put_raw(encode(old, KEYS))
    await trail.put_raw(encode(new, (b"\x77" * 32,)))
    exporting = exporter(sink, redis_url)
    exporting.keys = (b"\x77" * 32, *KEYS)
    async with running(exporting):
        await receiver.has(old.id, new.id)


async def test_what_the_sink_refuses_is_set_aside_and_the_rest_gets_there(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    events = [decided() for _ in range(20)]
    poison = events[7].id.encode()
    receiver.answer = lambda body: (400, {}) if poison in body else None
    await trail.put(*events)
    exporting = exporter(sink, redis_url)
    async with running(exporting):
        await settled(trail.redis)
    assert sorted(receiver.ids) == sorted(event.id for event in events if event is not events[7])
    (letter,) = await dead(trail.redis)
    assert (letter["src_event_id"], letter["reason"]) == (events[7].id, "sink_refused:400")


async def test_nothing_is_acknowledged_before_the_sink_has_it(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    receiver.answer = lambda body: (503, {})
    events = [decided() for _ in range(5)]
    await trail.put(*events)
    exporting = exporter(sink, redis_url)
    async with running(exporting):

        async def tried() -> bool:
            return exporting.delivery.counters.retries > 1

        await eventually(tried)
        state = await group_state(trail.redis, SIEM_GROUP)
        assert state is not None
        assert state.waiting == 5
        assert exporting.delivery.failing_since is not None
        receiver.answer = lambda body: None
        await receiver.has(*(event.id for event in events))
        await settled(trail.redis)
    assert receiver.ids == [event.id for event in events]
    assert exporting.delivery.failing_since is None


async def test_what_a_dead_process_was_given_is_taken_over(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    events = [decided() for _ in range(4)]
    await trail.put(*events)
    await trail.redis.xgroup_create(AUDIT, SIEM_GROUP, id="0")
    await trail.redis.xreadgroup(SIEM_GROUP, "siem-gone-1", {AUDIT: ">"}, count=2)
    await trail.redis.xreadgroup(SIEM_GROUP, "siem-here-2", {AUDIT: ">"}, count=1)
    async with running(exporter(sink, redis_url, consumer="siem-here-2")):
        await receiver.has(*(event.id for event in events))
        await settled(trail.redis)


async def test_what_was_trimmed_meanwhile_holds_nothing_up(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    events = [decided() for _ in range(6)]
    entry_ids = await trail.put(*events)
    await trail.redis.xgroup_create(AUDIT, SIEM_GROUP, id="0")
    await trail.redis.xreadgroup(SIEM_GROUP, "siem-gone-1", {AUDIT: ">"}, count=1)
    await trail.redis.xreadgroup(SIEM_GROUP, "siem-here-2", {AUDIT: ">"}, count=1)
    await trail.redis.xtrim(AUDIT, minid=entry_ids[3], approximate=False)
    exporting = exporter(sink, redis_url, consumer="siem-here-2")
    async with running(exporting):
        await receiver.has(*(event.id for event in events[3:]))

        async def counted() -> bool:
            return exporting.counters.gone == 2

        await eventually(counted)
        await settled(trail.redis)


async def test_a_topic_that_was_emptied_goes_on(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    before, after = decided(), decided()
    exporting = exporter(sink, redis_url)
    async with running(exporting):
        await trail.put(before)
        await receiver.has(before.id)
        await trail.redis.flushdb()
        await trail.put(after)
        await receiver.has(after.id)
        await settled(trail.redis)


async def test_facts_too_when_asked(
    log: Log,
    db: AsyncConnection[Any],
    redis: Redis,
    sink: Webhook,
    receiver: Receiver,
    database_url: str,
    redis_url: str,
) -> None:
    zones = [new_zone() for _ in range(3)]
    positions = await save_all(log, zones)
    exporting = exporter(sink, redis_url, AUDIT, ZONES.name)
    async with running(exporting, Relay(database_url, redis_url, RINGS)):
        await receiver.has(*(f"fact-{position}" for position in positions))
        stray = Keyring((b"\x13" * 32,)).signed(
            ZONES.name, {"event": "zone.archived", "position": "9", "prev": "0-0"}
        )
        assert exporting.counters.dead == 0
        last = (await redis.xinfo_stream(ZONES.name))["last-generated-id"].decode()
        beyond = f"{int(last.partition('-')[0]) + 1}-0"
        await redis.xadd(ZONES.name, stray, id=beyond)  # type: ignore[arg-type]

        async def set_aside() -> bool:
            return len(await dead(redis)) == 1

        await eventually(set_aside)
    (letter,) = await dead(redis)
    assert (letter["src_topic"], letter["reason"]) == (ZONES.name, "bad_signature")
    zone = next(one for one in receiver.records if one["entity"]["uid"] == zones[0].aggregate_id)
    assert zone["entity"]["data"]["slug"]
    assert "data_key" not in str(zone)
    assert "sealed" not in str(zone)


async def test_two_share_the_work(
    trail: Trail, sink: Webhook, receiver: Receiver, redis_url: str
) -> None:
    one = exporter(sink, redis_url, consumer="siem-a-1", batch=10)
    two = exporter(sink, redis_url, consumer="siem-b-2", batch=10)
    events = [decided() for _ in range(200)]
    async with running(one, two):
        await trail.put(*events)
        await receiver.has(*(event.id for event in events))
        await settled(trail.redis)
    assert set(receiver.ids) == {event.id for event in events}
