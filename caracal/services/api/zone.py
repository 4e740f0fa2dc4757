"""Zones: ``/v1/zones``."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from itertools import count, islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from caracal.errors import BadInput, Conflict, Forbidden
from caracal.events.application import Application
from caracal.events.guards import Secret
from caracal.events.signing_key import SigningKey
from caracal.events.store.log import Saved, retrying
from caracal.events.zone import (
    DcrShutdown,
    Zone,
    dcr_seats,
    slug_of,
    slug_taken,
    zone_not_found,
)
from caracal.ids import new_id
from caracal.projections.zone import get_zone, list_zones, taken_slugs
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.api.signing_key import key_pair
from caracal.services.call import no_content
from caracal.services.cascade import Cascade, Whose, application_cascade
from caracal.services.models import Answer, Body, Name
from caracal.services.path import ZoneId

router = APIRouter(prefix="/v1/zones", tags=["zones"])

Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=128)]
_DATA_KEY_BYTES = 32
_DERIVED_LENGTH = 120  # leaves room for the number
_SLUG_ATTEMPTS = 100


class ZoneInput(Body):
    name: Name
    slug: Slug | None = None
    org_id: Name = "default"
    dcr_enabled: bool = False
    pkce_required: bool = True
    login_flow: Name = "default"
    gateway_only: bool = False


class ZonePatch(Body):
    name: Name = ""
    slug: Slug = ""
    org_id: Name = ""
    dcr_enabled: bool = False
    pkce_required: bool = True
    login_flow: Name = ""
    gateway_only: bool = False
    dcr_shutdown: DcrShutdown | None = None


class ZoneAnswer(Answer):
    id: str
    org_id: str
    name: str
    slug: str
    dcr_enabled: bool
    pkce_required: bool
    login_flow: str
    gateway_only: bool
    created_at: datetime
    updated_at: datetime


class DcrStatus(Answer):
    id: str
    dcr_enabled: bool
    live_dcr_applications: int


async def global_only(call: CallDep) -> None:
    """Refuse tokens of one zone."""
    if call.token["scope"] != "global":
        raise Forbidden("admin_token_zone_mismatch", "a global token is needed")


@router.get("", dependencies=[Depends(global_only)])
@refuses()
async def list_(call: CallDep, page: PageDep) -> list[ZoneAnswer]:
    """List zones, newest first."""
    async with call.database() as db:
        rows = await list_zones(db, page)
    return [ZoneAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201, dependencies=[Depends(global_only)])
@refuses("zone_slug_conflict")
async def create(body: ZoneInput, call: CallDep) -> ZoneAnswer:
    """Create a zone. Without ``slug`` one is derived from the name, made unique by a number."""
    members = body.model_dump(exclude={"slug"})
    if body.slug is not None:
        return ZoneAnswer.of(await _create(call, body.slug, members))
    derived = slug_of(body.name)[:_DERIVED_LENGTH]
    async with call.database() as db:
        taken = await taken_slugs(db, derived)
    names = (derived if number == 1 else f"{derived}-{number}" for number in count(1))
    free = (slug for slug in names if slug not in taken)
    for slug in islice(free, _SLUG_ATTEMPTS):
        try:
            return ZoneAnswer.of(await _create(call, slug, members))
        except Conflict:
            continue  # another writer was faster
    raise slug_taken(derived)


async def _create(call: Call, slug: str, members: dict[str, Any]) -> Zone:
    zone_id = new_id()
    made: list[Zone] = []

    async def command() -> Saved:
        made[:] = [Zone.create(zone_id, slug=slug, data_key=new_data_key(call), **members)]
        key = SigningKey.create(zone_id=zone_id, **key_pair(call.api.vault))
        return await call.api.log.save(*made, key)

    await call.commit(command, zone_id)
    return made[0]


def new_data_key(call: Call) -> Secret:
    """Return a random data key of a zone, sealed."""
    return call.api.vault.seal(secrets.token_bytes(_DATA_KEY_BYTES))


@router.get("/{zone_id}")
@refuses("zone_not_found")
async def get(zone_id: ZoneId, call: CallDep) -> ZoneAnswer:
    """Show a zone."""
    return ZoneAnswer(**await _row(call, zone_id))


@router.get("/{zone_id}/dcr-status")
@refuses()
async def dcr_status(zone_id: ZoneId, call: CallDep) -> DcrStatus:
    """Show whether clients may register themselves, and how many of those are live."""
    row = await _row(call, zone_id)
    live = await call.api.log.seated(dcr_seats(zone_id))
    return DcrStatus(**row, live_dcr_applications=len(live))


async def _row(call: Call, zone_id: str) -> dict[str, Any]:
    async with call.database() as db:
        row = await get_zone(db, zone_id)
    if row is None:
        raise zone_not_found(zone_id)
    return row


@router.patch("/{zone_id}")
@refuses(
    *("no_fields", "zone_not_found", "zone_slug_conflict"),
    *("dcr_shutdown_not_applicable", "dcr_shutdown_required"),
)
async def patch(zone_id: ZoneId, body: ZonePatch, call: CallDep) -> ZoneAnswer:
    """Change a zone; ``dcr_shutdown`` says what closing registration does to live clients."""
    changes, shutdown = body.given(), body.dcr_shutdown
    changes.pop("dcr_shutdown", None)
    if shutdown is not None and changes.get("dcr_enabled") is not False:
        said = "dcr_shutdown goes with dcr_enabled false"
        raise BadInput("dcr_shutdown_not_applicable", said)
    if not changes:
        raise BadInput("no_fields", "nothing to change was sent")
    changed: list[Zone] = []

    async def command() -> Saved:
        zone = await _found(call, zone_id)
        changed[:] = [zone]
        if changes.get("dcr_enabled") is not False:
            zone.change(changes)
            return await call.api.log.save(zone)
        return await _close_dcr(call, zone, changes, shutdown)

    await call.commit(command, zone_id)
    return ZoneAnswer.of(changed[0])


async def _found(call: Call, zone_id: str) -> Zone:
    if (zone := await call.find(Zone, zone_id, zone_id)) is None:
        raise zone_not_found(zone_id)
    return zone


async def _close_dcr(
    call: Call, zone: Zone, changes: dict[str, Any], shutdown: DcrShutdown | None
) -> Saved:
    """Save the zone without dynamic registration; with ``revoke_live`` its live clients end too.

    One transaction; and one more for those that registered while it was being made.
    """
    log, seats = call.api.log, dcr_seats(zone.aggregate_id)
    live = await log.seated(seats)
    zone.change(changes, dcr_shutdown=shutdown, live_dcr=len(live))
    if shutdown != "revoke_live":
        return await log.save(zone)
    cascade = application_cascade("dcr_shutdown")
    saved = await cascade.ended(call.ground, await _live(call, live), zone)

    async def again() -> Saved:
        late = await _live(call, await log.seated(seats))
        return await cascade.ended(call.ground, late)

    return Saved((*saved.events, *(await retrying(again)).events))


async def _live(call: Call, ids: Iterable[str]) -> list[Application]:
    return [app for app in await call.api.log.find_all(Application, ids) if not app.archived]


@router.delete("/{zone_id}", status_code=204)
@refuses("zone_not_found")
async def delete(zone_id: ZoneId, call: CallDep) -> Response:
    """Archive a zone: its sessions, agents, edges and open streams end at once."""
    await call.end(_ARCHIVE, zone_id, zone_id, zone_not_found(zone_id))
    return no_content(call)


_ARCHIVE = Cascade(
    Zone,
    whose=lambda zone: Whose(zone.aggregate_id),
    end=Zone.archive,
    end_late=Zone.archive_late,
    hangs=lambda graph, _, __: graph.everything(),
)
