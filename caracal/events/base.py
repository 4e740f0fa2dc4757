"""What every aggregate and every event share.

A word that means two things: ``TOPIC`` on an event class is the *stored name* of the event
(``grant.revoked``); the ``eventsourcing`` library calls that a topic, and refuses a class
without one at import. Topics in our sense, Redis Streams, stand in :mod:`caracal.events.topics`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, NamedTuple, Self
from uuid import UUID

import orjson
from eventsourcing.domain import AggregateCreated, AggregateEvent, BaseAggregate

from caracal import clock
from caracal.events.guards import Ended, Free, FreeEdges, Guard, Release, live
from caracal.ids import log_key

META: ContextVar[dict[str, Any]] = ContextVar("meta")
"""Who does what in the running command. No default: an event made outside of one raises."""

Private = Annotated[str | None, "private"]
"""Type of a member that our services read and no export shows: vault refs, digests of secrets."""

CASCADE_LIMIT = 1000
"""Most ids that one cascade event carries."""


@contextmanager
def acting(*, zone_id: str | None, actor: str, **known: Any) -> Iterator[None]:
    """Give the events made inside their metadata.

    ``zone_id`` is None for events of no zone; ``known`` may hold ``actor_name``, ``action``
    (``METHOD path``), ``request_id``, ``causation`` (a position) and ``traceparent``.
    """
    meta = {"zone_id": zone_id, "actor": actor, **known}
    token = META.set({name: value for name, value in meta.items() if value is not None})
    try:
        yield
    finally:
        META.reset(token)


class Aggregate(BaseAggregate[UUID]):
    """A thing that decides: its commands check, record events, and declare guards."""

    TOPIC = "aggregate"
    PLURAL = ""

    class Event(AggregateEvent):
        """A fact about ``aggregate_id``, the product's id of the thing."""

        TOPIC = "event"
        aggregate_id: str
        meta: dict[str, Any] = field(default_factory=META.get, kw_only=True)

        @staticmethod
        def create_timestamp() -> str:  # type: ignore[override]
            """Return the time as text: JSON does not give datetimes back."""
            return clock.rfc3339(clock.now())

    def __base_init__(self, originator_id: UUID, originator_version: int, timestamp: Any) -> None:
        super().__base_init__(originator_id, originator_version, timestamp)
        self.aggregate_id = ""
        self.zone_id: str | None = None
        self.guards: list[Guard] = []
        self.parts = 0  # of its cascade, when it has ended by one

    @classmethod
    def _begin(
        cls, event_class: type[Created], thing_id: str, *guards: Guard, **members: Any
    ) -> Self:
        thing = cls._create(event_class, id=log_key(thing_id), aggregate_id=thing_id, **members)
        thing.guards.extend(guards)
        return thing

    def _record(self, event_class: type[Aggregate.Event], *guards: Guard, **members: Any) -> None:
        self.trigger_event(event_class, aggregate_id=self.aggregate_id, **members)
        self.guards.extend(guards)

    def _record_fall(self, event_class: type[Cascade], fall: Fall, **members: Any) -> None:
        """Record a cascade, or more of one, in as many parts as it needs."""
        self.guards += fall.freed(str(self.zone_id))
        self._record_parts(event_class, fall, **members)

    def _record_parts(self, event_class: type[Cascade], fall: Fall, **members: Any) -> None:
        for part in fall.parts(first=self.parts + 1):
            self._record(event_class, **part, **members)

    def _different(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Return those of ``changes`` that differ from what is: nothing changed, no event."""
        return {name: v for name, v in changes.items() if _json(vars(self)[name]) != _json(v)}

    def collect_guards(self) -> list[Guard]:
        """Return the guards of the pending events, and forget them."""
        guards, self.guards = self.guards, []
        return guards


def _json(value: Any) -> bytes:
    # To Python, true is 1 and 1 is 1.0; to whoever reads JSON they differ.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class Created(Aggregate.Event, AggregateCreated):
    """The first fact of a thing."""

    TOPIC = "event.created"

    def apply(self, aggregate: Any) -> None:
        aggregate.aggregate_id = self.aggregate_id
        aggregate.zone_id = self.meta.get("zone_id")


class Changed(Aggregate.Event):
    """Only the members that changed; a member present with null is cleared."""

    TOPIC = "event.changed"
    changes: dict[str, Any]

    def apply(self, aggregate: Any) -> None:
        vars(aggregate).update(self.changes)


class Cascade(Aggregate.Event):
    """An end that takes other things with it; more ids than the limit make more parts."""

    TOPIC = "event.cascade"
    part: int = field(default=1, kw_only=True)
    agents: list[dict[str, Any]] = field(default_factory=list, kw_only=True)
    edges: list[str] = field(default_factory=list, kw_only=True)
    sessions: list[str] = field(default_factory=list, kw_only=True)
    roots: list[dict[str, Any]] = field(default_factory=list, kw_only=True)


class FallenAgent(NamedTuple):  # a cascade makes ten thousand of them
    """An agent that changes in a cascade: what the event says of it, and what ends with it."""

    id: str
    application_id: str
    parent_id: str | None
    ended: Ended

    @property
    def item(self) -> dict[str, Any]:
        """Return the item of the event's list."""
        return {
            "id": self.id,
            "application_id": self.application_id,
            "parent_id": self.parent_id,
        }


@dataclass(frozen=True, slots=True)
class Fall:
    """What falls with a named thing (spec: cascades)."""

    sessions: tuple[str, ...] = ()
    agents: tuple[FallenAgent, ...] = ()
    edges: tuple[str, ...] = ()
    roots: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of_sessions(cls, sids: Iterable[str]) -> Fall:
        """Return the fall of sessions; each is its own named root."""
        sids = tuple(sids)
        return cls(sessions=sids, roots=tuple({"anchor": "session", "id": sid} for sid in sids))

    def __bool__(self) -> bool:
        return bool(self.sessions or self.agents or self.edges)

    def __or__(self, other: Fall) -> Fall:
        """Return both; they share no id."""
        return Fall(
            self.sessions + other.sessions,
            self.agents + other.agents,
            self.edges + other.edges,
            self.roots + other.roots,
        )

    @property
    def ids(self) -> frozenset[str]:
        """Return the ids of all that falls."""
        return frozenset((*self.sessions, *self.edges, *(agent.id for agent in self.agents)))

    def without(self, ids: Collection[str]) -> Fall:
        """Return the rest when ``ids`` fall with another thing."""
        return Fall(
            tuple(sid for sid in self.sessions if sid not in ids),
            tuple(agent for agent in self.agents if agent.id not in ids),
            tuple(edge for edge in self.edges if edge not in ids),
            tuple(root for root in self.roots if root["id"] not in ids),
        )

    def freed(self, zone_id: str) -> list[Guard]:
        """Return the guards that free the keys of what falls: no command on it from now on.

        The zone owns these keys, so that one guard frees all.
        """
        keys = [live("session", sid) for sid in self.sessions]
        keys += [live("edge", edge) for edge in self.edges]
        guards: list[Guard] = [Free(tuple(keys), zone_id)] if keys else []
        if self.agents:
            guards.append(Release(tuple(agent.ended for agent in self.agents), zone_id))
        if self.edges:
            guards.append(FreeEdges(self.edges))
        return guards

    def parts(self, first: int = 1) -> Iterator[dict[str, Any]]:
        """Yield the members of one cascade event after the other, numbered from ``first``.

        There is at least one. A root stands in the part that lists its id.
        """
        items: list[tuple[str, Any, str]] = [
            *(("agents", agent.item, agent.id) for agent in self.agents),
            *(("edges", edge, edge) for edge in self.edges),
            *(("sessions", sid, sid) for sid in self.sessions),
        ]
        roots = {root["id"]: root for root in self.roots}
        for number, start in zip(count(first), range(0, max(len(items), 1), CASCADE_LIMIT)):
            part: dict[str, Any] = {"part": number, "agents": [], "edges": [], "sessions": []}
            part["roots"] = []
            for name, item, item_id in items[start : start + CASCADE_LIMIT]:
                part[name].append(item)
                if item_id in roots:
                    part["roots"].append(roots.pop(item_id))
            yield part


@dataclass(frozen=True, slots=True)
class Fact:
    """An event as projections read it, from a topic or from the log alike."""

    position: int
    name: str
    zone_id: str | None
    aggregate_id: str
    version: int
    data: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def occurred_at(self) -> str:
        """Return when it happened, RFC 3339."""
        return str(self.metadata["occurred_at"])
