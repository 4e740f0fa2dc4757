"""The key cache: bounded in zones, bytes and fetches; stale keys serve, but not for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from caracal.errors import Unavailable
from caracal.key_sets import FORCED_EVERY, LIFE, MAX_ZONES, STALE_LIFE, JwksCache
from caracal.mandate import MAX_JWKS_BYTES, SigningKey
from caracal.services.jwks import jwks_fetcher

Handler = Callable[[web.Request], Awaitable[web.Response]]
Serve = Callable[[Handler], Awaitable[str]]
OLD, NEW = SigningKey.generate("old"), SigningKey.generate("new")


def key_set(*keys: SigningKey) -> bytes:
    return json.dumps({"keys": [key.public_jwk() for key in keys]}).encode()


class Source:
    """A fetch that counts, can be held back and can fail; and a clock to turn."""

    def __init__(self) -> None:
        self.body = key_set(OLD)
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = 1000.0

    async def __call__(self, zone_id: str) -> bytes:
        self.asked.append(zone_id)
        body, error = self.body, self.error
        await self.gate.wait()
        if error:
            raise error
        return body


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def cache(source: Source) -> AsyncIterator[JwksCache]:
    cache = JwksCache(source, clock=lambda: source.now)
    yield cache
    await cache.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_keys_are_fetched_once_per_life(source: Source, cache: JwksCache) -> None:
    for _ in range(3):
        assert set(await cache.keys("z", "old")) == {"old"}
        source.now += LIFE / 3 - 1
    assert source.asked == ["z"]


async def test_callers_share_one_fetch_and_outlive_the_first(
    source: Source, cache: JwksCache
) -> None:
    source.gate.clear()
    tasks = [asyncio.create_task(cache.keys("z", "old")) for _ in range(5)]
    await until(lambda: source.asked == ["z"])
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    source.gate.set()
    assert all("old" in keys for keys in await asyncio.gather(*tasks[1:]))
    assert source.asked == ["z"]


async def test_expired_keys_serve_while_one_refetch_runs(source: Source, cache: JwksCache) -> None:
    await cache.keys("z", "old")
    source.body = key_set(NEW)
    source.now += LIFE
    source.gate.clear()
    assert set(await cache.keys("z", "old")) == {"old"}
    assert set(await cache.keys("z", "old")) == {"old"}
    source.gate.set()
    await until(lambda: len(source.asked) == 2)
    async with asyncio.timeout(5):
        while set(await cache.keys("z", "new")) != {"new"}:
            await asyncio.sleep(0)
    assert len(source.asked) == 2


async def test_stale_keys_end_an_hour_past_expiry(source: Source, cache: JwksCache) -> None:
    await cache.keys("z", "old")
    source.error = OSError("gone")
    source.now += LIFE + STALE_LIFE - 1
    assert set(await cache.keys("z", "old")) == {"old"}
    await until(lambda: len(source.asked) == 2)
    source.now += 1
    with pytest.raises(Unavailable, match="sts_unavailable"):
        await cache.keys("z", "old")


async def test_unknown_kid_forces_one_fetch_in_30_seconds(source: Source, cache: JwksCache) -> None:
    await cache.keys("z", "old")
    source.body = key_set(OLD, NEW)
    assert set(await cache.keys("z", "new")) == {"old", "new"}
    for n in range(20):
        assert "other" not in await cache.keys("z", f"other{n}")
    assert len(source.asked) == 2
    source.now += FORCED_EVERY
    await cache.keys("z", "other")
    assert len(source.asked) == 3


async def test_failed_forced_fetch_keeps_the_keys(source: Source, cache: JwksCache) -> None:
    await cache.keys("z", "old")
    source.error = ConnectionError("reset")
    assert set(await cache.keys("z", "new")) == {"old"}


async def test_drop_forgets_the_zone_and_a_fetch_under_way(
    source: Source, cache: JwksCache
) -> None:
    source.gate.clear()
    waiting = asyncio.create_task(cache.keys("z", "old"))
    await until(lambda: source.asked == ["z"])
    cache.drop("z")
    cache.drop("never seen")
    source.body = key_set(NEW)
    source.gate.set()
    assert set(await waiting) == {"old"}
    assert set(await cache.keys("z", "new")) == {"new"}
    assert len(source.asked) == 2


async def test_failures_do_not_hammer_the_source(source: Source, cache: JwksCache) -> None:
    source.error = ValueError("status 500")
    for _ in range(10):
        with pytest.raises(Unavailable):
            await cache.keys("z", "old")
    assert len(source.asked) == 1
    source.error = None
    source.now += 1
    assert "old" in await cache.keys("z", "old")


async def test_least_recently_used_zone_goes(source: Source, cache: JwksCache) -> None:
    for n in range(MAX_ZONES):
        await cache.keys(f"z{n}", "old")
    await cache.keys("z0", "old")
    await cache.keys("one more", "old")
    source.asked.clear()
    await cache.keys("z0", "old")
    assert source.asked == []
    await cache.keys("z1", "old")
    assert source.asked == ["z1"]


@pytest.fixture
async def served() -> AsyncIterator[
    Callable[[Callable[[web.Request], Awaitable[web.Response]]], Awaitable[str]]
]:
    runners: list[web.AppRunner] = []

    async def serve(handler: Handler) -> str:
        app = web.Application()
        app.router.add_get("/.well-known/jwks.json", handler)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def test_fetcher_asks_the_sts_for_one_zone(served: Serve) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.query["zone_id"])
        return web.Response(body=key_set(OLD))

    url = await served(handler)
    async with aiohttp.ClientSession() as session:
        cache = JwksCache(jwks_fetcher(session, url + "/", 5))
        assert "old" in await cache.keys("a&b=c/#é", "old")
        await cache.close()
    assert seen == ["a&b=c/#é"]


@pytest.mark.parametrize("answer", ["redirect", "large", "error"])
async def test_fetcher_refuses(served: Serve, answer: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        if answer == "redirect":
            raise web.HTTPFound("/elsewhere")
        if answer == "large":
            return web.Response(body=key_set(OLD).ljust(MAX_JWKS_BYTES + 1))
        return web.Response(body=key_set(OLD), status=500)

    url = await served(handler)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match=r"status|large"):
            await jwks_fetcher(session, url, 5)("z")


async def test_a_source_that_is_gone_is_no_foreign_error() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await jwks_fetcher(session, "http://127.0.0.1:9", 5)("z")
