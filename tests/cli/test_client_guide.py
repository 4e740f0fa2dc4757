"""``docs/client.md`` works as written: its snippets, one after the other, on running services."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.running import OPERATOR, Plane
from tests.coordinator import running
from tests.coordinator.running import Ship
from tests.making import new_agent, new_session

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


async def test_the_guide(
    api: Plane, fleet: Ship, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CARACAL_ADMIN_TOKEN", OPERATOR)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "guide"}
    agents: list[str] = []
    for block in blocks:
        if "operator.agents" in block:
            agents.append(await spawned(api, names["zone"]["id"], names["app"]["id"]))
        code = block.replace("http://localhost:3000", api.url)
        code = code.replace("http://localhost:4000", fleet.url)
        code = code.replace('"operator-token"', f'"{running.OPERATOR}"')
        await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    (agent,) = agents
    for line in ("cs_", "409 zone_slug_conflict", "stopped", f"{agent} active"):
        assert line in printed
    for each in ("client", "careful", "operator"):
        names[each].close()


async def spawned(api: Plane, zone: str, application: str) -> str:
    """An agent of an application, as another service would make it."""
    session = new_session(application, zone_id=zone)
    agent = new_agent(session, zone_id=zone)
    await api.save(session)
    await api.save(agent)
    return agent.aggregate_id
