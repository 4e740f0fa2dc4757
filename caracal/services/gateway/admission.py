"""What a request must show at the door: rows 1-7 and the claims of row 10 (contract, section 4)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import floor
from typing import Any

from caracal.ids import ID_PATTERN
from caracal.mandate import MAX_TOKEN_BYTES, InvalidMandate, Unverified, numeric_date, peek
from caracal.services.gateway.headers import Header
from caracal.services.gateway.refusals import Denied

MIN_LIFE = 35.0

_READ = frozenset(
    (
        b"authorization",
        b"dpop",
        b"x-caracal-resource",
        b"x-caracal-client-id",
        b"x-caracal-scope",
        b"x-caracal-challenge-id",
        b"x-caracal-challenge-response",
        b"baggage",
    )
)


_SCHEMES = (b"bearer", b"dpop")


@dataclass(frozen=True, slots=True)
class Inbound:
    """A request at the door; its claims are not verified yet."""

    token: str
    unverified: Unverified
    zone_id: str
    resource: str
    scope: str | None
    challenge: tuple[str, str] | None
    baggage: tuple[bytes, ...]
    proofs: tuple[bytes, ...] | None = None
    """Values of ``DPoP`` headers when the token is sent by that scheme (RFC 9449, section 7.1)."""

    def expires_in(self, now: float) -> int:
        """Return the whole seconds left of the bearer."""
        return floor((numeric_date(self.unverified.claims, "exp") or 0) - now)


def admit(headers: Iterable[Header], now: float) -> Inbound:
    """Read the headers of a request; ``now`` in Unix seconds.

    Raises:
        Denied: the first of rows 1-7 that fails.
    """
    sent: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _READ:
            sent.setdefault(name, []).append(value)
    scheme, token = _credential(sent.get(b"authorization", []))
    unverified = _peek(token, now)
    if b"x-caracal-client-id" in sent:
        raise Denied(
            400,
            "invalid_token",
            "client id is bound by gateway configuration",
            "denials_bad_routing",
        )
    resource = _single(sent.get(b"x-caracal-resource", []))
    if not resource:
        raise Denied(400, "invalid_token", "missing routing headers", "denials_bad_routing")
    return Inbound(
        token=token,
        unverified=unverified,
        zone_id=_zone(unverified.claims),
        resource=resource,
        scope=_scope(sent.get(b"x-caracal-scope", [])),
        challenge=_challenge(sent),
        baggage=tuple(sent.get(b"baggage", ())),
        proofs=tuple(sent.get(b"dpop", ())) if scheme == b"dpop" else None,
    )


def check_claims(
    claims: Mapping[str, Any],
    *,
    zone_id: str,
    resource: Collection[str],
    issuer: str | None,
    now: float,
) -> None:
    """Check the verified claims of a bearer against where it is used (contract, section 5).

    Args:
        claims: verified.
        zone_id: zone of the resource.
        resource: identifiers that name it: as requested and as registered.
        issuer: ``ISSUER_URL`` if that is set.
        now: Unix seconds.

    Raises:
        Denied: 401 ``invalid_token``.
    """
    expires = numeric_date(claims, "exp")
    iss = claims.get("iss")
    fits = (
        expires is not None
        and expires > now
        and claims.get("zone_id") == zone_id
        and (issuer is None or iss == issuer)
        and _audience_fits(claims, issuer or iss, resource)
    )
    if not fits:
        raise Denied(401, "invalid_token", "bearer signature invalid", "denials_signature")


def _audience_fits(claims: Mapping[str, Any], issuer: Any, resource: Collection[str]) -> bool:
    audience = _listed(claims.get("aud"))
    if claims.get("use") == "ambient":
        return isinstance(issuer, str) and issuer in audience
    if claims.get("use") == "per_call":
        return any(name in audience or name in _listed(claims.get("target")) for name in resource)
    return False


def _listed(value: Any) -> list[Any]:
    """RFC 7519, section 4.1.3: one audience may stand alone."""
    return value if isinstance(value, list) else [value]


def _credential(values: list[bytes]) -> tuple[bytes, str]:
    """Return scheme, in lower case, and token."""
    scheme, _, token = values[0].strip().partition(b" ") if len(values) == 1 else (b"", b"", b"")
    token = token.strip()
    scheme = scheme.lower()
    if scheme not in _SCHEMES or not token or b" " in token or not token.isascii():
        raise Denied(401, "invalid_token", "missing bearer token", "denials_missing_auth")
    if len(token) > MAX_TOKEN_BYTES:
        raise Denied(401, "invalid_token", "bearer token too large", "denials_bad_bearer")
    return scheme, token.decode("ascii")


_peeked = lru_cache(maxsize=2048)(peek)  # an ambient token comes again and again


def _peek(token: str, now: float) -> Unverified:
    try:
        unverified = _peeked(token)
    except InvalidMandate as error:
        raise _malformed() from error
    expires = numeric_date(unverified.claims, "exp")
    if not expires:
        raise _malformed()
    if expires - now < MIN_LIFE:
        raise Denied(
            401,
            "credential_expired_not_renewable",
            "credential expiring within pre-flight window",
            "denials_expiring",
        )
    return unverified


def _malformed() -> Denied:
    return Denied(401, "invalid_token", "malformed bearer token", "denials_bad_bearer")


def _zone(claims: Mapping[str, Any]) -> str:
    zone_id = claims.get("zone_id")
    if not isinstance(zone_id, str) or not ID_PATTERN.fullmatch(zone_id):
        raise Denied(401, "invalid_token", "missing token zone", "denials_bad_routing")
    return zone_id


def _single(values: list[bytes]) -> str | None:
    """The one value of a header that must not be repeated; what is not UTF-8 counts as none."""
    if len(values) != 1:
        return None
    try:
        return values[0].strip().decode() or None
    except UnicodeDecodeError:
        return None


def _scope(values: list[bytes]) -> str | None:
    """RFC 6749, section 3.3: names separated by spaces, so two lines are one list."""
    try:
        names = b" ".join(values).decode("ascii").split()
    except UnicodeDecodeError as error:
        raise Denied(400, "invalid_token", "malformed scope", "denials_bad_routing") from error
    return " ".join(names) or None


def _challenge(sent: Mapping[bytes, list[bytes]]) -> tuple[str, str] | None:
    id_values = sent.get(b"x-caracal-challenge-id", [])
    response_values = sent.get(b"x-caracal-challenge-response", [])
    if not id_values and not response_values:
        return None
    challenge_id, response = _single(id_values), _single(response_values)
    if not challenge_id or not response:
        raise Denied(
            400,
            "invalid_token",
            "challenge id and response go together",
            "denials_bad_routing",
        )
    return challenge_id, response
