"""Cases drawn from an OpenAPI document, a bounded number, the same each time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from psycopg import AsyncConnection
from redis.asyncio import Redis
from schemathesis import Case

from tests.flow import oracle
from tests.flow.product import Product
from tests.flow.traffic import Book

CASES = int(os.environ.get("CARACAL_SCHEMA_CASES", "5"))
"""How many cases an operation gets of each kind."""


def each(strategy: Any, check: Callable[[Case], None]) -> None:
    """Check each of the cases that are drawn."""

    @settings(
        max_examples=CASES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case: Case) -> None:
        check(case)

    send()


async def check_whole(product: Product) -> None:
    """Check that topics and read models are what the log yields, and all processes alive."""
    url = product.servers.database_url
    async with (
        await AsyncConnection.connect(url, autocommit=True) as db,
        Redis.from_url(product.servers.redis_url) as redis,
    ):
        await oracle.check_topics(db, redis)
        await oracle.check_read_models(url, db, redis, Book())
    product.assert_alive()
