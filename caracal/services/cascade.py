"""Ends that take others with them: of a grant, a trusted issuer, an application, a zone.

The read model may lag (the worker may even be down), so a cascade lists its rows *and* what the
log has after their checkpoint. What is committed while it lists stands below the cascade's own
position: a second listing right after the commit ends that too. What begins later is refused by
its guards, or by its anchors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.agent_graph import NOTHING, AgentGraph
from caracal.events.application import Application, ArchiveReason
from caracal.events.base import Aggregate, Fact, Fall
from caracal.events.session import Session
from caracal.events.store.entries import LogReader
from caracal.events.store.log import Log, Saved, Thing, retrying
from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections.agent_graph import zone_graph
from caracal.projections.query import Db
from caracal.projections.runner import checkpoint
from caracal.projections.session import live_sessions, sessions

_TOPIC = FACT_TOPIC_OF[Session.Started.TOPIC]
_SLACK = timedelta(minutes=1)  # between the clocks of the processes


@dataclass(frozen=True, slots=True)
class Whose:
    """Which sessions fall: the zone's live ones that have these values in these columns."""

    zone_id: str
    equal: Mapping[str, str] = field(default_factory=dict)


Begun = dict[str, dict[str, int]]
"""Root -> its live sessions, each with the position of its start."""


async def sessions_of(db: Db, whose: Mapping[str, Whose]) -> Begun:
    """Return the live sessions of roots: all of one zone, by other values of the same columns.

    One that has ended just now may be among them: ending it again changes nothing.
    """
    if not whose:
        return {}
    one = next(iter(whose.values()))
    columns, moment = tuple(one.equal), clock.now() - _SLACK
    roots = {tuple(asked.equal.values()): root for root, asked in whose.items()}
    place = await checkpoint(db, sessions.name, _TOPIC.name)  # first: rows are never behind it
    begun: Begun = {root: {} for root in whose}
    for row in await live_sessions(db, one.zone_id, moment, columns, roots):
        begun[roots[_values(row, columns)]][row["id"]] = row["position"]
    async for fact in LogReader(db).facts_after(_TOPIC, place):
        root = roots.get(_values(fact.data, columns)) if _is_begun(fact, one, moment) else None
        if root is not None:
            begun[root][fact.aggregate_id] = fact.position
    return begun


def _is_begun(fact: Fact, whose: Whose, moment: datetime) -> bool:
    return (
        fact.name == Session.Started.TOPIC
        and fact.zone_id == whose.zone_id
        and clock.parse(fact.data["expires_at"]) > moment
    )


def _values(row: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in columns)  # older facts lack some


@dataclass(frozen=True, slots=True)
class Ground:
    """What a cascade works on: the log, and a way to borrow a connection for its listings."""

    log: Log
    database: Callable[[], AbstractAsyncContextManager[Db]]

    async def graph(
        self, zone_id: str, near: Collection[str] | None = None, position: int | None = None
    ) -> AgentGraph:
        """Return the agents and edges of a zone, with all that has been committed by now.

        Args:
            zone_id: whose.
            near: ids of agents and edges: what hangs on those is enough.
            position: what the log has up to there is enough.
        """
        async with self.database() as db:
            return await zone_graph(db, zone_id, near)


@dataclass(frozen=True, slots=True)
class Cascade(Generic[Thing]):
    """What a kind of root is, how it ends, and what falls with it.

    ``whose`` are its sessions. ``hangs`` tells its agents and edges, and those that still hang
    on what has fallen with it before; without it there are none.
    """

    kind: type[Thing]
    whose: Callable[[Thing], Whose]
    end: Callable[[Thing, Fall], None]
    end_late: Callable[[Thing, Fall], None]
    hangs: Callable[[AgentGraph, Thing, Fall], Fall] | None = None

    def command(
        self, ground: Ground, thing_id: str, zone_id: str, missing: CaracalError
    ) -> Callable[[], Awaitable[Saved]]:
        """Return the command that ends a root with what falls; run it by ``retrying``.

        It raises ``missing`` when there is no such thing, or the decision's refusal.
        """

        async def command() -> Saved:
            thing = await ground.log.find(self.kind, thing_id)
            if thing is None or getattr(thing, "zone_id", zone_id) != zone_id:
                raise missing
            return await self.ended(ground, [thing])

        return command

    async def ended(self, ground: Ground, things: Sequence[Thing], *others: Aggregate) -> Saved:
        """End roots of a zone with what falls, in one transaction with ``others``; then the late.

        Raises:
            VersionConflict, CaracalError: another command was faster, or the decision's refusal.
        """
        begun, hung = await self._begun(ground, things), await self._hung(ground, things, {})
        for thing in things:
            sessions = Fall.of_sessions(begun[thing.aggregate_id])
            self.end(thing, sessions | hung[thing.aggregate_id])
        saved = await ground.log.save(*things, *others)
        if (position := saved.position) is None:
            return saved

        async def again() -> Saved:
            late = _late(await self._begun(ground, things), begun, position)
            return await self._end_late(ground, late, await self._hung(ground, things, hung))

        return Saved((*saved.events, *(await retrying(again)).events))

    async def _begun(self, ground: Ground, things: Iterable[Thing]) -> Begun:
        whose = {thing.aggregate_id: self.whose(thing) for thing in things}
        async with ground.database() as db:
            return await sessions_of(db, whose)

    async def _hung(
        self, ground: Ground, things: Sequence[Thing], after: Mapping[str, Fall]
    ) -> dict[str, Fall]:
        """Return the agents and edges of roots; what hangs on two of them falls with the first."""
        hung = {thing.aggregate_id: NOTHING for thing in things}
        if self.hangs is None or not things:
            return hung
        graph = await ground.graph(str(things[0].zone_id))
        seen: frozenset[str] = frozenset()
        for thing in things:
            thing_id = thing.aggregate_id
            hung[thing_id] = self.hangs(graph, thing, after.get(thing_id, NOTHING)).without(seen)
            seen |= hung[thing_id].ids
        return hung

    async def _end_late(
        self, ground: Ground, late: Mapping[str, list[str]], hung: Mapping[str, Fall]
    ) -> Saved:
        falls = {one: Fall.of_sessions(late.get(one, ())) | fall for one, fall in hung.items()}
        falls = {one: fall for one, fall in falls.items() if fall}
        things = await ground.log.find_all(self.kind, falls)
        for thing in things:
            self.end_late(thing, falls[thing.aggregate_id])
        return await ground.log.save(*things)


def _late(begun: Begun, fallen: Begun, position: int) -> dict[str, list[str]]:
    """Return the sessions that began before ``position`` and are not among those that fell."""
    late = {
        thing_id: [sid for sid, at in of.items() if at < position and sid not in fallen[thing_id]]
        for thing_id, of in begun.items()
    }
    return {thing_id: sids for thing_id, sids in late.items() if sids}


def application_cascade(reason: ArchiveReason = "requested") -> Cascade[Application]:
    """Return how applications end, by the API and by the worker."""
    return Cascade(
        Application,
        whose=lambda app: Whose(str(app.zone_id), {"application_id": app.aggregate_id}),
        end=lambda app, fall: app.archive(fall, reason),
        end_late=Application.archive_late,
        hangs=lambda graph, app, after: graph.of_application(app.aggregate_id, after),
    )
