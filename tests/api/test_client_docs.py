"""``docs/client.md`` works as written: its snippets, one after the other, on running services."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.running import OPERATOR, Plane
from tests.client import coordinator as recorded

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


async def test_the_guide(
    api: Plane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARACAL_ADMIN_TOKEN", OPERATOR)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "guide"}
    async with recorded.coordinator() as coordinator:
        for block in blocks:
            code = block.replace("http://localhost:3000", api.url)
            code = code.replace("http://localhost:4000", coordinator)
            code = code.replace('"operator-token"', f'"{recorded.OPERATOR}"')
            await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    for line in ("cs_", "409 zone_slug_conflict", "stopped", "a1 active"):
        assert line in printed
    for each in ("client", "careful", "operator"):
        names[each].close()
