"""``caracal flow``: aggregate -> event -> topics -> projections, from the declarations."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from caracal.events.catalogue import EVENTS_OF
from caracal.events.topics import TOPICS
from caracal.projections import PROJECTIONS


def flow() -> None:
    """Show how events flow: aggregate, event, its topics, the projections that reduce it."""
    table = Table("aggregate", "event", "topics", "projections", box=None, pad_edge=False)
    for row in rows():
        table.add_row(*row)
    Console(width=200, soft_wrap=True).print(table)


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
