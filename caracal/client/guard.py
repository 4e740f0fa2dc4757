"""ASGI middleware of resource servers: nothing passes without a mandate."""

from __future__ import annotations

from urllib.parse import quote

import orjson

from caracal.client.asgi import App, Receive, Scope, Send
from caracal.client.verify import Mandate, Verifier, challenge
from caracal.dpop import Sent
from caracal.errors import CaracalError, Forbidden, Unauthenticated, Unavailable

MANDATE = "caracal.mandate"
"""Where the verified mandate stands in the scope."""
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class RequireMandate:
    """Refuses each request and WebSocket whose mandate the verifier does not accept.

    The handler finds the mandate in ``scope["caracal.mandate"]``.

    Args:
        app: what is guarded.
        verifier: knows audience, zone and keys.
        required_scopes: needed for every path.
    """

    def __init__(self, app: App, verifier: Verifier, required_scopes: tuple[str, ...] = ()) -> None:
        self._app, self._verifier, self._scopes = app, verifier, required_scopes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        try:
            scope[MANDATE] = await verified(self._verifier, scope, *self._scopes)
        except CaracalError as error:
            return await _refuse(scope, send, error)
        return await self._app(scope, receive, send)


async def verified(verifier: Verifier, scope: Scope, *required_scopes: str) -> Mandate:
    """Return the mandate of a request: its one ``Authorization``, none when it is repeated.

    Raises:
        CaracalError: as :meth:`Verifier.verify_header`.
    """
    found = _values(scope, b"authorization")
    given = found[0].decode("latin-1") if len(found) == 1 else None
    sent = _sent(scope, verifier.public_url)
    return await verifier.verify_header(given, *required_scopes, sent=sent)


def refusal_headers(error: CaracalError) -> dict[str, str]:
    """Return the headers that go with a refusal."""
    if isinstance(error, Unauthenticated | Forbidden):
        return {"WWW-Authenticate": challenge(error)}
    return {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else {}


def _sent(scope: Scope, public_url: str | None) -> Sent | None:
    """Return what a proof must be for; a WebSocket's handshake is a GET."""
    if public_url is None:
        return None
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    uri = public_url + path.decode("latin-1").partition("?")[0]
    return Sent(scope.get("method", "GET"), uri, _values(scope, b"dpop"))


def _values(scope: Scope, wanted: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name.lower() == wanted]


async def _refuse(scope: Scope, send: Send, error: CaracalError) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
    headers = {"Content-Type": "application/json", **refusal_headers(error)}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    body = orjson.dumps({"error": error.code, "error_description": error.description})
    return await send({"type": "http.response.body", "body": body})
