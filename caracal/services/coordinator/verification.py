"""``POST /v1/verify``: is this mandate one of ours, and does it still hold? Open to everyone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from caracal import clock
from caracal.dpop import USE_SECONDS, Proof, Sent, Unproven, holder
from caracal.errors import BadInput, CaracalError, Unauthenticated, Unavailable
from caracal.events.store.redis import GONE
from caracal.mandate import (
    MAX_TOKEN_BYTES,
    Claims,
    InvalidMandate,
    anchors_of,
    numeric_date,
)
from caracal.services.coordinator.call import Coordinator
from caracal.services.coordinator.view import CoordinatorView
from caracal.services.coordinator.walk import is_active
from caracal.services.coordinator.zone_facts import ZoneFacts
from caracal.services.http import as_caracal_error, error_headers
from caracal.services.windows import caller_of

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["facade"])

_TEXTS = ("jti", "sub", "client_id", "sid", "root_sid", "use", "sub_type", "zone_id")
_DATES = ("exp", "iat")
_MAX_HOPS = 10


class VerifyInput(BaseModel):
    token: str | None = None
    authorization: str | None = Field(None, description="the same, with or without its scheme")
    dpop: str | None = Field(None, description="the proof of a token that is bound to a key")
    method: str | None = Field(None, description="of the request that the proof came with")
    url: str | None = Field(None, description="of that request, as its sender says it")
    zone_id: str | None = None
    required_scope: str | None = None
    require_agent: bool | None = None
    require_delegation: bool | None = None


class Verified(BaseModel):
    valid: Literal[True]
    claims: dict[str, Any]


class NotVerified(BaseModel):
    valid: Literal[False]
    error: Literal[
        "missing_token",
        "token_invalid",
        "invalid_dpop_proof",
        "rate_limited",
        "state_stale",
        "unavailable",
    ]


_BODY = {"content": {"application/json": {"schema": VerifyInput.model_json_schema()}}}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the asker wants to be true of a mandate; a value that is not understood never is."""

    zone_id: Any = None
    required_scope: Any = None
    require_agent: Any = None
    require_delegation: Any = None


@router.post(
    "/verify",
    response_model=Verified,
    responses={status: {"model": NotVerified} for status in (400, 401, 429, 503)},
    openapi_extra={"requestBody": _BODY},
)
async def verify(request: Request) -> Response:
    """Verify a mandate; the answer does not tell what is wrong with one.

    One that is bound to a key (``cnf``) holds only with a proof of that key (RFC 9449): ``dpop``,
    with the ``method`` and ``url`` of the request that both came with. A proof is good once. Else
    it is 401 ``invalid_dpop_proof``, which is told of mandates that hold but for that.
    """
    parts: Coordinator = request.app.state.coordinator
    address = caller_of(request.scope)
    try:
        await parts.limits.requests.enter(address)
        await parts.limits.verify.enter(address)
        asked = _asked(await request.body())
        claims = await _verified(parts, asked)
        await _check_sender(parts, asked, claims)
    except Exception as error:  # noqa: BLE001 - becomes an answer of this route's own form
        return _refused(as_caracal_error(error))
    return _json(200, {"valid": True, "claims": claims})


@dataclass(frozen=True, slots=True)
class _Asked:
    token: str
    wanted: Wanted
    sent: Sent | None


def _asked(body: bytes) -> _Asked:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        given = {}
    text = given.get("token") or given.get("authorization")
    scheme, token = _taken_apart(text if isinstance(text, str) else "")
    if not token:
        raise BadInput("missing_token", "token or authorization is needed")
    wanted = ("zone_id", "required_scope", "require_agent", "require_delegation")
    return _Asked(token, Wanted(**{name: given.get(name) for name in wanted}), _sent(given, scheme))


def _taken_apart(text: str) -> tuple[str, str]:
    """Return scheme and token; the scheme may be left out."""
    scheme, _, token = text.lstrip().partition(" ")
    if scheme.lower() in _SCHEMES:
        return scheme.lower(), token.strip()
    return "", text.strip()


_SCHEMES = ("bearer", "dpop")


def _sent(given: Mapping[str, Any], scheme: str) -> Sent | None:
    """Return the request that a proof is for; None: the token came as a plain bearer."""
    method, url, proof = (given.get(name) for name in ("method", "url", "dpop"))
    if scheme == "bearer" or (scheme != "dpop" and proof is None):
        return None
    sound = _is_text(method) and _is_text(url) and _is_text(proof)
    if not sound:
        return Sent("", "", ())  # proves nothing
    return Sent(str(method), str(url), (str(proof).encode(),))


async def _verified(parts: Coordinator, asked: _Asked) -> Claims:
    """Return the claims of a mandate that holds.

    Raises:
        Unauthenticated: 401 ``token_invalid``; the cause stands in the log.
        Unavailable: 503, the view is too old to tell, or the log out of reach.
    """
    try:
        if len(asked.token) > MAX_TOKEN_BYTES:
            raise InvalidMandate("token too large")
        claims = await parts.tokens.claims(asked.token)
        check_claims(claims, asked.wanted)
        parts.view.check_fresh()
        await parts.view.decided(lambda: _check_state(parts.view, claims))
    except InvalidMandate as cause:
        logger.info("mandate not verified: %s", cause)
        raise _token_invalid() from None
    return claims


async def _check_sender(parts: Coordinator, asked: _Asked, claims: Claims) -> None:
    """Check that who sent a mandate holds the key that it is bound to, if it is to one.

    The last check: nobody uses up a proof by what is refused for another reason.

    Raises:
        Unauthenticated: 401 ``invalid_dpop_proof``; the cause stands in the log. ``token_invalid``,
            it is bound to no key and was sent as ``DPoP``.
        Unavailable: 503 ``unavailable``, whether the proof was used before cannot be known.
    """
    try:
        proof = holder(claims, asked.token, asked.sent, clock.now().timestamp())
        if proof is not None and not await _is_first(parts, proof):
            raise Unproven("invalid_dpop_proof", "DPoP proof: used before")
    except Unproven as cause:
        logger.info("mandate not verified: %s", cause)
        if claims.get("cnf") is None:
            raise _token_invalid() from None
        raise ProofMissing(cause) from None


class ProofMissing(Unauthenticated):
    """401 ``invalid_dpop_proof``; the header is what the resource server may answer itself."""

    def __init__(self, cause: Unproven) -> None:
        super().__init__("invalid_dpop_proof", "who sent the token does not prove to hold its key")
        self.authenticate = cause.challenge


async def _is_first(parts: Coordinator, proof: Proof) -> bool:
    try:
        key = f"coordinator:verified:dpop:{proof.use}"
        return bool(await parts.redis.set(key, "1", nx=True, ex=USE_SECONDS))
    except GONE:
        said = "whether the proof was used before cannot be known now"
        raise Unavailable("unavailable", said) from None


def check_claims(claims: Mapping[str, Any], wanted: Wanted) -> None:
    """Check the claims of a genuine mandate against the contract, and what is wanted of it.

    Raises:
        InvalidMandate: the first that does not hold.
    """
    for name in _TEXTS:
        if not _is_text(claims.get(name)):
            raise InvalidMandate(f"no {name}")
    for name in _DATES:
        if numeric_date(claims, name) is None:
            raise InvalidMandate(f"no {name}")
    for said, holds in _CLAIMS.items():
        if not holds(claims, wanted):
            raise InvalidMandate(said)


_CLAIMS: Mapping[str, Callable[[Mapping[str, Any], Wanted], bool]] = {
    "use": lambda claims, _: claims["use"] in ("ambient", "per_call"),
    "sub_type": lambda claims, _: claims["sub_type"] in ("user", "application"),
    "zone": lambda claims, wanted: wanted.zone_id in (None, claims["zone_id"]),
    "scope": lambda claims, wanted: (
        wanted.required_scope is None or wanted.required_scope in _scopes(claims)
    ),
    "agent": lambda claims, wanted: (
        not wanted.require_agent or _is_text(claims.get("agent_session_id"))
    ),
    "delegation": lambda claims, wanted: (
        not wanted.require_delegation or _is_text(claims.get("delegation_edge_id"))
    ),
    "hop_count": lambda claims, _: _is_few(claims.get("hop_count", 0)),
}


def _check_state(view: CoordinatorView, claims: Mapping[str, Any]) -> None:
    """Check that what the mandate hangs on is there and has not ended.

    Raises:
        Unauthenticated: 401 ``token_invalid``.
    """
    zone_id, now = claims["zone_id"], clock.now()
    zone = ZoneFacts(view, zone_id, now)
    agent_id, edge_id = claims.get("agent_session_id"), claims.get("delegation_edge_id")
    edge = view.edge(zone_id, edge_id) if edge_id else None
    holds = (
        not zone.barred(anchors_of(claims))
        and (not agent_id or zone.active_agent(agent_id) is not None)
        and (not edge_id or (edge is not None and is_active(edge, now)))
    )
    if not holds:
        logger.info("mandate not verified: what it hangs on has ended")
        raise _token_invalid()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_few(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_HOPS


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    scope = claims.get("scope")
    return scope.split() if isinstance(scope, str) else []


def _token_invalid() -> Unauthenticated:
    return Unauthenticated("token_invalid", "the token is not valid")


def _refused(error: CaracalError) -> Response:
    answer = _json(error.status, {"valid": False, "error": error.code})
    answer.headers.update({name.decode(): value.decode() for name, value in error_headers(error)})
    return answer


def _json(status: int, content: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
