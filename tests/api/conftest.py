from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from tests.api.running import Plane, plane, worker
from tests.backbone import opened_log
from tests.conftest import _create_database, _drop_database


@pytest.fixture(scope="package")
def api_database(postgres_url: str, template: str) -> Iterator[str]:
    """A database that all tests of the control plane share: each makes zones of its own."""
    name = f"caracal_api_{os.getpid()}"
    yield _create_database(postgres_url, name, template)
    _drop_database(postgres_url, name)


@pytest.fixture(scope="package")
def api_redis(request: pytest.FixtureRequest) -> str:
    """The last Redis database, emptied; the tests of other packages are not running now."""
    given = os.environ.get("CARACAL_TEST_REDIS_URL")
    base = given or request.getfixturevalue("servers").redis_url
    with redis.Redis.from_url(base) as client:
        last = int(client.config_get("databases")["databases"]) - 1
    url = f"{base.partition('?')[0]}?db={last}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="package")
async def api(api_database: str, api_redis: str) -> AsyncIterator[Plane]:
    """API and worker over HTTP."""
    async with (
        opened_log(api_database) as log,
        worker(api_database, api_redis),
        plane(api_database, api_redis, log) as running,
    ):
        yield running
