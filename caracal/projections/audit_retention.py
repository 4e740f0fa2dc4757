"""Read model of the audit retention: one row, or none as long as nobody has said anything."""

from __future__ import annotations

from typing import Any

from caracal.events.audit_retention import RETENTION_ID, AuditRetention
from caracal.events.base import Fact
from caracal.projections.projection import Projection
from caracal.projections.query import Db, one
from caracal.projections.table import Operation, Table, change, put

AUDIT_RETENTIONS = Table(
    "audit_retentions", columns={"retention_days": "int", "updated_at": "timestamptz"}
)

audit_retentions = Projection("audit_retentions", AUDIT_RETENTIONS)


@audit_retentions.on(AuditRetention.Changed)
def changed(fact: Fact) -> list[Operation]:
    # The first one puts the row, a later one changes it: one of the two does nothing.
    columns = {"updated_at": fact.occurred_at}
    return [put(AUDIT_RETENTIONS, fact, **columns), change(AUDIT_RETENTIONS, fact, **columns)]


async def get_audit_retention(db: Db) -> dict[str, Any] | None:
    """Return what was said of the retention."""
    return await one(db, AUDIT_RETENTIONS, id=RETENTION_ID)


async def kept_days(db: Db, limit: int) -> int:
    """Return for how many days the ledger is kept; ``limit`` is the deployment's maximum."""
    row = await get_audit_retention(db)
    return limit if row is None else min(row["retention_days"], limit)
