"""Resources: ``/v1/zones/{zone_id}/resources``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field, model_validator

from caracal.errors import BadInput
from caracal.events.application import Application
from caracal.events.provider import Provider, provider_not_found
from caracal.events.resource import (
    Protocol,
    Resource,
    gateway_application_not_found,
    resource_not_found,
)
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.resource import get_resource, list_resources
from caracal.resource_match import MAX_IDENTIFIER
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.call import no_content
from caracal.services.fields import HttpUrl, Id
from caracal.services.models import Answer, Body, Name, printable
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/resources", tags=["resources"])

Identifier = Annotated[
    str, Field(min_length=1, max_length=MAX_IDENTIFIER), AfterValidator(printable)
]
# RFC 6749, section 3.3: what a token request can ask for.
Scope = Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,200}$")]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=256)]
_REFERENCES = ("provider_not_found", "gateway_application_not_found")
_OTHER_NAMES = {"prefix": "prefix_match", "credential_provider_id": "provider_id"}


class RateLimit(Body):
    window_seconds: Annotated[int, Field(ge=1, le=86_400)]
    max_requests: Annotated[int, Field(ge=1, le=1_000_000_000)]


class _TwoNames(Body):
    @model_validator(mode="before")
    @classmethod
    def _rename(cls, given: Any) -> Any:
        return _with_own_names(given) if isinstance(given, dict) else given


def _with_own_names(given: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in given.items() if name not in _OTHER_NAMES}
    for other, name in _OTHER_NAMES.items():
        if other not in given:
            continue
        if name in known and repr(known[name]) != repr(given[other]):  # True is 1, but differs
            raise ValueError(f"{other} and {name} mean the same and differ")
        known[name] = given[other]
    return known


class ResourceInput(_TwoNames):
    identifier: Identifier
    scopes: Scopes
    name: Identifier | None = None
    upstream_url: HttpUrl | None = None
    prefix_match: bool = False
    provider_id: Id | None = None
    gateway_application_id: Id | None = None
    protocol: Protocol = "http"
    rate_limit: RateLimit | None = None


class ResourcePatch(_TwoNames):
    identifier: Identifier = ""
    scopes: Scopes = Field(default_factory=list)
    name: Name = ""
    upstream_url: HttpUrl | None = None
    prefix_match: bool = False
    provider_id: Id | None = None
    gateway_application_id: Id | None = None
    protocol: Protocol = "http"
    rate_limit: RateLimit | None = None


class ResourceAnswer(Answer):
    id: str
    zone_id: str
    identifier: str
    name: str
    upstream_url: str | None
    scopes: list[str]
    prefix_match: bool
    provider_id: str | None
    gateway_application_id: str | None
    protocol: str
    rate_limit: dict[str, int] | None
    created_at: datetime
    updated_at: datetime


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[ResourceAnswer]:
    """List resources, newest first."""
    async with call.database() as db:
        rows = await list_resources(db, zone_id, page)
    return [ResourceAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses(*_REFERENCES, "resource_identifier_conflict", "resource_quota_exceeded")
async def create(zone_id: ZoneId, body: ResourceInput, call: CallDep) -> ResourceAnswer:
    """Create a resource; with ``upstream_url`` the Gateway routes to it."""
    members = body.model_dump() | {"name": body.name or body.identifier}
    await _check_references(call, zone_id, members)
    quota = call.api.settings.api_max_resources_per_zone
    resource_id = new_id()
    made: list[Resource] = []

    async def command() -> Saved:
        made[:] = [Resource.create(resource_id, zone_id=zone_id, quota=quota, **members)]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    return ResourceAnswer.of(made[0])


@router.get("/{resource_id}")
@refuses("resource_not_found")
async def get(zone_id: ZoneId, resource_id: PathId, call: CallDep) -> ResourceAnswer:
    """Show a resource."""
    async with call.database() as db:
        row = await get_resource(db, zone_id, resource_id)
    if row is None:
        raise resource_not_found(resource_id)
    return ResourceAnswer(**row)


@router.patch("/{resource_id}")
@refuses("no_fields", "resource_not_found", *_REFERENCES, "resource_identifier_conflict")
async def patch(
    zone_id: ZoneId, resource_id: PathId, body: ResourcePatch, call: CallDep
) -> ResourceAnswer:
    """Change a resource; explicit null clears what may be null."""
    if not (changes := body.given()):
        raise BadInput("no_fields", "nothing to change was sent")
    missing = resource_not_found(resource_id)
    found = await call.find(Resource, resource_id, zone_id)
    if found is None or found.archived:
        raise missing
    await _check_references(call, zone_id, changes)
    changed = await call.change(
        Resource, resource_id, zone_id, lambda resource: resource.change(changes), missing
    )
    return ResourceAnswer.of(changed)


@router.delete("/{resource_id}", status_code=204)
@refuses("resource_not_found")
async def delete(zone_id: ZoneId, resource_id: PathId, call: CallDep) -> Response:
    """Archive a resource: mandates for it are refused, open streams to it end at once."""
    missing = resource_not_found(resource_id)
    await call.change(Resource, resource_id, zone_id, Resource.archive, missing)
    return no_content(call)


async def _check_references(call: Call, zone_id: str, members: dict[str, Any]) -> None:
    if (provider_id := members.get("provider_id")) is not None:
        provider = await call.find(Provider, provider_id, zone_id)
        if provider is None or provider.archived:
            raise provider_not_found(provider_id)
    if (application_id := members.get("gateway_application_id")) is not None:
        application = await call.find(Application, application_id, zone_id)
        if application is None or application.archived:
            raise gateway_application_not_found(application_id)
