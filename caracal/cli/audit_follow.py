"""Decisions as they come, from a list that can only be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from caracal import clock

Event = dict[str, Any]

_LATE = timedelta(seconds=30)  # a decision may be this much older than one that came before it
_ROUND = 200  # so many in a row that are known: nothing newer lies behind them


class Follower:
    """Gives each decision once, oldest first.

    Decisions are listed by the time they were taken, and reach the ledger a moment later, in no
    strict order: so each look goes back a little, and what was given is remembered that long.

    Args:
        listed: gives decisions, newest first, all pages; takes ``since``.
    """

    def __init__(self, listed: Callable[..., Iterable[Event]]) -> None:
        self._listed = listed
        self._given: dict[str, datetime] = {}
        self._newest: datetime | None = None

    def first(self, count: int) -> list[Event]:
        """Return the newest ``count``; what is older than these is never given."""
        events = list(islice(self._listed(), max(count, _ROUND)))
        self._remember(events)
        return events[:count][::-1]

    def fresh(self) -> list[Event]:
        """Return what came since."""
        since = {} if self._newest is None else {"since": clock.rfc3339(self._newest - _LATE)}
        fresh: list[Event] = []
        known = 0
        for event in self._listed(**since):
            known = known + 1 if event["id"] in self._given else 0
            if known >= _ROUND:
                break
            if not known:
                fresh.append(event)
        self._remember(fresh)
        return fresh[::-1]

    def _remember(self, events: Iterable[Event]) -> None:
        for event in events:
            moment = clock.parse(event["occurred_at"])
            self._given[event["id"]] = moment
            self._newest = max(self._newest or moment, moment)
        if self._newest is not None:
            horizon = self._newest - _LATE
            self._given = {id_: at for id_, at in self._given.items() if at >= horizon}
