"""What replicas share about providers, in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from caracal.events.store.redis import connect
from caracal.services.flights import Flights
from caracal.services.provider_kind import NoCredential
from caracal.services.sts import provider_guard
from caracal.services.sts.provider_guard import Circuits, Leases


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as made:
        yield made


async def test_one_at_a_time_holds_a_lease(redis: Redis) -> None:
    leases, holding, most = Leases(redis), 0, 0

    async def work() -> None:
        nonlocal holding, most
        async with leases.held("g"):
            holding += 1
            most = max(most, holding)
            await asyncio.sleep(0.005)
            holding -= 1

    await asyncio.gather(*(work() for _ in range(32)))
    assert (holding, most) == (0, 1)
    assert await redis.exists("provider-refresh-lease:g") == 0


async def test_a_lease_that_has_run_out_is_not_released_for_its_next_holder(redis: Redis) -> None:
    leases = Leases(redis)
    async with leases.held("g"):
        assert 0 < await redis.ttl("provider-refresh-lease:g") <= 15
        await redis.set("provider-refresh-lease:g", "another")
    assert await redis.get("provider-refresh-lease:g") == b"another"


async def test_a_lease_that_does_not_end_is_given_up(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_guard, "LEASE_SECONDS", 0.1)
    await redis.set("provider-refresh-lease:g", "another")
    with pytest.raises(NoCredential, match="credential_refresh_failed"):
        async with Leases(redis).held("g"):
            raise AssertionError


async def test_without_redis_no_provider_is_asked() -> None:
    gone = connect("redis://127.0.0.1:1")
    with pytest.raises(NoCredential, match="credential_refresh_failed"):
        async with Leases(gone).held("g"):
            raise AssertionError
    circuits = Circuits(gone)
    with pytest.raises(NoCredential, match="credential_refresh_failed"):
        await circuits.check("p")
    await circuits.failed("p")
    await circuits.succeeded("p")
    await gone.aclose()


async def test_a_circuit_opens_for_its_provider_alone(redis: Redis) -> None:
    circuits = Circuits(redis)
    for _ in range(4):
        await circuits.failed("p")
    await circuits.check("p")
    await circuits.failed("p")
    with pytest.raises(NoCredential, match="too often"):
        await circuits.check("p")
    await circuits.check("q")
    await circuits.succeeded("p")
    await circuits.check("p")
    for _ in range(4):
        await circuits.failed("p")
    await circuits.check("p")


async def test_work_under_way_is_joined_and_outlives_its_first() -> None:
    flights: Flights[int] = Flights()
    done, begun = asyncio.Event(), 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        await done.wait()
        return begun

    first = asyncio.create_task(flights.join("k", work))
    others = [asyncio.create_task(flights.join("k", work)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    done.set()
    assert await asyncio.gather(*others) == [1, 1, 1]
    assert await flights.join("k", work) == 2


async def test_closing_waits_a_while_and_then_ends_the_work() -> None:
    flights: Flights[int] = Flights()

    async def soon() -> int:
        await asyncio.sleep(0.02)
        return 1

    waiting = asyncio.create_task(flights.join("soon", soon))
    await asyncio.sleep(0)
    await flights.close(5)
    assert await waiting == 1
    never = asyncio.create_task(flights.join("never", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await never
