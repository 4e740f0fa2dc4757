"""Subject and actor tokens (RFC 8693, section 2.1; contract, section 7).

Signature, ``exp`` and anchors not revoked *are* the session check: no list of sessions is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from caracal.errors import Forbidden, Unauthenticated
from caracal.mandate import (
    Claims,
    InvalidMandate,
    VerificationKey,
    anchors_of,
    begins,
    numeric_date,
    peek,
    verify,
)
from caracal.services.sts.refusals import Refused, denied
from caracal.services.sts.view import KnownZone

LEEWAY = 60.0
Kind = Literal["subject", "actor"]
_PROOFS = 4096
_TEXTS = ("sub", "client_id", "root_sid", "sub_type")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a proven ambient token speaks of."""

    claims: Claims = field(repr=False)
    anchors: frozenset[str]

    @property
    def expires_at(self) -> int:
        """Return when the token ends, Unix seconds."""
        return int(self.claims["exp"])

    @property
    def sid(self) -> str:
        """Return the session."""
        return str(self.claims["sid"])

    @property
    def subject(self) -> str:
        """Return the user or application."""
        return str(self.claims["sub"])

    @property
    def client_id(self) -> str:
        """Return the application that the token was given to."""
        return str(self.claims["client_id"])

    @property
    def issuers(self) -> tuple[str, ...]:
        """Return the trusted issuer that has said who the user is, if one has."""
        user = self.claims.get("user")
        return (str(user["trusted_issuer_id"]),) if user else ()

    def is_same_as(self, other: Principal) -> bool:
        """Say whether both are the same principal (contract, end of section 4)."""
        clients = {self.client_id, other.client_id} - {""}
        return bool(self.subject) and self.subject == other.subject and len(clients) <= 1


@dataclass(frozen=True, slots=True)
class _Proof:
    kid: str
    key: VerificationKey
    principal: Principal


class Proofs:
    """Proves tokens. What a key has once proven stays proven; times and anchors change."""

    def __init__(self, issuer: str, size: int = _PROOFS) -> None:
        self._issuer, self._size = issuer, size
        self._proven: OrderedDict[str, _Proof] = OrderedDict()

    def principal(self, token: str, zone: KnownZone, now: float, kind: Kind) -> Principal:
        """Return who ``token`` speaks of; rows 3 and 4 (5) of the validation order.

        Args:
            token: compact JWT.
            zone: of the request; its two newest keys verify.
            now: Unix seconds.
            kind: names the token in the refusal.

        Raises:
            Refused: 401 ``invalid_token``; 403 without ``sid`` or with an ended anchor.
        """
        try:
            proof = self._known(token, zone) or self._proved(token, zone)
            _check_times(proof.principal.claims, now)
        except InvalidMandate:
            error = Unauthenticated("invalid_token", f"invalid {kind}_token")
            raise Refused(error, f"{kind}_token_invalid") from None
        if not _is_text(proof.principal.claims, "sid"):
            raise Refused(Forbidden("invalid_token", "the token has no sid"), "session_invalid")
        if zone.barred(proof.principal.anchors):
            raise denied("session revoked", "session_invalid")
        return proof.principal

    def knows_key(self, token: str, zone: KnownZone) -> bool:
        """Say whether the zone has the key that ``token`` names; a malformed one names none."""
        try:
            return peek(token).kid in zone.verification_keys()
        except InvalidMandate:
            return True

    def _known(self, token: str, zone: KnownZone) -> _Proof | None:
        proof = self._proven.get(token)
        if proof is None or proof.principal.claims["zone_id"] != zone.id:
            return None
        # The very key object: one that was retired, or another of its name, proves nothing.
        if zone.verification_keys().get(proof.kid) is not proof.key:
            return None
        self._proven.move_to_end(token)
        return proof

    def _proved(self, token: str, zone: KnownZone) -> _Proof:
        keys, parts = zone.verification_keys(), peek(token)
        claims = verify(parts, keys)
        expected = {"iss": self._issuer, "aud": [self._issuer], "zone_id": zone.id}
        if any(claims.get(name) != value for name, value in expected.items()):
            raise InvalidMandate("not a token of this zone")
        if claims.get("use") != "ambient" or not all(_is_text(claims, name) for name in _TEXTS):
            raise InvalidMandate("not an ambient token")
        principal = Principal(claims, anchors_of(claims))
        self._proven[token] = proof = _Proof(parts.kid, keys[parts.kid], principal)
        if len(self._proven) > self._size:
            self._proven.popitem(last=False)
        return proof


def _check_times(claims: Claims, now: float) -> None:
    expires_at, issued_at = numeric_date(claims, "exp"), numeric_date(claims, "iat")
    if expires_at is None or expires_at + LEEWAY <= now:
        raise InvalidMandate("expired")
    if issued_at is not None and issued_at > now + LEEWAY:
        raise InvalidMandate("issued in the future")
    if begins(claims) > now + LEEWAY:
        raise InvalidMandate("not valid yet")


def _is_text(claims: Claims, name: str) -> bool:
    value = claims.get(name)
    return isinstance(value, str) and bool(value)
