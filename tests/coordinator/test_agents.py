"""Agent sessions: spawn, read, suspend, resume, terminate."""

from __future__ import annotations

from tests.coordinator.running import Crew


async def test_spawned_shown_and_listed(crew: Crew) -> None:
    agent = await crew.spawn(kind="instance", capabilities=[" plan "], metadata={"a": 1})
    assert agent["status"] == "active"
    assert agent["capabilities"] == ["plan"]
    shown = await crew.call("GET", f"/agents/{agent['id']}")
    assert shown.json() == agent
    assert (await crew.call("GET", "/agents")).json() == [agent]
