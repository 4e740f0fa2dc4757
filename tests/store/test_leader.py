"""Leadership: one works, the others stand by; silence ends it, but not idleness."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.store import leader
from caracal.events.store.leader import Leadership
from tests.backbone import eventually

KEYS: list[int | str] = [77, "a projection caracal.topic"]
Sign = Callable[[], Awaitable[object]]


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(leader, "_ASK_SECONDS", 0.05)


def signs(values: Any) -> tuple[Sign, list[object]]:
    """Return a sign that takes these values, and what it has told so far."""
    told: list[object] = []

    async def sign() -> object:
        told.append(next(values))
        return told[-1]

    return sign, told


async def asked(told: list[object], times: int) -> bool:
    return len(told) >= times


@pytest.mark.parametrize("key", KEYS)
async def test_a_free_lock_is_taken(
    db: AsyncConnection[Any], other: AsyncConnection[Any], key: int | str
) -> None:
    sign, _ = signs(itertools.repeat("place"))
    assert await Leadership(db, key, sign).wait()
    assert not await Leadership(other, key, sign).wait()  # held, and silent
    await db.close()
    await eventually(lambda: Leadership(other, key, sign).wait())


@pytest.mark.parametrize("values", [itertools.count(), itertools.repeat(Leadership.IDLE)])
async def test_a_leader_that_works_or_has_nothing_to_do_is_left_alone(
    db: AsyncConnection[Any], other: AsyncConnection[Any], values: Any
) -> None:
    sign, told = signs(values)
    assert await Leadership(db, 77, sign).wait()
    standby = asyncio.create_task(Leadership(other, 77, sign).wait())
    await eventually(lambda: asked(told, 20))  # about a second
    assert not standby.done()
    await db.close()
    assert await standby


async def test_silence_begins_with_the_first_thing_to_do(
    db: AsyncConnection[Any], other: AsyncConnection[Any]
) -> None:
    idle = itertools.repeat(Leadership.IDLE, 15)
    sign, told = signs(itertools.chain(idle, itertools.repeat("waiting")))
    assert await Leadership(db, 77, sign).wait()
    assert not await Leadership(other, 77, sign).wait()
    assert told.count("waiting") > 3
