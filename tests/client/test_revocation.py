"""What resource servers know of revocations: both stores, and the consumer on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from caracal.client.revocation import (
    DEFAULT_REVOCATION_TTL_MS,
    LIFECYCLE_STREAM,
    REVOCATION_STREAM,
    STREAM_SIG_FIELD,
    InMemoryRevocationStore,
    RedisRevocationConsumer,
    RedisRevocationStore,
    RevocationStore,
)
from caracal.stream_signature import Keyring
from tests.backbone import eventually

KEY = bytes(range(32))
RING = Keyring((KEY,))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, redis: Redis) -> RevocationStore:
    return InMemoryRevocationStore() if request.param == "memory" else RedisRevocationStore(redis)


async def test_an_id_is_revoked_until_it_is_taken_out(store: RevocationStore) -> None:
    assert not await store.is_revoked("a")
    await store.mark_revoked("a")
    assert await store.is_revoked("a")
    assert await store.is_any_revoked(["b", "a"])
    assert not await store.is_any_revoked(["b", "c", ""])
    assert not await store.is_any_revoked([])
    await store.unmark("a")
    assert not await store.is_revoked("a")


async def test_an_empty_id_is_none(store: RevocationStore) -> None:
    await store.mark_revoked("")
    await store.unmark("")
    assert not await store.is_revoked("")


async def test_the_higher_position_wins(store: RevocationStore) -> None:
    for position, mark, revoked in (
        (10, True, True),
        (9, False, True),
        (12, False, False),
        (11, True, False),
        (20, True, True),
        (13, False, True),
        (20, True, True),
        (None, False, False),
    ):
        put = store.mark_revoked if mark else store.unmark
        await put("a", position=position)
        assert await store.is_revoked("a") == revoked, position


async def test_it_is_forgotten_in_time(store: RevocationStore) -> None:
    await store.mark_revoked("a", 30, position=7)
    await store.mark_revoked("b", 0)

    async def gone() -> bool:
        return not await store.is_revoked("a")

    await eventually(gone)
    assert await store.is_revoked("b"), "0 is the default"


async def test_the_keys_of_the_contract(redis: Redis) -> None:
    store = RedisRevocationStore(redis)
    await store.mark_revoked("s1")
    key = "caracal:revoked:sessions:s1"
    assert await redis.get(key) == b"1"
    assert DEFAULT_REVOCATION_TTL_MS - 5000 < await redis.pttl(key) <= DEFAULT_REVOCATION_TTL_MS
    await redis.set("caracal:revoked:sessions:s2", "1")
    assert await store.is_revoked("s2"), "as others write it"
    other = RedisRevocationStore(redis, "mine:", 1000)
    await other.mark_revoked("s1", position=1)
    assert 0 < await redis.pttl("mine:s1") <= 1000


async def test_memory_drops_what_has_expired() -> None:
    now = 0.0
    store = InMemoryRevocationStore(1000, lambda: now)
    for n in range(100):
        await store.mark_revoked(f"a{n}")
    now = 61.0
    await store.mark_revoked("b")
    assert set(store._known) == {"b"}


async def test_without_redis_everything_is_revoked() -> None:
    async with Redis.from_url("redis://127.0.0.1:1") as gone:
        assert await RedisRevocationStore(gone).is_revoked("a")
        with pytest.raises(RedisError):
            await RedisRevocationStore(gone, fail_closed=False).is_revoked("a")
        assert not await RedisRevocationStore(gone).is_revoked("")


# --- the consumer ---------------------------------------------------------------------------


def consumer(redis: Redis, store: RevocationStore, **members: Any) -> RedisRevocationConsumer:
    given = {"consumer": "replica", "stream_hmac_key": KEY.hex()} | members
    return RedisRevocationConsumer(redis, store, **given)


async def put(redis: Redis, fields: Mapping[str, str], stream: str = REVOCATION_STREAM) -> None:
    await redis.xadd(stream, RING.signed(stream, fields))


def revoked(anchor: str, position: int = 5) -> dict[str, str]:
    return {
        "zone_id": "z",
        "session_id": anchor,
        "anchor": "agent_session",
        "reason": "requested",
        "position": str(position),
        "event": "agent.terminated",
        "prev": "0-0",
    }


async def test_signals_fill_the_store(redis: Redis, store: RevocationStore) -> None:
    reader = consumer(redis, store)
    await reader.ensure_group()
    await reader.ensure_group()
    assert await reader.poll_once() == 0
    for n in range(3):
        await put(redis, revoked(f"a{n}"))
    assert await reader.poll_once() == 3
    assert all([await store.is_revoked(f"a{n}") for n in range(3)])
    assert (await redis.xpending(REVOCATION_STREAM, "resource-revocation"))["pending"] == 0


async def test_the_group_begins_at_the_beginning(redis: Redis, store: RevocationStore) -> None:
    await put(redis, revoked("early"))
    reader = consumer(redis, store, batch_size=1, block_ms=5)
    await reader.ensure_group()
    await put(redis, revoked("late"))
    assert (await reader.poll_once(), await reader.poll_once(), await reader.poll_once()) == (
        1,
        1,
        0,
    )
    assert await store.is_revoked("early")


async def test_what_is_not_signed_has_no_effect(redis: Redis, store: RevocationStore) -> None:
    reader = consumer(redis, store)
    await reader.ensure_group()
    good = RING.signed(REVOCATION_STREAM, revoked("a"))
    forged = [
        revoked("a"),
        good | {STREAM_SIG_FIELD: "0" * 64},
        good | {"session_id": "b"},
        RING.signed(LIFECYCLE_STREAM, revoked("a")),
        RING.signed(REVOCATION_STREAM, {"zone_id": "z"}),
    ]
    for fields in forged:
        await redis.xadd(REVOCATION_STREAM, fields)
    assert await reader.poll_once() == len(forged)
    assert not await store.is_any_revoked(["a", "b"])
    assert (await redis.xpending(REVOCATION_STREAM, "resource-revocation"))["pending"] == 0


async def test_the_vector_of_the_contract(redis: Redis) -> None:
    store = InMemoryRevocationStore()
    fields = {
        "grant_id": "019283aa-0000-7000-8000-0000000000aa",
        "reason": "grant_revoked",
        "session_id": "019283aa-0000-7000-8000-000000000001",
        "zone_id": "zone1",
        "_sig": "604570c51d6eac7f73d8955e60a12f5bb15094a61bac2f48776fade726ef1507",
    }
    await redis.xadd(REVOCATION_STREAM, fields)
    reader = consumer(redis, store)
    await reader.ensure_group()
    assert await reader.poll_once() == 1
    assert await store.is_revoked(fields["session_id"])


async def test_unsigned_where_that_is_allowed(redis: Redis) -> None:
    store = InMemoryRevocationStore()
    await redis.xadd(REVOCATION_STREAM, revoked("a"))
    await redis.xadd(REVOCATION_STREAM, revoked("b") | {"_sig": "0" * 64})
    for n, (key, wanted) in enumerate(((None, None), (KEY.hex(), False))):
        reader = consumer(
            redis, store, group=f"g{n}", stream_hmac_key=key, require_signature=wanted
        )
        await reader.ensure_group()
        assert await reader.poll_once() == 2
        assert await store.is_revoked("a")
        assert await store.is_revoked("b") == (key is None)
        await store.unmark("b")


async def test_a_resumed_agent_is_taken_out(redis: Redis, store: RevocationStore) -> None:
    ends = consumer(redis, store)
    resumes = consumer(redis, store, stream=LIFECYCLE_STREAM)
    for reader in (ends, resumes):
        await reader.ensure_group()
    await put(redis, revoked("a", 10))
    await put(redis, revoked("b", 20))
    for event, agent, at in (("resume", "a", 11), ("resume", "b", 19), ("terminate", "a", 30)):
        fields = {"event": event, "agent_session_id": agent, "position": str(at), "zone_id": "z"}
        await put(redis, fields, LIFECYCLE_STREAM)
    # Whichever stream is read first.
    assert (await resumes.poll_once(), await ends.poll_once()) == (3, 2)
    assert not await store.is_revoked("a")
    assert await store.is_revoked("b")


class Failing(InMemoryRevocationStore):
    """Fails as often as it is told."""

    failures = 1

    async def mark_revoked(
        self, sid: str, ttl_ms: int | None = None, *, position: int | None = None
    ) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")
        await super().mark_revoked(sid, ttl_ms, position=position)


async def test_what_failed_is_tried_again(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Failing()
    first, second = consumer(redis, store), consumer(redis, store, consumer="other")
    await first.ensure_group()
    await put(redis, revoked("a"))
    with pytest.raises(ConnectionError):
        await first.poll_once()
    assert await second.claim() == 0, "not yet: it may be at work"
    monkeypatch.setattr("caracal.client.revocation._CLAIM_IDLE_MS", 0)
    assert await second.claim() == 1
    assert await store.is_revoked("a")
    assert await second.claim() == 0


async def test_it_runs_on_through_errors(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caracal.client.revocation._AFTER_ERROR", 0.01)
    monkeypatch.setattr("caracal.client.revocation._CLAIM_IDLE_MS", 0)
    store = Failing()
    running = asyncio.create_task(consumer(redis, store, block_ms=20).run())
    for n in range(3):
        if n == 2:
            await redis.delete(REVOCATION_STREAM)  # its group with it
        await put(redis, revoked(f"a{n}"))

        async def known(n: int = n) -> bool:
            return await store.is_revoked(f"a{n}")

        await eventually(known)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_of_redis(redis_url: str, protocol: int) -> None:
    store = InMemoryRevocationStore()
    url = f"{redis_url}&protocol={protocol}&decode_responses=true"
    async with Redis.from_url(url) as redis:
        await put(redis, revoked("a"))
        reader = consumer(redis, store)
        await reader.ensure_group()
        assert (await reader.poll_once(), await reader.poll_once()) == (1, 0)
    assert await store.is_revoked("a")


@pytest.mark.parametrize("flat", [True, False])
async def test_entries_of_either_form(redis: Redis, flat: bool) -> None:
    store = InMemoryRevocationStore()
    signed = RING.signed(REVOCATION_STREAM, revoked("a"))
    values: Any = [part for pair in signed.items() for part in pair] if flat else signed
    assert await consumer(redis, store)._handled([("1-0", values), (b"2-0", None)]) == 2
    assert await store.is_revoked("a")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"consumer": ""}, "consumer must be"),
        ({"stream_hmac_key": "ab"}, "at least 32 bytes"),
        ({"stream_hmac_key": "zz"}, "must be hex"),
        (
            {"stream_hmac_key": None, "require_signature": True},
            "stream_hmac_key is required when require_signature is true",
        ),
    ],
)
def test_what_cannot_read(redis: Redis, members: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        consumer(redis, InMemoryRevocationStore(), **members)


async def test_a_ring_of_keys(redis: Redis) -> None:
    store = InMemoryRevocationStore()
    reader = consumer(redis, store, stream_hmac_key=f"{'ab' * 32},{KEY.hex()}")
    await reader.ensure_group()
    await put(redis, revoked("a"))
    await reader.poll_once()
    assert await store.is_revoked("a")
