from __future__ import annotations

import pytest

from tests.client.both import KINDS, Kind


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every test with it runs with both clients."""
    kind: Kind = request.param
    return kind
