"""What happens to the product while it works: one fault after the other, by the dice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from caracal.events.topics import AUDIT
from tests.flow.product import Product
from tests.flow.tampering import FACT_TOPICS, LOSSES, TAMPERINGS, Tampering

Fault = Callable[[], Awaitable[None]]
_WORKERS = ("worker", "worker2")
_WRITERS = ("sts", "gateway")
_PAUSED = ("worker", "worker2", "api2", "sts", "gateway")


class Faults:
    """Strikes and mends. Each fault leaves all at work again, though not yet recovered.

    A service that was killed is waited for: it may not start while a server is gone.
    ``evidence_kept`` waits until the ledger holds every decision so far: one is lost when its
    writer *and* Redis forget it before the ledger has it, as the docs say; so between the two it
    is waited.
    """

    def __init__(
        self, product: Product, dice: random.Random, evidence_kept: Callable[[], Awaitable[object]]
    ) -> None:
        self._product, self._dice, self._evidence_kept = product, dice, evidence_kept
        self._forgot = ""

    def all(self) -> dict[str, Fault]:
        """Return every fault by its name."""
        killed = ("api", "api2", *_WRITERS, *_WORKERS)
        tampered = {each.__name__: partial(self._tamper, each) for each in TAMPERINGS}
        return {
            **{f"kill {name}": partial(self._kill, name) for name in killed},
            **{f"pause {name}": partial(self._pause, name) for name in _PAUSED},
            **{f"topic {name}": fault for name, fault in tampered.items()},
            "kill both workers": partial(self._kill, *_WORKERS),
            "kill redis": self._kill_redis,
            "kill postgres": self._kill_postgres,
            "kill both servers": self._kill_both,
            "flushall": self._flush,
            "audit trimmed": self._trim_audit,
            "worker silent": partial(self._pause, "worker", 2.5),
            "losses unseen": self.lose_unseen,
        }

    async def _hold(self, longest: float = 0.5) -> None:
        await asyncio.sleep(self._dice.uniform(0.05, longest))

    async def _kill(self, *names: str) -> None:
        if not set(names).isdisjoint(_WRITERS):
            await self._forgets("writer")
        self._product.kill(*names)
        await self._hold()
        self._product.start(*names)
        for name in names:
            await self._product.ready(name)

    async def _kill_redis(self) -> None:
        await self._forgets("redis")
        self._product.kill_redis()
        await self._hold()
        self._product.servers.restart_valkey()

    async def _kill_postgres(self) -> None:
        self._product.kill_postgres()
        await self._hold()
        self._product.servers.restart_postgres()

    async def _kill_both(self) -> None:
        await self._forgets("redis")
        self._product.kill_postgres()
        self._product.kill_redis()
        await self._hold()
        self._product.servers.restart_valkey()
        await self._hold()
        self._product.servers.restart_postgres()

    async def _flush(self) -> None:
        await self._forgets("redis")
        async with self._unread() as redis:
            await redis.flushall()

    async def _trim_audit(self) -> None:
        await self._forgets("redis")
        async with self._unread() as redis:
            await redis.xtrim(AUDIT, maxlen=0, approximate=False)

    async def _tamper(self, tampering: Tampering) -> None:
        async with self._redis() as redis:
            for topic in self._dice.sample(FACT_TOPICS, 3):
                await self._attempt(tampering, redis, topic)
                await self._hold(0.2)

    async def lose_unseen(self) -> None:
        """Take entries away from each who does not look: he must find out when he reads on."""
        for name in self._dice.sample(_PAUSED, len(_PAUSED)):
            with self._product.paused(name):
                await self._hold(0.3)
                async with self._redis() as redis:
                    for topic in FACT_TOPICS:
                        await self._attempt(self._dice.choice(LOSSES), redis, topic)
            await self._hold(0.3)

    async def _attempt(self, tampering: Tampering, redis: Redis, topic: str) -> None:
        with suppress(ResponseError):  # the relay was faster: that id, that topic is another now
            await tampering(redis, topic, self._dice)

    async def _pause(self, name: str, longest: float = 0.8) -> None:
        with self._product.paused(name):
            await self._hold(longest)

    @asynccontextmanager
    async def _unread(self) -> AsyncIterator[Redis]:
        """Give Redis with entries in it that no worker has read yet."""
        with self._product.paused("worker"), self._product.paused("worker2"):
            await self._hold()
            async with self._redis() as redis:
                yield redis

    async def _forgets(self, who: str) -> None:
        if self._forgot not in ("", who):
            await self._evidence_kept()
        self._forgot = who

    def _redis(self) -> Redis:
        return Redis.from_url(self._product.servers.redis_url)


async def vacuum(database_url: str) -> None:
    """VACUUM for ever, on a connection that may be lost."""
    while True:
        try:
            async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
                while True:
                    await connection.execute("VACUUM (ANALYZE)")
                    await asyncio.sleep(0.1)
        except psycopg.Error:
            await asyncio.sleep(0.1)
