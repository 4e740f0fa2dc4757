"""Who changed what, and who was refused: of a zone, or of the whole deployment.

``/v1/zones/{zone_id}/admin-audit`` and, for global tokens, ``/v1/admin-audit``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from caracal.projections.admin_audit_event import list_admin_audit
from caracal.projections.query import Page
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import LogPageDep, cut
from caracal.services.fields import Moment, Word, moment
from caracal.services.models import Answer, Text
from caracal.services.path import ZoneId

of_zone = APIRouter(prefix="/v1/zones/{zone_id}/admin-audit", tags=["admin audit"])
of_all = APIRouter(prefix="/v1/admin-audit", tags=["admin audit"])


class AdminAuditEvent(Answer):
    """A request that changed something, or was refused (``status_code`` >= 400)."""

    id: str
    request_id: str | None
    actor_id: str | None
    """Admin token; null when it has not proven who it is."""
    actor_name: str | None
    actor_scope: str | None
    action: str
    method: str
    path: str
    zone_id: str
    """``system`` when it concerns no zone that exists."""
    entity_type: str | None
    entity_id: str | None
    status_code: int | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Filters:
    """Query of both routes; columns by their names."""

    since: Moment = None
    until: Moment = None
    actor_id: Annotated[Word, Query(alias="actor")] = None
    action: Text | None = None
    entity_type: Word = None
    entity_id: Word = None
    request_id: Word = None
    status_code: Annotated[int | None, Query(ge=100, le=599)] = None


FiltersDep = Annotated[Filters, Depends()]


@of_zone.get("")
@refuses()
async def list_of_zone(
    zone_id: ZoneId, call: CallDep, page: LogPageDep, filters: FiltersDep
) -> list[AdminAuditEvent]:
    """List a zone's admin audit, newest first."""
    return await _list(call, page, filters, zone_id)


@of_all.get("")
@refuses()
async def list_of_all(
    call: CallDep, page: LogPageDep, filters: FiltersDep, zone_id: Word = None
) -> list[AdminAuditEvent]:
    """List the admin audit of all zones, and of what concerns none, newest first."""
    return await _list(call, page, filters, zone_id)


async def _list(
    call: Call, page: Page, filters: Filters, zone_id: str | None
) -> list[AdminAuditEvent]:
    given: dict[str, Any] = asdict(filters) | {"zone_id": zone_id}
    given |= {name: moment(given[name]) for name in ("since", "until")}
    async with call.database() as db:
        rows = await list_admin_audit(db, page, **given)
    rows = cut(rows, page, call.request, call.response, time="occurred_at")
    return [AdminAuditEvent(**row) for row in rows]
