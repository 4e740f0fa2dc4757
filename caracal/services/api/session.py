"""Sessions: ``/v1/zones/{zone_id}/sessions``."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter

from caracal.projections.session import list_sessions
from caracal.services.api.call import CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import LogPageDep, cut
from caracal.services.fields import one_of_names
from caracal.services.models import Answer, Text
from caracal.services.path import ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/sessions", tags=["sessions"])


class SessionAnswer(Answer):
    id: str
    zone_id: str
    session_type: str
    subject_id: str
    parent_id: str | None
    trusted_issuer_id: str | None = None
    status: str
    expires_at: datetime
    authenticated_at: datetime
    created_at: datetime


@router.get("")
@refuses()
async def list_(
    zone_id: ZoneId,
    call: CallDep,
    page: LogPageDep,
    status: Literal["active", "revoked", "expired"] | None = None,
    subject: Text | None = None,
    subject_id: Text | None = None,
) -> list[SessionAnswer]:
    """List sessions of any status, newest first."""
    whose = one_of_names(subject, subject_id, "subject and subject_id")
    equal = {"status": status, "subject_id": whose}
    given = {name: value for name, value in equal.items() if value is not None}
    async with call.database() as db:
        rows = await list_sessions(db, zone_id, page, **given)
    return [SessionAnswer(**row) for row in cut(rows, page, call.request, call.response)]
