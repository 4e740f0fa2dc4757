"""How the STS says no: what the caller is told, and what the evidence says (section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from caracal.dpop import challenge
from caracal.errors import (
    BadInput,
    CaracalError,
    Forbidden,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from caracal.events.challenge import ChallengeType

EXCHANGE = "token_exchange"
INTROSPECTION, REVOCATION = "token_introspection", "token_revocation"


class InteractionRequired(Unauthenticated):
    """401 ``interaction_required``: row 11, somebody must agree first."""

    authenticate = 'Bearer error="interaction_required"'

    def __init__(self, challenge_type: ChallengeType, **extras: str) -> None:
        said = "Step-up authorization required for this resource"
        super().__init__("interaction_required", said, challenge_type=challenge_type, **extras)
        self.challenge_type = challenge_type

    def with_challenge(self, challenge_id: str, secret: str, expires_at: str) -> Self:
        """Return the same with what the caller needs for its retry."""
        return type(self)(
            self.challenge_type,
            challenge_id=challenge_id,
            challenge_secret=secret,
            challenge_expires_at=expires_at,
        )


class Refused(Exception):
    """A row of the validation order ended the request, and an audit entry tells of it.

    Attributes:
        error: the answer.
        status: ``evaluation_status`` of the audit entry.
        event_type: of the audit entry.
        unknown: the view knows no such thing: to be looked for once more.
        about: members of the audit entry's metadata that the request does not say itself.
    """

    def __init__(
        self, error: CaracalError, status: str, event_type: str = EXCHANGE, *, unknown: bool = False
    ) -> None:
        super().__init__(error.description)
        self.error, self.status, self.event_type = error, status, event_type
        self.unknown = unknown
        self.about: Mapping[str, str] = {}


def bad_request(description: str) -> BadInput:
    """Return rows 0b and 2: 400."""
    return BadInput("invalid_token", description)


def bad_client() -> Refused:
    """Return row 1: one text for all causes, so nobody learns which applications exist."""
    error = Unauthenticated("access_denied", "invalid client credentials")
    return Refused(error, "client_auth_failed")


def too_many_failures(seconds: float) -> TooMany:
    """Return the refusal of a client that is not even tried; it has no audit entry."""
    return TooMany("access_denied", "too many client authentications", retry_after=int(seconds) + 1)


def replayed() -> Refused:
    """Return row 0c, a nonce seen before."""
    error = Unauthenticated("access_denied", "gateway signature invalid")
    return Refused(error, "client_auth_failed", "replay_detected")


def bad_gateway_signature(error: CaracalError) -> Refused:
    """Return row 0c, a signature that does not fit."""
    return Refused(error, "client_auth_failed")


def denied(description: str, status: str, *, unknown: bool = False) -> Refused:
    """Return a 403 ``access_denied``."""
    return Refused(Forbidden("access_denied", description), status, unknown=unknown)


class SenderUnproven(Unauthenticated):
    """401 ``invalid_token``: the token is bound to a key that was not shown (RFC 9449, §7.1)."""

    authenticate = challenge("invalid_token")

    def __init__(self) -> None:
        super().__init__("invalid_token", "the token is bound to another key")


def invalid_proof(reason: str) -> Refused:
    """Return the refusal of a DPoP proof (RFC 9449, section 5)."""
    error = BadInput("invalid_dpop_proof", f"DPoP proof: {reason}")
    return Refused(error, "client_auth_failed")


def nonce_needed(nonce: str) -> Refused:
    """Return the refusal of a proof that was not made with a nonce of ours; here is one."""
    error = BadInput("use_dpop_nonce", "the DPoP proof needs the nonce of this answer")
    error.headers = {"dpop-nonce": nonce}
    return Refused(error, "client_auth_failed")


def challenge_refused() -> Refused:
    """Return row 8: one text for all that may be wrong with a challenge."""
    error = Unauthenticated("access_denied", "challenge not satisfied or expired")
    return Refused(error, "challenge_invalid", "challenge_invalid")


def audit_unavailable() -> Unavailable:
    """Return the refusal of an allow that leaves no evidence."""
    return Unavailable("audit_unavailable", "the decision cannot be recorded now")
