"""Trusted issuers: ``/v1/zones/{zone_id}/trusted-issuers``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BeforeValidator, Field

from caracal.errors import BadInput, InternalError
from caracal.events.application import Application, application_not_found
from caracal.events.store.log import Saved
from caracal.events.store.vault import Unreadable
from caracal.events.trusted_issuer import (
    MAX_AGE_SECONDS,
    TrustedIssuer,
    trusted_issuer_not_found,
)
from caracal.events.zone import Zone, zone_not_found
from caracal.ids import new_id
from caracal.projections.trusted_issuer import get_trusted_issuer, list_trusted_issuers
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.call import no_content
from caracal.services.cascade import Cascade, Whose
from caracal.services.fields import HttpsUrl, Id, bounded_json
from caracal.services.models import Answer, Body, Name, printable
from caracal.services.path import PathId, ZoneId
from caracal.user_id import user_id_of

router = APIRouter(prefix="/v1/zones/{zone_id}/trusted-issuers", tags=["trusted-issuers"])

Algorithm = Literal["RS256", "PS256", "ES256"]
_MAX_SUBJECT = 255  # OpenID Connect Core 1.0, section 2: of a sub
MIN_SECONDS, MAX_SECONDS = 60, 3600


def _issuer(url: str) -> str:
    """OpenID Connect Core 1.0, section 2: scheme, host, optionally port and path."""
    if "?" in url or "#" in url:
        raise ValueError("must have no query and no fragment")
    return url


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("must name each once")
    return values


def _plain(value: Any) -> Any:
    """Else each type of the union would say what it is not."""
    if value == "" or not isinstance(value, str | int):
        raise ValueError("must be a text, a whole number or a boolean")
    return value


Issuer = Annotated[HttpsUrl, AfterValidator(_issuer)]
Claim = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(printable)]
Distinct = AfterValidator(_distinct)
Audiences = Annotated[list[Name], Field(min_length=1, max_length=32), Distinct]
Algorithms = Annotated[list[Algorithm], Field(min_length=1, max_length=3), Distinct]
# Checked before the type, as ``JsonObject``: names stand in the paths of issues.
Value = Annotated[Name | bool | int, BeforeValidator(_plain)]
Required = Annotated[dict[Claim, Value], BeforeValidator(bounded_json), Field(max_length=16)]
Mapped = Annotated[list[Claim], Field(max_length=32), Distinct]
Applications = Annotated[list[Id], Field(max_length=64), Distinct]
MaxAge = Annotated[int, Field(ge=MIN_SECONDS, le=MAX_AGE_SECONDS)]
Life = Annotated[int, Field(ge=MIN_SECONDS, le=MAX_SECONDS)]


class _Rules(Body):
    algorithms: Algorithms = Field(default_factory=lambda: list(get_args(Algorithm)))
    jwks_uri: HttpsUrl | None = None
    required_claims: Required = Field(default_factory=dict)
    mapped_claims: Mapped = Field(default_factory=list)
    application_ids: Applications = Field(default_factory=list)
    max_age_seconds: MaxAge = MAX_SECONDS
    session_seconds: Life = MAX_SECONDS
    single_use: bool = True


class TrustedIssuerInput(_Rules):
    issuer: Issuer
    audiences: Audiences
    name: Name | None = None
    subject_claim: Claim = "sub"


class TrustedIssuerPatch(_Rules):
    name: Name = ""
    audiences: Audiences = Field(default_factory=list)


class TrustedIssuerAnswer(Answer):
    id: str
    zone_id: str
    name: str
    issuer: str
    audiences: list[str]
    algorithms: list[str]
    jwks_uri: str | None
    subject_claim: str
    required_claims: dict[str, str | bool | int]
    mapped_claims: list[str]
    application_ids: list[str]
    max_age_seconds: int
    session_seconds: int
    single_use: bool
    created_at: datetime
    updated_at: datetime


class SubjectInput(Body):
    subject: Annotated[str, Field(min_length=1, max_length=_MAX_SUBJECT), AfterValidator(printable)]


class UserIdAnswer(Answer):
    user_id: str


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[TrustedIssuerAnswer]:
    """List trusted issuers, newest first."""
    async with call.database() as db:
        rows = await list_trusted_issuers(db, zone_id, page)
    return [TrustedIssuerAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("application_not_found", "trusted_issuer_conflict")
async def create(zone_id: ZoneId, body: TrustedIssuerInput, call: CallDep) -> TrustedIssuerAnswer:
    """Trust an OpenID provider: its id_tokens begin sessions of users."""
    members = body.model_dump() | {"name": body.name or body.issuer[:256]}
    await _check_applications(call, zone_id, body.application_ids)
    issuer_id, made = new_id(), list[TrustedIssuer]()

    async def command() -> Saved:
        made[:] = [TrustedIssuer.create(issuer_id, zone_id=zone_id, **members)]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    return TrustedIssuerAnswer.of(made[0])


@router.get("/{issuer_id}")
@refuses("trusted_issuer_not_found")
async def get(zone_id: ZoneId, issuer_id: PathId, call: CallDep) -> TrustedIssuerAnswer:
    """Show a trusted issuer."""
    return TrustedIssuerAnswer(**await _row(call, zone_id, issuer_id))


@router.patch("/{issuer_id}")
@refuses("no_fields", "trusted_issuer_not_found", "application_not_found")
async def patch(
    zone_id: ZoneId, issuer_id: PathId, body: TrustedIssuerPatch, call: CallDep
) -> TrustedIssuerAnswer:
    """Change what is asked of its id_tokens from now on; the sessions there are go on."""
    if not (changes := body.given()):
        raise BadInput("no_fields", "nothing to change was sent")
    missing = trusted_issuer_not_found(issuer_id)
    found = await call.find(TrustedIssuer, issuer_id, zone_id)
    if found is None or found.archived:
        raise missing
    await _check_applications(call, zone_id, changes.get("application_ids", ()))
    changed = await call.change(
        TrustedIssuer, issuer_id, zone_id, lambda issuer: issuer.change(changes), missing
    )
    return TrustedIssuerAnswer.of(changed)


@router.delete("/{issuer_id}", status_code=204)
@refuses("trusted_issuer_not_found")
async def delete(zone_id: ZoneId, issuer_id: PathId, call: CallDep) -> Response:
    """Trust it no more: the sessions that it began end at once, open streams too."""
    await call.end(_ARCHIVE, issuer_id, zone_id, trusted_issuer_not_found(issuer_id))
    return no_content(call)


@router.post("/{issuer_id}/user-id")
@refuses("trusted_issuer_not_found")
async def user_id(
    zone_id: ZoneId, issuer_id: PathId, body: SubjectInput, call: CallDep
) -> UserIdAnswer:
    """Say what a user of the issuer is called here, as grants name users; nothing is stored.

    A POST, so that whom it is about stands in no log of URLs.
    """
    row = await _row(call, zone_id, issuer_id)
    key = await _data_key(call, zone_id)
    name = user_id_of(key, row["issuer"], body.subject, row["subject_claim"])
    return UserIdAnswer(user_id=name)


_ARCHIVE = Cascade(
    TrustedIssuer,
    whose=lambda one: Whose(str(one.zone_id), {"trusted_issuer_id": one.aggregate_id}),
    end=TrustedIssuer.archive,
    end_late=TrustedIssuer.archive_late,
)


async def _row(call: Call, zone_id: str, issuer_id: str) -> Mapping[str, Any]:
    async with call.database() as db:
        row = await get_trusted_issuer(db, zone_id, issuer_id)
    if row is None:
        raise trusted_issuer_not_found(issuer_id)
    return row


async def _data_key(call: Call, zone_id: str) -> bytes:
    zone = await call.find(Zone, zone_id, zone_id)
    if zone is None or zone.archived:
        raise zone_not_found(zone_id)
    try:
        async with call.database() as db:
            return await call.api.vault.read(db, zone.data_key_ref)
    except Unreadable:
        raise InternalError from None


async def _check_applications(call: Call, zone_id: str, application_ids: Iterable[str]) -> None:
    for application_id in application_ids:
        found = await call.find(Application, application_id, zone_id)
        if found is None or found.archived:
            raise application_not_found(application_id)
