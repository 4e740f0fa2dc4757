"""Where a user's browser comes back from a provider. It has no token of ours: the state is all.

Nothing of the request is repeated: not in an answer, not in a log, not in a fact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel

from caracal import clock
from caracal.errors import BadInput, CaracalError, Conflict, Forbidden, NotFound, Unauthenticated
from caracal.events.grant import Grant
from caracal.events.provider import Provider
from caracal.events.provider_authorization import ProviderAuthorization, state_invalid
from caracal.events.store.log import Saved
from caracal.events.store.vault import Unreadable
from caracal.ids import ID_PATTERN
from caracal.services.api.call import Api, Call
from caracal.services.api.codes import TEXT_OF, refuses
from caracal.services.api.provider_consent import (
    client_at,
    is_of_issuer,
    live_provider,
    may_return_to,
    redirect_uri,
)
from caracal.services.api.provider_revocation import tell
from caracal.services.fields import Id
from caracal.services.path import ZoneId
from caracal.services.provider_kind import NoCredential
from caracal.services.token_endpoint import Issued, Lives, sealed

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/zones/{zone_id}/provider-grants", tags=["provider grants"])

_STATE = r"^[A-Za-z0-9_.\-:]{1,256}$"
_LONGEST_CODE = 4096
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"}
_CONNECTED = "You are connected. You can close this window."
_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    "<title>Caracal</title><h1>{title}</h1><p>{text}</p></html>"
)


class Connected(BaseModel):
    status: Literal["connected"] = "connected"


@dataclass(frozen=True, slots=True)
class _Answer:
    """An authorization response (RFC 6749, sections 4.1.2 and 4.1.2.1)."""

    state: str = field(repr=False)
    provider_id: str
    code: str | None = field(repr=False)
    error: str | None
    iss: str | None

    def failure(self, config: dict[str, Any]) -> CaracalError | None:
        """Return why it gives no tokens; the issuer first: an error of another one says nothing."""
        if not is_of_issuer(config, self.iss):
            return BadInput("authorization_issuer_mismatch", "the answer is not the provider's own")
        if self.error == "access_denied":
            return _denied()
        usable = self.error is None and self.code and len(self.code) <= _LONGEST_CODE
        return None if usable else _failed()


@dataclass(frozen=True, slots=True)
class _Taken:
    """An answer that was waited for: its state is used up now."""

    call: Call
    grant: Grant
    waited: ProviderAuthorization
    provider: Provider
    verifier: str = field(repr=False)
    failure: CaracalError | None


@router.get(
    "/oauth/callback",
    response_model=Connected,
    responses={303: {"description": "to the URL that the authorization names"}},
)
@refuses(
    "rate_limited",
    "state_stale",
    "concurrent_update",
    "authorization_state_invalid",
    "authorization_issuer_mismatch",
    "authorization_denied",
    "authorization_failed",
)
async def callback(
    zone_id: ZoneId,
    request: Request,
    response: Response,
    state: Annotated[str, Query(pattern=_STATE)],
    provider: Id,
    code: str | None = None,
    error: str | None = None,
    iss: str | None = None,
) -> Any:
    """Take a provider's answer for the grant that waits for it; for browsers, once. The answer is a
    page where HTML is accepted."""
    try:
        _check_once(request)
        taken = await _taken(zone_id, request, response, _Answer(state, provider, code, error, iss))
    except CaracalError as refusal:
        return _refused(request, refusal)
    try:
        await _connect(taken, state, code or "")
    except CaracalError as refusal:
        return _back(taken) or _refused(request, refusal)
    return _back(taken) or _connected(request)


def _check_once(request: Request) -> None:
    """Refuse a parameter that is there twice (RFC 6749, section 3.1)."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise BadInput("invalid_query", "a parameter is there more than once")


async def _taken(zone_id: str, request: Request, response: Response, answer: _Answer) -> _Taken:
    """Use the state up, whatever its answer says.

    Raises:
        BadInput: 400 ``authorization_state_invalid``; another answer was faster, too.
    """
    api: Api = request.app.state.api
    waited = _awaited(await _grant(api, zone_id, answer.state), answer)
    token = await api.view.known_token(waited.initiated_by)
    if token is None:
        raise state_invalid()
    call, made = Call(api, request, response, token), list[_Taken]()

    async def command() -> Saved:
        grant = await _grant(api, zone_id, answer.state)
        waited = _awaited(grant, answer)
        provider = await live_provider(call, zone_id, answer.provider_id)
        if provider is None:
            raise state_invalid()
        verifier = await _verifier(call, waited)
        failure = answer.failure(provider.config)
        told = failure.code if failure else None
        grant.answer_authorization(answer.state, answer.provider_id, clock.now(), told)
        made[:] = [_Taken(call, grant, waited, provider, verifier, failure)]
        return await api.log.save(grant)

    await call.commit(command, zone_id)
    return made[0]


async def _grant(api: Api, zone_id: str, state: str) -> Grant:
    """Return the grant that a state names; whether it is the state is still to be seen."""
    grant_id, _, _ = state.rpartition(".")
    known = ID_PATTERN.fullmatch(grant_id) is not None
    grant = await api.log.find(Grant, grant_id) if known else None
    if grant is None or grant.zone_id != zone_id:
        raise state_invalid()
    return grant


def _awaited(grant: Grant, answer: _Answer) -> ProviderAuthorization:
    waited = grant.authorization
    if waited is None or not waited.awaits(answer.state, answer.provider_id, clock.now()):
        raise state_invalid()
    return waited


async def _verifier(call: Call, waited: ProviderAuthorization) -> str:
    try:
        async with call.database() as db:
            return (await call.api.vault.read(db, waited.verifier_ref)).decode()
    except Unreadable:  # another answer has used it up just now
        raise state_invalid() from None


async def _connect(taken: _Taken, state: str, code: str) -> None:
    """Turn a code into the grant's tokens.

    Raises:
        CaracalError: nothing came of it, and the grant says so.
    """
    if taken.failure is not None:
        raise taken.failure
    try:
        issued = await _issued(taken, code)
    except NoCredential as failure:
        logger.warning("provider %s: %s", taken.provider.aggregate_id, failure.reason)
        await _decide(taken, lambda grant: grant.fail_authorization(state, _failed().code))
        raise _failed() from None
    credential = sealed(
        taken.call.api.vault,
        issued,
        Lives(taken.call.api.settings.max_grant_ttl_seconds).ends(issued),
        taken.provider.aggregate_id,
    )
    try:
        await _decide(taken, lambda grant: grant.connect(state, credential))
    except CaracalError:
        # Revoked or asked anew meanwhile: nobody knows these tokens, so nobody else ends them.
        await tell(taken.call, taken.provider, issued.by_kind)
        raise


async def _issued(taken: _Taken, code: str) -> Issued:
    """Exchange a code (RFC 6749, section 4.1.3), once: it is good for one request."""
    call, provider = taken.call, taken.provider
    zone_id = str(taken.grant.zone_id)
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri(call.api.settings, zone_id, provider.aggregate_id),
        "code_verifier": taken.verifier,
    }
    return await call.api.endpoint.ask_once(await client_at(call, provider), form)


async def _decide(taken: _Taken, decide: Callable[[Grant], None]) -> None:
    """Decide for the grant, unless it, or the token that asked, has ended meanwhile.

    Raises:
        BadInput: 400 ``authorization_state_invalid``.
    """
    grant_id, zone_id = taken.grant.aggregate_id, str(taken.grant.zone_id)
    try:
        await taken.call.change(Grant, grant_id, zone_id, decide, state_invalid())
    except (NotFound, Unauthenticated):
        raise state_invalid() from None


def _back(taken: _Taken) -> Response | None:
    """Send the browser to where the authorization says, and nowhere else; nothing goes with it."""
    url = taken.waited.return_to
    if url is None or not may_return_to(taken.provider.config, url):
        return None
    return RedirectResponse(url, status_code=303, headers=_HEADERS)


def _connected(request: Request) -> Response:
    if _wants_page(request):
        return HTMLResponse(_PAGE.format(title="Connected", text=_CONNECTED), headers=_HEADERS)
    return Response(Connected().model_dump_json(), headers=_HEADERS, media_type="application/json")


def _refused(request: Request, refusal: CaracalError) -> Response:
    """Answer a refusal; for people as a page of our own words alone.

    Raises:
        CaracalError: it, when the answer is for a program.
    """
    if not _wants_page(request):
        raise refusal
    text = TEXT_OF.get(refusal.code, "something went wrong")
    page = _PAGE.format(title=HTTPStatus(refusal.status).phrase, text=f"Not connected: {text}.")
    return HTMLResponse(page, status_code=refusal.status, headers=_HEADERS)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _denied() -> Forbidden:
    return Forbidden("authorization_denied", "the provider's consent was not given")


def _failed() -> Conflict:
    return Conflict("authorization_failed", "the provider gave no tokens")
