"""A projection: tables, one reducer per event, and (in its file) the queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from caracal.events.base import Aggregate, Fact
from caracal.events.topics import FACT_TOPIC_OF, Topic, group
from caracal.projections.audit_row import Row as Decision
from caracal.projections.table import AnyTable, Applied, Operation

Reducer = Callable[[Fact], Operation | Sequence[Operation]]
DecisionReducer = Callable[[Decision], Sequence[Operation]]


class Projection:
    """A read model. What it subscribes to follows from its reducers.

    Facts come by the topics of ``reducers``. Decisions, by the event types of ``decided``, come
    with the ledger: the ingestor applies them in the transaction that puts them into it. They
    have no position, so what they do must hold in any order.
    """

    def __init__(self, name: str, *tables: AnyTable, ignored: Iterable[str] = ()) -> None:
        self.name = name
        self.tables = tables
        self.reducers: dict[str, Reducer] = {}
        self.decided: dict[str, DecisionReducer] = {}
        self.ignored = frozenset(ignored)

    def on(self, *events: type[Aggregate.Event]) -> Callable[[Reducer], Reducer]:
        """Register the reducer of some events."""

        def register(reducer: Reducer) -> Reducer:
            self.reducers.update({event.TOPIC: reducer for event in events})
            return reducer

        return register

    def on_decision(self, event_type: str) -> Callable[[DecisionReducer], DecisionReducer]:
        """Register the reducer of a type of audit events; what it cannot read, it leaves."""

        def register(reducer: DecisionReducer) -> DecisionReducer:
            self.decided[event_type] = reducer
            return reducer

        return register

    @property
    def group(self) -> str:
        """Return the consumer group."""
        return group(self.name)

    @property
    def topics(self) -> list[Topic]:
        """Return the topics that the reducers need, in the table's order."""
        return list(
            {FACT_TOPIC_OF[name].name: FACT_TOPIC_OF[name] for name in self.reducers}.values()
        )

    def reduce(self, fact: Fact) -> list[Applied]:
        """Return what a fact does to the tables; nothing when it does not concern them."""
        if (reducer := self.reducers.get(fact.name)) is None:
            return []
        operations = reducer(fact)
        several = operations if isinstance(operations, Sequence) else (operations,)
        return [Applied(fact.position, operation) for operation in several]

    def reduce_decision(self, decision: Decision) -> list[Applied]:
        """Return what a decision of the ledger does to the tables."""
        if (reducer := self.decided.get(decision.event_type)) is None:
            return []
        return [Applied(0, operation) for operation in reducer(decision)]
