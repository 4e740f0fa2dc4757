"""Step-up challenges: ``/v1/zones/{zone_id}/step-up-challenges``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from caracal import clock
from caracal.events.challenge import Challenge, challenge_not_found, challenge_over
from caracal.projections.challenge import get_challenge, list_challenges
from caracal.services.api.call import CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.models import Answer, Body, Name
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/step-up-challenges", tags=["step-up challenges"])


class Approval(Body):
    approver_subject_id: Name | None = None


class ChallengeAnswer(Answer):
    id: str
    zone_id: str
    session_id: str | None
    challenge_type: str
    metadata_json: dict[str, Any] = Field(validation_alias="metadata")
    created_at: datetime
    expires_at: datetime
    satisfied_at: datetime | None


class Satisfied(BaseModel):
    id: str
    satisfied_at: datetime


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[ChallengeAnswer]:
    """List challenges, newest first; those that have expired or were consumed, too."""
    async with call.database() as db:
        rows = await list_challenges(db, zone_id, page)
    return [ChallengeAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.get("/{challenge_id}")
@refuses("challenge_not_found")
async def get(zone_id: ZoneId, challenge_id: PathId, call: CallDep) -> ChallengeAnswer:
    """Show a challenge."""
    async with call.database() as db:
        row = await get_challenge(db, zone_id, challenge_id)
    if row is None:
        raise challenge_not_found(challenge_id)
    return ChallengeAnswer(**row)


@router.post("/{challenge_id}/satisfy")
@refuses("challenge_not_found_or_expired", "challenge_not_satisfiable")
async def satisfy(
    zone_id: ZoneId, challenge_id: PathId, call: CallDep, body: Approval | None = None
) -> Satisfied:
    """Satisfy a challenge; who waits for it may use it once."""
    approver = body.approver_subject_id if body is not None else None
    changed = await call.change(
        Challenge,
        challenge_id,
        zone_id,
        lambda challenge: challenge.satisfy(approver, clock.now()),
        challenge_over(challenge_id),
    )
    return Satisfied(id=challenge_id, satisfied_at=changed.satisfied_at)
