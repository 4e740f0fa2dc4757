from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from caracal.events.store.redis import GONE, _Tcp, _Unix, connect
from caracal.events.store.redis_line import RedisLine, script


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


async def test_a_failure_that_nobody_waits_for_is_no_trace_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it takes connections, and is silent
        redis = connect(f"redis://127.0.0.1:{mute.getsockname()[1]}")
        line = RedisLine(redis, timeout=0.05)
        before = asyncio.all_tasks()
        asked = asyncio.create_task(line.command("PING"))
        await asyncio.sleep(0)  # it waits for the opening
        begun = asyncio.all_tasks() - before
        asked.cancel()
        await asyncio.wait(begun)
        with pytest.raises(GONE):
            await line.command("PING")  # another attempt
        await line.close()
        await redis.aclose()
    del line, asked, begun
    gc.collect()
    assert not caplog.records


async def test_an_answer_that_does_not_come(line: RedisLine, redis_url: str) -> None:
    redis = connect(redis_url)
    hasty = RedisLine(redis, timeout=0.5)  # it opens the connection within that time, too
    with pytest.raises(TimeoutError):
        await hasty.command("BLPOP", "nothing", "5")
    assert await hasty.command("ECHO", "next") == b"next"
    await hasty.close()
    await redis.aclose()


async def test_a_lost_connection_is_told_at_once_and_made_again(
    line: RedisLine, redis_url: str
) -> None:
    number = await line.command("CLIENT", "ID")
    waiting = asyncio.create_task(line.command("BLPOP", "nothing", "5", blocks=5))
    await asyncio.sleep(0)
    async with Redis.from_url(redis_url) as other:
        await other.client_kill_filter(_id=str(number))
    with pytest.raises(RedisError):
        await asyncio.wait_for(waiting, 2)
    assert await line.command("CLIENT", "ID") > number


def test_a_connection_that_is_lost_while_it_is_opened(redis_url: str) -> None:
    """By uvloop, which raises RuntimeError where asyncio's own loop is silent."""

    class Lost(_Tcp if redis_url.startswith("redis") else _Unix):  # type: ignore[misc]
        times = 0

        async def _connect(self) -> None:
            await super()._connect()
            if Lost.times == 0:
                self.transport.abort()
                await asyncio.sleep(0.01)  # until the loop has closed it
            Lost.times += 1

    async def main() -> None:
        redis = connect(redis_url)
        redis.connection_pool.connection_class = Lost
        line = RedisLine(redis)
        with pytest.raises(GONE):
            await line.command("PING")
        assert await line.command("PING") == b"PONG"
        await line.close()
        await redis.aclose()

    uvloop.run(main())


async def test_a_command_may_block_longer_than_an_answer_may_take(redis_url: str) -> None:
    redis = connect(redis_url)
    hasty = RedisLine(redis, timeout=0.5)
    assert await hasty.command("BLPOP", "nothing", "0.7", blocks=0.7) is None
    await hasty.close()
    await redis.aclose()


async def test_a_script_that_the_server_does_not_know_yet(line: RedisLine) -> None:
    await line.command("SCRIPT", "FLUSH")
    for _ in range(2):
        assert await script(line, "return KEYS[1] .. ARGV[1]", ["a"], [1]) == b"a1"


async def test_who_waits_is_told_when_it_is_closed(line: RedisLine) -> None:
    await line.command("PING")
    waiting = asyncio.create_task(line.command("BLPOP", "nothing", "5", blocks=5))
    await asyncio.sleep(0)
    await line.close()
    with pytest.raises(RedisError):
        await waiting
    with pytest.raises(RedisError, match="closed"):
        await line.command("PING")
