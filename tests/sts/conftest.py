from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import last_redis
from tests.sts.world import World, new_world

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, template: str) -> Iterator[str]:
    """A fresh database for all tests of a module."""
    name = f"caracal_sts_{os.getpid()}_{next(_numbers)}"
    database = conninfo_to_dict(postgres_url)["dbname"]
    head, _, tail = postgres_url.rpartition(f"/{database}")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        made = sql.Identifier(name)
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(made, sql.Identifier(template)))
        yield f"{head}/{name}{tail}"
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(made))


@pytest.fixture(scope="module")
def module_redis_url(request: pytest.FixtureRequest) -> str:
    """The last Redis database, empty, for all tests of a module."""
    return last_redis(request)


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    """An STS and its tenant, for all tests of a module."""
    async with new_world(module_database_url, module_redis_url) as made:
        yield made
