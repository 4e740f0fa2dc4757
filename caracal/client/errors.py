"""What the clients raise.

    CaracalError
    ├── AdminApiError           the server answered, and it was no (usable) success
    ├── AdminTransportError     no answer: connection, protocol, or time limit
    └── AdminCancelledError     the caller's ``cancel`` was set

A Coordinator call without its URL or token raises a plain ``CaracalError`` with one of the two
codes below, before any network use.
"""

from __future__ import annotations

from typing import Any

from caracal.errors import CaracalError

COORDINATOR_URL_NOT_CONFIGURED = "coordinator_url_not_configured"
COORDINATOR_TOKEN_NOT_CONFIGURED = "coordinator_token_not_configured"  # noqa: S105 - a code
ADMIN_REQUEST_TIMEOUT = "admin_request_timeout"
ADMIN_REQUEST_FAILED = "admin_request_failed"
ADMIN_REQUEST_CANCELLED = "admin_request_cancelled"
INVALID_RESPONSE = "invalid_response"
REQUEST_FAILED = "request_failed"


class AdminApiError(CaracalError):
    """The server refused or failed, or answered what cannot be read.

    Attributes:
        status: the HTTP status.
        code: the body's ``error``; without one the status text, else ``request_failed``;
            ``invalid_response`` for a success that cannot be read.
        body: the parsed body; the raw text when it is no JSON; ``{}`` when it is empty.
        request_id: the answer's ``X-Request-Id``: what to look for in the audit trail.
        position: the answer's ``Caracal-Position``.
    """

    def __init__(
        self,
        status: int,
        code: str,
        body: object,
        *,
        description: str | None = None,
        request_id: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(code, description)
        self.status = status
        self.body = body
        self.request_id = request_id
        self.position = position
        if description:  # what ``str()`` may not say stands below it in a traceback
            self.add_note(description + (f" (request {request_id})" if request_id else ""))

    def __str__(self) -> str:
        return f"{self.code} (HTTP {self.status})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.code, self.body), self.__dict__


class AdminTransportError(CaracalError):
    """No answer came; ``__cause__`` says why.

    ``code`` is ``admin_request_timeout`` or ``admin_request_failed``.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.description), self.__dict__


class AdminCancelledError(CaracalError):
    """The caller's ``cancel`` was set, before, during or between the attempts."""

    def __init__(self) -> None:
        super().__init__(ADMIN_REQUEST_CANCELLED, "the caller cancelled the request")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
