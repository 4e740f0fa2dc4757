"""The audit trail of a zone: ``/v1/zones/{zone_id}/audit``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator

from caracal.errors import NotFound
from caracal.events.store.redaction import redacted
from caracal.projections.audit import list_decisions, trail_of_request
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import LogPageDep, cut
from caracal.services.fields import Moment, Word, moment
from caracal.services.models import Answer
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/audit", tags=["audit"])


class AuditEvent(Answer):
    id: str
    zone_id: str
    event_type: str
    request_id: str | None
    decision: str | None = None
    evaluation_status: str | None = None
    metadata_json: Annotated[Any, AfterValidator(redacted)]
    occurred_at: datetime
    ingested_at: datetime


class AuditDetail(AuditEvent):
    policy_set_id: str | None = None
    policy_set_version_id: str | None = None
    manifest_sha: str | None = None
    determining_policies_json: Any = None
    diagnostics_json: Any = None


@router.get("")
@refuses()
async def list_(
    zone_id: ZoneId,
    call: CallDep,
    page: LogPageDep,
    since: Moment = None,
    until: Moment = None,
    decision: Literal["allow", "deny", "partial"] | None = None,
    event_type: Word = None,
    request_id: Word = None,
) -> list[AuditEvent]:
    """List the decisions of a zone, newest first."""
    async with call.database() as db:
        rows = await list_decisions(
            db,
            zone_id,
            page,
            since=moment(since),
            until=moment(until),
            decision=decision,
            event_type=event_type,
            request_id=request_id,
        )
    rows = cut(rows, page, call.request, call.response, time="occurred_at")
    return [AuditEvent(**row) for row in rows]


@router.get("/by-request/{request_id}")
@refuses("request_not_found")
async def by_request(zone_id: ZoneId, request_id: PathId, call: CallDep) -> list[AuditDetail]:
    """Show what a request led to, oldest first: decisions, and the facts that it caused.

    Of an id that very many requests have used not all; the zone's audit lists them by pages.
    """
    return [AuditDetail(**entry) for entry in await trail_of(call, zone_id, request_id)]


async def trail_of(call: Call, zone_id: str, request_id: str) -> list[dict[str, Any]]:
    """Return what a request led to in a zone, oldest first.

    Raises:
        NotFound: 404 ``request_not_found``.
    """
    async with call.database() as db:
        trail = await trail_of_request(db, zone_id, request_id)
    if not trail:
        raise NotFound("request_not_found", "nothing in this zone is known of that request")
    return trail
