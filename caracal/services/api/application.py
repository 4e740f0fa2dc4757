"""Applications: ``/v1/zones/{zone_id}/applications``."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from fastapi import APIRouter, Response
from pydantic import BeforeValidator, Field, model_validator

from caracal import clock, secret_hash
from caracal.errors import BadInput, Conflict
from caracal.events.application import (
    Application,
    Consent,
    CredentialType,
    RegistrationMethod,
    application_not_found,
    check_traits,
)
from caracal.events.guards import Secret
from caracal.events.store.log import Saved
from caracal.events.zone import dcr_disabled, dcr_key
from caracal.ids import new_id
from caracal.projections.application import get_application, list_applications
from caracal.projections.policy_set import is_named_by_active_policy
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.api.public_keys import Jwks
from caracal.services.call import no_content
from caracal.services.cascade import application_cascade
from caracal.services.fields import HttpsUrl
from caracal.services.models import Answer, Body, Name, Text
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/applications", tags=["applications"])

_SECRET_BYTES = 32
_LONGEST_SECONDS = 100 * 366 * 86_400  # of a registration that ends
_WITH_SECRET = ("token", "password")
TRAITS = ("trait_count_exceeded", "trait_invalid", "trait_duplicate", "trait_forbidden")


def _consent(value: Any) -> Any:
    return ("required" if value else "implicit") if isinstance(value, bool) else value


ConsentInput = Annotated[Consent, BeforeValidator(_consent)]


class _Keys(Body):
    jwks: Jwks | None = None
    jwks_uri: HttpsUrl | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.jwks is not None and self.jwks_uri is not None:
            raise ValueError("jwks and jwks_uri exclude each other")
        return self


class _Registration(_Keys):
    name: Name
    credential_type: CredentialType = "public"
    client_secret: Text | None = None
    traits: list[str] = Field(default_factory=list)


class DcrInput(_Registration):
    expires_in: Annotated[int, Field(ge=1, le=_LONGEST_SECONDS)] | None = None


class ApplicationInput(_Registration):
    registration_method: RegistrationMethod = "managed"
    consent: ConsentInput = "implicit"


class ApplicationPatch(_Keys):
    name: Name = ""
    credential_type: CredentialType = "public"
    client_secret: Text = ""
    traits: list[str] = Field(default_factory=list)
    consent: ConsentInput = "implicit"


class ApplicationAnswer(Answer):
    id: str
    zone_id: str
    name: str
    registration_method: str
    credential_type: str
    jwks: dict[str, Any] | None
    jwks_uri: str | None
    traits: list[str]
    consent: str
    created_at: datetime
    expires_at: datetime | None


class ApplicationWithSecret(ApplicationAnswer):
    client_secret: str


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[ApplicationAnswer]:
    """List applications, newest first."""
    async with call.database() as db:
        rows = await list_applications(db, zone_id, page)
    return [ApplicationAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("dcr_limit_exceeded", *TRAITS)
async def create(
    zone_id: ZoneId, body: ApplicationInput, call: CallDep
) -> ApplicationWithSecret | ApplicationAnswer:
    """Register an application; a secret that the server made is answered here and never again."""
    return await _register(call, zone_id, body)


@router.post("/dcr", status_code=201)
@refuses("dcr_disabled", "dcr_rate_limit_exceeded", "dcr_limit_exceeded", *TRAITS)
async def register(
    zone_id: ZoneId, body: DcrInput, call: CallDep
) -> ApplicationWithSecret | ApplicationAnswer:
    """Register a client dynamically, for ``expires_in`` seconds, where the zone allows it."""
    if await call.api.log.owner(dcr_key(zone_id)) is None:
        raise dcr_disabled()  # before a secret is hashed; the guard has the last word
    seconds = body.expires_in
    expires_at = None if seconds is None else clock.now() + timedelta(seconds=seconds)
    given = {"registration_method": "dcr", "consent": "implicit", "itself": True}
    return await _register(call, zone_id, body, expires_at=expires_at, **given)


async def _register(
    call: Call, zone_id: str, body: _Registration, **more: Any
) -> ApplicationWithSecret | ApplicationAnswer:
    _check_traits(call, body.traits)
    made_here = body.client_secret is None and body.credential_type in _WITH_SECRET
    text = f"cs_{secrets.token_urlsafe(_SECRET_BYTES)}" if made_here else body.client_secret
    secret = await _sealed(call, text, made_here=made_here)
    application_id = new_id()
    members = body.model_dump(exclude={"client_secret", "expires_in"}) | more
    made: list[Application] = []

    async def command() -> Saved:
        made[:] = [Application.create(application_id, zone_id=zone_id, secret=secret, **members)]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    answer = ApplicationAnswer.of(made[0])
    if not made_here:
        return answer
    return ApplicationWithSecret(**dict(answer), client_secret=str(text))


@router.get("/{application_id}")
@refuses("application_not_found")
async def get(zone_id: ZoneId, application_id: PathId, call: CallDep) -> ApplicationAnswer:
    """Show an application."""
    async with call.database() as db:
        row = await get_application(db, zone_id, application_id)
    if row is None:
        raise application_not_found(application_id)
    return ApplicationAnswer(**row)


@router.patch("/{application_id}")
@refuses("no_fields", "application_not_found", "app_referenced_by_active_policy", *TRAITS)
async def patch(
    zone_id: ZoneId, application_id: PathId, body: ApplicationPatch, call: CallDep
) -> ApplicationAnswer:
    """Change an application; a new secret replaces the old one at once."""
    if not (changes := body.given()):
        raise BadInput("no_fields", "nothing to change was sent")
    missing = application_not_found(application_id)
    found = await call.find(Application, application_id, zone_id)
    if found is None or found.archived:
        raise missing
    _check_traits(call, changes.get("traits", []))
    if changes.get("credential_type") == "public":
        await _check_unnamed(call, zone_id, application_id)
    secret = await _sealed(call, changes.pop("client_secret", None), made_here=False)
    changes = _exclusive(changes)
    changed = await call.change(
        Application, application_id, zone_id, lambda app: app.change(changes, secret), missing
    )
    return ApplicationAnswer.of(changed)


@router.delete("/{application_id}", status_code=204)
@refuses("application_not_found")
async def delete(zone_id: ZoneId, application_id: PathId, call: CallDep) -> Response:
    """Archive an application: its sessions, agents, edges and open streams end at once."""
    missing = application_not_found(application_id)
    await call.end(application_cascade(), application_id, zone_id, missing)
    return no_content(call)


def _check_traits(call: Call, traits: list[str]) -> None:
    check_traits(traits, may_control=call.token["scope"] == "global")


async def _sealed(call: Call, text: str | None, *, made_here: bool) -> Secret | None:
    """Return the hash of a secret, sealed: a random one needs no slow hash."""
    if text is None:
        return None
    stored = secret_hash.of_random(text) if made_here else await call.api.hashing.stored(text)
    return call.api.vault.seal(stored.encode())


async def _check_unnamed(call: Call, zone_id: str, application_id: str) -> None:
    """A public application gets no tokens; a policy that names it would be misread."""
    async with call.database() as db:
        if await is_named_by_active_policy(db, zone_id, application_id):
            named = "a policy of the active set names this application"
            raise Conflict("app_referenced_by_active_policy", named)


def _exclusive(changes: dict[str, Any]) -> dict[str, Any]:
    """Keys in one form take the place of those in the other."""
    for name, other in (("jwks", "jwks_uri"), ("jwks_uri", "jwks")):
        if changes.get(name) is not None:
            changes = {**changes, other: None}
    return changes
