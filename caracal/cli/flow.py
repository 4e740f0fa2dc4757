"""``caracal flow``: aggregate -> event -> topics -> projections, from the declarations."""

from __future__ import annotations

from caracal.cli.command import AsJson
from caracal.cli.show import Output
from caracal.events.catalogue import EVENTS_OF
from caracal.events.topics import TOPICS
from caracal.projections import PROJECTIONS

_COLUMNS = ("aggregate", "event", "topics", "projections")


def flow(json: AsJson = False) -> None:
    """Show how events flow: aggregate, event, its topics, the projections that reduce it."""
    Output(json).rows([dict(zip(_COLUMNS, row, strict=True)) for row in rows()], _COLUMNS, "")


def rows() -> list[tuple[str, str, str, str]]:
    """Return the table's rows; the aggregate stands in its first row only."""
    found = []
    for aggregate, events in EVENTS_OF.items():
        for number, name in enumerate(events):
            topics = [topic.name for topic in TOPICS.values() if name in topic.sources]
            readers = [projection.name for projection in PROJECTIONS if name in projection.reducers]
            first = aggregate.__name__ if number == 0 else ""
            found.append((first, name, ", ".join(topics), ", ".join(readers) or "-"))
    return found
