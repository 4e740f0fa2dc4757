"""All errors of Caracal, one tree.

    CaracalError
    ├── Refusal                 the caller can do something about it
    │   ├── BadInput            400
    │   ├── Unauthenticated     401
    │   ├── Forbidden           403
    │   ├── NotFound            404
    │   ├── MethodNotAllowed    405
    │   ├── Conflict            409
    │   ├── TooLarge            413
    │   ├── UnsupportedMedia    415
    │   ├── Unprocessable       422
    │   └── TooMany             429
    ├── Unavailable             503, a part of the system is gone; try again
    ├── InternalError           500, a bug; details stand only in the log
    └── StartError              the process must not start as configured

A refusal carries a stable snake_case ``code``, a sentence for people (never internals,
never secrets) and what else the answer's body needs. The operator's detail goes to the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CaracalError(Exception):
    """Base of all. ``status`` is the HTTP status, ``extras`` are further members of the body.

    ``headers`` are those that say the same again, by lower-case name.
    """

    status = 500
    headers: Mapping[str, str] = {}

    def __init__(self, code: str, description: str | None = None, **extras: Any) -> None:
        self.code = code
        self.description = description or code.replace("_", " ")
        self.extras = extras
        super().__init__(f"{code}: {self.description}")


class Refusal(CaracalError):
    """The request was understood and is not carried out."""

    status = 400


class BadInput(Refusal):
    """400: the request is malformed."""


class Unauthenticated(Refusal):
    """401: no or no valid credential. ``authenticate`` says how to (RFC 9110, section 11.6.1)."""

    status = 401
    authenticate = "Bearer"


class Forbidden(Refusal):
    """403: known, but not allowed."""

    status = 403


class NotFound(Refusal):
    """404: no such thing, or none that this caller may see."""

    status = 404


class MethodNotAllowed(Refusal):
    """405: the route has other methods; ``allow`` lists them (RFC 9110, section 15.5.6)."""

    status = 405

    def __init__(
        self, code: str, description: str | None = None, *, allow: str = "", **extras: Any
    ) -> None:
        super().__init__(code, description, **extras)
        self.headers = {"allow": allow} if allow else {}


class Conflict(Refusal):
    """409: true of the request, but not of the state it meets."""

    status = 409


class TooLarge(Refusal):
    """413: body over its limit."""

    status = 413


class UnsupportedMedia(Refusal):
    """415: another content type is needed."""

    status = 415


class Unprocessable(Refusal):
    """422: well-formed, but its meaning is refused."""

    status = 422


class TooMany(Refusal):
    """429: over a limit. ``retry_after`` in whole seconds."""

    status = 429

    def __init__(
        self, code: str, description: str | None = None, *, retry_after: int = 1, **extras: Any
    ) -> None:
        super().__init__(code, description, **extras)
        self.retry_after = max(1, retry_after)


class Unavailable(CaracalError):
    """503: cannot be answered truthfully now. ``retry_after`` in whole seconds."""

    status = 503

    def __init__(
        self, code: str, description: str | None = None, *, retry_after: int = 1, **extras: Any
    ) -> None:
        super().__init__(code, description, **extras)
        self.retry_after = max(1, retry_after)


class InternalError(CaracalError):
    """500: a bug. The caller sees only the code and the request id."""

    def __init__(self, description: str = "internal error") -> None:
        super().__init__("internal_error", description)


class StartError(CaracalError):
    """A process refuses to start; the command line prints one line and exits with 2."""

    def __init__(self, description: str) -> None:
        super().__init__("start_error", description)
