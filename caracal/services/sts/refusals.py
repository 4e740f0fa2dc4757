"""How the STS says no: what the caller is told, and what the evidence says (section 4)."""

from __future__ import annotations

from collections.abc import Mapping

from caracal.errors import (
    BadInput,
    CaracalError,
    Forbidden,
    TooMany,
    Unauthenticated,
    Unavailable,
)

EXCHANGE = "token_exchange"


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


def audit_unavailable() -> Unavailable:
    """Return the refusal of an allow that leaves no evidence."""
    return Unavailable("audit_unavailable", "the decision cannot be recorded now")


def state_stale() -> Unavailable:
    """Return the refusal of a view that may have missed something."""
    return Unavailable("state_stale", "the state is not known to be current")
