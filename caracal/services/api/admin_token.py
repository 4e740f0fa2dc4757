"""Admin tokens: ``/v1/admin-tokens``. The door lets only global tokens through to here."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Self

from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field, model_validator

from caracal.events.admin_token import (
    AdminToken,
    Capability,
    LastToken,
    Scope,
    admin_token_not_found,
)
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.admin_token import list_admin_tokens
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.call import no_content
from caracal.services.fields import Id
from caracal.services.models import Answer, Body, printable
from caracal.services.path import PathId

router = APIRouter(prefix="/v1/admin-tokens", tags=["admin tokens"])

_TOKEN_BYTES = 32
_REACH_SECONDS = 1.0
TokenName = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(printable)]


class AdminTokenInput(Body):
    name: TokenName
    scope: Scope
    zone_id: Id | None = None
    capability: Capability = "write"

    @model_validator(mode="after")
    def _zone_goes_with_scope(self) -> Self:
        if (self.scope == "zone") != (self.zone_id is not None):
            raise ValueError("zone_id goes with the scope zone, and with no other")
        return self


class AdminTokenAnswer(Answer):
    id: str
    name: str
    scope: str
    zone_id: str | None
    capability: str
    created_by: str
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class AdminTokenWithText(AdminTokenAnswer):
    token: str


@router.get("")
@refuses()
async def list_(call: CallDep, page: PageDep) -> list[AdminTokenAnswer]:
    """List admin tokens, revoked ones too, newest first; never their text or digest."""
    async with call.database() as db:
        rows = await list_admin_tokens(db, page)
    return [AdminTokenAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("zone_not_found")
async def create(body: AdminTokenInput, call: CallDep) -> AdminTokenWithText:
    """Make an admin token; its text is answered here and never again."""
    text = f"cat_{secrets.token_urlsafe(_TOKEN_BYTES)}"
    digest, token_id = sha256(text.encode()).hexdigest(), new_id()
    made: list[AdminToken] = []

    async def command() -> Saved:
        # The id of its maker: a name could be that of the seed, whose tokens a start may revoke.
        by = call.token["id"]
        made[:] = [
            AdminToken.create(token_id, token_sha256=digest, created_by=by, **body.model_dump())
        ]
        return await call.api.log.save(*made)

    await call.commit(command, body.zone_id)
    return AdminTokenWithText(**AdminTokenAnswer.of(made[0]).model_dump(), token=text)


@router.delete("/{token_id}", status_code=204)
@refuses("admin_token_not_found", "last_admin_token")
async def revoke(token_id: PathId, call: CallDep) -> Response:
    """Revoke an admin token: it is refused from now on. The last global write token stays."""
    for survivor in await _survivors(call, token_id):
        try:
            await _revoke(call, token_id, survivor)
        except LastToken:
            continue  # the survivor has ended meanwhile
        return no_content(call)
    await _find(call, token_id)
    raise LastToken


async def _revoke(call: Call, token_id: str, survivor: str) -> None:
    zone_id = (await _find(call, token_id)).zone_id

    async def command() -> Saved:
        token = await _find(call, token_id)
        token.revoke(survivor)
        return await call.api.log.save(token)

    saved = await call.commit(command, zone_id)
    if call.api.view.tail is not None and saved.position is not None:
        await call.api.view.tail.reach(saved.position, _REACH_SECONDS)


async def _find(call: Call, token_id: str) -> AdminToken:
    token = await call.api.log.find(AdminToken, token_id)
    if token is None or token.revoked:
        raise admin_token_not_found(token_id)
    return token


async def _survivors(call: Call, token_id: str) -> Iterator[str]:
    """Return the tokens that may stay in place of ``token_id``: the caller's own first."""
    own = str(call.token["id"])
    others = await call.api.view.managing()
    return (one for one in dict.fromkeys([own, *others]) if one != token_id)
