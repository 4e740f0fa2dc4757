from __future__ import annotations

import pytest

from tests.audit.trail import ingestor, trail
from tests.backbone import db, log, redis
from tests.siem.receiver import receiver, syslog

__all__ = ["db", "ingestor", "log", "receiver", "redis", "syslog", "trail"]


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for half a second before it tries again."""
    monkeypatch.setattr("caracal.services.siem.delivery.FIRST_WAIT", 0.01)
    monkeypatch.setattr("caracal.services.siem.delivery.LONGEST_WAIT", 0.05)
    monkeypatch.setattr("caracal.services.siem.exporter._BLOCK_MS", 100)
    monkeypatch.setattr("caracal.services.siem.exporter.AGAIN_SECONDS", 0.05)
