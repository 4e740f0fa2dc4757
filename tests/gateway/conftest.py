"""A Gateway for each module, a client of it, and a TLS server's certificate."""

from __future__ import annotations

import itertools
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.certificates import certificate
from tests.gateway.scene import Scene, new_scene

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, template: str) -> Iterator[str]:
    """A fresh database for all tests of a module."""
    name = f"caracal_gateway_{os.getpid()}_{next(_numbers)}"
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
    """The last Redis database but one, empty, for all tests of a module."""
    given = os.environ.get("CARACAL_TEST_REDIS_URL")
    base = given or request.getfixturevalue("servers").redis_url
    with redis.Redis.from_url(base) as client:
        last = int(client.config_get("databases")["databases"]) - 2
    url = f"{base.partition('?')[0]}?db={last}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="module")
async def module_scene(module_database_url: str, module_redis_url: str) -> AsyncIterator[Scene]:
    """A Gateway for all tests of a module."""
    async with new_scene(module_database_url, module_redis_url) as made:
        assert (await made.call()).status_code == 200  # its zone is in memory from now on
        yield made


@pytest.fixture
def scene(module_scene: Scene) -> Scene:
    """The module's Gateway; what a test told the doubles is forgotten."""
    sts, upstream = module_scene.sts, module_scene.upstream
    sts.told = sts.hold = upstream.behaviour = None
    sts.directive, sts.anchors, sts.healthy = {}, [], True
    sts.calls.clear()
    sts.headers.clear()
    upstream.requests.clear()
    module_scene.calls._exchange._failures = 0
    module_scene.calls._exchange._open_until = 0.0
    return module_scene


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server named ``tls.example`` and of a client that trusts it."""
    return certificate(tmp_path), ssl.create_default_context(cafile=tmp_path / "server.pem")
