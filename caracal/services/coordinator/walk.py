"""Walks along the delegation graph: who holds authority by an edge, directly or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from operator import itemgetter

from caracal.projections.memory import Row

EdgesFrom = Callable[[str], Iterable[Row]]


def walk(first: Row | None, edges_from: EdgesFrom, now: datetime, most: int) -> list[list[Row]]:
    """Return the edges reached from ``first`` over edges active ``now``: by depth, then by id.

    The first list, of depth 1, is ``first`` alone; there is none when it is not active itself.
    An edge that several paths reach stands once, at its least depth; none is deeper than ``most``.
    """
    depths: list[list[Row]] = []
    reached = [first] if first is not None and is_active(first, now) else []
    passed = set[str]()
    while reached and len(depths) < most:
        depths.append(sorted(reached, key=itemgetter("id")))
        met = dict.fromkeys(row["target_session_id"] for row in depths[-1])
        targets = [target for target in met if target not in passed]
        passed.update(targets)
        # An agent is passed once, so each of its edges is met once; but for where we began.
        reached = [
            row
            for target in targets
            for row in edges_from(target)
            if row["expires_at"] > now and row["ended_at"] is None and row is not first
        ]
    return depths


def is_active(row: Row, now: datetime) -> bool:
    """Say whether an edge holds: it has not ended, and its time is not over."""
    in_time: bool = row["expires_at"] > now
    return row["ended_at"] is None and in_time
