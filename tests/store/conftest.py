from __future__ import annotations

import pytest

from caracal.events.store.log import Store
from caracal.events.store.memory import MemoryLog
from tests.backbone import db, log, redis

__all__ = ["db", "log", "redis"]


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """Both logs: what holds for one holds for the other."""
    return MemoryLog() if request.param == "memory" else request.getfixturevalue("log")
