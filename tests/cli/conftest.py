from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from caracal.services.sts.app import create_app as sts_app
from caracal.settings import load_settings
from tests.api.conftest import api, api_database, api_redis
from tests.api.running import OPERATOR, Plane
from tests.api.running import settings as api_settings
from tests.cli.caracal import Caracal
from tests.cli.stand_in import StandIn
from tests.coordinator import running
from tests.coordinator.running import Crew, Ship
from tests.sts.world import serving, variables

__all__ = ["api", "api_database", "api_redis"]


@pytest.fixture(autouse=True)
def _no_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Let nothing of the machine tell a command where to go; no stack runs."""
    for name in ("API_URL", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "COORDINATOR_URL", "ZONE",
                 "COORDINATOR_TOKEN", "COORDINATOR_TOKEN_FILE", "ENV_FILE"):  # fmt: skip
        monkeypatch.delenv(f"CARACAL_{name}", raising=False)
    nowhere = tmp_path_factory.mktemp("nowhere")
    monkeypatch.setenv("CARACAL_DATA_DIR", str(nowhere))
    monkeypatch.chdir(nowhere)


@pytest.fixture
def at(api: Plane) -> Callable[..., Caracal]:
    """Commands against the running control plane: ``at(zone)``."""

    def commands(zone: str | None = None, **variables: str) -> Caracal:
        zoned = {} if zone is None else {"CARACAL_ZONE": zone}
        where = {"CARACAL_API_URL": api.url, "CARACAL_ADMIN_TOKEN": OPERATOR}
        return Caracal(where | zoned | variables)

    return commands


@pytest.fixture(scope="module")
async def fleet(api: Plane) -> AsyncIterator[Ship]:
    """A Coordinator with an STS, beside the control plane; other tests need that none runs."""
    own = api_settings("api", api.database_url, api.redis_url)
    keys = {
        "FACTS_HMAC_KEY": own.facts_hmac_key[0].hex(),
        "AUDIT_HMAC_KEY": own.audit_hmac_key[0].hex(),
    }
    sts = load_settings("sts", variables(api.database_url, api.redis_url) | keys)
    async with (
        serving(sts_app(sts)) as sts_url,
        running.ship(api.database_url, api.redis_url, worker=False, sts=sts_url, **keys) as ship,
    ):
        yield ship


@pytest.fixture
async def crew(fleet: Ship) -> Crew:
    """A zone of the test's own."""
    return await fleet.crew()


@pytest.fixture
def aboard(at: Callable[..., Caracal], crew: Crew) -> Caracal:
    """Commands of the operator of the crew's zone."""
    return at(
        crew.zone,
        CARACAL_COORDINATOR_URL=crew.url,
        CARACAL_COORDINATOR_TOKEN=running.OPERATOR,
    )


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A server that remembers what it was asked and answers as told."""
    with StandIn() as server:
        yield server
