"""For how long the ledger is kept: ``/v1/audit-retention``, for global tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from caracal.events.audit_retention import RETENTION_ID, AuditRetention
from caracal.events.store.log import Saved
from caracal.projections.audit_retention import kept_days
from caracal.services.api.call import CallDep
from caracal.services.api.codes import refuses
from caracal.services.models import Answer, Body

router = APIRouter(prefix="/v1/audit-retention", tags=["audit"])


class AuditRetentionInput(Body):
    retention_days: Annotated[int, Field(ge=1)]


class AuditRetentionAnswer(Answer):
    retention_days: int
    limit_days: int
    """The deployment's maximum, and what holds until anything is said."""


@router.get("")
@refuses()
async def get(call: CallDep) -> AuditRetentionAnswer:
    """Show for how many days the ledger is kept; whole months older than that are dropped."""
    limit = call.api.settings.audit_retention_days
    async with call.database() as db:
        days = await kept_days(db, limit)
    return AuditRetentionAnswer(retention_days=days, limit_days=limit)


@router.put("")
@refuses("retention_above_limit")
async def change(body: AuditRetentionInput, call: CallDep) -> AuditRetentionAnswer:
    """Say for how many days the ledger is kept. The worker drops what is older, within hours."""
    log, limit = call.api.log, call.api.settings.audit_retention_days

    async def command() -> Saved:
        found = await log.find(AuditRetention, RETENTION_ID)
        if found is None:
            found = AuditRetention.begin(body.retention_days, limit=limit)
        else:
            found.change(body.retention_days, limit=limit)
        return await log.save(found)

    await call.commit(command, None)
    return AuditRetentionAnswer(retention_days=body.retention_days, limit_days=limit)
