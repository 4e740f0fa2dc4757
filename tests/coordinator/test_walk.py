"""Walks against a slow model: every path, one by one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.services.coordinator.walk import walk

NOW = clock.now()
Rows = dict[str, dict[str, Any]]


@st.composite
def graphs(draw: st.DrawFn) -> Rows:
    """Edges between a few agents, rings included; some ended, some past their time."""
    rows: Rows = {}
    for number in range(draw(st.integers(0, 9))):
        source, target = (draw(st.sampled_from("abcd")) for _ in range(2))
        rows[f"e{number}"] = {
            "id": f"e{number}",
            "source_session_id": source,
            "target_session_id": target,
            "expires_at": NOW + timedelta(seconds=draw(st.sampled_from([-1, 0, 1, 1, 1]))),
            "ended_at": draw(st.sampled_from([None, None, None, 7])),
        }
    return rows


def holds(row: dict[str, Any]) -> bool:
    return row["ended_at"] is None and row["expires_at"] > NOW


def depths(rows: Rows, first: str, most: int) -> dict[str, int]:
    """The least depth of every edge over all paths that repeat none."""
    found: dict[str, int] = {}

    def follow(path: list[str]) -> None:
        last = path[-1]
        found[last] = min(found.get(last, most), len(path))
        if len(path) == most:
            return
        for other, row in rows.items():
            joined = row["source_session_id"] == rows[last]["target_session_id"]
            if joined and holds(row) and other not in path:
                follow([*path, other])

    if first in rows and holds(rows[first]):
        follow([first])
    return found


@given(graphs(), st.integers(1, 10))
def test_walks(rows: Rows, most: int) -> None:
    def edges_from(agent: str) -> list[dict[str, Any]]:
        return [row for row in rows.values() if row["source_session_id"] == agent]

    levels = walk(rows.get("e0"), edges_from, NOW, most)
    order = [(depth, row["id"]) for depth, level in enumerate(levels, 1) for row in level]
    expected = depths(rows, "e0", most)
    assert {edge: depth for depth, edge in order} == expected
    assert order == sorted(order)
    assert len(order) == len(expected)
