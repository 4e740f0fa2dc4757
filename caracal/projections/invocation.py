"""Read model of invocations: which there are, and where their deadlines stand.

What a caller is shown comes from the aggregate itself; this serves lists and the deadline sweeper.
"""

from __future__ import annotations

from caracal.events.base import Fact
from caracal.events.invocation import Invocation
from caracal.projections.projection import Projection
from caracal.projections.query import Db, ids_in_zones
from caracal.projections.table import Change, Put, Table, change, put

INVOCATIONS = Table(
    "invocations",
    columns={
        "zone_id": "text",
        "service_id": "text",
        "source_session_id": "text",
        "target_session_id": "text",
        "idempotency_key": "text",
        "method": "text",
        "status": "text",
        "attempts": "int",
        "deadline_at": "timestamptz",
        "created_at": "timestamptz",
    },
    indexes=(
        "(zone_id, id DESC)",
        "(deadline_at) WHERE status IN ('running', 'cancel_requested')",
    ),
)

invocations = Projection("invocations", INVOCATIONS)


@invocations.on(Invocation.Created)
def created(fact: Fact) -> Put:
    return put(INVOCATIONS, fact, created_at=fact.occurred_at, status="pending", attempts=0)


@invocations.on(Invocation.Started)
def started(fact: Fact) -> Change:
    return change(INVOCATIONS, fact, status="running", attempts=fact.data["attempt"])


@invocations.on(
    Invocation.CancelRequested,
    Invocation.Canceled,
    Invocation.Succeeded,
    Invocation.Failed,
    Invocation.TimedOut,
)
def moved(fact: Fact) -> Change:
    return Change(INVOCATIONS, fact.aggregate_id, {"status": fact.name.partition(".")[2]})


async def overdue_invocations(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return running invocations past their deadline: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM invocations WHERE status IN ('running', 'cancel_requested')"
        " AND deadline_at < now() ORDER BY deadline_at LIMIT %s",
        limit,
    )
