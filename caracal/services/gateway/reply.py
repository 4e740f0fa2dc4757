"""The answer to the client, from its head to how it ends."""

from __future__ import annotations

from collections.abc import Iterable

from caracal.services.gateway.headers import Header, client_headers, may_trail
from caracal.services.gateway.streams import GONE, STOPPED
from caracal.services.http import Scope, Send
from caracal.services.response_cycle import CutConnection


class Reply:
    """The answer to one request."""

    def __init__(self, scope: Scope, send: Send, request_id: str, expires_in: int) -> None:
        self._scope, self._send = scope, send
        self._request_id, self._expires_in = request_id, expires_in
        self._trails = self._body_over = False
        self.started = False

    async def start(self, status: int, upstream: Iterable[Header]) -> None:
        """Send the head; ``upstream`` are the headers of the upstream's answer."""
        self._trails = may_trail(self._scope["method"], status, self._scope["http_version"])
        headers = client_headers(
            upstream,
            request_id=self._request_id,
            expires_in=self._expires_in,
            trails=self._trails,
        )
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self._send({**start, "trailers": self._trails})
        self.started = True

    async def body(self, chunk: bytes) -> None:
        """Send a piece of the body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, ended: str | None = None) -> None:
        """Send the end; ``ended`` says why the call had to end, in a trailer where one fits.

        Raises:
            CutConnection: the end cannot be told otherwise.
        """
        if ended in (STOPPED, GONE) or (ended is not None and not self._trails):
            raise CutConnection
        if not self._body_over:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self._body_over = True
        if self._trails:
            why = [] if ended is None else [(ended.encode(), b"true")]
            await self._send({"type": "http.response.trailers", "headers": why})
