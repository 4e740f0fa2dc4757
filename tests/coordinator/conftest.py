from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conftest import _create_database, _drop_database, last_redis
from tests.coordinator.running import Crew, Ship, ship


@pytest.fixture(scope="package")
def ship_database(postgres_url: str, template: str) -> Iterator[str]:
    """A database that all tests of the Coordinator share: each makes zones of its own."""
    name = f"caracal_coordinator_{os.getpid()}"
    yield _create_database(postgres_url, name, template)
    _drop_database(postgres_url, name)


@pytest.fixture(scope="package")
def ship_redis(request: pytest.FixtureRequest) -> str:
    """The last Redis database, emptied; the tests of other packages are not running now."""
    return last_redis(request)


@pytest.fixture(scope="package")
async def coordinator(ship_database: str, ship_redis: str) -> AsyncIterator[Ship]:
    """A Coordinator with STS and worker."""
    async with ship(ship_database, ship_redis) as running:
        yield running


@pytest.fixture
async def crew(coordinator: Ship) -> Crew:
    """A zone of the test's own."""
    return await coordinator.crew()
