"""All events by stored name, with their allowlists; derived from the aggregates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from caracal.events import AGGREGATES
from caracal.events.base import Aggregate, Cascade, Changed, Created, Private

_ENVELOPE = {member.name for member in fields(Created)}


def _events_of(aggregate: type[Aggregate]) -> dict[str, type[Aggregate.Event]]:
    nested = (value for value in vars(aggregate).values() if isinstance(value, type))
    events = (value for value in nested if issubclass(value, Aggregate.Event))
    return {event.TOPIC: event for event in events if event.__name__ != "Event"}


EVENTS_OF: Mapping[type[Aggregate], Mapping[str, type[Aggregate.Event]]] = {
    aggregate: _events_of(aggregate) for aggregate in AGGREGATES
}
"""Aggregate -> stored name -> event class."""

EVENTS: Mapping[str, type[Aggregate.Event]] = {
    name: event for events in EVENTS_OF.values() for name, event in events.items()
}
"""Stored name -> event class."""


def _members(name: str, event: type[Aggregate.Event]) -> dict[str, bool]:
    # A ``changed`` event may hold what the aggregate's ``created`` event declares.
    declaring = (
        EVENTS[name.replace(".changed", ".created")] if issubclass(event, Changed) else event
    )
    hints = get_type_hints(declaring, include_extras=True)
    names = [member.name for member in fields(declaring) if member.name not in _ENVELOPE]
    return {member: hints[member] != Private for member in names}


MEMBERS: Mapping[str, Mapping[str, bool]] = {
    name: _members(name, event) for name, event in EVENTS.items()
}
"""Stored name -> allowlist: member -> may it be exported. Declared fields *are* the allowlist."""

_CASCADES = frozenset(name for name, event in EVENTS.items() if issubclass(event, Cascade))
_CHANGES = frozenset(name for name, event in EVENTS.items() if issubclass(event, Changed))


def data_of(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data`` of a fact: the members of its allowlist, as far as the event has them."""
    source = state["changes"] if name in _CHANGES else state
    data = {member: source[member] for member in MEMBERS[name] if member in source}
    if name in _CASCADES:  # the contract leaves empty lists out
        data = {member: value for member, value in data.items() if value != []}
    return data


def export_of(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``data`` that may leave the product: no vault ref, no digest."""
    allowed = MEMBERS[name]
    return {member: value for member, value in data.items() if allowed.get(member, False)}
