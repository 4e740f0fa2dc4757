"""What every HTTP service does alike: request ids, error bodies, limits, health.

Errors: ``{"error": code, "error_description": sentence, "requestId": id}`` with ``X-Request-Id``;
nothing internal ever. 401 says how to authenticate (RFC 6750, section 3), 429 and 503 say when
to try again (RFC 9110, section 10.2.3).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import psycopg

from caracal.errors import (
    CaracalError,
    InternalError,
    NotFound,
    Refusal,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from caracal.ids import new_id

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_KNOWN_ID = "caracal.request_id"
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")
_WEB_SCHEMES = {"ws": "http", "wss": "https"}
HARDENING: list[Header] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
"""Headers of every answer of ours."""
ROUTE = "route"
"""Key in a scope's ``state``: the template of the route, where no framework says it."""


class TooSlow(Refusal):
    """408: the body did not come in time; the connection is closed (RFC 9110, section 15.5.9)."""

    status = 408

    def __init__(self) -> None:
        super().__init__("request_timeout", "the body did not come in time")


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first value of a request header (lower-case name); None without one."""
    return next((value for key, value in scope["headers"] if key == name), None)


def raw_path(scope: Scope) -> str:
    """Return the path as it came: the server hands it over decoded, and its slashes are lost."""
    raw = scope.get("raw_path", scope["path"].encode())
    return str(raw.decode("latin-1").partition("?")[0])


def client_address(scope: Scope) -> str:
    """Return the peer's address."""
    client = scope.get("client")
    return client[0] if client else "-"


def request_id_of(scope: Scope) -> str:
    """Return the caller's ``X-Request-Id`` when well formed, else a UUIDv7; always the same."""
    known: str | None = scope.get(_KNOWN_ID)
    if known is None:
        given = header(scope, b"x-request-id")
        well_formed = given is not None and _REQUEST_ID.fullmatch(given)
        known = scope[_KNOWN_ID] = given.decode() if given and well_formed else new_id()
    return known


def error_body(error: CaracalError, request_id: str) -> bytes:
    """Return the JSON body of an error answer."""
    body = {"error": error.code, "error_description": error.description, "requestId": request_id}
    return orjson.dumps(body | error.extras)


def error_headers(error: CaracalError) -> list[Header]:
    """Return the headers that an error answer adds."""
    if isinstance(error, Unauthenticated):
        return [(b"www-authenticate", error.authenticate.encode())]
    if isinstance(error, TooSlow):
        return [(b"connection", b"close")]
    if isinstance(error, TooMany | Unavailable):
        return [(b"retry-after", str(error.retry_after).encode())]
    return [(name.encode(), value.encode()) for name, value in error.headers.items()]


def as_caracal_error(error: Exception) -> CaracalError:
    """Return what the caller is told about any exception; a bug is logged, never shown."""
    if isinstance(error, CaracalError):
        return error
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Unavailable("unavailable", "the database cannot be reached now")
    logger.error("unexpected error", exc_info=error)
    return InternalError()


async def respond(
    send: Send,
    status: int,
    body: bytes,
    headers: list[Header],
    content: bytes = b"application/json",
) -> None:
    """Send a whole answer."""
    lines = [(b"content-type", content), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_error(
    send: Send, error: CaracalError, request_id: str, headers: list[Header] | None = None
) -> None:
    """Send an error answer."""
    lines = [(b"x-request-id", request_id.encode()), *error_headers(error), *(headers or [])]
    await respond(send, error.status, error_body(error, request_id), lines)


async def read_body(receive: Receive, scope: Scope, limit: int) -> bytes:
    """Read the whole body.

    Raises:
        TooLarge: 413, longer than ``limit`` bytes; declared or real.
        ConnectionError: the client has gone.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("client gone")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def too_large(limit: int) -> TooLarge:
    """Return the refusal of a body over its limit."""
    return TooLarge("payload_too_large", f"the body may have at most {limit} bytes")


def bearer_of(scope: Scope) -> str | None:
    """Return the bearer token, trimmed; None without one. Exactly ``Bearer ``, one header."""
    return credential_of(scope, b"Bearer ")


def credential_of(scope: Scope, scheme: bytes) -> str | None:
    """Return what a request's one ``Authorization`` has behind ``scheme``, trimmed, or None."""
    values = [value for key, value in scope["headers"] if key == b"authorization"]
    if len(values) != 1 or not values[0].startswith(scheme):
        return None
    try:
        return values[0].removeprefix(scheme).decode("ascii").strip() or None
    except UnicodeDecodeError:
        return None


def public_base(scope: Scope, configured: str) -> str:
    """Return the base that this server is called by: as configured, else as the request says."""
    if configured:
        return configured
    host = header(scope, b"host") or b""
    scheme = _WEB_SCHEMES.get(scope["scheme"], scope["scheme"])
    return f"{scheme}://{host.decode() if _HOST.fullmatch(host) else 'localhost'}"


def is_bearer(scope: Scope, expected: str) -> bool:
    """Say whether the request carries this bearer; constant time, never true when empty."""
    given = bearer_of(scope)
    return bool(expected) and hmac.compare_digest((given or "").encode(), expected.encode())


class Body:
    """ASGI layer that reads the whole body, within its limits, before anything inside runs.

    ``body_seconds`` is the time for the whole body: who sends a byte now and then holds no
    connection for ever.
    """

    def __init__(self, app: App, *, body_limit: int, body_seconds: float = 5.0) -> None:
        self._app, self._body_limit, self._body_seconds = app, body_limit, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = _replay(await self._read(receive, scope), receive)
        await self._app(scope, receive, send)

    async def _read(self, receive: Receive, scope: Scope) -> bytes:
        try:
            async with asyncio.timeout(self._body_seconds):
                return await read_body(receive, scope, self._body_limit)
        except TimeoutError:
            raise TooSlow from None


class Edge:
    """The outermost layer of a service: request id, body limits, headers, no traceback ever.

    ``body_limit`` None: a :class:`Body` further inside reads the bodies, of whom it should.
    """

    def __init__(self, app: App, *, body_limit: int | None, body_seconds: float = 5.0) -> None:
        if body_limit is not None:
            app = Body(app, body_limit=body_limit, body_seconds=body_seconds)
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        if scope["method"] == "HEAD":  # RFC 9110, section 9.3.2: the server leaves the body out
            scope = {**scope, "method": "GET"}
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message["headers"]}
                own = [(b"x-request-id", request_id.encode()), *HARDENING]
                lines = [line for line in own if line[0] not in present]
                message = {**message, "headers": [*message["headers"], *lines]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ConnectionError:
            return
        except Exception as error:
            if started:
                raise
            await respond_error(send_with_headers, as_caracal_error(error), request_id)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def no_route(scope: Scope, receive: Receive, send: Send) -> None:
    """The app of a service that has its operational routes only.

    Raises:
        NotFound: 404, always.
    """
    raise NotFound("not_found", "there is no such route")
