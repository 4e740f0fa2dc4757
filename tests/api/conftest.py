from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api.running import Plane, plane, worker
from tests.backbone import opened_log
from tests.conftest import _create_database, _drop_database, last_redis


@pytest.fixture(scope="package")
def api_database(postgres_url: str, template: str) -> Iterator[str]:
    """A database that all tests of the control plane share: each makes zones of its own."""
    name = f"caracal_api_{os.getpid()}"
    yield _create_database(postgres_url, name, template)
    _drop_database(postgres_url, name)


@pytest.fixture(scope="package")
def api_redis(request: pytest.FixtureRequest) -> str:
    """The last Redis database, emptied; the tests of other packages are not running now."""
    return last_redis(request)


@pytest.fixture(scope="package")
async def api(api_database: str, api_redis: str) -> AsyncIterator[Plane]:
    """API and worker over HTTP."""
    async with (
        opened_log(api_database) as log,
        worker(api_database, api_redis),
        plane(api_database, api_redis, log) as running,
    ):
        yield running
