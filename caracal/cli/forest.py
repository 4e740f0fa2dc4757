"""Things that hang on each other, and which of them a picture shows when they are many."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]


class Forest:
    """Rows by id, each below its parent where that is there, too.

    Args:
        rows: have ``id``, by which they sort as they began.
        parent: the member that names the parent.
    """

    def __init__(self, rows: Iterable[Row], parent: str) -> None:
        self.parent = parent
        self.rows = {str(row["id"]): row for row in rows}
        self._below: dict[str | None, list[str]] = defaultdict(list)
        for row_id in sorted(self.rows):
            above = self.rows[row_id][parent]
            self._below[above if above in self.rows else None].append(row_id)

    def below(self, row_id: str | None = None) -> list[str]:
        """Return what hangs directly on a row, oldest first; what hangs on nothing for None."""
        return self._below.get(row_id, [])

    def walk(self, tops: Iterable[str] | None = None) -> Iterator[str]:
        """Yield ``tops`` and all below them, each before what hangs on it."""
        waiting = list(self.below() if tops is None else tops)[::-1]
        seen: set[str] = set()
        while waiting:
            row_id = waiting.pop()
            if row_id not in seen:
                seen.add(row_id)
                yield row_id
                waiting += self.below(row_id)[::-1]

    def path(self, row_id: str) -> list[str]:
        """Return a row and all that it hangs on, the row first."""
        found: dict[str, None] = {}
        at: str | None = row_id
        while at in self.rows and at not in found:
            found[at] = None
            at = self.rows[at][self.parent]
        return list(found)

    def chosen(self, limit: int, is_dead: Callable[[Row], bool]) -> set[str]:
        """Return at most ``limit`` rows to show, none without its parent.

        What lives goes first, then what is near the top, then what is new.
        """
        newest_first = {row_id: number for number, row_id in enumerate(sorted(self.rows)[::-1])}
        waiting: list[tuple[bool, int, int, str]] = []

        def offer(ids: Iterable[str], depth: int) -> None:
            for row_id in ids:
                at = (is_dead(self.rows[row_id]), depth, newest_first[row_id], row_id)
                heapq.heappush(waiting, at)

        offer(self.below(), 0)
        shown: set[str] = set()
        while waiting and len(shown) < limit:
            _, depth, _, row_id = heapq.heappop(waiting)
            shown.add(row_id)
            offer(self.below(row_id), depth + 1)
        return shown

    def hidden(self, shown: Collection[str]) -> Counter[str | None]:
        """Return how many rows are not shown, by the last one above them that is."""
        counted: Counter[str | None] = Counter()
        waiting: list[tuple[str, str | None]] = [(top, None) for top in self.below()]
        while waiting:
            row_id, above = waiting.pop()
            if row_id in shown:
                above = row_id
            else:
                counted[above] += 1
            waiting += [(child, above) for child in self.below(row_id)]
        return counted
