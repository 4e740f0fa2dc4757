"""How the Gateway says no: a status and code for the client, a counter for the operator."""

from __future__ import annotations

from caracal.errors import CaracalError, Refusal, Unavailable


class Denied(Refusal):
    """A check of the Gateway contract, section 4, failed; ``counter`` is its row's."""

    def __init__(self, status: int, code: str, description: str, counter: str) -> None:
        super().__init__(code, description)
        self.status = status
        self.counter = counter


class SenderUnproven(Denied):
    """401: who sends a bound token does not prove to hold its key (RFC 9449, section 7.1)."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(401, code, description, "denials_signature")


class StsUnavailable(CaracalError):
    """502 or 504: the STS cannot be reached, or what it answers cannot be used (row 13)."""

    counter = "sts_exchange_errors"

    def __init__(self, status: int, description: str) -> None:
        super().__init__("sts_unavailable", description)
        self.status = status


class CircuitOpen(Unavailable):
    """503: the STS failed too often just now to be asked again (row 13)."""

    counter = "sts_exchange_errors"

    def __init__(self, retry_after: int) -> None:
        super().__init__("sts_unavailable", "sts unavailable", retry_after=retry_after)


class ExchangeRefused(CaracalError):
    """What the STS answered, passed on: same status, same code, same sentence (row 13)."""

    counter = "sts_exchange_errors"

    def __init__(
        self, status: int, code: str, description: str, retry_after: int = 1, **extras: object
    ) -> None:
        super().__init__(code, description, **extras)
        self.status = status
        self.retry_after = retry_after


class Undeliverable(CaracalError):
    """502: the call was allowed and cannot be made. ``reason`` is for the log only."""

    status = 502

    def __init__(self, reason: str, description: str = "upstream credential unusable") -> None:
        super().__init__("internal_error", description)
        self.reason = reason


class UpstreamFailed(CaracalError):
    """502 or 504: the call was allowed, and the upstream did not answer it."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__("internal_error", description)
        self.status = status


class ClientGone(Exception):
    """499: nobody is left to answer."""


def session_revoked() -> Denied:
    """Return the refusal of a call one of whose anchors has ended (row 12)."""
    return Denied(401, "invalid_token", "session revoked", "denials_revoked")
