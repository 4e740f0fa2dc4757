"""Nothing is forgotten: each check says which line to add."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable

import caracal.events
import caracal.projections
from caracal.events import AGGREGATES
from caracal.events.base import Aggregate
from caracal.events.catalogue import EVENTS_OF
from caracal.events.topics import FACT_TOPIC_OF, TOPICS
from caracal.events.zone import Zone
from caracal.projections import PROJECTIONS
from caracal.projections.projection import Projection
from caracal.projections.table import Table
from caracal.projections.zone import ZONES, zones


def modules(package: object) -> list[str]:
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")  # type: ignore[attr-defined]
    return [module.name for module in found if not module.ispkg]


def declared_aggregates() -> list[type[Aggregate]]:
    """Every aggregate class that a module of ``caracal.events`` defines."""
    return [
        thing
        for name in modules(caracal.events)
        for thing in vars(importlib.import_module(name)).values()
        if inspect.isclass(thing)
        and issubclass(thing, Aggregate)
        and thing is not Aggregate
        and thing.__module__ == name
    ]


def declared_projections() -> list[tuple[str, Projection]]:
    """Every projection that a module of ``caracal.projections`` makes."""
    return [
        (name, thing)
        for name in modules(caracal.projections)
        for variable, thing in vars(importlib.import_module(name)).items()
        if isinstance(thing, Projection) and variable == thing.name
    ]


def not_listed(listed: Iterable[type[Aggregate]]) -> list[str]:
    return [
        f"add {aggregate.__name__} to AGGREGATES in caracal/events/__init__.py"
        for aggregate in declared_aggregates()
        if aggregate not in tuple(listed)
    ]


def without_stored_name(aggregate: type[Aggregate]) -> list[str]:
    # The library's metaclass makes the nested classes anew: ask for TOPIC, not for vars().
    events = [
        event
        for event in vars(aggregate).values()
        if inspect.isclass(event)
        and issubclass(event, Aggregate.Event)
        and event.__name__ != "Event"
    ]
    inherited = {base.TOPIC for event in events for base in event.__mro__[2:] if _is_event(base)}
    return [
        f"give {aggregate.__name__}.{event.__name__} a TOPIC of its own: {aggregate.TOPIC}.<past>"
        for event in events
        if event.TOPIC in inherited - {event.TOPIC for event in events}
        or not event.TOPIC.startswith(f"{aggregate.TOPIC}.")
    ]


def _is_event(base: type) -> bool:
    return issubclass(base, Aggregate.Event) and base.__module__ == "caracal.events.base"


def without_reducer(aggregate: type[Aggregate], projections: Iterable[Projection]) -> list[str]:
    own = {projection.name: projection for projection in projections}.get(aggregate.PLURAL)
    if own is None:
        return [f"add a projection {aggregate.PLURAL!r} to caracal/projections/__init__.py"]
    return [
        f"{name}: add a reducer to caracal/projections/{aggregate.TOPIC}.py, or list it in ignored"
        for name in EVENTS_OF[aggregate]
        if name not in own.reducers and name not in own.ignored
    ]


def projections_not_listed(listed: Iterable[Projection]) -> list[str]:
    names = {projection.name for projection in listed}
    return [
        f"add {projection.name} of {module} to PROJECTIONS in caracal/projections/__init__.py"
        for module, projection in declared_projections()
        if projection.name not in names
    ]


def topics_without_group(projections: Iterable[Projection]) -> list[str]:
    read = {topic.name for projection in projections for topic in projection.topics}
    return [
        f"{topic.name} has no group: no projection has a reducer for one of its events"
        for topic in TOPICS.values()
        if topic.key == "facts" and topic.name not in read
    ]


def test_every_aggregate_is_listed() -> None:
    assert not_listed(AGGREGATES) == []


def test_every_event_has_a_stored_name_of_its_own() -> None:
    assert [line for aggregate in AGGREGATES for line in without_stored_name(aggregate)] == []
    names = [name for events in EVENTS_OF.values() for name in events]
    assert len(names) == len(set(names)) == len(FACT_TOPIC_OF)


def test_every_event_is_read() -> None:
    lines = [line for one in AGGREGATES for line in without_reducer(one, PROJECTIONS)]
    assert lines == []


def test_every_projection_is_listed() -> None:
    assert projections_not_listed(PROJECTIONS) == []


def test_every_fact_topic_has_a_group() -> None:
    assert topics_without_group(PROJECTIONS) == []


def test_reducers_and_ignored_name_events_that_exist() -> None:
    named = {name for one in PROJECTIONS for name in (*one.reducers, *one.ignored)}
    assert named - set(FACT_TOPIC_OF) == set()


def test_signals_come_of_events_that_exist() -> None:
    sources = {
        name for topic in TOPICS.values() if topic.key == "signals" for name in topic.sources
    }
    assert sources - set(FACT_TOPIC_OF) == set()


def test_tables_have_one_projection() -> None:
    tables = [table.name for projection in PROJECTIONS for table in projection.tables]
    assert len(tables) == len(set(tables))


# --- a forgotten line fails, and says what to add ------------------------------------------


def test_a_forgotten_aggregate() -> None:
    listed = [aggregate for aggregate in AGGREGATES if aggregate is not Zone]
    assert not_listed(listed) == ["add Zone to AGGREGATES in caracal/events/__init__.py"]


def test_a_forgotten_projection() -> None:
    listed = [projection for projection in PROJECTIONS if projection is not zones]
    (line,) = projections_not_listed(listed)
    assert line.startswith("add zones of caracal.projections.zone to PROJECTIONS")
    assert without_reducer(Zone, listed) == [
        "add a projection 'zones' to caracal/projections/__init__.py"
    ]


def test_a_forgotten_reducer() -> None:
    bare = Projection("zones", Table("zones", columns=ZONES.columns), ignored=["zone.changed"])
    assert without_reducer(Zone, [bare]) == [
        f"{name}: add a reducer to caracal/projections/zone.py, or list it in ignored"
        for name in EVENTS_OF[Zone]
        if name != "zone.changed"
    ]
    assert "caracal.zones.events has no group" in topics_without_group([bare])[0]


def test_a_forgotten_stored_name() -> None:
    class Lamp(Aggregate):
        TOPIC = "lamp"
        PLURAL = "lamps"

        class Lit(Aggregate.Event):
            TOPIC = "torch.lit"

    assert without_stored_name(Lamp) == ["give Lamp.Lit a TOPIC of its own: lamp.<past>"]
