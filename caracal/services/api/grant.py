"""Grants: ``/v1/zones/{zone_id}/grants``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from caracal import clock
from caracal.events.application import Application, application_not_found
from caracal.events.grant import Grant, GrantStatus, grant_not_found
from caracal.events.resource import Resource, resource_not_found
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.grant import get_grant, list_grants
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.call import no_content
from caracal.services.cascade import Cascade, Whose
from caracal.services.fields import Id, one_of_names
from caracal.services.models import Answer, Body, Name
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/grants", tags=["grants"])

_MAX_SCOPES = 64
_WORD = r"[a-z0-9:_./-]{1,200}"
_SCOPE, _SCOPES = rf"^{_WORD}$", rf"^{_WORD}(,{_WORD}){{0,{_MAX_SCOPES - 1}}}$"
Scope = Annotated[str, Field(pattern=_SCOPE)]


class GrantInput(Body):
    application_id: Id
    resource_id: Id
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=_MAX_SCOPES)]
    user_id: Name | None = None


class GrantAnswer(Answer):
    id: str
    zone_id: str
    application_id: str
    user_id: str | None
    resource_id: str
    scopes: list[str]
    status: str
    created_at: datetime


@router.get("")
@refuses()
async def list_(
    zone_id: ZoneId,
    call: CallDep,
    page: PageDep,
    application_id: Id | None = None,
    user_id: Name | None = None,
    subject_id: Name | None = None,
    resource_id: Id | None = None,
    provider_id: Id | None = None,
    status: GrantStatus | None = None,
    scopes: Annotated[
        str | None, Query(pattern=_SCOPES, description="comma list, all must be there")
    ] = None,
) -> list[GrantAnswer]:
    """List grants of any status, newest first."""
    filters: dict[str, Any] = {
        "application_id": application_id,
        "user_id": one_of_names(user_id, subject_id, "user_id and subject_id"),
        "resource_id": resource_id,
        "provider_id": provider_id,
        "status": status,
        "scopes": scopes.split(",") if scopes is not None else None,
    }
    equal = {name: value for name, value in filters.items() if value is not None}
    async with call.database() as db:
        rows = await list_grants(db, zone_id, page, **equal)
    return [GrantAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("application_not_found", "resource_not_found", "grant_scopes_exceed_resource")
async def create(zone_id: ZoneId, body: GrantInput, call: CallDep) -> GrantAnswer:
    """Grant scopes of a resource; without ``user_id`` to the application itself."""
    return GrantAnswer.of(await granted(zone_id, body, call))


@router.get("/{grant_id}")
@refuses("grant_not_found")
async def get(zone_id: ZoneId, grant_id: PathId, call: CallDep) -> GrantAnswer:
    """Show a grant, ended or not."""
    async with call.database() as db:
        row = await get_grant(db, zone_id, grant_id)
    if row is None:
        raise grant_not_found(grant_id)
    return GrantAnswer(**row)


@router.delete("/{grant_id}", status_code=204)
@refuses("grant_not_found")
async def delete(zone_id: ZoneId, grant_id: PathId, call: CallDep) -> Response:
    """Revoke a grant and end the sessions of its user, or of its application. Idempotent."""
    await call.end(REVOKE, grant_id, zone_id, grant_not_found(grant_id))
    return no_content(call)


def _whose(grant: Grant) -> Whose:
    zone_id = str(grant.zone_id)
    if grant.user_id is not None:
        return Whose(zone_id, {"subject_id": grant.user_id})
    own = {"session_type": "application", "subject_id": grant.application_id}
    return Whose(zone_id, own)


REVOKE = Cascade(Grant, whose=_whose, end=Grant.revoke, end_late=Grant.revoke_late)


async def granted(
    zone_id: str,
    body: GrantInput,
    call: Call,
    check: Callable[[Resource], Awaitable[object]] | None = None,
) -> Grant:
    """Create a grant; ``check`` may refuse the resource.

    Raises:
        CaracalError: no such application or resource, more scopes than it has, what ``check`` says.
    """
    grant_id, members = new_id(), body.model_dump()
    made: list[Grant] = []

    async def command() -> Saved:
        await _check_application(call, zone_id, body.application_id)
        resource = await live_resource(call, zone_id, body.resource_id)
        if check is not None:
            await check(resource)
        made[:] = [Grant.create(grant_id, zone_id=zone_id, of=resource.scopes, **members)]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    return made[0]


async def _check_application(call: Call, zone_id: str, application_id: str) -> None:
    found = await call.find(Application, application_id, zone_id)
    if found is None or found.archived or found.expired(clock.now()):
        raise application_not_found(application_id)


async def live_resource(call: Call, zone_id: str, resource_id: str) -> Resource:
    """Return a resource of the zone.

    Raises:
        NotFound: 404 ``resource_not_found``, there is none, or it is archived.
    """
    found = await call.find(Resource, resource_id, zone_id)
    if found is None or found.archived:
        raise resource_not_found(resource_id)
    return found
