"""Walks along the delegation graph: who holds authority by an edge, directly or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple

from caracal.projections.memory import Row

EdgesFrom = Callable[[str], Iterable[Row]]


class Node(NamedTuple):  # ten thousand of them are made for one answer
    """An edge that a walk has reached; the first has depth 1."""

    row: Row
    depth: int


def walk(first: Row | None, edges_from: EdgesFrom, now: datetime, most: int) -> list[Node]:
    """Return the edges reached from ``first`` over edges active ``now``, by depth and id.

    An edge that several paths reach stands once, at its least depth; none is deeper than
    ``most``. Nothing when ``first`` is not active itself.
    """
    frontier = [first] if first is not None and is_active(first, now) else []
    nodes: list[Node] = []
    seen, passed = {row["id"] for row in frontier}, set[str]()
    for depth in range(1, most + 1):
        nodes += [Node(row, depth) for row in sorted(frontier, key=itemgetter("id"))]
        targets = {row["target_session_id"] for row in frontier} - passed
        passed |= targets
        frontier = [
            row
            for target in targets
            for row in edges_from(target)
            if row["id"] not in seen and is_active(row, now)
        ]
        seen.update(row["id"] for row in frontier)
    return nodes


def is_active(row: Row, now: datetime) -> bool:
    """Say whether an edge holds: it has not ended, and its time is not over."""
    in_time: bool = row["expires_at"] > now
    return row["ended_at"] is None and in_time
