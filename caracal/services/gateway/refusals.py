"""How the Gateway says no: a status and code for the client, a counter for the operator."""

from __future__ import annotations

from caracal.errors import CaracalError, Refusal


class Denied(Refusal):
    """A check of the Gateway contract, section 4, failed; ``counter`` is its row's."""

    def __init__(self, status: int, code: str, description: str, counter: str) -> None:
        super().__init__(code, description)
        self.status = status
        self.counter = counter


class Undeliverable(CaracalError):
    """502: the call was allowed and cannot be made. ``reason`` is for the log only."""

    status = 502

    def __init__(self, reason: str, description: str = "upstream credential unusable") -> None:
        super().__init__("internal_error", description)
        self.reason = reason
