from __future__ import annotations

import pytest

from caracal.projections import audit_ingest
from tests.audit.trail import ingestor, trail
from tests.backbone import db, log, redis

__all__ = ["db", "ingestor", "log", "redis", "trail"]


@pytest.fixture(autouse=True)
def _soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an ingestor take a fifth of a second for silence, not one."""
    monkeypatch.setattr(audit_ingest, "_BLOCK_MS", 200)
