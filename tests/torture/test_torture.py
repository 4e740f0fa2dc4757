"""The short form of the chaos driver: a little of everything, on servers of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from caracal.embedded import EmbeddedServers
from tests.torture.faults import FAULTS
from tests.torture.trials import Run


@pytest.mark.chaos
@pytest.mark.timeout(180)
def test_whatever_breaks(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    """Seeded, at most 20 s of trials; ``make torture`` goes on for ten minutes."""
    lines: list[str] = []
    run = Run(seed=20, trials=len(FAULTS), seconds=20, say=lines.append)
    summary = run.go(own_servers, tmp_path / "processes")
    assert summary.failure is None, lines
    assert summary.trials > 0
    assert summary.events > 0
