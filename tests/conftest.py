"""Real servers for tests: one PostgreSQL and one Valkey for all, a fresh database for each test.

``CARACAL_TEST_DATABASE_URL`` and ``CARACAL_TEST_REDIS_URL`` name other servers to test against.
"""

from __future__ import annotations

import itertools
import os
import shutil
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from caracal.embedded import EmbeddedServers
from caracal.projections.schema import prepare
from tests import scheduling

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = scheduling.in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # ours is by package, not by number of tests
    return scheduling.PackageScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let programs that tests start find the product compiled, though the run is to leave nothing.

    With ``PYTHONDONTWRITEBYTECODE`` each of some three hundred would compile it for itself.
    """
    if not sys.dont_write_bytecode:
        yield
        return
    mine = tmp_path_factory.getbasetemp()
    everybodys = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    with pytest.MonkeyPatch.context() as variables:
        variables.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # it may have been python -B
        variables.setenv("PYTHONPYCACHEPREFIX", str(everybodys / "bytecode"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _certificates_read_once() -> Iterator[None]:
    """Let clients that trust what everybody trusts share it: 30 ms each, and they go to http."""
    made = httpx._config.create_ssl_context
    everybodys = cache(made)

    def create(verify: ssl.SSLContext | bool, cert: Any, trust_env: bool) -> ssl.SSLContext:
        plain = verify is True and cert is None
        return (everybodys if plain else made)(verify=verify, cert=cert, trust_env=trust_env)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("httpx._transports.default.create_ssl_context", create)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """The servers that all tests share; a test that kills servers takes ``own_servers``."""
    shared = EmbeddedServers(tmp_path_factory.mktemp("servers"))
    shared.start()
    _spare_time(shared.database_url)
    yield shared
    shared.stop()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """URL of a database from which others can be made."""
    given = os.environ.get("CARACAL_TEST_DATABASE_URL")
    return given or request.getfixturevalue("servers").database_url


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """Name of a migrated database that is only copied."""
    name = f"caracal_template_{os.getpid()}"
    prepare(_create_database(postgres_url, name, "template0"))
    yield name
    _drop_database(postgres_url, name)


@pytest.fixture
def database_url(postgres_url: str, template: str) -> Iterator[str]:
    """URL of a fresh, migrated, empty database."""
    name = f"caracal_test_{os.getpid()}_{next(_numbers)}"
    yield _create_database(postgres_url, name, template)
    _drop_database(postgres_url, name)


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty Redis database; FLUSHALL is allowed."""
    given = os.environ.get("CARACAL_TEST_REDIS_URL")
    base = given or request.getfixturevalue("servers").redis_url
    with redis.Redis.from_url(base) as client:
        databases = int(client.config_get("databases")["databases"])
    url = f"{base.partition('?')[0]}?db={next(_numbers) % databases}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def _stopped_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a migrated database, to be copied: quicker than initdb."""
    directory = tmp_path_factory.mktemp("cluster") / "data"
    made = EmbeddedServers(directory)
    made.start()
    try:
        prepare(made.database_url)
    finally:
        made.stop()
    return directory


@pytest.fixture
def own_servers(_stopped_servers: Path, tmp_path: Path) -> Iterator[EmbeddedServers]:
    """Servers of this test alone, migrated, to be killed, stopped and restarted at will."""
    directory = tmp_path / "own-servers"
    shutil.copytree(_stopped_servers, directory)
    own = EmbeddedServers(directory)
    own.start()
    yield own
    own.stop()


_SETTINGS = {
    "fsync": "off",  # no machine fails here; of what a killed server wrote the kernel takes care
    "full_page_writes": "off",
    # A drop waits for whoever is half connected, perhaps to a loop that waits for the drop.
    "authentication_timeout": "5s",
}


def _spare_time(url: str) -> None:
    """Set the server up for a thousand databases that are made, dropped and never missed."""
    for name, value in _SETTINGS.items():
        statement = sql.SQL("ALTER SYSTEM SET {} = {}")
        _execute(url, statement.format(sql.Identifier(name), sql.Literal(value)))
    _execute(url, sql.SQL("SELECT pg_reload_conf()"))


def last_redis(request: pytest.FixtureRequest) -> str:
    """Return the last Redis database, emptied: of a whole package or module of tests."""
    given = os.environ.get("CARACAL_TEST_REDIS_URL")
    base = given or request.getfixturevalue("servers").redis_url
    with redis.Redis.from_url(base) as client:
        last = int(client.config_get("databases")["databases"]) - 1
    url = f"{base.partition('?')[0]}?db={last}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def _create_database(base: str, name: str, template: str) -> str:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    _execute(base, statement.format(sql.Identifier(name), sql.Identifier(template)))
    database = conninfo_to_dict(base)["dbname"]
    head, _, tail = base.rpartition(f"/{database}")
    return f"{head}/{name}{tail}"


def _drop_database(base: str, name: str) -> None:
    _execute(base, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(base: str, statement: sql.Composable) -> None:
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(statement)
