"""The log in memory: the same promises as the one in Postgres, for tests and for trying out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from eventsourcing.persistence import StoredEvent

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.base import Aggregate
from caracal.events.guards import (
    Count,
    Edge,
    Erase,
    Free,
    FreeEdges,
    FreeSeats,
    Guard,
    Inbound,
    Need,
    NoSeats,
    Release,
    Revive,
    Seat,
    Secret,
    Take,
)
from caracal.events.record import Record
from caracal.events.store.appender import VersionConflict
from caracal.events.store.log import Events, Saved, Thing
from caracal.ids import log_key


@dataclass(slots=True)
class Held:
    """What guards hold: see ``append.sql``."""

    keys: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seats: dict[tuple[str, str], str | None] = field(default_factory=dict)
    edges: dict[str, tuple[str, str]] = field(default_factory=dict)
    vault: dict[str, Secret] = field(default_factory=dict)

    def copy(self) -> Held:
        """Return a copy to try guards on."""
        return Held(
            dict(self.keys),
            dict(self.counts),
            dict(self.seats),
            dict(self.edges),
            dict(self.vault),
        )

    def seated(self, key: str) -> list[str]:
        """Return who has a seat now."""
        now = clock.rfc3339(clock.now())  # fixed width: the texts sort as the times do
        return sorted(
            owner
            for (of, owner), until in self.seats.items()
            if of == key and (until is None or until > now)
        )

    def holds(self, guard: Guard) -> bool:
        """Check a guard and keep what it asks for; False when it does not hold."""
        match guard:
            case Take(key, owner):
                free = key not in self.keys
                self.keys.setdefault(key, owner)
                return free
            case Need(key):
                return key in self.keys
            case Count(key, by, limit):
                self.counts[key] = max(self.counts.get(key, 0) + by, 0)
                return by < 0 or self.counts[key] <= limit
            case Seat(key, owner, until, limit):
                free = owner not in self.seated(key)
                self.seats[key, owner] = until
                return free and len(self.seated(key)) <= limit
            case NoSeats(key):
                return not self.seated(key)
            case Edge(source, target, owner):
                free = owner not in self.edges
                self.edges.setdefault(owner, (source, target))
                return free and not self._leads(target, source)
            case Inbound(target, owners):
                return sorted(owners) == sorted(
                    o for o, (_, t) in self.edges.items() if t == target
                )
            case _:
                self._release(guard)
                return True

    def _release(self, guard: Guard) -> None:
        match guard:
            case Free(keys, owner):
                self.keys = {k: o for k, o in self.keys.items() if k not in keys or o != owner}
            case Release(things, owner):
                for thing in things:
                    if self.keys.get(thing.key) == owner:
                        self._release(Free((thing.key, *thing.keys), owner))
                        for key in thing.counts:
                            self.counts[key] = max(self.counts.get(key, 0) - 1, 0)
            case Revive(keys, owner):
                for key, while_has in keys:
                    if self.keys.get(while_has) == owner:
                        self.keys.setdefault(key, owner)
            case _:
                self._drop(guard)

    def _drop(self, guard: Guard) -> None:
        match guard:
            case FreeSeats(key, owners):
                left = {(key, owner) for owner in owners}
                self.seats = {s: until for s, until in self.seats.items() if s not in left}
            case FreeEdges(owners):
                self.edges = {o: edge for o, edge in self.edges.items() if o not in owners}
            case Secret(ref):
                self.vault[ref] = guard
            case Erase(refs):
                self.vault = {ref: s for ref, s in self.vault.items() if ref not in refs}

    def _leads(self, start: str, goal: str) -> bool:
        reached, frontier = {start}, {start}
        while frontier:
            frontier = {t for s, t in self.edges.values() if s in frontier} - reached
            reached |= frontier
        return goal in reached


class MemoryLog:
    """A :class:`caracal.events.store.log.Store` that forgets with its process."""

    def __init__(self) -> None:
        self.held = Held()
        self._rows: list[StoredEvent] = []
        self._events = Events()

    @property
    def records(self) -> list[Record]:
        """Return all events, in order."""
        return [
            Record.read(position, row.originator_version, row.topic, row.state)
            for position, row in enumerate(self._rows, 1)
        ]

    async def find(self, kind: type[Thing], thing_id: str) -> Thing | None:
        """See :class:`caracal.events.store.log.Store`."""
        key = log_key(thing_id)
        return self._events.replay(kind, (row for row in self._rows if row.originator_id == key))

    async def find_all(self, kind: type[Thing], thing_ids: Iterable[str]) -> list[Thing]:
        """See :class:`caracal.events.store.log.Store`."""
        found = [await self.find(kind, thing_id) for thing_id in thing_ids]
        return [thing for thing in found if thing is not None]

    async def owner(self, key: str) -> str | None:
        """See :class:`caracal.events.store.log.Store`."""
        return self.held.keys.get(key)

    async def seated(self, key: str) -> list[str]:
        """See :class:`caracal.events.store.log.Store`."""
        return self.held.seated(key)

    async def save(self, *things: Aggregate, guards: Iterable[Guard] = ()) -> Saved:
        """See :class:`caracal.events.store.log.Store`."""
        all_guards = [guard for thing in things for guard in thing.collect_guards()]
        events = self._events.collect(things)
        if not events:
            return Saved()
        held = self.held.copy()
        for guard in (*all_guards, *guards):
            if not held.holds(guard):
                raise guard.refusal or CaracalError("guard_refused")
        self._check_versions(events)
        self.held = held
        first = len(self._rows) + 1
        self._rows += events
        return Saved(tuple((first + n, event.topic) for n, event in enumerate(events)))

    def _check_versions(self, events: list[StoredEvent]) -> None:
        there = {(row.originator_id, row.originator_version) for row in self._rows}
        if any((event.originator_id, event.originator_version) in there for event in events):
            raise VersionConflict(events[0].originator_id)
