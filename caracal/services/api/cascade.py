"""Ends that take sessions with them: of a grant, an application, a zone.

The read model may lag (the worker may even be down), so a cascade lists its rows *and* what the
log has after their checkpoint. What is committed while it lists stands below the cascade's own
position: a second listing right after the commit ends that too. What begins later is refused by
its guards, or by its anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.base import Fact, Fall
from caracal.events.session import Session
from caracal.events.store.entries import LogReader
from caracal.events.store.log import Saved, retrying
from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections.query import Db
from caracal.projections.runner import checkpoint
from caracal.projections.session import live_sessions, sessions
from caracal.services.api.call import Call, Thing

_TOPIC = FACT_TOPIC_OF[Session.Started.TOPIC]
_SLACK = timedelta(minutes=1)  # between the clocks of the processes


@dataclass(frozen=True, slots=True)
class Whose:
    """Which sessions fall: the zone's live ones that have these values in these columns."""

    zone_id: str
    equal: Mapping[str, str] = field(default_factory=dict)

    def has(self, fact: Fact, moment: datetime) -> bool:
        """Say whether the session of a ``session.started`` is one of them."""
        return (
            fact.name == Session.Started.TOPIC
            and fact.zone_id == self.zone_id
            and all(fact.data[name] == value for name, value in self.equal.items())
            and clock.parse(fact.data["expires_at"]) > moment
        )


async def sessions_of(db: Db, whose: Whose) -> dict[str, int]:
    """Return the live sessions, each with the position of its start.

    One that has ended just now may be among them: ending it again changes nothing.
    """
    moment = clock.now() - _SLACK
    place = await checkpoint(db, sessions.name, _TOPIC.name)  # first: rows are never behind it
    found = await live_sessions(db, whose.zone_id, moment, **whose.equal)
    log, more = LogReader(db), True
    while more:
        entries, more = await log.entries(_TOPIC, place)
        facts = [entry.record.fact() for entry in entries]
        found |= {f.aggregate_id: f.position for f in facts if whose.has(f, moment)}
        place = entries[-1].id if entries else place
    return found


@dataclass(frozen=True, slots=True)
class Cascade(Generic[Thing]):
    """What a kind of root is, how it ends, and what falls with it."""

    kind: type[Thing]
    whose: Callable[[Thing], Whose]
    end: Callable[[Thing, Fall], None]
    end_late: Callable[[Thing, Fall], None]

    async def run(self, call: Call, thing_id: str, zone_id: str, missing: CaracalError) -> None:
        """End a root with its sessions.

        Raises:
            CaracalError: ``missing`` when there is no such thing, or the decision's refusal.
        """

        async def command() -> Saved:
            thing = await self._find(call, thing_id, zone_id, missing)
            fallen = await self._sessions(call, thing)
            self.end(thing, Fall.of_sessions(fallen))
            saved = await call.api.log.save(thing)
            if (position := saved.position) is None:
                return saved

            async def again() -> Saved:
                thing = await self._find(call, thing_id, zone_id, missing)
                started = await self._sessions(call, thing)
                late = [sid for sid, at in started.items() if at < position and sid not in fallen]
                self.end_late(thing, Fall.of_sessions(late))
                return await call.api.log.save(thing)

            return Saved((*saved.events, *(await retrying(again)).events))

        await call.commit(command, zone_id)

    async def _find(self, call: Call, thing_id: str, zone_id: str, missing: CaracalError) -> Thing:
        if (thing := await call.find(self.kind, thing_id, zone_id)) is None:
            raise missing
        return thing

    async def _sessions(self, call: Call, thing: Thing) -> dict[str, int]:
        async with call.database() as db:
            return await sessions_of(db, self.whose(thing))
