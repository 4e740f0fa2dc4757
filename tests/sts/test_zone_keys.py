"""Data keys of zones in memory: none outlives its zone there."""

from __future__ import annotations

from typing import Any

import pytest

from caracal.services.sts.zone_keys import ZoneKeys


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> ZoneKeys:
    made = ZoneKeys(*[Any] * 3)  # type: ignore[arg-type]
    made.reads = []  # type: ignore[attr-defined]

    async def read(zone_id: str) -> bytes:
        made.reads.append(zone_id)  # type: ignore[attr-defined]
        return zone_id.encode()

    monkeypatch.setattr(made, "_read", read)
    return made


async def test_keys_are_read_once_and_forgotten_when_the_view_is_taken_anew(
    keys: ZoneKeys,
) -> None:
    for _ in range(2):
        assert await keys.opened("one") == b"one"
    assert keys.reads == ["one"]  # type: ignore[attr-defined]
    keys.forget_all()
    await keys.opened("one")
    assert keys.reads == ["one", "one"]  # type: ignore[attr-defined]
