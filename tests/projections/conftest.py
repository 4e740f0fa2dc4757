from __future__ import annotations

import pytest

from caracal.projections import runner
from tests.backbone import db, log, redis

__all__ = ["db", "log", "redis"]


@pytest.fixture(autouse=True)
def _soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a runner take a fifth of a second for silence, not one: many tests begin with it."""
    monkeypatch.setattr(runner, "_BLOCK_MS", 200)
