"""Grants of users for a provider's tokens: ``/v1/zones/{zone_id}/provider-grants``.

A user consents at the provider, once; from then on the STS has tokens for the grant.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from caracal import clock
from caracal.errors import BadInput, Conflict
from caracal.events.grant import Grant, grant_not_found
from caracal.events.provider import Provider
from caracal.events.resource import Resource
from caracal.events.store.log import Saved
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.grant import REVOKE, GrantInput, granted, live_resource
from caracal.services.api.provider_consent import (
    Asked,
    asked,
    client_at,
    consenting_provider,
    may_return_to,
    redirect_uri,
)
from caracal.services.api.provider_revocation import tell_issuer, tokens_of
from caracal.services.fields import HttpsUrl, Id
from caracal.services.models import Body, Name
from caracal.services.path import PathId, ZoneId
from caracal.services.provider_kind import NoCredential

router = APIRouter(prefix="/v1/zones/{zone_id}/provider-grants", tags=["provider grants"])

CredentialStatus = Literal["none", "stored", "expired"]
ConsentStatus = Literal["pending", "answered", "connected", "failed", "expired"]


class ProviderGrantInput(GrantInput):
    user_id: Name


class ProviderGrantAnswer(BaseModel):
    id: str
    zone_id: str
    provider_id: str | None
    application_id: str
    user_id: str | None
    resource_id: str
    scopes: list[str]
    status: str
    credential_status: CredentialStatus
    authorization_status: ConsentStatus | None
    authorization_error: str | None
    authorization_expires_at: datetime | None
    created_at: datetime


class AuthorizationInput(Body):
    grant_id: Id
    return_to: HttpsUrl | None = None


class AuthorizationAnswer(BaseModel):
    grant_id: str
    provider_id: str
    authorization_url: str
    redirect_uri: str
    expires_at: datetime


class RevocationInput(Body):
    grant_id: Id


class RevocationAnswer(BaseModel):
    id: str
    status: Literal["revoked"] = "revoked"
    provider_revoked: bool | None


@router.post("", status_code=201)
@refuses(
    "application_not_found",
    "resource_not_found",
    "provider_not_found",
    "provider_takes_no_consent",
    "grant_scopes_exceed_resource",
)
async def create(zone_id: ZoneId, body: ProviderGrantInput, call: CallDep) -> ProviderGrantAnswer:
    """Grant a user's scopes of a resource whose credential the user has to consent to."""
    found: list[Resource] = []

    async def check(resource: Resource) -> None:
        await consenting_provider(call, zone_id, resource)
        found[:] = [resource]

    grant = await granted(zone_id, body, call, check)
    return _answer(grant, found[0].provider_id)


@router.get("/{grant_id}")
@refuses("grant_not_found")
async def get(zone_id: ZoneId, grant_id: PathId, call: CallDep) -> ProviderGrantAnswer:
    """Show a grant, whether it has tokens, and what has become of the last authorization."""
    grant = await _grant(call, zone_id, grant_id)
    resource = await call.find(Resource, grant.resource_id, zone_id)
    return _answer(grant, None if resource is None else resource.provider_id)


@router.post("/oauth/authorize", status_code=201)
@refuses(
    "grant_not_found",
    "resource_not_found",
    "provider_not_found",
    "provider_takes_no_consent",
    "provider_not_configured",
    "callback_url_not_configured",
    "return_to_not_allowed",
)
async def authorize(
    zone_id: ZoneId, body: AuthorizationInput, call: CallDep
) -> AuthorizationAnswer:
    """Ask for the consent of a grant's user. Whoever opens the URL and consents gives the tokens:
    hand it to this user alone. It is good for one answer within 10 minutes, and replaces the
    one before."""
    made: list[AuthorizationAnswer] = []

    async def command() -> Saved:
        grant = await _grant(call, zone_id, body.grant_id)
        if grant.user_id is None:
            raise Conflict("provider_takes_no_consent", "the grant is the application's own")
        resource = await live_resource(call, zone_id, grant.resource_id)
        provider = await consenting_provider(call, zone_id, resource)
        if body.return_to is not None and not may_return_to(provider.config, body.return_to):
            raise BadInput("return_to_not_allowed", "return_to is none of allowed_return_urls")
        back = redirect_uri(call.api.settings, zone_id, provider.aggregate_id)
        request = await _asked(call, provider, back, body.grant_id)
        _start(call, grant, provider, request, body.return_to)
        made[:] = [_handed_out(grant, request, back)]
        return await call.api.log.save(grant)

    await call.commit(command, zone_id)
    return made[0]


@router.post("/revoke")
@refuses("grant_not_found")
async def revoke(zone_id: ZoneId, body: RevocationInput, call: CallDep) -> RevocationAnswer:
    """Revoke a grant as DELETE of grants does, then tell the provider to end its tokens.
    ``provider_revoked`` says what came of that: null when there was nothing to tell, or nobody."""
    grant = await _grant(call, zone_id, body.grant_id)
    tokens = await tokens_of(call, grant)
    await call.end(REVOKE, body.grant_id, zone_id, grant_not_found(body.grant_id))
    told = await tell_issuer(call, grant, tokens)
    return RevocationAnswer(id=body.grant_id, provider_revoked=told)


async def _grant(call: Call, zone_id: str, grant_id: str) -> Grant:
    grant = await call.find(Grant, grant_id, zone_id)
    if grant is None:
        raise grant_not_found(grant_id)
    return grant


async def _asked(call: Call, provider: Provider, back: str, grant_id: str) -> Asked:
    """Return an authorization request whose answer can be used afterwards."""
    try:
        return asked(provider, await client_at(call, provider), back, grant_id)
    except NoCredential as missing:
        text = "the provider lacks what an authorization needs"
        raise Conflict("provider_not_configured", text, detail=missing.reason) from None


def _start(
    call: Call, grant: Grant, provider: Provider, request: Asked, return_to: str | None
) -> None:
    grant.start_authorization(
        provider_id=provider.aggregate_id,
        state=request.state,
        verifier=call.api.vault.seal(request.verifier.encode()),
        initiated_by=call.token["id"],
        return_to=return_to,
        now=clock.now(),
    )


def _handed_out(grant: Grant, request: Asked, back: str) -> AuthorizationAnswer:
    assert grant.authorization is not None
    return AuthorizationAnswer(
        grant_id=grant.aggregate_id,
        provider_id=grant.authorization.provider_id,
        authorization_url=request.url,
        redirect_uri=back,
        expires_at=clock.parse(grant.authorization.expires_at),
    )


def _answer(grant: Grant, provider_id: str | None) -> ProviderGrantAnswer:
    waited = grant.authorization
    return ProviderGrantAnswer.model_validate(
        {
            **vars(grant),
            "id": grant.aggregate_id,
            "created_at": grant.created_on,
            "provider_id": provider_id,
            "credential_status": _credential_status(grant),
            "authorization_status": _consent_status(grant),
            "authorization_error": waited and waited.error,
            "authorization_expires_at": waited and clock.parse(waited.expires_at),
        }
    )


def _credential_status(grant: Grant) -> CredentialStatus:
    if grant.credential_expired:
        return "expired"
    has_tokens = grant.status == "active" and grant.access_token_ref is not None
    return "stored" if has_tokens else "none"


def _consent_status(grant: Grant) -> ConsentStatus | None:
    if (waited := grant.authorization) is None:
        return None
    over = clock.parse(waited.expires_at) <= clock.now() or grant.status != "active"
    return "expired" if over and waited.status in ("pending", "answered") else waited.status
