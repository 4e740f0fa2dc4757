from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ResponseError

from caracal.events.store.redis import GONE, connect
from caracal.services.sts.redis_line import RedisLine


@pytest.fixture
async def line(redis_url: str) -> AsyncIterator[RedisLine]:
    redis = connect(redis_url)
    line = RedisLine(redis)
    yield line
    await line.close()
    await redis.aclose()


async def test_each_gets_its_own_answer(line: RedisLine) -> None:
    answers = await asyncio.gather(*(line.command("ECHO", str(number)) for number in range(500)))
    assert answers == [str(number).encode() for number in range(500)]


async def test_a_refusal_is_for_the_one_who_asked(line: RedisLine) -> None:
    answers = await asyncio.gather(
        line.command("SET", "a", b"\x00\xff"),
        line.command("INCR", "a"),
        line.command("GET", "a"),
        return_exceptions=True,
    )
    assert isinstance(answers[1], ResponseError)
    assert answers[2] == b"\x00\xff"


async def test_who_goes_away_does_not_take_the_others_answers(line: RedisLine) -> None:
    tasks = [asyncio.create_task(line.command("ECHO", str(number))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert (answers[0], answers[2]) == (b"0", b"2")
    assert await line.command("ECHO", "next") == b"next"


async def test_a_server_that_is_not_there(tmp_path: object) -> None:
    redis = connect(f"unix://{tmp_path}/none.sock")
    line = RedisLine(redis)
    answers = await asyncio.gather(
        *(line.command("PING") for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(answer, GONE) for answer in answers)
    await line.close()


async def test_an_answer_that_does_not_come(line: RedisLine, redis_url: str) -> None:
    redis = connect(redis_url)
    hasty = RedisLine(redis, timeout=0.05)
    with pytest.raises(TimeoutError):
        await hasty.command("BLPOP", "nothing", "5")
    assert await hasty.command("ECHO", "next") == b"next"
    await hasty.close()
    await redis.aclose()
