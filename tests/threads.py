"""For modules whose tests run on many threads: import ``engines_dropped_here``."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def engines_dropped_here() -> None:
    """Collect what earlier tests left: an engine of policies is dropped in its own thread only."""
    gc.collect()
