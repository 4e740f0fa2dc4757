"""The whole product at work while everything happens to it; afterwards all must be as promised.

``CARACAL_FAULT_ROUNDS`` says how often each fault comes, ``CARACAL_SEED`` in which order and when.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from tests.backbone import eventually
from tests.flow import oracle
from tests.flow.conftest import Making
from tests.flow.faults import Faults, vacuum
from tests.flow.product import Product
from tests.flow.tenant import new_tenant
from tests.flow.traffic import Agent, Book, Operator, Traffic, Victim, other_application

ROUNDS = int(os.environ.get("CARACAL_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("CARACAL_SEED", "1"))
OPERATORS = 10
AGENTS = 3
SERVICES = ("worker", "worker2", "api", "api2", "sts", "gateway")

pytestmark = [pytest.mark.flow, pytest.mark.chaos, pytest.mark.timeout(120 + 60 * ROUNDS)]


async def evidence_kept(product: Product, book: Book) -> None:
    """Wait until the ledger holds what was allowed up to now."""
    wanted = Book(allowed=set(book.allowed))

    async def kept() -> bool:
        try:
            url = product.servers.database_url
            async with await AsyncConnection.connect(url, autocommit=True) as db:
                return not await oracle.missing_evidence(db, wanted)
        except psycopg.Error:
            return False

    await eventually(kept, seconds=30, what="the ledger holding what was allowed so far")


@asynccontextmanager
async def under_load(traffic: Traffic, *clients: Any) -> AsyncIterator[None]:
    """Let clients work inside; what one of them finds wrong ends it."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        try:
            yield
        finally:
            traffic.stopping = True


async def test_nothing_is_lost_doubled_or_wrongly_allowed(making: Making) -> None:
    dice, book = random.Random(SEED), Book()
    product = making(DB_CONNECTION_TIMEOUT_MS="1000")
    product.start(*SERVICES)
    await product.ready()
    url = product.servers.database_url
    traffic = Traffic(book, dice)
    async with new_tenant(product) as (tenant, _):
        await tenant.grant()
        agents = [Agent(traffic, tenant, await tenant.ambient()) for _ in range(AGENTS)]
        victim = Victim(traffic, await other_application(tenant))
        operators = [Operator(traffic, tenant.caller) for _ in range(OPERATORS)]
        order = random.Random(SEED)  # of its own: the same faults for the same seed
        faults = Faults(product, order, lambda: evidence_kept(product, book))
        ways = faults.all()
        vacuuming = asyncio.create_task(vacuum(url))
        async with under_load(traffic, victim, *agents, *operators):
            for _ in range(ROUNDS):
                for name in order.sample(sorted(ways), len(ways)):
                    await ways[name]()
            await faults.lose_unseen()  # no restart after it mends what was overlooked
        vacuuming.cancel()
        product.assert_alive()
        await product.ready()
        async with (
            await AsyncConnection.connect(url, autocommit=True) as db,
            Redis.from_url(product.servers.redis_url) as redis,
        ):
            await oracle.check_ledger(db, book)
            await redis.flushall()  # nobody mutates any more: the relay must look by itself
            await oracle.check_log(db, book)
            await oracle.check_topics(db, redis)
            await oracle.check_read_models(url, db, redis, book)
        for token, position in victim.revoked:
            await victim.look(token, position)
        assert (await tenant.call(await tenant.ambient())).status == 200
    print(*sorted(book.outcomes.items()), sep="\n")
    assert not [outcome for outcome in book.outcomes if " 500 " in outcome]
    assert len(book.answered) > 200 * ROUNDS
    assert len(book.allowed) > 50 * ROUNDS
    assert book.unknown
    assert len(victim.revoked) > 3 * ROUNDS
