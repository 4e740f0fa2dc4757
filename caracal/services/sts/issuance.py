"""The mandate to be issued and the answer that carries it (contract, sections 10 and 12)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from caracal.errors import Unauthenticated
from caracal.ids import new_id
from caracal.mandate import Claims, anchors_of
from caracal.services.sts.exchange import Exchange, Granted
from caracal.services.sts.refusals import Refused
from caracal.services.sts.subject_token import Principal
from caracal.services.sts.token_request import ACCESS_TOKEN

AMBIENT_SECONDS = 3600
PER_CALL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Mandate:
    """Claims of a mandate, and the whole list of its anchors."""

    claims: Claims
    anchors: frozenset[str]

    @property
    def seconds(self) -> int:
        """Return its life."""
        return int(self.claims["exp"] - self.claims["iat"])


def expiry(exchange: Exchange, max_seconds: int) -> int:
    """Return when the mandate ends, Unix seconds; ``max_seconds`` is a limit of the deployment.

    Raises:
        Refused: 401 ``invalid_token``, the subject token is in its leeway: no life is left.
    """
    issued_at = int(exchange.now.timestamp())
    cap = AMBIENT_SECONDS if exchange.is_ambient else PER_CALL_SECONDS
    if exchange.login is not None:
        cap = min(cap, exchange.login.session_seconds)
    ends = issued_at + min(exchange.request.ttl_seconds or cap, cap, max_seconds)
    if exchange.subject is not None:
        ends = min(ends, exchange.subject.expires_at)
    ends = exchange.binding.ends(issued_at, ends)
    if ends <= issued_at:
        error = Unauthenticated("invalid_token", "invalid subject_token")
        raise Refused(error, "subject_token_invalid")
    return ends


def mandate(
    exchange: Exchange, granted: Sequence[Granted], *, issuer: str, sid: str, ends: int
) -> Mandate:
    """Return the mandate for what was granted, to be signed; it ends at ``ends``."""
    identifiers = _identifiers(granted)
    subject = exchange.subject
    claims: Claims = {
        "iss": issuer,
        "sub": exchange.user,
        "aud": identifiers if subject else [issuer],
        "iat": int(exchange.now.timestamp()),
        "exp": ends,
        "jti": new_id(),
        "zone_id": exchange.zone.id,
        "client_id": exchange.application["id"],
        "sid": sid,
        "root_sid": subject.claims["root_sid"] if subject else sid,
        "use": "per_call" if subject else "ambient",
        "sub_type": subject.claims["sub_type"] if subject else "application",
        "target": identifiers,
    }
    if exchange.login is not None:
        claims |= exchange.login.claims
    if exchange.request.scopes:
        claims["scope"] = " ".join(exchange.request.scopes)
    claims |= exchange.binding.claims()
    if exchange.actor is not None:
        claims["act"] = _act(exchange.actor, subject)
    if exchange.jkt:
        claims["cnf"] = {"jkt": exchange.jkt}
    held, further = anchors_of(claims), _further_anchors(exchange, granted)
    claims["anchors"] = sorted(further - held)
    return Mandate(claims, held | further)


def answer(
    exchange: Exchange, granted: Sequence[Granted], issued: Mandate, token: str
) -> dict[str, Any]:
    """Return the body of the 200 (RFC 8693, section 2.2.1)."""
    body: dict[str, Any] = {
        "access_token": token,
        "token_type": token_type(issued.claims),
        "expires_in": issued.seconds,
        "issued_token_type": ACCESS_TOKEN,
        "target_resources": issued.claims["target"],
        "upstreams": dict(_upstreams(granted, by_gateway=exchange.by_gateway)),
    }
    if "scope" in issued.claims:
        body["scope"] = issued.claims["scope"]
    if exchange.by_gateway:
        body["anchors"] = sorted(issued.anchors)
    return body


def token_type(claims: Claims) -> str:
    """Return how a mandate is used (RFC 9449, section 5)."""
    return "DPoP" if "cnf" in claims else "Bearer"


def _identifiers(granted: Iterable[Granted]) -> list[str]:
    return list(dict.fromkeys(one.resource["identifier"] for one in granted))


def _further_anchors(exchange: Exchange, granted: Iterable[Granted]) -> set[str]:
    """Return what ends the mandate and stands in no claim of its own."""
    anchors = exchange.binding.anchors()
    for one in granted:
        anchors.add(one.resource["id"])
        anchors |= {one.grant_id} if one.grant_id else set()
    if exchange.actor is not None:
        anchors |= exchange.actor.anchors
    if exchange.subject is not None:
        anchors |= {exchange.subject.client_id, *exchange.subject.issuers}
    if exchange.login is not None:
        anchors.add(exchange.login.issuer_id)
    return anchors


def _act(actor: Principal, subject: Principal | None) -> dict[str, Any]:
    """RFC 8693, section 4.1: the current actor outermost, prior actors nested in it."""
    names = ("sub", "client_id", "agent_session_id")
    act = {name: actor.claims[name] for name in names if name in actor.claims}
    prior = subject.claims.get("act") if subject else None
    return act if prior is None else act | {"act": prior}


def _upstreams(
    granted: Iterable[Granted], *, by_gateway: bool
) -> Iterable[tuple[str, dict[str, Any]]]:
    for one in granted:
        directive = one.upstream.directive(one.resource["upstream_url"], by_gateway=by_gateway)
        yield one.resource["identifier"], directive
        yield one.requested, directive
