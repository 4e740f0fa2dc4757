from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.api.conftest import api, api_database, api_redis
from tests.api.running import OPERATOR, Plane
from tests.cli.caracal import Caracal
from tests.cli.stand_in import StandIn

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


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A server that remembers what it was asked and answers as told."""
    with StandIn() as server:
        yield server
